"""Find the member, or the two members, that can be the id of the received rows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from magnetis_dagster.catalog.conversions import as_identifier
from magnetis_dagster.catalog.names import fold
from magnetis_dagster.probe.rows import Name, Sample, is_phone

FEWEST_INTEGERS = 20
"""Rows that an integer without an id's name needs to be taken for an id."""
_UUID = "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_FORMS = {
    "prefix and UUID": re.compile(f"[A-Za-z][A-Za-z0-9]{{0,11}}[-_]{_UUID}"),
    "UUID": re.compile(f"{_UUID}|[0-9a-fA-F]{{32}}"),
    "integer": re.compile("[0-9]{1,30}"),
    "token": re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9][A-Za-z0-9_.-]{2,63}"),
}
"""Forms of ids, the strongest first."""
_ID = re.compile("id|uuid|guid|uid|ref|reference|key|identifier|identifiant|code")
_LIKE_AN_ID = re.compile(f"^(?:id(?!le)|uuid|guid)|(?:{_ID.pattern})$")
_LIKE_A_PART = re.compile("leg|part|segment|seq|index|position|attempt|rank|line|version|step")


def propose_id(sample: Sample) -> tuple[list[str], str] | None:
    """Propose a unique member if rows lack an id, or two members if one repeats."""
    ids = sample.parsed.ids
    if len(sample) < 2 or (None not in ids and _unique(ids)):
        return None
    if None not in ids:
        texts = dict.fromkeys(_declared_id(sample), ids)
    else:
        candidates = sorted(_id_candidates(sample))
        if path := next((path for _, path, texts_of in candidates if _unique(texts_of)), None):
            return [path], f"id_paths: [{path}] (different in each of {len(sample)} rows)"
        texts = {
            (path,): found for _, path, found in candidates if len(set(found)) * 2 >= len(found)
        }
    for base, found in texts.items():
        if part := _discriminator(sample, base, found):
            names = ", ".join([*base, part])
            return [*base, part], (
                f"id_paths: [[{names}]] ({', '.join(base)} has {len(set(found))} values in "
                f"{len(sample)} rows; together they are unique)"
            )
    return None


def _unique(values: Sequence[Any]) -> bool:
    return len(set(values)) == len(values)


def _form(sample: Sample, name: Name, values: Sequence[Any]) -> str | None:
    """Return the strongest id form that every value has; None if there is none."""
    texts = [as_identifier(value) for value in values]
    is_time = not _LIKE_AN_ID.search(fold(name[-1])) and any(sample.moments(values))
    if None in texts or any(map(is_phone, values)) or is_time:
        return None
    present = [text for text in texts if text]
    return next((form for form, one in _FORMS.items() if all(map(one.fullmatch, present))), None)


def _id_candidates(sample: Sample) -> Iterator[tuple[tuple[Any, ...], str, list[str | None]]]:
    """Yield undeclared members that look like an id: rank, path, and texts."""
    singular = fold(sample.collection.name).removesuffix("s")
    for position, (name, values) in enumerate(sample.nameable.items()):
        if sample.is_declared(name) or not (form := _form(sample, name, values)):
            continue
        folded = fold(name[-1])
        named = _LIKE_AN_ID.search(folded) is not None
        if not named and (form == "token" or (form == "integer" and not _counts(values))):
            continue
        prefix = str(values[0]).lower().startswith((f"{singular}-", f"{singular}_"))
        own = prefix or _ID.fullmatch(folded.replace(singular, "", 1)) is not None
        rank = (len(name), not own, list(_FORMS).index(form), not named, position)
        yield rank, ".".join(name), [as_identifier(value) for value in values]


def _counts(values: Sequence[Any]) -> bool:
    """Return whether integers count the rows, unlike durations or amounts."""
    numbers = [int(as_identifier(value) or 0) for value in values]
    steps = [later > earlier for earlier, later in pairwise(numbers)]
    return len(numbers) >= FEWEST_INTEGERS and _unique(numbers) and (all(steps) or not any(steps))


def _declared_id(sample: Sample) -> list[tuple[str, ...]]:
    """Return the declared members that identify all rows; none if rows differ."""
    collection = sample.collection
    for parts in collection.id_paths:
        alone = collection.model_copy(update={"id_paths": (parts,)})
        if replace(sample, collection=alone).parsed.ids == sample.parsed.ids:
            return [parts]
    return []


def _discriminator(sample: Sample, base: Sequence[str], ids: Sequence[str | None]) -> str | None:
    """Return the member that distinguishes all rows of one id."""
    candidates = []
    for position, (name, values) in enumerate(sample.nameable.items()):
        path, folded = ".".join(name), fold(name[-1])
        # a status or a duration may change, and the id with it
        if path in base or (sample.is_declared(name) and not _LIKE_AN_ID.search(folded)):
            continue
        named = _LIKE_A_PART.search(folded) is not None
        form = _form(sample, name, values)
        texts = list(map(as_identifier, values))
        if None not in texts and (form or named) and _unique(list(zip(ids, texts, strict=True))):
            weak = form in {None, "token"}
            candidates.append(((not named, weak, len(set(texts)), len(name), position), path))
    return min(candidates)[1] if candidates else None
