"""Propose time field, id, phone number columns and personal-data classes from received rows.

Pure. A proposal is a member name with its reason in counts; declared members are not proposed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from magnetis_dagster.catalog import Collection, ColumnType, PersonalData
from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.privacy.plan import CollectionPlan
from magnetis_dagster.probe.classes import propose_classes
from magnetis_dagster.probe.ids import propose_id
from magnetis_dagster.probe.rows import WIDEST_ZONE, Name, Sample, is_phone, mostly_phones

_TOO_COMMON = {"number", "phone", "telephone", "tel", "id", "numero", "format"}


@dataclass(slots=True)
class Proposals:
    """Proposed settings for MAGNETIS_CONFIG, and their reasons."""

    time_field: str | None = None
    id_path: list[str] = field(default_factory=list)
    """One member, or several that form one id."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column to the member with its phone numbers."""
    unmatched: list[str] = field(default_factory=list)
    """Members with phone numbers that could belong to several columns, or to none."""
    classes: dict[str, PersonalData] = field(default_factory=dict)
    """Class of personal data by undeclared member."""
    unclassified: list[str] = field(default_factory=list)
    """Members without a class and without a proposal; they count as personal."""
    reasons: list[str] = field(default_factory=list)


def propose(sample: Sample, plan: CollectionPlan) -> Proposals:
    """Return the proposals that follow from the rows of a sample.

    `plan`: what it classifies is not proposed.
    """
    proposals = Proposals()
    _propose_time(sample, proposals)
    if found := propose_id(sample):
        proposals.id_path = found[0]
        proposals.reasons.append(found[1])
    _propose_phones(sample, proposals)
    collection = with_proposals(sample.collection, proposals)
    classes = propose_classes(
        sample,
        collection,
        plan,
        columns=proposals.columns.values(),
        undecided=proposals.unmatched,
    )
    proposals.classes, proposals.unclassified = classes.members, classes.unclassified
    proposals.reasons += classes.reasons
    return proposals


def _propose_time(sample: Sample, proposals: Proposals) -> None:
    """Propose the member inside the window, unless the declared time is."""
    if sample.window is None or not sample.rows or not sample.collection.is_events:
        return
    start, end = sample.window

    def inside(moments: Sequence[datetime | None], slack: timedelta) -> int:
        return sum(
            moment is not None and start - slack <= moment <= end + slack for moment in moments
        )

    if inside(sample.parsed.occurred_at, WIDEST_ZONE) * 2 > len(sample):
        return
    candidates: list[tuple[tuple[Any, ...], str, int]] = []
    for name, values in sample.nameable.items():
        moments = sample.moments(values)
        known = [moment for moment in moments if moment]
        if inside(moments, WIDEST_ZONE) < 0.9 * len(sample) or len(set(known)) * 2 < len(known):
            continue
        strictly = inside(moments, timedelta(0))
        # prefer the outermost, then the earliest: the end of a call and its storage are later
        rank = (-strictly, len(name), sum(moment.timestamp() for moment in known) / len(known))
        candidates.append((rank, ".".join(name), strictly))
    if not candidates:
        return
    _, path, strictly = min(candidates)
    others = sorted(other for _, other, _ in candidates if other != path)
    also = f"; also inside: {', '.join(others)}" if others else ""
    proposals.time_field = path
    proposals.reasons.append(
        f"time_fields: [{path}] ({strictly} of {len(sample)} rows lie inside the window by it"
        f"{also})"
    )


def _propose_phones(sample: Sample, proposals: Proposals) -> None:
    """Propose members with phone numbers for empty columns of phone numbers.

    They match by a word that both names share, else by variation: the first declared column is the
    number that varies by row (the caller), later columns repeat (the called number).
    """
    declared = sample.collection.columns
    columns = [
        name
        for name, column in declared.items()
        if column.type is ColumnType.TEXT and re.search("(?:number|phone)$", name)
    ]
    values_of = dict(zip(declared, sample.parsed.columns, strict=True))
    free = [name for name in columns if not any(map(is_phone, values_of[name]))]
    if len(sample) < 2 or not free:
        return
    phones = {
        name: values
        for name, values in sample.nameable.items()
        if not sample.is_declared(name) and mostly_phones(values)
    }
    matches: dict[str, Name] = {}
    phones_left = list(phones)

    def match(candidates: Sequence[str], names: Sequence[Name]) -> None:
        open_columns = [name for name in candidates if name in free and name not in matches]
        if open_columns and names:
            matches[open_columns[0]] = names[0]
            phones_left.remove(names[0])

    for column in free:
        words = _words(column, *declared[column].paths)
        match([column], [name for name in phones_left if words & _words(*name)])
    for candidates, varies in ((columns[:1], True), (columns[1:], False)):
        names = [name for name in phones_left if _varies(phones[name]) is varies]
        match(candidates, names if len(names) == 1 else [])
    for column, name in matches.items():
        path = proposals.columns[column] = ".".join(name)
        count = sum(map(is_phone, phones[name]))
        proposals.reasons.append(
            f"columns.{column}.paths: [{path}] (phone numbers in {count} of {len(sample)} rows)"
        )
    proposals.unmatched = [".".join(name) for name in phones_left]


def _varies(values: Sequence[Any]) -> bool:
    present = [text for value in values if (text := as_text(value))]
    return len(set(present)) * 2 > len(present)


def _words(*names: str) -> set[str]:
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", " ".join(names))
    return {word.lower() for word in found} - _TOO_COMMON


def with_proposals(collection: Collection, proposals: Proposals) -> Collection:
    """Return the collection as it is declared once the proposals are accepted."""
    changes: dict[str, Any] = {}
    if proposals.time_field:
        changes["time_fields"] = (proposals.time_field,)
    if proposals.id_path:
        changes["id_paths"] = (tuple(proposals.id_path),)
    return collection.model_copy(update=changes)
