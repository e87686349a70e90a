"""Declare connections: API keys with their own quota, rows and assets.

The unnamed connection, `magnetis`, consists of the MAGNETIS_ variables. MAGNETIS_CONFIG declares
others, which inherit every variable that they do not declare:

    connections:
      nord:
        api_key_env: KEY_NORD          # or api_key_file: /run/secrets/key_nord
        scope: network                 # organization, entity, network or account
        daily_quota: 5000
        start_date: 2024-01-01
        collections: [calls, numbers]  # or {exclude: [visits]}
        key_expires: 2027-03-31
        overlay:                       # changes of the catalogue, or the path of such a file
          collections: {calls: {route: /v2/calls}}
      magnetis: {scope: organization}  # the unnamed one

A missing key fails the runs of its connection, not the code location.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from magnetis_dagster import settings as settings_module
from magnetis_dagster.catalog import Catalogue, CatalogueError, load_catalogue
from magnetis_dagster.catalog.overlay import read_overlay
from magnetis_dagster.connection_names import NAME, UNNAMED
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.settings import Settings

EXPIRY_DAYS = 14
"""A key that expires within this many days is reported."""
"""Names of resources begin with it, and must be Python identifiers."""
SETTINGS = (
    "allow_http",
    "api_url",
    "calls_per_second",
    "concurrency",
    "daily_quota",
    "doubted_share",
    "emptied_days",
    "lookback_days",
    "query_timezone",
    "quota_floors",
    "quota_recheck_seconds",
    "quota_release_hours",
    "quota_spread",
    "quota_window",
    "repair_attempts",
    "response_timezone",
    "settings_baseline",
    "settings_interval_seconds",
    "start_date",
    "timezone",
    "unreadable_share",
    "weekly_lookback_days",
)
"""Variables that a connection may declare, in lower case and without MAGNETIS_."""


class UnknownConnection(PermanentError):
    """No connection has the given name, or none was given and there are several."""


class Scope(StrEnum):
    """Where a key was created, widest first."""

    ORGANIZATION = "organization"
    ENTITY = "entity"
    NETWORK = "network"
    ACCOUNT = "account"


class Choice(BaseModel):
    """The collections that a connection loads. If both lists are empty: all enabled ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    include: tuple[str, ...] = ()
    """Names of collections; the others are disabled."""
    exclude: tuple[str, ...] = ()
    """Names of collections that are disabled."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: object) -> object:
        if value == []:
            raise ValueError("expected at least one collection")
        return {"include": value} if isinstance(value, list) else value


class Declaration(BaseModel):
    """The declaration of a connection. `Settings` validates the variables in SETTINGS."""

    model_config = ConfigDict(extra="allow", frozen=True)

    api_key_env: str | None = Field(default=None, min_length=1)
    """Name of the variable that contains the key."""
    api_key_file: Path | None = None
    """File that contains the key, relative to the working directory."""
    scope: Scope | None = None
    """Where the key was created. It decides which row the views `_distinct` return."""
    key_expires: date | None = None
    """Last day on which the key is valid, in the time zone of the connection; None: unknown."""
    collections: Choice = Choice()
    """Collections to load."""
    overlay: dict[str, Any] | Path = Field(default_factory=dict)
    """Changes of the catalogue for this connection: a mapping with the structure of
    MAGNETIS_CONFIG, or the path of such a file, relative to MAGNETIS_CONFIG."""

    @model_validator(mode="after")
    def _check_key_source(self) -> Self:
        if self.api_key_env and self.api_key_file:
            raise ValueError("expected api_key_env or api_key_file, not both")
        return self


@dataclass(frozen=True, slots=True)
class Connection:
    """One API key with its quota, its rows and its assets, as declared."""

    name: str
    settings: Settings
    catalogue: Catalogue
    scope: Scope | None = None
    key_expires: date | None = None
    """Last day on which the key is valid, in the time zone of the connection."""
    key_prefix: tuple[str, ...] = ()
    """First parts of its asset keys."""
    declared_in: Literal["MAGNETIS_CONFIG", "component"] = "MAGNETIS_CONFIG"
    load: Callable[[], "Connection"] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set the default key prefix: `magnetis`, then the name unless it is the unnamed one."""
        if not self.key_prefix:
            own = () if self.is_unnamed else (self.name,)
            object.__setattr__(self, "key_prefix", (UNNAMED, *own))

    @property
    def is_unnamed(self) -> bool:
        """Whether its key is MAGNETIS_API_KEY."""
        return self.name == UNNAMED

    @property
    def rank(self) -> int:
        """Position of its scope from 1, widest first; 5 without a scope."""
        return 1 + ([*Scope].index(self.scope) if self.scope else len(Scope))

    def path(self, name: str) -> tuple[str, ...]:
        """Return the parts of the key of an asset, such as `magnetis`, `nord`, `calls`."""
        return *self.key_prefix, name

    def scoped(self, name: str) -> str:
        """Return the name of a job, schedule, sensor, pool or resource of this connection."""
        return name if self.is_unnamed else f"{self.name}_{name}"

    def reload(self) -> "Connection":
        """Return the connection with its present settings and key.

        Code servers live for weeks, while keys and variables change.

        Raises: SettingsError; CatalogueError; UnknownConnection if it is no longer declared.
        """
        return self.load() if self.load else self


def load_connections() -> list[Connection]:
    """Return the connections of the environment and of MAGNETIS_CONFIG, as declared.

    The unnamed one comes first. It exists if MAGNETIS_API_KEY is set, if `connections` names it,
    or if there are no others.

    Raises: SettingsError; CatalogueError.
    """
    return [build() for build in _builders().values()]


def reload(name: str) -> Connection:
    """Return the connection as it is declared now, without the settings of the others.

    Raises: SettingsError; CatalogueError; UnknownConnection if it is no longer declared.
    """
    builders = _builders()
    if name not in builders:
        raise _unknown(name, builders)
    return builders[name]()


def _builders() -> dict[str, Callable[[], Connection]]:
    """Return by name what builds each connection, the unnamed one first."""
    settings = Settings.load()
    declared = declarations(settings.config)
    catalogue = load_catalogue(settings.config)
    builders: dict[str, Callable[[], Connection]] = {}
    if settings.api_key or UNNAMED in declared or not declared:
        own = declared.pop(UNNAMED, None)
        builders[UNNAMED] = partial(_unnamed, settings, own, catalogue)
    for name, each in declared.items():
        builders[name] = partial(named, name, each, config=settings.config, catalogue=catalogue)
    return builders


def choose(connections: Sequence[Connection], name: str | None) -> Connection:
    """Return the connection of that name; if `name` is None, the only one.

    Raises: UnknownConnection.
    """
    names = ", ".join(each.name for each in connections)
    if name is None:
        if len(connections) == 1:
            return connections[0]
        raise UnknownConnection(
            f"There are several connections: {names}. Add --connection with one of these names."
        )
    for each in connections:
        if each.name == name:
            return each
    raise _unknown(name, [each.name for each in connections])


def _unknown(name: str, names: Iterable[str]) -> UnknownConnection:
    return UnknownConnection(f"No connection {name!r} is declared. There are: {', '.join(names)}.")


def declarations(config: Path | None) -> dict[str, Declaration]:
    """Return the declarations under `connections` in MAGNETIS_CONFIG, by name.

    Raises: CatalogueError.
    """
    content = read_overlay(config).get("connections") if config else None
    place = f"{config}: connections"
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CatalogueError(f"{place}: expected a mapping of names, got {content!r:.80}.")
    found = {
        str(name): declaration(str(name), value, f"{place}.{name}")
        for name, value in content.items()
    }
    for name, each in found.items():
        has_key = each.api_key_env or each.api_key_file
        if name != UNNAMED and not has_key:
            raise CatalogueError(
                f"{place}.{name}: expected api_key_env (the variable that contains the key) or "
                "api_key_file."
            )
        if name == UNNAMED and has_key:
            raise CatalogueError(f"{place}.{name}: the key of {UNNAMED} is MAGNETIS_API_KEY.")
    return found


def declaration(name: str, value: object, place: str) -> Declaration:
    """Return the declaration of one connection; `place` names it in errors.

    Raises: CatalogueError.
    """
    if not NAME.fullmatch(name):
        raise CatalogueError(
            f"{place}: expected a name of at most 30 characters of a-z, 0-9 and _ that does not "
            f"begin with a digit, got {name!r}."
        )
    try:
        found = Declaration.model_validate({} if value is None else value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join([place, *map(str, first["loc"])])
        raise CatalogueError(f"{at}: {first['msg'].removeprefix('Value error, ')}.") from None
    allowed = [*Declaration.model_fields, *SETTINGS]
    for key in found.model_extra or ():
        if key not in SETTINGS:
            hint = (
                " A key itself does not belong in this file: name the variable that contains it "
                "in api_key_env, or its file in api_key_file."
                if key == "api_key"
                else f" Allowed here: {', '.join(allowed)}."
            )
            raise CatalogueError(f"{place}.{key}: unknown name.{hint}")
    return found


def named(
    name: str,
    declared: Declaration,
    *,
    config: Path | None = None,
    catalogue: Catalogue | None = None,
    place: str = "",
    overrides: Mapping[str, object] | None = None,
    key: SecretStr | None = None,
    key_prefix: Iterable[str] = (),
    load: Callable[[], Connection] | None = None,
) -> Connection:
    """Return a connection with its present settings.

    `config`: the overlay of all connections; `catalogue`: the catalogue with this overlay, if the
    caller has it. `place` names the declaration in errors. `overrides`: values of more variables,
    by field. `key`: the key, if `declared` names no variable and no file. `load` reloads it.

    Raises: SettingsError; CatalogueError.
    """
    place = place or f"{config}: connections.{name}"
    missing = "its key is empty."
    if key is None:
        key, missing = _read_key(declared)
    elif key:
        missing = "The field api_key contains its key."
    settings = Settings.of_connection(
        name,
        {**(declared.model_extra or {}), **(overrides or {})},
        place=place,
        key=key,
        missing_key=missing,
    )
    return Connection(
        name,
        settings,
        _catalogue(config, declared, place, catalogue),
        declared.scope,
        declared.key_expires,
        tuple(key_prefix),
        "component" if load else "MAGNETIS_CONFIG",
        load or (lambda: reload(name)),
    )


def _unnamed(settings: Settings, declared: Declaration | None, catalogue: Catalogue) -> Connection:
    declared = declared or Declaration()
    place = f"{settings.config}: connections.{UNNAMED}"
    if given := sorted(declared.model_extra or ()):
        raise CatalogueError(
            f"{place}.{given[0]}: {UNNAMED} consists of variables: set "
            f"MAGNETIS_{given[0].upper()} instead."
        )
    return Connection(
        UNNAMED,
        settings,
        _catalogue(settings.config, declared, place, catalogue),
        declared.scope,
        declared.key_expires,
        load=lambda: reload(UNNAMED),
    )


def _catalogue(
    config: Path | None, declared: Declaration, place: str, catalogue: Catalogue | None
) -> Catalogue:
    changes, at = declared.overlay, f"{place}.overlay".removeprefix(f"{config}: ")
    if isinstance(changes, Path):
        path = changes if config is None else config.parent / changes
        changes, at = read_overlay(path), f"{at} ({path})"
    if changes or catalogue is None:
        catalogue = load_catalogue(config, changes, at)
    return _chosen(catalogue, declared.collections, f"{place}.collections")


def _chosen(catalogue: Catalogue, choice: Choice, place: str) -> Catalogue:
    known = catalogue.collections
    for name in (*choice.include, *choice.exclude):
        if name not in known:
            raise CatalogueError(f"{place}: no collection {name!r}. There are: {', '.join(known)}.")
    if not choice.include and not choice.exclude:
        return catalogue
    chosen = {*(choice.include or known)} - {*choice.exclude}
    disabled = {"enabled": False, "reason": "Not chosen for this connection."}
    collections = {
        name: each if name in chosen else each.model_copy(update=disabled)
        for name, each in known.items()
    }
    return catalogue.model_copy(update={"collections": collections})


def read_variable(name: str) -> str | None:
    """Return the value of a variable in the environment, in `.env` or in SECRETS; None if blank."""
    value = os.environ.get(name) or dotenv_values(".env").get(name)
    file = settings_module.SECRETS / name.lower()
    if not value and file.is_file():
        value = file.read_text(encoding="utf-8", errors="replace")
    return value if value and value.strip() else None


def _read_key(declared: Declaration) -> tuple[SecretStr | None, str]:
    """Return the key, and the error if there is none."""
    if name := declared.api_key_env:
        if value := read_variable(name):
            return SecretStr(value), f"The variable {name} contains its key."
        return None, f"its key is missing. Set the variable {name} in the environment or in .env."
    assert declared.api_key_file is not None
    try:
        value = declared.api_key_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        return None, f"its key cannot be read from {declared.api_key_file} ({reason})."
    if not value.strip():
        return None, f"the file {declared.api_key_file}, which should contain its key, is empty."
    return SecretStr(value), f"The file {declared.api_key_file} contains its key."
