"""The shape of a declaration: what may be said of a collection, and the rules that it must keep.

Nothing here knows a collection by name (`catalogue.yaml` does), reads a row (`reader.py` does) or touches a file (`load.py` does).
"""

import re
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
"""A PostgreSQL name that needs no quotes; 40 characters leave room for suffixes below PostgreSQL's 63."""

STANDARD_COLUMNS = frozenset(
    {"id", "account_id", "payload", "first_seen_at", "last_seen_at", "changed_at", "deleted_at"}
    | {"occurred_at", "day", "valid_from", "valid_to"}
    | {"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"}  # PostgreSQL's own
)


ACCOUNT_PATHS = ("account.id", "account_id")
"""Where the account of a row is, unless its collection declares something else."""
INDEXED_CHARACTERS = 128
MOST_INDEX_COLUMNS = 4
"""Together they keep an index entry below a third of a page (2,704 bytes), beyond which PostgreSQL rejects the row."""
SECONDS_PER_UNIT = {
    "milliseconds": Decimal("0.001"),
    "seconds": Decimal(1),
    "minutes": Decimal(60),
    "hours": Decimal(3600),
}
"""Units of durations, which are converted into each other."""


def _id_path(entry: Any) -> Any:
    if isinstance(entry, str) and entry.strip():
        return (entry,)
    if (
        isinstance(entry, list | tuple)
        and entry
        and all(isinstance(part, str) and part.strip() for part in entry)
    ):
        return tuple(entry)
    raise ValueError(
        "expected a member such as call_id, or a list of members that make one id together, such as [id, leg]"
    )


def _volatile_path(entry: Any) -> Any:
    if isinstance(entry, str) and re.fullmatch(r"(?:\*|[\w -]+)(?:\.(?:\*|[\w -]+))*\??", entry):
        return entry
    raise ValueError(
        "expected a dotted member such as last_sent_at; `*` is every element of a list or object, "
        "and `?` at the end means the query string of a link only"
    )


IdPath = Annotated[tuple[str, ...], BeforeValidator(_id_path)]
"""Members that make an id: one, or several that make one together."""
VolatilePath = Annotated[str, BeforeValidator(_volatile_path)]
MemberPath = Annotated[str, StringConstraints(min_length=1)]


class Evidence(StrEnum):
    """How well a statement about the API is known."""

    CONFIRMED = "confirmed"
    """Read in the vendor's own material."""
    OBSERVED = "observed"
    """Seen in the API's own answers by `magnetis probe`, or in a third-party client that calls the API."""
    INFERRED = "inferred"
    """Follows from confirmed facts."""
    ASSUMED = "assumed"
    """The most plausible guess; nothing was seen."""


class Kind(StrEnum):
    """What a row of the collection is."""

    EVENTS = "events"
    """Something that happened at a moment. The partition is the local day of that moment."""
    SNAPSHOT = "snapshot"
    """The present state of something. The partition is the local day on which the state was taken."""


class PersonalData(StrEnum):
    """What the values of a column tell about a person (GDPR, article 4)."""

    NONE = "none"
    PSEUDONYM = "pseudonym"
    """Singles out a person or a device without naming one: a click id, a visitor id."""
    PERSONAL = "personal"
    """Names or reaches a person: a phone number, an e-mail address, a name, a free text."""


class ColumnType(StrEnum):
    """The PostgreSQL type that a column gets."""

    TEXT = "text"
    INTEGER = "integer"
    """`bigint` in PostgreSQL."""
    DECIMAL = "decimal"
    """`numeric` in PostgreSQL."""
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    """`timestamptz` in PostgreSQL; a received time without a zone is read in the response zone."""
    JSON = "json"
    """`jsonb` in PostgreSQL: lists and objects as received."""


class Severity(StrEnum):
    """What a policy that is not kept means; neither stops a run."""

    WARN = "warn"
    ERROR = "error"


class Declaration(BaseModel):
    """Base of all declarations: immutable, and an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Route(Declaration):
    """A path under the API's origin that may serve the collection."""

    path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_\-./]*$")]
    evidence: Evidence = Evidence.ASSUMED

    @field_validator("path")
    @classmethod
    def _no_parent_segments(cls, path: str) -> str:
        if ".." in path or path.startswith("//"):
            raise ValueError(
                "a route is a path below the origin, like /calls: no '..', no second host"
            )
        return path


class Column(Declaration):
    """A typed column filled from the first candidate path that holds a value."""

    type: ColumnType = ColumnType.TEXT
    paths: tuple[str, ...] = Field(min_length=1)
    """Dotted members of the row, tried in order: `account.name`."""
    description: str = ""
    personal_data: PersonalData = PersonalData.NONE
    unit: str | None = None
    """Unit of a number, such as seconds."""
    received_unit: str | None = None
    """Unit in which the API sends a duration, if it is not `unit`; values are converted."""
    evidence: Evidence = Evidence.ASSUMED
    """How well `paths` is known."""

    @model_validator(mode="after")
    def _units_can_be_converted(self) -> Self:
        if self.received_unit is None:
            return self
        units = ", ".join(SECONDS_PER_UNIT)
        if self.received_unit not in SECONDS_PER_UNIT:
            raise ValueError(f"received_unit: expected one of {units}; got {self.received_unit!r}")
        if self.unit not in SECONDS_PER_UNIT or self.type not in {
            ColumnType.INTEGER,
            ColumnType.DECIMAL,
        }:
            raise ValueError(
                f"received_unit needs a column of type integer or decimal whose unit is one of {units}"
            )
        return self


class WindowParameters(Declaration):
    """Names and format of the query parameters that limit an events route to a window."""

    start: str = "from"
    end: str = "to"
    format: str = "%Y%m%d%H%M%S"
    """`strftime` format in MAGNETIS_QUERY_TIMEZONE."""

    @field_validator("format")
    @classmethod
    def _names_a_day(cls, value: str) -> str:
        moment = datetime(2025, 11, 23, 20, 7, 9)  # noqa: DTZ001 - only its digits matter
        try:
            names_the_day = datetime.strptime(moment.strftime(value), value).date() == moment.date()  # noqa: DTZ007
        except ValueError:
            names_the_day = False
        if not names_the_day:
            raise ValueError(
                "expected a strftime format that holds at least year, month and day, such as %Y%m%d%H%M%S"
            )
        return value


class Collection(Declaration):
    """Everything that the program knows about one collection of the API."""

    name: Identifier
    family: Identifier
    kind: Kind
    description: str = Field(min_length=1)
    routes: tuple[Route, ...] = Field(min_length=1)
    """The first is used; `magnetis probe` tries the others where it does not answer."""
    parameters: dict[str, str] = {}
    """Query parameters sent with every call."""
    window: WindowParameters | None = None
    """None on an events collection: the route takes no window, so it is read whole and placed by day here."""
    window_evidence: Evidence = Evidence.ASSUMED
    id_paths: tuple[IdPath, ...] = Field((("id",), ("uuid",)), min_length=1)
    """Candidates of the row's id, tried in order. One of several members is a composite id, and needs all of them."""
    id_evidence: Evidence = Evidence.ASSUMED
    account_paths: tuple[MemberPath, ...] = ACCOUNT_PATHS
    """Candidate paths of the account that the row belongs to, tried in order."""
    time_fields: tuple[str, ...] = ()
    """Candidate paths of the moment of an event; the first that is present decides."""
    time_evidence: Evidence = Evidence.ASSUMED
    volatile: tuple[VolatilePath, ...] = ()
    """Paths of members that change by themselves: their changes are no changes of the row. See `volatile.py`."""
    columns: dict[Identifier, Column] = {}
    rows_are_accounts: bool = False
    """Whether each row is an account: `account_id` is then the row's own id, and `account_paths` are not read."""
    indexes: tuple[tuple[Identifier, ...], ...] = ()
    """Columns of each further index of the table, in order. Text in them is limited to INDEXED_CHARACTERS."""
    references: tuple[Identifier, ...] = ()
    """Collections whose ids the rows contain: edges of the asset graph, which make no asset wait for another."""
    sensor: Identifier | None = None
    """Sensor that looks between daily runs whether the collection changed."""
    enabled: bool = True
    reason: str | None = None
    """Why the collection is switched off."""

    @model_validator(mode="after")
    def _kind_and_members_agree(self) -> Self:
        if self.kind is Kind.EVENTS and not self.time_fields:
            raise ValueError(
                "an events collection needs time_fields: candidate members that hold the moment of the event"
            )
        if self.kind is Kind.SNAPSHOT and (self.window or self.time_fields):
            raise ValueError(
                "a snapshot collection has no window and no time_fields: it is read whole"
            )
        if taken := STANDARD_COLUMNS & self.columns.keys():
            raise ValueError(
                f"column names {sorted(taken)} are kept for every table; choose other names, or declare what fills "
                "these: id_paths, account_paths or time_fields"
            )
        return self

    @model_validator(mode="after")
    def _indexes_can_be_made(self) -> Self:
        fixed = {"account_id", "changed_at", "first_seen_at"} | (
            {"occurred_at", "day"} if self.is_events else set()
        )
        allowed = fixed | {
            name for name, column in self.columns.items() if column.type is not ColumnType.JSON
        }
        for columns in self.indexes:
            if not columns or len(columns) > MOST_INDEX_COLUMNS or len(set(columns)) < len(columns):
                raise ValueError(
                    f"indexes: expected lists of one to {MOST_INDEX_COLUMNS} different columns, got {list(columns)}"
                )
            if unknown := [name for name in columns if name not in allowed]:
                raise ValueError(
                    f"indexes: cannot index {', '.join(unknown)}; expected columns among {', '.join(sorted(allowed))}"
                )
        return self

    @property
    def indexed(self) -> frozenset[str]:
        """Names of the columns in `indexes`."""
        return frozenset(name for columns in self.indexes for name in columns)

    @property
    def key_paths(self) -> frozenset[str]:
        """The paths of ids and accounts: opaque identifiers."""
        accounts = () if self.rows_are_accounts else self.account_paths
        return frozenset({*accounts, *(path for parts in self.id_paths for path in parts)})

    @property
    def route(self) -> str:
        """The path that is called."""
        return self.routes[0].path

    @property
    def is_events(self) -> bool:
        """Whether rows are placed on the local day of their own time."""
        return self.kind is Kind.EVENTS

    @property
    def is_setting(self) -> bool:
        """Whether it holds settings: who is told of calls. Its changes are told one by one."""
        return self.family == "settings" and not self.is_events

    @property
    def title(self) -> str:
        """The name for people: `email_trackers` becomes `Email trackers`."""
        return re.sub("_", " ", self.name).capitalize()


class Policy(Declaration):
    """One demand on the rows of one or more snapshot collections."""

    name: Identifier
    kind: str
    description: str = Field(min_length=1)
    severity: Severity = Severity.WARN
    enabled: bool = True
    collections: tuple[Identifier, ...] = Field(min_length=1)
    """Whose rows are judged; each of their assets gets the check."""
    ignore: tuple[str, ...] = ()
    """Ids of settings or of accounts that are not judged."""

    needs_accounts: ClassVar[bool] = False
    """Whether the rows of `accounts` are needed to judge."""
    columns: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Columns of the collections that are needed; of a group, any."""
    across_collections: ClassVar[bool] = False
    """Whether the collections are judged together: the answer is the same on each of their assets."""


class Catalogue(Declaration):
    """All collections, in the vendor's order."""

    families: dict[Identifier, str]
    """Family name to a sentence about it."""
    collections: dict[Identifier, Collection]
    policies: dict[Identifier, Policy] = {}
    """What is demanded of the settings; those that are switched off included."""

    @model_validator(mode="after")
    def _names_make_no_two_tables(self) -> Self:
        for name in self.collections:
            owner = re.sub("_(history|current)$", "", name)
            if name == "settings_changes" or (owner != name and owner in self.collections):
                raise ValueError(
                    f"collection {name}: a table or view of another collection has this name; choose another one"
                )
        return self

    @model_validator(mode="after")
    def _families_exist(self) -> Self:
        for collection in self.collections.values():
            if collection.family not in self.families:
                raise ValueError(
                    f"collection {collection.name}: family {collection.family!r} is not declared; "
                    f"declared families: {', '.join(self.families)}"
                )
        return self

    @model_validator(mode="after")
    def _references_exist_and_make_no_circle(self) -> Self:
        for name, collection in self.collections.items():
            for other in collection.references:
                if other not in self.collections:
                    raise ValueError(
                        f"collection {name}: references name {other!r}; there are: {', '.join(self.collections)}"
                    )
        try:
            TopologicalSorter(
                {name: each.references for name, each in self.collections.items()}
            ).prepare()
        except CycleError as error:
            circle = " -> ".join(error.args[1][::-1])
            raise ValueError(
                f"references make a circle, which the asset graph cannot show: {circle}. Remove one"
            ) from None
        return self

    def __getitem__(self, name: str) -> Collection:
        """Return the collection called `name`; KeyError names those that exist."""
        try:
            return self.collections[name]
        except KeyError:
            raise KeyError(
                f"no collection {name!r}; there are: {', '.join(self.collections)}"
            ) from None

    @property
    def enabled(self) -> list[Collection]:
        """The collections that are not switched off, in catalogue order."""
        return [collection for collection in self.collections.values() if collection.enabled]

    def references_of(self, collection: Collection) -> list[Collection]:
        """Return the enabled collections that the rows refer to, directly or through others, in catalogue order.

        Through others too: Dagster drops an asset from a backfill if a targeted ancestor of it is not a parent.
        """
        found: set[str] = set()
        open_ = list(collection.references)
        while open_:
            name = open_.pop()
            if name not in found:
                found.add(name)
                open_ += self.collections[name].references
        return [each for each in self.enabled if each.name in found]

    def policies_of(self, collection: Collection) -> list[Policy]:
        """Return the policies that are switched on and judge the rows of the collection."""
        return [
            policy
            for policy in self.policies.values()
            if policy.enabled and collection.name in policy.collections
        ]
