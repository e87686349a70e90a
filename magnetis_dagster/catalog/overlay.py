"""Load the catalogue and apply the overlay of MAGNETIS_CONFIG.

Errors name file, key and allowed values. An overlay has the structure of the catalogue and contains
only the differences:

    collections:
      calls:
        route: /v2/calls            # tried first; the catalogue's routes remain candidates
        time_fields: [begun_at]     # a list replaces the catalogue's
        id_paths: [[call_id, leg]]  # a list in the list is a composite id
        volatile: [score, "recording?"]  # changes of these members do not count
        references: [numbers, accounts]  # collections whose ids the rows contain
        parameters: {analysis: null}  # null removes a parameter, a window or a column
        columns:
          caller_number: {paths: [caller_msisdn]}
          our_reference: {type: text, paths: [custom.ref], description: CRM reference.}
      pools: {enabled: false, reason: not part of our contract}
      invoices:                     # a new collection requires a family and a kind
        family: organization
        kind: snapshot
        route: /invoices
        columns: {amount: {type: decimal}}
    policies:
      sane_thresholds: {enabled: false}
      allowed_domains: {enabled: true, severity: error, domains: [exemple.fr]}
      our_own:
        kind: has_recipient
        collections: [email_trackers]
        description: Every tracked address is forwarded.

MAGNETIS_CONFIG may also declare `connections` (magnetis_dagster/connections.py) and `privacy`
(magnetis_dagster/privacy/plan.py).
"""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from magnetis_dagster.catalog.model import (
    Catalogue,
    Collection,
    Column,
    Kind,
    Route,
    WindowParameters,
)
from magnetis_dagster.catalog.policies import KINDS
from magnetis_dagster.errors import PermanentError

M = TypeVar("M", bound=BaseModel)
_Mapping = dict[str, Any]
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The C implementation if libyaml is available."""
_OVERLAY_KEYS = ("collections", "policies")
_OTHER_SECTIONS = ("connections", "privacy")
_COLLECTION_KEYS = sorted((Collection.model_fields.keys() | {"route"}) - {"name", "family", "kind"})


class CatalogueError(PermanentError):
    """The catalogue or overlay is invalid; the text names file and key."""


class _Place(NamedTuple):
    """A key of a file, for error texts."""

    file: str
    path: str = ""

    def __truediv__(self, key: object) -> "_Place":
        return _Place(self.file, f"{self.path}.{key}" if self.path else str(key))

    def error(self, problem: str) -> CatalogueError:
        # errors of the whole catalogue have no key
        return CatalogueError(f"{': '.join(filter(None, self))}: {problem}")


def load_catalogue(
    overlay: Path | None = None, changes: Mapping[str, Any] | None = None, place: str = ""
) -> Catalogue:
    """Load the catalogue, apply the YAML file `overlay` (MAGNETIS_CONFIG), then `changes`.

    `changes`: a mapping with the structure of an overlay; `place` names it in error texts.

    Raises: CatalogueError if the file is missing, is not YAML, or contains an invalid key or value.
    """
    file, content = _Place("catalogue.yaml"), _defaults()
    if overlay is not None:
        file = _Place(str(overlay))
        declared = read_overlay(overlay)
        content = _apply_overlay(content, declared, file, (*_OVERLAY_KEYS, *_OTHER_SECTIONS))
    if changes:
        at = _Place(str(overlay or place), place if overlay else "")
        content = _apply_overlay(content, _mapping(at, changes), at, _OVERLAY_KEYS)
    return _validate(file, content)


def read_overlay(path: Path) -> _Mapping:
    """Return the mapping in the YAML file `path`.

    Raises: CatalogueError if the file cannot be read or contains no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueError(
            f"MAGNETIS_CONFIG: {path} cannot be read ({error.strerror}). "
            "Set it to an existing YAML file, or unset it to use the default catalogue."
        ) from None
    except UnicodeDecodeError:
        raise CatalogueError(f"{path}: expected YAML in UTF-8; some bytes are invalid.") from None
    try:
        content = _parse_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise CatalogueError(f"{path}{position}: not valid YAML: {problem}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CatalogueError(
            f"{path}: expected a mapping with the keys 'collections', 'policies', 'connections' "
            f"and 'privacy', got a {type(content).__name__}."
        )
    return content


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Refuses a key that occurs twice in a mapping: YAML forbids it, PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r:.40} occurs twice", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _read_resource(name: str) -> Any:
    return _parse_yaml(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


@cache
def _defaults() -> _Mapping:
    content = _read_resource("catalogue.yaml")
    campaign = content.pop("shared")["utm"].keys()
    for name, declaration in content["collections"].items():
        declaration["name"] = name
        columns = declaration.get("columns", {})
        # YAML puts merged members first; people expect the campaign columns last
        declaration["columns"] = dict(sorted(columns.items(), key=lambda item: item[0] in campaign))
        for column_name, column in columns.items():
            column.setdefault("paths", [column_name])
    return {**content, "policies": _read_resource("policies.yaml")}


def _apply_overlay(
    base: _Mapping, overlay: _Mapping, file: _Place, allowed: Iterable[str]
) -> _Mapping:
    _require_known(file, overlay, allowed)
    collections = dict(base["collections"])
    at = file / "collections"
    for name, changes in _mapping(at, overlay.get("collections")).items():
        declared = _mapping(at / name, changes)
        # without a kind, a new name is probably a misspelled collection
        if name in collections or "kind" not in declared:
            _require_known(at, {name: None}, collections)
            collections[name] = _overlay_collection(collections[name], declared, at / name)
        else:
            collections[name] = _new_collection(name, declared, at / name)
    policies = dict(base["policies"])
    at = file / "policies"
    for name, changes in _mapping(at, overlay.get("policies")).items():
        declared = _mapping(at / name, changes)
        policies[name] = _overlay_policy(policies.get(name), declared, at / name)
    return base | {"collections": collections, "policies": policies}


def _new_collection(name: str, declared: _Mapping, at: _Place) -> _Mapping:
    _require_known(at, declared, (*_COLLECTION_KEYS, "family", "kind"))
    base = {
        "name": name,
        "description": f"{name}, a collection declared in {Path(at.file).name}.",
        "routes": [],
    }
    given = {key: declared[key] for key in ("family", "kind") if key in declared}
    rest = {key: value for key, value in declared.items() if key not in given}
    return _overlay_collection(base | given, rest, at)


def _overlay_collection(base: _Mapping, changes: _Mapping, at: _Place) -> _Mapping:
    _require_known(at, changes, _COLLECTION_KEYS)
    separate = {"route", "parameters", "columns"}
    merged = base | {key: value for key, value in changes.items() if key not in separate}
    if not isinstance(merged["routes"], list):
        raise (at / "routes").error(f"expected a list, got {merged['routes']!r}.")
    for number, route in enumerate(merged["routes"]):
        _require_fields(Route, route, at / "routes" / number)
    if changes.get("window") is not None:
        _require_fields(WindowParameters, changes["window"], at / "window")
    if "route" in changes:
        first = _validate_model(Route, {"path": changes["route"]}, at / "route")
        merged["routes"] = [first.model_dump(mode="json")] + [
            route for route in merged["routes"] if route and route.get("path") != first.path
        ]
    if "parameters" in changes:
        parameters = _mapping(at / "parameters", changes["parameters"])
        parameters = base.get("parameters", {}) | parameters
        merged["parameters"] = {
            name: value for name, value in parameters.items() if value is not None
        }
    if "columns" in changes:
        old = base.get("columns", {})
        columns = _overlay_columns(old, _mapping(at / "columns", changes["columns"]), at)
        merged["columns"] = columns
        if "indexes" not in changes:
            removed = old.keys() - columns.keys()
            removed |= {name for name, column in columns.items() if column.get("type") == "json"}
            indexes = base.get("indexes", [])
            merged["indexes"] = [names for names in indexes if not removed & set(names)]
    return merged


def _overlay_columns(base: _Mapping, changes: _Mapping, at: _Place) -> _Mapping:
    columns = dict(base)
    for name, change in changes.items():
        if change is None:
            columns.pop(name, None)
        else:
            column = _require_fields(Column, change, at / "columns" / name)
            columns[name] = {"paths": [name]} | columns.get(name, {}) | column
    return columns


def _overlay_policy(base: _Mapping | None, changes: _Mapping, at: _Place) -> _Mapping:
    kind = changes.get("kind", base and base["kind"])
    if not isinstance(kind, str) or kind not in KINDS:
        got = f"got {kind!r}" if kind else "and the catalogue has no policy of this name"
        raise (at / "kind").error(f"expected one of {', '.join(KINDS)}; {got}.")
    if base and kind != base["kind"]:
        raise (at / "kind").error(
            f"this policy has the kind {base['kind']}; declare a policy of another kind under "
            "another name."
        )
    _require_known(at, changes, sorted(KINDS[kind].model_fields.keys() - {"name"}))
    return (base or {}) | changes


def _mapping(at: _Place, value: object) -> _Mapping:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise at.error(f"expected a mapping, got {value!r}.")
    return {str(key): member for key, member in value.items()}


def _require_fields(model: type[BaseModel], value: object, at: _Place) -> _Mapping:
    """Return the mapping `value`; raise CatalogueError if a key is not a field of `model`."""
    mapping = _mapping(at, value)
    _require_known(at, mapping, model.model_fields)
    return mapping


def _require_known(at: _Place, given: _Mapping, allowed: Iterable[str]) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), list(allowed), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise (at / key).error(f"unknown name.{hint} Allowed here: {', '.join(allowed)}.")


def _validate(file: _Place, content: _Mapping) -> Catalogue:
    policies = {
        name: _validate_model(
            KINDS[declaration["kind"]], declaration | {"name": name}, file / "policies" / name
        )
        for name, declaration in content["policies"].items()
    }
    catalogue = _validate_model(Catalogue, content | {"policies": policies}, file)
    snapshots = [name for name, each in catalogue.collections.items() if each.kind is Kind.SNAPSHOT]
    for policy in policies.values():
        if other := [name for name in policy.collections if name not in snapshots]:
            raise (file / "policies" / policy.name / "collections").error(
                f"expected snapshot collections; got {other[0]!r}. Snapshot collections: "
                f"{', '.join(snapshots)}."
            )
    return catalogue


def _validate_model(model: type[M], content: _Mapping, at: _Place) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        for part in first["loc"]:
            at /= part
        expected = first["msg"].removeprefix("Value error, ")
        expected = expected.replace("Input should be a valid tuple", "expected a list")
        got = "" if isinstance(first["input"], dict | list) else f"; got {first['input']!r:.120}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise at.error(f"{expected}{got}.{more}") from None
