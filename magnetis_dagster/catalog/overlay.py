"""Reading the catalogue and laying MAGNETIS_CONFIG over it. A mistake names the file, the key and what is allowed there.

An overlay has the shape of the catalogue, and says only what differs:

    collections:
      calls:
        route: /v2/calls            # tried first; the catalogue's routes stay as candidates
        time_fields: [begun_at]     # a list replaces the catalogue's
        id_paths: [[call_id, leg]]  # a list in the list is a composite id
        volatile: [score, "recording?"]  # changes of these are no changes of the row
        references: [numbers, accounts]  # collections whose ids the rows contain: edges of the asset graph
        parameters: {analysis: null}  # null takes a parameter, a window or a column away
        columns:
          caller_number: {paths: [caller_msisdn]}
          our_reference: {type: text, paths: [custom.ref], description: Reference of our CRM.}
      pools: {enabled: false, reason: not part of our contract}
      invoices:                     # a collection of your own: give it a family and a kind
        family: organization
        kind: snapshot
        route: /invoices
        columns: {amount: {type: decimal}}
    policies:
      sane_thresholds: {enabled: false}
      allowed_domains: {enabled: true, severity: error, domains: [exemple.fr]}
      our_own: {kind: has_recipient, collections: [email_trackers], description: Every tracked address is forwarded.}
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
    Policy,
    Route,
    WindowParameters,
)
from magnetis_dagster.catalog.policies import KINDS
from magnetis_dagster.errors import PermanentError

M = TypeVar("M", bound=BaseModel)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

OVERLAY_KEYS = ("collections", "policies")
COLLECTION_KEYS = tuple(
    sorted((Collection.model_fields.keys() | {"route"}) - {"name", "family", "kind"})
)
COLUMN_KEYS = tuple(Column.model_fields)


class CatalogueError(PermanentError):
    """The catalogue or MAGNETIS_CONFIG says something that is not allowed; the text names the file and the key."""


def load_catalogue(overlay: Path | None = None) -> Catalogue:
    """Return the catalogue with the YAML file `overlay` (MAGNETIS_CONFIG) laid over it.

    Raises CatalogueError: the file is missing, is not YAML, or holds a key or value that is not allowed.
    """
    declarations = _shipped()
    if overlay is None:
        return _validate("catalogue.yaml", declarations)
    return _validate(str(overlay), _overlay(declarations, read_overlay(overlay), str(overlay)))


def read_overlay(path: Path) -> dict[str, Any]:
    """Return the mapping in the YAML file `path`. Raises CatalogueError where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueError(
            f"MAGNETIS_CONFIG names {path}, which cannot be read ({error.strerror}). "
            "Name an existing YAML file, or unset MAGNETIS_CONFIG to use the catalogue as shipped."
        ) from None
    except UnicodeDecodeError:
        raise CatalogueError(f"{path}: expected YAML in UTF-8; some bytes are not.") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader, the C one where libyaml is there
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise CatalogueError(f"{path}{where}: not valid YAML: {problem}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CatalogueError(
            f"{path}: expected a mapping with the keys 'collections' and 'policies', got a {type(content).__name__}."
        )
    return content


@cache
def _shipped() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, Loader=_Loader)  # noqa: S506 - as above
    campaign = content.pop("shared")["utm"].keys()
    for name, declaration in content["collections"].items():
        columns = declaration.get("columns", {})
        # YAML puts merged members first; people look for what makes a row theirs first, and for the campaign last
        declaration.update(
            {
                "name": name,
                "columns": dict(sorted(columns.items(), key=lambda column: column[0] in campaign)),
            }
        )
        for column_name, column in columns.items():
            column.setdefault("paths", [column_name])
    policies = resources.files(__package__).joinpath("policies.yaml").read_text(encoding="utf-8")
    return {**content, "policies": yaml.load(policies, Loader=_Loader)}  # noqa: S506 - as above


def _overlay(base: dict[str, Any], overlay: dict[str, Any], file: str) -> dict[str, Any]:
    _known(file, "", overlay, OVERLAY_KEYS)
    collections = dict(base["collections"])
    for name, changes in _mapping(file, "collections", overlay.get("collections")).items():
        where = f"collections.{name}"
        declared = _mapping(file, where, changes)
        if (
            name in collections or "kind" not in declared
        ):  # whoever misspells a name does not say what kind it is
            _known(file, "collections", {name: None}, collections)
            collections[name] = _overlay_collection(collections[name], declared, file, where)
        else:
            collections[name] = _new_collection(name, declared, file, where)
    policies = dict(base["policies"])
    for name, changes in _mapping(file, "policies", overlay.get("policies")).items():
        policies[name] = _overlay_policy(
            policies.get(name),
            _mapping(file, f"policies.{name}", changes),
            file,
            f"policies.{name}",
        )
    return base | {"collections": collections, "policies": policies}


def _new_collection(name: str, declared: dict[str, Any], file: str, where: str) -> dict[str, Any]:
    _known(file, where, declared, (*COLLECTION_KEYS, "family", "kind"))
    base = {
        "name": name,
        "description": f"{name}, a collection that {Path(file).name} adds.",
        "routes": [],
    }
    own = {key: declared[key] for key in ("family", "kind") if key in declared}
    rest = {key: value for key, value in declared.items() if key not in own}
    return _overlay_collection(base | own, rest, file, where)


def _overlay_collection(
    base: dict[str, Any], changes: dict[str, Any], file: str, where: str
) -> dict[str, Any]:
    _known(file, where, changes, COLLECTION_KEYS)
    merged = base | {
        key: value
        for key, value in changes.items()
        if key not in {"route", "parameters", "columns"}
    }
    for number, route in enumerate(_list(file, f"{where}.routes", merged["routes"])):
        _known(
            file,
            f"{where}.routes.{number}",
            _mapping(file, f"{where}.routes.{number}", route),
            Route.model_fields,
        )
    if changes.get("window") is not None:
        _known(
            file,
            f"{where}.window",
            _mapping(file, f"{where}.window", changes["window"]),
            WindowParameters.model_fields,
        )
    if "route" in changes:
        first = _validated(Route, {"path": changes["route"]}, file, f"{where}.route")
        merged["routes"] = [first.model_dump(mode="json")] + [
            route for route in merged["routes"] if route and route.get("path") != first.path
        ]
    if "parameters" in changes:
        merged["parameters"] = _laid(
            base.get("parameters", {}), _mapping(file, f"{where}.parameters", changes["parameters"])
        )
    if "columns" in changes:
        columns = dict(base.get("columns", {}))
        for name, column in _mapping(file, f"{where}.columns", changes["columns"]).items():
            if column is not None:
                column = _mapping(file, f"{where}.columns.{name}", column)  # noqa: PLW2901
                _known(file, f"{where}.columns.{name}", column, COLUMN_KEYS)
                column = {"paths": [name]} | columns.get(name, {}) | column  # noqa: PLW2901
            columns = _laid(columns, {name: column})
        merged["columns"] = columns
        if "indexes" not in changes:
            unfit = base.get("columns", {}).keys() - columns.keys()
            unfit |= {name for name, column in columns.items() if column.get("type") == "json"}
            merged["indexes"] = [
                names for names in base.get("indexes", []) if not unfit & set(names)
            ]
    return merged


def _overlay_policy(
    base: dict[str, Any] | None, changes: dict[str, Any], file: str, where: str
) -> dict[str, Any]:
    kind = changes.get("kind", base and base["kind"])
    if not isinstance(kind, str) or kind not in KINDS:
        expected = f"{where}.kind: expected one of {', '.join(KINDS)}"
        got = f"got {kind!r}" if kind else "and the catalogue has no policy of this name"
        raise CatalogueError(f"{file}: {expected}; {got}.")
    if base and kind != base["kind"]:
        raise CatalogueError(
            f"{file}: {where}.kind: this policy is a {base['kind']}; give one of another kind another name."
        )
    fields = KINDS[kind].model_fields.keys() - {"name"}
    _known(file, where, changes, sorted(fields))
    return (base or {}) | changes


def _laid(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (base | changes).items() if value is not None}


def _mapping(file: str, where: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CatalogueError(f"{file}: {where}: expected a mapping, got {value!r}.")
    return {str(key): member for key, member in value.items()}


def _list(file: str, where: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise CatalogueError(f"{file}: {where}: expected a list, got {value!r}.")
    return value


def _known(file: str, where: str, given: dict[str, Any], allowed: Any) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), list(allowed), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise CatalogueError(
                f"{file}: {f'{where}.{key}' if where else key}: unknown name.{hint} Allowed here: {', '.join(allowed)}."
            )


def _validate(file: str, content: dict[str, Any]) -> Catalogue:
    policies = {name: _policy(file, name, policy) for name, policy in content["policies"].items()}
    catalogue = _validated(Catalogue, content | {"policies": policies}, file, "")
    snapshots = [
        collection.name
        for collection in catalogue.collections.values()
        if collection.kind is Kind.SNAPSHOT
    ]
    for policy in catalogue.policies.values():
        for name in policy.collections:
            if name not in snapshots:
                raise CatalogueError(
                    f"{file}: policies.{policy.name}.collections: expected snapshot collections; got {name!r}. "
                    f"There are: {', '.join(snapshots)}."
                )
    return catalogue


def _policy(file: str, name: str, declaration: dict[str, Any]) -> Policy:
    return _validated(
        KINDS[declaration["kind"]], declaration | {"name": name}, file, f"policies.{name}"
    )


def _validated(model: type[M], content: dict[str, Any], file: str, where: str) -> M:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join([*([where] if where else []), *(str(part) for part in first["loc"])])
        expected = (
            first["msg"]
            .removeprefix("Value error, ")
            .replace("Input should be a valid tuple", "expected a list")
        )
        got = "" if isinstance(first["input"], dict | list) else f"; got {first['input']!r:.120}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise CatalogueError(f"{file}: {key}: {expected}{got}.{more}") from None
