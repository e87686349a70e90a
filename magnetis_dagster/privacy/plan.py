"""Read the plan for personal data: the treatment of each class on arrival, and its age.

MAGNETIS_CONFIG changes the defaults of `defaults.yaml`:

    privacy:
      region: FR                    # country of numbers without a country code
      withheld: [numéro réservé]    # more texts that mean a withheld number
      payload: {mask_after: 6 months}
      classes:
        caller_number: {on_arrival: hash}
        recording_link: {on_arrival: drop}
        contact: {mask_after: 2 years since last contact, mask_to: hash}
      collections:
        emails:
          classes: {free_text: {mask_after: 90 days}}
          members: {x_portal: none, customer.note: free_text}

A rule of a collection takes precedence over the rule of the class. `members` classifies received
members by dotted path, before the columns of the catalogue do. A member without a class counts as
`unclassified`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from magnetis_dagster.catalog import Catalogue, CatalogueError, PersonalData
from magnetis_dagster.catalog.names import heads, split
from magnetis_dagster.catalog.overlay import read_overlay
from magnetis_dagster.privacy.ages import Age

CLASSES: Final = tuple(each for each in PersonalData if each is not PersonalData.NONE)
"""The classes that the plan has a rule for."""
HASHABLE: Final = frozenset(
    {
        PersonalData.CALLER_NUMBER,
        PersonalData.CONTACT,
        PersonalData.STAFF_RECIPIENT,
        PersonalData.PERSONAL,
    }
)
"""Classes that contain phone numbers or e-mail addresses, which caller keys replace."""


class Treatment(StrEnum):
    """The stored form of a value, from most to least."""

    CLEAR = "clear"
    """The value, and beside a phone number or address its caller key."""
    HASH = "hash"
    """The caller key only; NULL if the value is not a number or address."""
    DROP = "drop"
    """Nothing."""


def _parse_age(value: object) -> object:
    if value is None or value == "never" or isinstance(value, Age):
        return None if value == "never" else value
    return Age.parse(value if isinstance(value, str) else repr(value))


def _check_region(code: str) -> str:
    # loads the metadata of all countries
    from phonenumbers import SUPPORTED_REGIONS  # noqa: PLC0415

    if code not in SUPPORTED_REGIONS:
        raise ValueError("expected the two-letter code of a country, such as FR")
    return code


MaybeAge = Annotated[Age | None, BeforeValidator(_parse_age)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=_Section)


class Rule(_Section):
    """What happens to the values of a class."""

    on_arrival: Treatment = Treatment.CLEAR
    mask_after: MaybeAge = None
    """None: never."""
    mask_to: Treatment = Treatment.DROP

    @field_validator("mask_to")
    @classmethod
    def _masks(cls, value: Treatment) -> Treatment:
        if value is Treatment.CLEAR:
            raise ValueError("expected hash or drop")
        return value


class PayloadRule(_Section):
    """When every personal member of `payload` is removed, whatever its class."""

    mask_after: MaybeAge = None
    """None: never."""


class _CollectionSection(_Section):
    payload: PayloadRule = PayloadRule()
    classes: dict[PersonalData, Rule] = {}
    members: dict[Annotated[str, StringConstraints(min_length=1)], PersonalData] = {}

    @model_validator(mode="after")
    def _rules_are_possible(self) -> Self:
        if PersonalData.NONE in self.classes:
            raise ValueError(f"classes.none: expected one of {', '.join(CLASSES)}")
        for name, rule in self.classes.items():
            if Treatment.HASH in {rule.on_arrival, rule.mask_to} and name not in HASHABLE:
                raise ValueError(
                    f"classes.{name}: hash needs phone numbers or e-mail addresses, which only the "
                    f"classes {', '.join(sorted(HASHABLE))} contain; use drop"
                )
        return self


class _PlanSection(_CollectionSection):
    members: dict[str, PersonalData] = Field(default={}, max_length=0)
    region: Annotated[str, AfterValidator(_check_region)] = "FR"
    withheld: tuple[str, ...] = ()
    collections: dict[str, _CollectionSection] = {}


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """The plan of one collection."""

    rules: Mapping[PersonalData, Rule]
    """The rule of each class in CLASSES."""
    payload: PayloadRule
    members: Mapping[str, PersonalData]
    """Classes of received members by dotted path; they take precedence over columns."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of all collections."""

    region: str
    """Two-letter code of the country of numbers without a country code."""
    withheld: tuple[str, ...]
    """Texts that mean a withheld number, in addition to `phone.WITHHELD`."""
    default: CollectionPlan
    collections: Mapping[str, CollectionPlan]

    def of(self, collection: str) -> CollectionPlan:
        """Return the plan of a collection."""
        return self.collections.get(collection, self.default)


def load_plan(config: Path | None, catalogue: Catalogue) -> Plan:
    """Return the default plan with the changes of `privacy` in MAGNETIS_CONFIG.

    `catalogue`: names the collections that the plan may contain.

    Raises: CatalogueError, which names file and key.
    """
    changes = read_overlay(config).get("privacy") if config else None
    return build_plan(changes, f"{config}: privacy", catalogue)


def declassified(catalogue: Catalogue, shipped: Catalogue, plan: Plan) -> list[str]:
    """Return what MAGNETIS_CONFIG declares less personal than the shipped catalogue and plan do.

    One text for each column and member, with its name and both classes. Not an error: the
    controller may know better. But nobody should do it unnoticed.
    """
    standard = build_plan(None, "", shipped)
    found = []
    for name, collection in shipped.collections.items():
        if name not in catalogue.collections:
            continue
        columns = catalogue.collections[name].columns
        for column_name, column in collection.columns.items():
            now = columns.get(column_name)
            if now and _degree(now.personal_data) < _degree(column.personal_data):
                found.append(
                    f"{name}.{column_name}: {column.personal_data} in the shipped catalogue, "
                    f"{now.personal_data} in MAGNETIS_CONFIG"
                )
        classes = dict(standard.of(name).members)
        for column in collection.columns.values():
            for path in column.paths:
                classes.setdefault(path, column.personal_data)
        for path, now_class in plan.of(name).members.items():
            before = classes.get(path)
            if before and _degree(now_class) < _degree(before):
                found.append(
                    f"{name}: member {path}: {before} in the shipped catalogue, {now_class} in "
                    "MAGNETIS_CONFIG"
                )
    return found


def _degree(value: PersonalData) -> int:
    return (PersonalData.NONE, PersonalData.PSEUDONYM, PersonalData.PERSONAL).index(value.degree)


@cache
def _defaults() -> _PlanSection:
    text = resources.files(__package__).joinpath("defaults.yaml").read_text(encoding="utf-8")
    return _PlanSection.model_validate(yaml.safe_load(text))


def build_plan(changes: object, place: str, catalogue: Catalogue) -> Plan:
    """Return the default plan with `changes`, a section `privacy`; `place` names it in errors.

    Raises: CatalogueError.
    """
    defaults, given = _defaults(), _validate(changes, place)
    for name in given.collections:
        if name not in catalogue.collections:
            raise _unknown(f"{place}.collections.{name}", name, catalogue.collections)
    rules = _merge_rules(defaults.classes, given.classes)
    payload = _changed(defaults.payload, given.payload)
    collections = {}
    for name in dict.fromkeys((*defaults.collections, *given.collections)):
        own_rules, own_payload = rules, payload
        members: dict[str, PersonalData] = {}
        for section in (defaults.collections.get(name), given.collections.get(name)):
            if section:
                own_rules = _merge_rules(own_rules, section.classes)
                own_payload = _changed(own_payload, section.payload)
                members |= section.members
        collections[name] = CollectionPlan(own_rules, own_payload, members)
    for name, collection in collections.items():
        _check_members(collection.members, f"{place}.collections.{name}.members", name, catalogue)
    default = CollectionPlan(rules, payload, {})
    return Plan(given.region, given.withheld, default, collections)


def _merge_rules(
    base: Mapping[PersonalData, Rule], changes: Mapping[PersonalData, Rule]
) -> dict[PersonalData, Rule]:
    return {name: _changed(base.get(name, Rule()), changes.get(name)) for name in CLASSES}


def _changed(base: S, changes: S | None) -> S:
    """Return `base` with the keys that `changes` declares."""
    if changes is None:
        return base
    return base.model_copy(
        update={name: getattr(changes, name) for name in changes.model_fields_set}
    )


def _check_members(
    members: Mapping[str, PersonalData], place: str, name: str, catalogue: Catalogue
) -> None:
    """Raise CatalogueError if `members` classifies an id, account or time, which never change."""
    collection = catalogue.collections.get(name)
    if collection is None:
        return
    kept = {*collection.key_paths, *collection.time_fields}
    spellings = {heads(split(path))[-1].folded for path in kept}
    for path in members:
        if heads(split(path))[-1].folded in spellings:
            raise CatalogueError(
                f"{place}.{path}: this member is an id, an account or the time of the row, which "
                "are never masked. Remove it here."
            )


def _validate(changes: object, place: str) -> _PlanSection:
    if changes is None:
        return _PlanSection()
    if not isinstance(changes, dict):
        raise CatalogueError(f"{place}: expected a mapping, got a {type(changes).__name__}.")
    try:
        return _PlanSection.model_validate(_without_blanks(changes))
    except ValidationError as error:
        # without the input: it may be a secret in the wrong place
        first = error.errors(include_url=False, include_input=False)[0]
        *above, last = [*map(str, first["loc"])] or [""]
        at = ".".join(filter(None, [place, *above, last]))
        at = at.removesuffix(".[key]")
        if first["type"] == "extra_forbidden":
            raise _unknown(at, last, _names_at(above)) from None
        if first["type"] == "too_long" and last == "members":
            raise CatalogueError(
                f"{at}: expected below a collection: collections.<name>.members."
            ) from None
        raise CatalogueError(f"{at}: {first['msg'].removeprefix('Value error, ')}.") from None


def _without_blanks(value: Any) -> Any:
    """Return the mapping with text keys, without the keys of blank sections.

    `mask_after:` without a value stays: it means never.
    """
    if not isinstance(value, dict):
        return value
    return {
        str(key): _without_blanks(member)
        for key, member in value.items()
        if member is not None or key == "mask_after"
    }


def _names_at(above: list[str]) -> Mapping[str, object]:
    """Return the allowed names of the section at this path."""
    match above:
        case []:
            return {key: None for key in _PlanSection.model_fields if key != "members"}
        case [*_, "payload"]:
            return {**PayloadRule.model_fields}
        case [*_, "classes", _]:
            return {**Rule.model_fields}
        case _:
            return {**_CollectionSection.model_fields}


def _unknown(place: str, name: str, allowed: Mapping[str, object]) -> CatalogueError:
    close = difflib.get_close_matches(name, list(allowed), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return CatalogueError(f"{place}: unknown name.{hint} Allowed here: {', '.join(allowed)}.")
