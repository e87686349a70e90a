"""The model of a declaration: its fields and validation rules."""

import re
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A PostgreSQL name without quotes. Of its 63 characters, 40 leave room for suffixes."""

STANDARD_COLUMNS = frozenset(
    {"connection", "id", "account_id", "payload"}
    | {"first_seen_at", "last_seen_at", "changed_at", "deleted_at"}
    | {"occurred_at", "day", "valid_from", "valid_to"}
    | {"masked", "payload_masked", "mentioned_keys"}
    | {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}  # PostgreSQL's system columns
)
ACCOUNT_PATHS = ("account.id", "account_id")
INDEXED_CHARACTERS = 128
MOST_INDEX_COLUMNS = 4
"""Limits that keep an index entry below 2,704 bytes, PostgreSQL's maximum."""
SECONDS_PER_UNIT = {
    "milliseconds": Decimal("0.001"),
    "seconds": Decimal(1),
    "minutes": Decimal(60),
    "hours": Decimal(3600),
}


def _id_path(entry: Any) -> Any:
    parts = tuple(entry) if isinstance(entry, list | tuple) else (entry,)
    if parts and all(isinstance(part, str) and part.strip() for part in parts):
        return parts
    raise ValueError(
        "expected a member such as call_id, or a list of members that form one id, such as [id, "
        "leg]"
    )


def _volatile_path(entry: Any) -> Any:
    if isinstance(entry, str) and re.fullmatch(r"(?:\*|[\w -]+)(?:\.(?:\*|[\w -]+))*\??", entry):
        return entry
    raise ValueError(
        "expected a dotted member such as last_sent_at; `*` is every element of a list or object, "
        "and `?` at the end means the query string of a link only"
    )


IdPath = Annotated[tuple[str, ...], BeforeValidator(_id_path)]
"""The members that form an id: one, or several for a composite id."""


class Evidence(StrEnum):
    """How well a statement about the API is established."""

    CONFIRMED = "confirmed"
    """Documented by the vendor."""
    OBSERVED = "observed"
    """Found by `magnetis probe` in the API's responses, or in a third-party client."""
    INFERRED = "inferred"
    """Follows from confirmed facts."""
    ASSUMED = "assumed"
    """A guess without any evidence."""


class Kind(StrEnum):
    """What a row of the collection represents."""

    EVENTS = "events"
    """An event; the partition is the local day of its time."""
    SNAPSHOT = "snapshot"
    """The current state of an object; the partition is the local day of the snapshot."""


class PersonalData(StrEnum):
    """Class of personal data that a column contains (GDPR, article 4).

    The plan (magnetis_dagster/privacy/plan.py) has a rule for each class.
    """

    NONE = "none"
    PSEUDONYM = "pseudonym"
    """Identifies a person or device without naming one; no class below fits."""
    PERSONAL = "personal"
    """Names a person or a way to contact one; no class below fits."""
    CALLER_NUMBER = "caller_number"
    """Phone number of a caller."""
    CONTACT = "contact"
    """Name, phone number or e-mail address of a caller, sender or lead."""
    FREE_TEXT = "free_text"
    """Text that people write or say: subjects, notes, transcripts."""
    RECORDING_LINK = "recording_link"
    """Link to a recording or voicemail message."""
    VISITOR = "visitor"
    """Id of a visitor, session or click, and the pages seen."""
    STAFF_RECIPIENT = "staff_recipient"
    """Name, phone number or e-mail address of somebody who receives calls or notifications."""
    UNCLASSIFIED = "unclassified"
    """A received member that no declaration describes. It counts as personal."""

    @property
    def degree(self) -> "PersonalData":
        """How far values identify a person: NONE, PSEUDONYM or PERSONAL."""
        if self in {PersonalData.NONE, PersonalData.PSEUDONYM}:
            return self
        return PersonalData.PSEUDONYM if self is PersonalData.VISITOR else PersonalData.PERSONAL


class Contents(StrEnum):
    """What a personal column contains, if a key can be computed from it."""

    PHONE = "phone"
    """A phone number in any spelling."""
    EMAIL = "email"
    """An e-mail address."""


class ColumnType(StrEnum):
    """The type of a column."""

    TEXT = "text"
    INTEGER = "integer"
    DECIMAL = "decimal"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    """Times without a zone are in the response time zone."""
    JSON = "json"


class Severity(StrEnum):
    """Severity of a violated policy; neither stops a run."""

    WARN = "warn"
    ERROR = "error"


class Declaration(BaseModel):
    """Base of all declarations: immutable, with no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Route(Declaration):
    """A candidate path of the collection under the API's origin."""

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_\-./]*$")]
    evidence: Evidence = Evidence.ASSUMED

    @field_validator("path")
    @classmethod
    def _no_parent_segments(cls, path: str) -> str:
        if ".." in path or path.startswith("//"):
            raise ValueError(
                "expected a path below the origin, such as /calls, without '..' or a second host"
            )
        return path


class Column(Declaration):
    """A typed column with the value of the first candidate path that has one."""

    type: ColumnType = ColumnType.TEXT
    paths: tuple[str, ...] = Field(min_length=1)
    """Dotted paths of members, in order: `account.name`."""
    description: str = ""
    personal_data: PersonalData = PersonalData.NONE
    contains: Contents | None = None
    """How the caller key of a personal column of type text is computed."""
    unit: str | None = None
    received_unit: str | None = None
    """Unit of the API's value, if it differs from `unit`; values are converted."""
    evidence: Evidence = Evidence.ASSUMED

    @model_validator(mode="after")
    def _units_can_be_converted(self) -> Self:
        if self.received_unit is None:
            return self
        units = ", ".join(SECONDS_PER_UNIT)
        if self.received_unit not in SECONDS_PER_UNIT:
            raise ValueError(f"received_unit: expected one of {units}; got {self.received_unit!r}")
        is_number = self.type in {ColumnType.INTEGER, ColumnType.DECIMAL}
        if self.unit not in SECONDS_PER_UNIT or not is_number:
            raise ValueError(
                "received_unit requires a column of type integer or decimal whose unit is one of "
                f"{units}"
            )
        return self


class WindowParameters(Declaration):
    """Query parameters that limit an events route to a time range."""

    start: str = "from"
    end: str = "to"
    format: str = "%Y%m%d%H%M%S"
    """`strftime` format in MAGNETIS_QUERY_TIMEZONE."""

    @field_validator("format")
    @classmethod
    def _require_a_day(cls, value: str) -> str:
        moment = datetime(2025, 11, 23, 20, 7, 9)  # noqa: DTZ001 - no zone needed
        with suppress(ValueError):
            parsed = datetime.strptime(moment.strftime(value), value)  # noqa: DTZ007
            if parsed.date() == moment.date():
                return value
        raise ValueError(
            "expected a strftime format with at least year, month and day, such as %Y%m%d%H%M%S"
        )


class Collection(Declaration):
    """The declaration of one collection of the API."""

    name: Identifier
    family: Identifier
    kind: Kind
    description: str = Field(min_length=1)
    routes: tuple[Route, ...] = Field(min_length=1)
    """Requests use the first; `magnetis probe` tries the others if it fails."""
    parameters: dict[str, str] = {}
    window: WindowParameters | None = None
    """None on an events collection: the route cannot filter by time, so it is read completely."""
    window_evidence: Evidence = Evidence.ASSUMED
    id_paths: tuple[IdPath, ...] = Field((("id",), ("uuid",)), min_length=1)
    """Candidate ids, in order. A composite id has several members and requires all of them."""
    id_evidence: Evidence = Evidence.ASSUMED
    account_paths: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ACCOUNT_PATHS
    """Candidate paths of the row's account, in order."""
    time_fields: tuple[str, ...] = ()
    """Candidate paths of an event's time; the first that is present decides."""
    time_evidence: Evidence = Evidence.ASSUMED
    volatile: tuple[Annotated[str, BeforeValidator(_volatile_path)], ...] = ()
    """Paths of members whose changes do not count as changes of the row. See `volatile.py`."""
    columns: dict[Identifier, Column] = {}
    rows_are_accounts: bool = False
    """Whether rows are accounts: `account_id` is their own id, and `account_paths` is ignored."""
    indexes: tuple[tuple[Identifier, ...], ...] = ()
    """Columns of additional indexes, in order. Indexed text is limited to INDEXED_CHARACTERS."""
    references: tuple[Identifier, ...] = ()
    """Collections whose ids the rows contain: edges of the asset graph that never block."""
    sensor: Identifier | None = None
    """Sensor that checks for changes between daily runs."""
    enabled: bool = True
    reason: str | None = None

    @model_validator(mode="after")
    def _kind_and_members_agree(self) -> Self:
        if self.kind is Kind.EVENTS and not self.time_fields:
            raise ValueError(
                "an events collection requires time_fields: candidate members with the time of the "
                "event"
            )
        if self.kind is Kind.SNAPSHOT and (self.window or self.time_fields):
            raise ValueError(
                "a snapshot collection has no window and no time_fields: it is read completely"
            )
        if taken := STANDARD_COLUMNS & self.columns.keys():
            raise ValueError(
                f"column names {sorted(taken)} are reserved in every table; choose other names, or "
                "declare their source: id_paths, account_paths or time_fields"
            )
        keys = list(self.key_columns.values())
        if doubled := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(
                f"the caller keys of several columns would have the name {', '.join(doubled)}; "
                "choose other names for the columns"
            )
        if taken := frozenset(self.key_columns.values()) & self.columns.keys():
            raise ValueError(
                f"column names {sorted(taken)} are reserved for the caller keys of other columns; "
                "choose other names"
            )
        return self

    @model_validator(mode="after")
    def _indexes_are_valid(self) -> Self:
        allowed = {"account_id", "changed_at", "first_seen_at"}
        if self.is_events:
            allowed |= {"occurred_at", "day"}
        allowed |= {name for name, each in self.columns.items() if each.type is not ColumnType.JSON}
        for columns in self.indexes:
            if not 0 < len(set(columns)) == len(columns) <= MOST_INDEX_COLUMNS:
                raise ValueError(
                    f"indexes: expected lists of one to {MOST_INDEX_COLUMNS} different columns; "
                    f"got {list(columns)}"
                )
            if unknown := [name for name in columns if name not in allowed]:
                raise ValueError(
                    f"indexes: cannot index {', '.join(unknown)}; expected columns among "
                    f"{', '.join(sorted(allowed))}"
                )
        return self

    @property
    def indexed(self) -> frozenset[str]:
        """The indexed columns."""
        return frozenset(name for columns in self.indexes for name in columns)

    @property
    def key_columns(self) -> dict[str, str]:
        """Column with phone numbers or addresses to the name of the column for their caller keys.

        `caller_key` belongs to `caller_number`.
        """
        return {
            name: f"{name.removesuffix('_number')}_key"
            for name, column in self.columns.items()
            if column.contains and column.type is ColumnType.TEXT
        }

    @property
    def key_paths(self) -> frozenset[str]:
        """Paths of ids and accounts."""
        accounts = () if self.rows_are_accounts else self.account_paths
        return frozenset({*accounts, *(path for parts in self.id_paths for path in parts)})

    @property
    def route(self) -> str:
        """The path to request."""
        return self.routes[0].path

    @property
    def is_events(self) -> bool:
        """Whether each row belongs to the local day of its own time."""
        return self.kind is Kind.EVENTS

    @property
    def is_setting(self) -> bool:
        """Whether rows are notification settings, whose changes are reported one by one."""
        return self.family == "settings" and not self.is_events

    @property
    def title(self) -> str:
        """The name for people: `Email trackers` for `email_trackers`."""
        return self.name.replace("_", " ").capitalize()


class Policy(Declaration):
    """A requirement on the rows of snapshot collections."""

    name: Identifier
    kind: str
    description: str = Field(min_length=1)
    severity: Severity = Severity.WARN
    enabled: bool = True
    collections: tuple[Identifier, ...] = Field(min_length=1)
    """The collections to check; each of their assets has the check."""
    ignore: tuple[str, ...] = ()
    """Ids of rows or accounts to ignore."""

    needs_accounts: ClassVar[bool] = False
    """Whether the check requires the rows of `accounts`."""
    columns: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Required columns: at least one of each group."""
    across_collections: ClassVar[bool] = False
    """Whether one check covers all collections: the result is the same on each of their assets."""


class Catalogue(Declaration):
    """All collections, in the vendor's order."""

    families: dict[Identifier, str]
    collections: dict[Identifier, Collection]
    policies: dict[Identifier, Policy] = {}

    @model_validator(mode="after")
    def _table_names_are_unique(self) -> Self:
        for name in self.collections:
            owner = re.sub("_(history|current)$", "", name)
            if name == "settings_changes" or (owner != name and owner in self.collections):
                raise ValueError(
                    f"collection {name}: a table or view of another collection has this name; "
                    "choose another name"
                )
        return self

    @model_validator(mode="after")
    def _families_exist(self) -> Self:
        for name, collection in self.collections.items():
            if collection.family not in self.families:
                raise ValueError(
                    f"collection {name}: family {collection.family!r} is not declared; "
                    f"declared families: {', '.join(self.families)}"
                )
        return self

    @model_validator(mode="after")
    def _references_exist_without_cycles(self) -> Self:
        references = {name: each.references for name, each in self.collections.items()}
        for name, others in references.items():
            if unknown := [other for other in others if other not in self.collections]:
                raise ValueError(
                    f"collection {name}: unknown reference {unknown[0]!r}; expected one of "
                    f"{', '.join(self.collections)}"
                )
        try:
            TopologicalSorter(references).prepare()
        except CycleError as error:
            cycle = " -> ".join(error.args[1][::-1])
            raise ValueError(
                f"references form a cycle, which the asset graph does not allow: {cycle}. Remove "
                "one"
            ) from None
        return self

    def __getitem__(self, name: str) -> Collection:
        """Return the collection `name`.

        Raises: KeyError, with the known names, if there is none.
        """
        try:
            return self.collections[name]
        except KeyError:
            raise KeyError(
                f"unknown collection {name!r}; expected one of {', '.join(self.collections)}"
            ) from None

    @property
    def enabled(self) -> list[Collection]:
        """The enabled collections, in catalogue order."""
        return [collection for collection in self.collections.values() if collection.enabled]

    def references_of(self, collection: Collection) -> list[Collection]:
        """Return the enabled collections that the rows refer to, in catalogue order.

        Includes indirect references: Dagster drops an asset from a backfill if one of its targeted
        ancestors is not a parent.
        """
        found = list(collection.references)
        for name in found:  # the loop extends it
            found += [each for each in self.collections[name].references if each not in found]
        return [each for each in self.enabled if each.name in found]

    def policies_of(self, collection: Collection) -> list[Policy]:
        """Return the enabled policies that check the collection."""
        return [
            policy
            for policy in self.policies.values()
            if policy.enabled and collection.name in policy.collections
        ]
