"""Declares the tables: those of `magnetis_ops`, and those of the catalogue's collections.

`migrate.py` creates the tables, `merge.py` fills them.
"""

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from magnetis_dagster.catalog import Catalogue, Collection, ColumnType

DATA_SCHEMA = "magnetis"
OPS_SCHEMA = "magnetis_ops"

POSTGRESQL_TYPES: dict[ColumnType, TypeEngine[Any]] = {
    ColumnType.TEXT: Text(),
    ColumnType.INTEGER: BigInteger(),
    ColumnType.DECIMAL: Numeric(),
    ColumnType.BOOLEAN: Boolean(),
    ColumnType.TIMESTAMP: DateTime(timezone=True),
    ColumnType.JSON: JSONB(),
}

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def type_name(type_: TypeEngine[Any]) -> str:
    """Return PostgreSQL's name of a type, in lower case."""
    return type_.compile(dialect=_DIALECT).lower()


TYPE_NAMES = {kind: type_name(type_) for kind, type_ in POSTGRESQL_TYPES.items()}
"""Declared type of a column to PostgreSQL's name of it."""

LONGEST_NAME = 63
"""Bytes; PostgreSQL truncates longer names."""

_moment = DateTime(timezone=True)

ops_metadata = MetaData(schema=OPS_SCHEMA)

quota_keys = Table(
    "quota_keys",
    ops_metadata,
    Column(
        "key_fingerprint",
        Text,
        primary_key=True,
        comment="Twelve hexadecimal digits of the key's SHA-256; never the key.",
    ),
    Column(
        "closed_until",
        _moment,
        comment="The API refuses requests until then. NULL after a successful trial.",
    ),
    Column(
        "trial_call",
        BigInteger,
        comment="Request in api_calls that tests whether the API accepts requests again.",
    ),
    Column("trial_until", _moment, comment="The trial expires then, in case its process has died."),
    Column(
        "last_sent",
        _moment,
        comment="Time at which the last granted request was, or will be, sent.",
    ),
    Column(
        "lanes_last_sent",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="The same time for each lane.",
    ),
    Column(
        "closed_signal",
        Text,
        comment="Status and rate-limit headers of the last response that closed the key.",
    ),
    comment="One row per key. Its row lock serializes the granting of requests.",
)

quota_days = Table(
    "quota_days",
    ops_metadata,
    Column("key_fingerprint", Text, nullable=False),
    Column("day", Date, nullable=False, comment="Calendar day in MAGNETIS_TIMEZONE."),
    Column(
        "daily_quota",
        Integer,
        nullable=False,
        comment="API calls allowed on that day, as last configured.",
    ),
    *(
        Column(
            lane,
            Integer,
            nullable=False,
            server_default="0",
            comment=f"API calls charged in lane {lane}; never lowered.",
        )
        for lane in ("schedule", "settings", "manual", "backfill")
    ),
    Column(
        "used_elsewhere",
        Integer,
        nullable=False,
        server_default="0",
        comment="API calls that other programs made, as reported by the API.",
    ),
    PrimaryKeyConstraint("key_fingerprint", "day"),
    comment="One row per key and quota day: the API calls charged, by lane.",
)

api_calls = Table(
    "api_calls",
    ops_metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key_fingerprint", Text, nullable=False),
    Column("day", Date, nullable=False, comment="Quota day that the request is charged to."),
    Column("charged_at", _moment, nullable=False),
    Column(
        "settled_at",
        _moment,
        comment="NULL: in flight, or the process died before the response.",
    ),
    Column("collection", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("first_day", Date, comment="First day of the window; NULL if the request has none."),
    Column("last_day", Date),
    Column("page", Integer, nullable=False),
    Column("run_id", Text, comment="Dagster run or command that sent the request."),
    Column("lane", Text, nullable=False),
    Column("status", Integer, comment="HTTP status; NULL if there was no response."),
    Column("error", Text, comment="Class of the error, NULL on success."),
    Column("rows", Integer),
    Column("bytes", BigInteger),
    Column("milliseconds", Integer),
    Column(
        "backfill_id",
        Text,
        comment="Dagster backfill that the run belongs to; NULL for any other run.",
    ),
    Index("ix_api_calls_key_charged_at", "key_fingerprint", "charged_at"),
    Index("ix_api_calls_run", "run_id"),
    Index(
        "ix_api_calls_late",
        "key_fingerprint",
        "settled_at",
        postgresql_where=text("settled_at - charged_at > interval '0:05:00'"),  # LONGEST_CALL
    ),
    Index("ix_api_calls_backfill", "backfill_id", postgresql_where=text("backfill_id IS NOT NULL")),
    comment="One row per request, retries included; written before the request is sent.",
)

windows = Table(
    "windows",
    ops_metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("collection", Text, nullable=False),
    Column("first_day", Date, nullable=False),
    Column("last_day", Date, nullable=False, comment="Inclusive."),
    Column(
        "read_at",
        _moment,
        nullable=False,
        comment="Start of the read: its rows are at least this fresh.",
    ),
    Column("committed_at", _moment, nullable=False),
    Column(
        "announced", Integer, nullable=False, comment="meta.total of the window, padding included."
    ),
    Column("received", Integer, nullable=False, comment="Distinct rows received."),
    Column("padding", Integer, nullable=False, comment="Rows outside the requested days."),
    Column(
        "held",
        Integer,
        nullable=False,
        comment="Rows that the table contains for the requested days.",
    ),
    Column("quarantined", Integer, nullable=False),
    Column("inserted", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),
    Column("api_calls", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("milliseconds", Integer, nullable=False),
    Column("run_id", Text),
    Column(
        "witness_calls",
        Integer,
        nullable=False,
        server_default="0",
        comment="API calls among them that only verified the window.",
    ),
    Index("ix_windows_collection_days", "collection", "first_day", "last_day"),
    comment="One row per complete window, committed with its rows.",
)

days = Table(
    "days",
    ops_metadata,
    Column("collection", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("window_id", BigInteger, ForeignKey(windows.c.id), nullable=False),
    Column("read_at", _moment, nullable=False),
    Column(
        "announced",
        Integer,
        nullable=False,
        comment="Distinct rows received for this day in a complete window.",
    ),
    Column(
        "held",
        Integer,
        nullable=False,
        comment="Rows that the table contains for this day.",
    ),
    Column("run_id", Text),
    PrimaryKeyConstraint("collection", "day"),
    Index("ix_days_window", "window_id"),
    comment="Completed days: the newest complete read of each, committed with its rows.",
)

day_reads = Table(
    "day_reads",
    ops_metadata,
    Column("window_id", BigInteger, ForeignKey(windows.c.id), nullable=False),
    Column("day", Date, nullable=False),
    Column(
        "age_days",
        Integer,
        nullable=False,
        comment="Days from the end of the day to the read: 0 is the first night.",
    ),
    Column(
        "first_read",
        Boolean,
        nullable=False,
        comment="Whether this is the first complete read of the day.",
    ),
    Column(
        "held",
        Integer,
        nullable=False,
        comment="Rows that the table contained for the day after this read.",
    ),
    Column("inserted", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),
    PrimaryKeyConstraint("window_id", "day"),
    comment="Rows that each complete read of a day changed. See the view late_changes.",
)

pages = Table(
    "pages",
    ops_metadata,
    Column("work", Text, nullable=False, comment="Run whose retries may use the page."),
    Column("collection", Text, nullable=False),
    Column("first_day", Date, nullable=False),
    Column("last_day", Date, nullable=False),
    Column("page", Integer, nullable=False),
    Column("fetched_at", _moment, nullable=False, comment="Start of the request."),
    Column(
        "body",
        LargeBinary,
        nullable=False,
        comment="The body as received, compressed by Zstandard.",
    ),
    Column(
        "request",
        Text,
        nullable=False,
        comment="Fingerprint of key, origin, request and declaration.",
    ),
    PrimaryKeyConstraint("work", "collection", "first_day", "last_day", "page"),
    comment="Pages of uncommitted windows. An interrupted read resumes with them.",
    prefixes=["UNLOGGED"],  # a crash of the server empties it; the pages are requested again
)

window_limits = Table(
    "window_limits",
    ops_metadata,
    Column("collection", Text, primary_key=True),
    Column(
        "most_days",
        Integer,
        comment="Longest window that the API answered completely after a longer one failed.",
    ),
    Column(
        "most_rows",
        Integer,
        comment="Rows beyond which the API caps a window, total included; NULL: no known cap.",
    ),
    Column(
        "reason",
        Text,
        nullable=False,
        comment="The API's response to the longer window, or how the limit was detected.",
    ),
    Column(
        "learned_at",
        _moment,
        nullable=False,
        comment="The limit expires 30 days later, in case the API has changed.",
    ),
    comment="Limits of a window, learned from refusals and contradictory responses.",
)

sources = Table(
    "sources",
    ops_metadata,
    Column("collection", Text, primary_key=True),
    Column(
        "key_fingerprint",
        Text,
        nullable=False,
        comment="Twelve hexadecimal digits of the key's SHA-256; never the key.",
    ),
    Column("origin", Text, nullable=False, comment="Origin of the API that filled the table."),
    Column("adopted_at", _moment, nullable=False),
    comment="Key and API origin that filled each table; rows of others are refused.",
)

strays = Table(
    "strays",
    ops_metadata,
    Column("collection", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("held", Integer, nullable=False, comment="Rows that the table contains for the day."),
    PrimaryKeyConstraint("collection", "day"),
    comment="Days without a complete read, with rows that moved there from other days.",
)

forecasts = Table(
    "forecasts",
    ops_metadata,
    Column(
        "work", Text, nullable=False, comment="Dagster backfill or run that the forecast is for."
    ),
    Column("collection", Text, nullable=False),
    Column("first_day", Date, nullable=False),
    Column("last_day", Date, nullable=False),
    Column(
        "days", Integer, nullable=False, comment="Days to read between the two, both inclusive."
    ),
    Column("rows", BigInteger, nullable=False, comment="Rows announced for these days."),
    Column("calls", Integer, nullable=False, comment="API calls forecast."),
    Column(
        "planned",
        Boolean,
        nullable=False,
        comment="true: by `magnetis plan`, for all days; false: by a run, for its own days.",
    ),
    Column("forecast_at", _moment, nullable=False),
    PrimaryKeyConstraint("work", "collection", "first_day"),
    comment="Forecast API calls of backfills, for comparison with the calls they made.",
)

quarantine = Table(
    "quarantine",
    ops_metadata,
    Column("collection", Text, nullable=False),
    Column(
        "key", Text, nullable=False, comment="The row's id, or a digest of the row if it has no id."
    ),
    Column("reason", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("window_id", BigInteger, ForeignKey(windows.c.id), nullable=False),
    Column("first_seen_at", _moment, nullable=False),
    Column("last_seen_at", _moment, nullable=False),
    PrimaryKeyConstraint("collection", "key"),
    Index("ix_quarantine_window", "window_id"),
    comment="Rows that could not be placed, complete and with the reason.",
)

schema_state = Table(
    "schema_state",
    ops_metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("applied_at", _moment, nullable=False, server_default=func.now()),
    comment="Digest of the catalogue that the tables of the schema magnetis match.",
)


def history_name(collection: Collection) -> str:
    """Return the name of the history table of a snapshot collection."""
    return f"{collection.name}_history"


def data_metadata(catalogue: Catalogue) -> MetaData:
    """Return the tables of all collections, disabled ones included."""
    metadata = MetaData(schema=DATA_SCHEMA)
    for collection in catalogue.collections.values():
        tables_of(collection, metadata)
    return metadata


def tables_of(collection: Collection, metadata: MetaData | None = None) -> list[Table]:
    """Return the tables of one collection, added to `metadata` if given."""
    metadata = MetaData(schema=DATA_SCHEMA) if metadata is None else metadata
    table = _table(collection, metadata)
    return [table] if collection.is_events else [table, _history(collection, metadata)]


def typed_columns(collection: Collection) -> list[Column[object]]:
    """Return fresh SQLAlchemy columns for the declared columns of the collection."""
    return [
        Column(
            name,
            POSTGRESQL_TYPES[column.type],
            comment=_comment(column.description, column.unit, column.personal_data.value),
        )
        for name, column in collection.columns.items()
    ]


def _comment(description: str, unit: str | None, personal_data: str) -> str:
    unit_text = f" Unit: {unit}." if unit else ""
    personal_text = f" Personal data: {personal_data}." if personal_data != "none" else ""
    return f"{description}{unit_text}{personal_text}".strip()


def _common() -> list[Column[object]]:
    return [
        Column("account_id", Text, comment="Account that the row belongs to."),
        Column(
            "payload", JSONB, nullable=False, comment="The row as received. May hold personal data."
        ),
    ]


def _table(collection: Collection, metadata: MetaData) -> Table:
    moments: list[Column[object]] = []
    indexes: list[Index] = [Index(f"ix_{collection.name}_account", "account_id")]
    if collection.is_events:
        moments = [
            Column("occurred_at", _moment, nullable=False, comment="Moment of the event."),
            Column(
                "day",
                Date,
                nullable=False,
                comment="Local day of the event in MAGNETIS_TIMEZONE: the partition.",
            ),
        ]
        indexes.append(Index(f"ix_{collection.name}_day", "day"))
    indexes += [Index(_index_name(collection, names), *names) for names in collection.indexes]
    return Table(
        collection.name,
        metadata,
        Column("id", Text, primary_key=True, comment="Identifier given by Magnetis; opaque."),
        *_common(),
        *moments,
        *typed_columns(collection),
        Column(
            "first_seen_at",
            _moment,
            nullable=False,
            comment="Start of the first read that returned the row.",
        ),
        Column(
            "last_seen_at",
            _moment,
            nullable=False,
            comment="Start of the last read that changed anything in the row.",
        ),
        Column(
            "changed_at",
            _moment,
            nullable=False,
            comment="Start of the read in which the payload last differed.",
        ),
        Column(
            "deleted_at",
            _moment,
            comment="Start of the complete read that no longer returned the row.",
        ),
        *indexes,
        comment=collection.description,
    )


def _index_name(collection: Collection, columns: Sequence[str]) -> str:
    name = "_".join(["ix", collection.name, *columns])
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 9]}_{crc32(name.encode()):08x}"


def _history(collection: Collection, metadata: MetaData) -> Table:
    return Table(
        history_name(collection),
        metadata,
        Column("id", Text, nullable=False, comment="Identifier given by Magnetis."),
        *_common(),
        *typed_columns(collection),
        Column(
            "valid_from",
            _moment,
            nullable=False,
            comment="Start of the read that first saw this version.",
        ),
        Column(
            "valid_to",
            _moment,
            comment="Start of the read that no longer saw it; NULL: present version.",
        ),
        PrimaryKeyConstraint("id", "valid_from"),
        # the database enforces one current version per id
        Index(
            f"uq_{history_name(collection)}_open",
            "id",
            unique=True,
            postgresql_where="valid_to IS NULL",
        ),
        comment=f"Versions over time. {collection.description}",
    )
