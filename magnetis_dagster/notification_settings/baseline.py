"""The baseline: notification settings as a YAML file to review and compare.

    version: 1
    without: [last_sent_at]     # members that file and comparison leave out
    settings:
      email_alerts:
        ale-b098cb40-…:         # by account and id
          account:
            id: acc-f27c03a5-…
          enabled: 1

Keys and lists of plain values are sorted, and every field has its own line. Nothing depends on the
time or the machine of the export, so equal settings give equal bytes.
"""

import re
import sys
from collections.abc import Collection as Container
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from magnetis_dagster.catalog import model
from magnetis_dagster.catalog.masking import mask_id, mask_text
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.json_leaves import leaves

VERSION = 1
_HEAD = """\
# Settings of reports and alerts at Magnetis, written by `magnetis settings export`.
# Contains addresses and phone numbers of people: store it where such data may be stored.
"""

NotificationSettings = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Rows by collection and id."""


class BaselineError(PermanentError):
    """The baseline file is missing or invalid; the text names the place, never a value."""


class DifferenceKind(StrEnum):
    """The change of a setting since the baseline."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field in the file and now; None if it is absent or null."""

    baseline: Any
    present: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that differs from the baseline, with personal data as received."""

    collection: str
    id: str
    account_id: str | None
    kind: DifferenceKind
    fields: Mapping[str, FieldDifference]
    """By dotted path, sorted; an added or removed setting has all its fields."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The content of the baseline file."""

    settings: NotificationSettings
    without: frozenset[str]

    def differences(
        self,
        collection: str,
        present: Mapping[str, Mapping[str, Any]],
        declaration: model.Collection | None = None,
    ) -> list[Difference]:
        """Return how current rows differ from the file, by account and id.

        The declaration names the paths of the account, and the volatile members, which an older
        file may contain.
        """
        baseline = self.settings[collection]
        accounts = declaration.account_paths if declaration else model.ACCOUNT_PATHS
        if declaration:
            baseline, present = (
                {identifier: stable(declaration, row) for identifier, row in rows.items()}
                for rows in (baseline, present)
            )
        found = []
        for identifier in {**baseline, **present}:
            before, now = (
                _fields(_canonical(rows[identifier], identifier, self.without))
                if identifier in rows
                else None
                for rows in (baseline, present)
            )
            if before != now:
                found.append(_difference(collection, identifier, accounts, before, now))
        return sorted(found, key=lambda each: (each.account_id or "", each.id))


def _difference(
    collection: str,
    identifier: str,
    account_paths: Iterable[str],
    before: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
) -> Difference:
    """Return the difference of two unequal states; None if there is no setting."""
    kind = DifferenceKind.CHANGED
    if before is None or now is None:
        kind = DifferenceKind.ADDED if before is None else DifferenceKind.REMOVED
    before, now = before or {}, now or {}
    fields = {
        name: FieldDifference(before.get(name), now.get(name))
        for name in sorted({**before, **now})
        if kind is not DifferenceKind.CHANGED or before.get(name) != now.get(name)
    }
    accounts = (str(side[path]) for side in (now, before) for path in account_paths if path in side)
    return Difference(collection, identifier, next(accounts, None), kind, fields)


def write_baseline(settings: NotificationSettings, without: Container[str] = ()) -> str:
    """Return the text of the file, with rows in the order of `settings`."""
    content = {
        "version": VERSION,
        "without": sorted(without),
        "settings": {
            collection: {
                identifier: _canonical(row, identifier, without)
                for identifier, row in settings[collection].items()
            }
            for collection in sorted(settings)
        },
    }
    # a long value stays on one line
    return _HEAD + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31
    )


def without_effect(settings: NotificationSettings, without: Container[str]) -> list[str]:
    """Return the names that no row has, such as mistyped ones."""
    rows = [(identifier, row) for each in settings.values() for identifier, row in each.items()]
    whole = [_canonical(row, identifier, ()) for identifier, row in rows]
    return [
        name
        for name in without
        if [_canonical(row, identifier, {name}) for identifier, row in rows] == whole
    ]


def read_baseline(path: Path, collections: Container[str]) -> Baseline:
    """Return the content of the file.

    Raises: BaselineError if the file is missing or invalid, or names other collections.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise BaselineError(
            f"The baseline {path} cannot be read ({error.strerror}). Create it with "
            f"`magnetis settings export > {path.name}`, or correct MAGNETIS_SETTINGS_BASELINE."
        ) from None
    except UnicodeDecodeError:
        raise BaselineError(f"{path}: expected YAML in UTF-8; some bytes are not.") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # it may quote the file, such as a tag or a character
        problem = mask_text(getattr(error, "problem", None) or "cannot be parsed")
        raise BaselineError(f"{path}{place}: not valid YAML: {problem}.") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise BaselineError(
            f"{path}: expected `version: {VERSION}` at the top, as `magnetis settings export` "
            "writes it. Export it again."
        )
    without = content.get("without") or []
    if not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise BaselineError(f"{path}: without: expected a list of names.")
    settings = _mapping(path, "settings", content.get("settings"))
    # if an indent is lost, a recipient becomes a key, and Dagster shows this error
    for name, rows in settings.items():
        if name not in collections:
            raise BaselineError(
                f"{path}: settings.{mask_text(name)}: no such collection. There are: "
                f"{', '.join(collections)}."
            )
        settings[name] = {
            identifier: _mapping(path, f"settings.{name}.{mask_id(identifier)}", row)
            for identifier, row in _mapping(path, f"settings.{name}", rows).items()
        }
    return Baseline(settings, frozenset(without))


def _mapping(path: Path, place: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise BaselineError(f"{path}: {place}: expected a mapping, got {found}.")
    return {str(key): member for key, member in value.items()}


def _canonical(row: Mapping[str, Any], identifier: str, without: Container[str]) -> dict[str, Any]:
    own = {name: value for name, value in row.items() if name != "id" or str(value) != identifier}
    made: dict[str, Any] = _sorted(own, "", without)
    return made


def _sorted(value: Any, above: str, without: Container[str]) -> Any:
    if isinstance(value, Mapping):
        members = sorted(
            ((str(name), member) for name, member in value.items()), key=lambda member: member[0]
        )
        return {
            name: _sorted(member, f"{above}{name}.", without)
            for name, member in members
            if f"{above}{name}" not in without
        }
    if isinstance(value, list):
        items = [_sorted(item, above, without) for item in value]
        if any(isinstance(item, dict | list) for item in items):
            return items
        # the API returns recipients in any order
        return sorted(items, key=lambda item: (str(type(item)), str(item)))
    # YAML reads numbers as floats, which would round it
    return str(value) if isinstance(value, Decimal) else value


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        ".".join(names): value for names, value in leaves(row, sys.maxsize) if value is not None
    }


# PyYAML follows YAML 1.1 and does not quote some of these, such as 0033199008744 and 1e5
_YAML_1_2_NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+"
)


class _Dumper(yaml.SafeDumper):
    """Writes every text on one line, without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        breaks = data != "" and data.splitlines() != [data]
        style = '"' if breaks else "'" if _YAML_1_2_NUMBER.fullmatch(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


class _Loader(yaml.SafeLoader):
    """Reads the output of `_Dumper`: JSON values without anchors, dates as text.

    Rejects a key that occurs twice.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        # an alias may refer to itself, or expand a few lines to gigabytes
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _invalid("an alias; quote texts that begin with *", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise _invalid("a tag that is not supported", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError):
            raise _invalid("a value that does not fit its tag", node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _invalid("a key that occurs twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _invalid(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
