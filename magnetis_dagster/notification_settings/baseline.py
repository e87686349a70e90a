"""The baseline: the settings as a YAML file that people review and keep, and how it differs from what is there. No SQL.

    version: 1
    without: [last_sent_at]     # members that are left out of file and comparison
    settings:
      email_alerts:
        ale-b098cb40-…:         # by account and id
          account:
            id: acc-f27c03a5-…
          enabled: 1

Keys are sorted, every field has a line of its own, lists of plain values are sorted, and nothing in it depends on when or where it
was made: equal settings give equal bytes.
"""

from collections.abc import Collection as Container
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from magnetis_dagster.catalog import model
from magnetis_dagster.catalog.masking import masked, masked_id
from magnetis_dagster.catalog.volatile import stable
from magnetis_dagster.errors import PermanentError

VERSION = 1
_HEAD = """\
# Who is told what: settings of reports and alerts at Magnetis, made by `magnetis settings export`.
# Holds addresses and phone numbers of people: keep it where such data may be kept.
"""

Settings = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Rows by collection and id."""


class BaselineError(PermanentError):
    """The baseline file is missing or is not as `magnetis settings export` writes it; the text names the place, never a value."""


class DifferenceKind(StrEnum):
    """What became of a setting since the baseline."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field, in the file and now; None where it is absent or null, which are the same here."""

    baseline: Any
    present: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not as the baseline has it. Holds values as received, so personal data too."""

    collection: str
    id: str
    account_id: str | None
    kind: DifferenceKind
    fields: Mapping[str, FieldDifference]
    """By dotted path, sorted; of an added or removed setting, all."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "collection": self.collection,
            "id": self.id,
            "account_id": self.account_id,
            "kind": self.kind.value,
            "fields": {
                name: {"baseline": field.baseline, "present": field.present}
                for name, field in self.fields.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the file says."""

    settings: Settings
    without: frozenset[str]

    def differences(
        self,
        collection: str,
        present: Mapping[str, Mapping[str, Any]],
        declaration: model.Collection | None = None,
    ) -> list[Difference]:
        """Return how the present rows of a collection differ from the file, by account and id.

        The declaration names the paths of the account and the volatile members, which a file from before them may contain.
        """
        held = self.settings[collection]
        accounts = declaration.account_paths if declaration else model.ACCOUNT_PATHS
        if declaration:
            held, present = (
                {identifier: stable(declaration, row) for identifier, row in rows.items()}
                for rows in (held, present)
            )
        found = []
        for identifier in {**held, **present}:
            was, now = (
                _fields(_canonical(rows[identifier], identifier, self.without))
                if identifier in rows
                else None
                for rows in (held, present)
            )
            names = sorted({**(was or {}), **(now or {})})
            fields = {
                name: FieldDifference((was or {}).get(name), (now or {}).get(name))
                for name in names
            }
            kind = (
                DifferenceKind.ADDED
                if was is None
                else DifferenceKind.REMOVED
                if now is None
                else DifferenceKind.CHANGED
            )
            if kind is DifferenceKind.CHANGED:
                fields = {
                    name: field for name, field in fields.items() if field.baseline != field.present
                }
                if not fields:
                    continue
            account = next(
                (
                    str(side[path])
                    for side in (now, was)
                    if side
                    for path in accounts
                    if path in side
                ),
                None,
            )
            found.append(Difference(collection, identifier, account, kind, fields))
        return sorted(found, key=lambda each: (each.account_id or "", each.id))


def write_baseline(settings: Settings, without: Container[str] = ()) -> str:
    """Return the text of the file for rows in the order of `warehouse.baseline.present`."""
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
    # a value is one line, however long it is
    return _HEAD + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31
    )


def without_effect(settings: Settings, without: Container[str]) -> list[str]:
    """Return those of the names that no row has: a mistyped one leaves nothing out."""
    rows = [(identifier, row) for held in settings.values() for identifier, row in held.items()]
    return [
        name
        for name in without
        if all(
            _canonical(row, identifier, {name}) == _canonical(row, identifier, ())
            for identifier, row in rows
        )
    ]


def read_baseline(path: Path, collections: Container[str]) -> Baseline:
    """Return what the file says of `collections`. Raises BaselineError: it is not there, or not as it was written."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader
    except OSError as error:
        raise BaselineError(
            f"The baseline {path} cannot be read ({error.strerror}). Make it with `magnetis settings export > {path.name}`, "
            "or correct MAGNETIS_SETTINGS_BASELINE."
        ) from None
    except UnicodeDecodeError:
        raise BaselineError(f"{path}: expected YAML in UTF-8; some bytes are not.") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BaselineError(
            f"{path}{where}: not valid YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}."
        ) from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise BaselineError(
            f"{path}: expected `version: {VERSION}` at the top, as `magnetis settings export` writes it. Export it again."
        )
    without = content.get("without") or []
    if not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise BaselineError(f"{path}: without: expected a list of names.")
    settings = _mapping(path, "settings", content.get("settings"))
    # where an indent was lost, a recipient stands in a key's place, and Dagster shows the words
    for name, rows in settings.items():
        if name not in collections:
            raise BaselineError(
                f"{path}: settings.{masked(name)}: no such collection. There are: {', '.join(collections)}."
            )
        settings[name] = {
            identifier: _mapping(path, f"settings.{name}.{masked_id(identifier)}", row)
            for identifier, row in _mapping(path, f"settings.{name}", rows).items()
        }
    return Baseline(settings, frozenset(without))


def _mapping(path: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BaselineError(
            f"{path}: {where}: expected a mapping, got {'nothing' if value is None else type(value).__name__}."
        )
    return {str(key): member for key, member in value.items()}


def _canonical(row: Mapping[str, Any], identifier: str, without: Container[str]) -> dict[str, Any]:
    own = {name: value for name, value in row.items() if name != "id" or str(value) != identifier}
    made: dict[str, Any] = _sorted(own, "", without)
    return made


def _sorted(value: Any, path: str, without: Container[str]) -> Any:
    if isinstance(value, Mapping):
        below = {
            str(name): (f"{path}.{name}" if path else str(name), member)
            for name, member in value.items()
        }
        return {
            name: _sorted(member, at, without)
            for name, (at, member) in sorted(below.items())
            if at not in without
        }
    if isinstance(value, list):
        members = [_sorted(member, path, without) for member in value]
        # recipients come in any order
        plain = not any(isinstance(member, dict | list) for member in members)
        return (
            sorted(members, key=lambda member: (str(type(member)), str(member)))
            if plain
            else members
        )
    # a float, as YAML reads numbers, would round it
    return str(value) if isinstance(value, Decimal) else value


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in _leaves(row, "") if value is not None}


def _leaves(row: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        at = f"{path}{name}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{at}.")
        else:
            yield at, value


class _Dumper(yaml.SafeDumper):
    """Writes every text on one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        breaks = data != "" and data.splitlines() != [data]
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if breaks else None)


_Dumper.add_representer(str, _Dumper.represent_text)


class _Loader(yaml.SafeLoader):
    """Reads what `_Dumper` writes: plain values as JSON has them, without anchors, and dates as the texts that they are.

    A key that is there twice is the mistake that it is.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        # an alias may lead into itself, or make gigabytes of a few lines
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "an alias; put texts that begin with * in quotes", mark
            )
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise yaml.constructor.ConstructorError(
                None, None, "a tag that means nothing here", node.start_mark
            )
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError):
            raise yaml.constructor.ConstructorError(
                None, None, "not of the kind that it is tagged as", node.start_mark
            ) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, "a key is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
