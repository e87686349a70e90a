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
"""

import difflib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

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
_COLLECTION_KEYS = sorted((Collection.model_fields.keys() | {"route"}) - {"name", "family", "kind"})


class CatalogueError(PermanentError):
    """The catalogue or overlay is invalid; the text names file and key."""


def load_catalogue(overlay: Path | None = None) -> Catalogue:
    """Load the catalogue and apply the YAML file `overlay` (MAGNETIS_CONFIG).

    Raises: CatalogueError if the file is missing, is not YAML, or contains an invalid key or value.
    """
    if overlay is None:
        return _validate("catalogue.yaml", _defaults())
    content = _apply_overlay(_defaults(), read_overlay(overlay), str(overlay))
    return _validate(str(overlay), content)


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
            f"{path}: expected a mapping with the keys 'collections' and 'policies', got a "
            f"{type(content).__name__}."
        )
    return content


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_SafeLoader)  # noqa: S506 - a safe loader


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


def _apply_overlay(base: _Mapping, overlay: _Mapping, file: str) -> _Mapping:
    _require_known(file, "", overlay, ("collections", "policies"))
    collections = dict(base["collections"])
    for name, changes in _mapping(file, "collections", overlay.get("collections")).items():
        path = f"collections.{name}"
        declared = _mapping(file, path, changes)
        # without a kind, a new name is probably a misspelled collection
        if name in collections or "kind" not in declared:
            _require_known(file, "collections", {name: None}, collections)
            collections[name] = _overlay_collection(collections[name], declared, file, path)
        else:
            collections[name] = _new_collection(name, declared, file, path)
    policies = dict(base["policies"])
    for name, changes in _mapping(file, "policies", overlay.get("policies")).items():
        path = f"policies.{name}"
        declared = _mapping(file, path, changes)
        policies[name] = _overlay_policy(policies.get(name), declared, file, path)
    return base | {"collections": collections, "policies": policies}


def _new_collection(name: str, declared: _Mapping, file: str, path: str) -> _Mapping:
    _require_known(file, path, declared, (*_COLLECTION_KEYS, "family", "kind"))
    base = {
        "name": name,
        "description": f"{name}, a collection declared in {Path(file).name}.",
        "routes": [],
    }
    given = {key: declared[key] for key in ("family", "kind") if key in declared}
    rest = {key: value for key, value in declared.items() if key not in given}
    return _overlay_collection(base | given, rest, file, path)


def _overlay_collection(base: _Mapping, changes: _Mapping, file: str, path: str) -> _Mapping:
    _require_known(file, path, changes, _COLLECTION_KEYS)
    separate = {"route", "parameters", "columns"}
    merged = base | {key: value for key, value in changes.items() if key not in separate}
    for number, route in enumerate(_list(file, f"{path}.routes", merged["routes"])):
        _require_fields(Route, route, file, f"{path}.routes.{number}")
    if changes.get("window") is not None:
        _require_fields(WindowParameters, changes["window"], file, f"{path}.window")
    if "route" in changes:
        first = _validate_model(Route, {"path": changes["route"]}, file, f"{path}.route")
        merged["routes"] = [first.model_dump(mode="json")] + [
            route for route in merged["routes"] if route and route.get("path") != first.path
        ]
    if "parameters" in changes:
        parameters = _mapping(file, f"{path}.parameters", changes["parameters"])
        parameters = base.get("parameters", {}) | parameters
        merged["parameters"] = {
            name: value for name, value in parameters.items() if value is not None
        }
    if "columns" in changes:
        old = base.get("columns", {})
        new = _mapping(file, f"{path}.columns", changes["columns"])
        columns = merged["columns"] = _overlay_columns(old, new, file, f"{path}.columns")
        if "indexes" not in changes:
            removed = old.keys() - columns.keys()
            removed |= {name for name, column in columns.items() if column.get("type") == "json"}
            indexes = base.get("indexes", [])
            merged["indexes"] = [names for names in indexes if not removed & set(names)]
    return merged


def _overlay_columns(base: _Mapping, changes: _Mapping, file: str, path: str) -> _Mapping:
    columns = dict(base)
    for name, change in changes.items():
        if change is None:
            columns.pop(name, None)
        else:
            column = _require_fields(Column, change, file, f"{path}.{name}")
            columns[name] = {"paths": [name]} | columns.get(name, {}) | column
    return columns


def _overlay_policy(base: _Mapping | None, changes: _Mapping, file: str, path: str) -> _Mapping:
    kind = changes.get("kind", base and base["kind"])
    if not isinstance(kind, str) or kind not in KINDS:
        expected = f"{path}.kind: expected one of {', '.join(KINDS)}"
        got = f"got {kind!r}" if kind else "and the catalogue has no policy of this name"
        raise CatalogueError(f"{file}: {expected}; {got}.")
    if base and kind != base["kind"]:
        raise CatalogueError(
            f"{file}: {path}.kind: this policy has the kind {base['kind']}; declare a policy of "
            "another kind under another name."
        )
    fields = KINDS[kind].model_fields.keys() - {"name"}
    _require_known(file, path, changes, sorted(fields))
    return (base or {}) | changes


def _mapping(file: str, path: str, value: object) -> _Mapping:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CatalogueError(f"{file}: {path}: expected a mapping, got {value!r}.")
    return {str(key): member for key, member in value.items()}


def _list(file: str, path: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise CatalogueError(f"{file}: {path}: expected a list, got {value!r}.")
    return value


def _require_fields(model: type[BaseModel], value: object, file: str, path: str) -> _Mapping:
    """Return the mapping `value`; raise CatalogueError if a key is not a field of `model`."""
    mapping = _mapping(file, path, value)
    _require_known(file, path, mapping, model.model_fields)
    return mapping


def _require_known(file: str, path: str, given: _Mapping, allowed: Any) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), list(allowed), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CatalogueError(
                f"{file}: {f'{path}.{key}' if path else key}: unknown name.{hint} "
                f"Allowed here: {', '.join(allowed)}."
            )


def _validate(file: str, content: _Mapping) -> Catalogue:
    policies = {
        name: _validate_model(
            KINDS[declaration["kind"]], declaration | {"name": name}, file, f"policies.{name}"
        )
        for name, declaration in content["policies"].items()
    }
    catalogue = _validate_model(Catalogue, content | {"policies": policies}, file, "")
    snapshots = [name for name, each in catalogue.collections.items() if each.kind is Kind.SNAPSHOT]
    for policy in policies.values():
        if other := [name for name in policy.collections if name not in snapshots]:
            raise CatalogueError(
                f"{file}: policies.{policy.name}.collections: expected snapshot collections; "
                f"got {other[0]!r}. Snapshot collections: {', '.join(snapshots)}."
            )
    return catalogue


def _validate_model(model: type[M], content: _Mapping, file: str, path: str) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(filter(None, [path, *map(str, first["loc"])]))
        expected = first["msg"].removeprefix("Value error, ")
        expected = expected.replace("Input should be a valid tuple", "expected a list")
        got = "" if isinstance(first["input"], dict | list) else f"; got {first['input']!r:.120}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        prefix = f"{file}: {key}" if key else file  # errors of the whole catalogue have no key
        raise CatalogueError(f"{prefix}: {expected}{got}.{more}") from None
