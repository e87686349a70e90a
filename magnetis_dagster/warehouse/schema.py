"""The tables: `magnetis_ops` written out here, one table (and history) per collection made from the catalogue.

Shapes only. `migrate.py` brings a database to them, `merge.py` fills them.
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

LONGEST_NAME = 63
"""Bytes that PostgreSQL takes of a name."""

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
        comment="The API said that no call is left until then; set until a trial call goes well.",
    ),
    Column(
        "trial_call",
        BigInteger,
        comment="The call in api_calls that tries whether the API has reopened.",
    ),
    Column(
        "trial_until", _moment, comment="The trial is forgotten then, should its process have died."
    ),
    Column("last_sent", _moment, comment="When the last granted call was, or will be, sent."),
    Column(
        "lanes_last_sent", JSONB, nullable=False, server_default="{}", comment="The same by lane."
    ),
    Column(
        "closed_signal",
        Text,
        comment="Status and rate-limit headers of the response that closed the key last.",
    ),
    comment="One row per key: the lock under which calls are granted.",
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
        comment="Calls allowed on that day, as last configured.",
    ),
    *(
        Column(
            lane,
            Integer,
            nullable=False,
            server_default="0",
            comment=f"Calls charged in lane {lane}; never lowered.",
        )
        for lane in ("schedule", "settings", "manual", "backfill")
    ),
    Column(
        "used_elsewhere",
        Integer,
        nullable=False,
        server_default="0",
        comment="Calls that others made, as far as the API tells.",
    ),
    PrimaryKeyConstraint("key_fingerprint", "day"),
    comment="One row per key and day: how the budget was used.",
)

api_calls = Table(
    "api_calls",
    ops_metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("key_fingerprint", Text, nullable=False),
    Column("day", Date, nullable=False, comment="Quota day that the call is charged to."),
    Column("charged_at", _moment, nullable=False),
    Column(
        "settled_at",
        _moment,
        comment="NULL: still under way, or the process died before the answer.",
    ),
    Column("collection", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("first_day", Date, comment="First day of the window; NULL where the call has none."),
    Column("last_day", Date),
    Column("page", Integer, nullable=False),
    Column("run_id", Text, comment="Dagster run, or the command that called."),
    Column("lane", Text, nullable=False),
    Column("status", Integer, comment="HTTP status; NULL where no answer came."),
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
    comment="One row per call sent to the API, retries included; written before the call leaves.",
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
        comment="When the reading began: what it saw is at least this fresh.",
    ),
    Column("committed_at", _moment, nullable=False),
    Column(
        "announced", Integer, nullable=False, comment="meta.total of the window, padding included."
    ),
    Column("received", Integer, nullable=False, comment="Distinct rows received."),
    Column("padding", Integer, nullable=False, comment="Rows outside the asked days."),
    Column(
        "held", Integer, nullable=False, comment="Rows that the table holds for the asked days."
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
    comment="What has been read: one row per complete window, written with its rows.",
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
        comment="Rows that the table held for this day when the window was committed.",
    ),
    Column("run_id", Text),
    PrimaryKeyConstraint("collection", "day"),
    Index("ix_days_window", "window_id"),
    comment="Days that are done: the newest complete read of each, written with its rows.",
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
        comment="Days from the day's end to the reading: 0 is the first night.",
    ),
    Column(
        "first_read", Boolean, nullable=False, comment="Whether the day had never been done before."
    ),
    Column("held", Integer, nullable=False, comment="Rows that the table held for the day then."),
    Column("inserted", Integer, nullable=False),
    Column("changed", Integer, nullable=False),
    Column("deleted", Integer, nullable=False),
    PrimaryKeyConstraint("window_id", "day"),
    comment="What each complete read of a day found: how late rows still come and change. See the view late_changes.",
)

pages = Table(
    "pages",
    ops_metadata,
    Column("work", Text, nullable=False, comment="The run whose retries may use the page."),
    Column("collection", Text, nullable=False),
    Column("first_day", Date, nullable=False),
    Column("last_day", Date, nullable=False),
    Column("page", Integer, nullable=False),
    Column("fetched_at", _moment, nullable=False, comment="When the call began."),
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
        comment="Fingerprint of key, origin, request and declaration; others are not used.",
    ),
    PrimaryKeyConstraint("work", "collection", "first_day", "last_day", "page"),
    comment="Pages of windows that are not committed yet, so that an interrupted reading goes on where it stopped.",
    prefixes=["UNLOGGED"],  # a crash of the server empties it, and the pages are asked again
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
        comment="Rows beyond which the API caps a search, total included; NULL: no cap is known.",
    ),
    Column(
        "reason",
        Text,
        nullable=False,
        comment="What the API said to the longer window, or how the limit was detected.",
    ),
    Column(
        "learned_at",
        _moment,
        nullable=False,
        comment="Forgotten a month later, in case the API has changed.",
    ),
    comment="Limits of one window, learned from refusals and from answers that contradict each other.",
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
    comment="Which key and which API filled each table; rows of another key or origin are refused.",
)

strays = Table(
    "strays",
    ops_metadata,
    Column("collection", Text, nullable=False),
    Column("day", Date, nullable=False),
    Column("held", Integer, nullable=False, comment="Rows that the table holds for the day."),
    PrimaryKeyConstraint("collection", "day"),
    comment="Days without a complete read that hold rows, because the rows moved there from a day that was read.",
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
    Column("rows", BigInteger, nullable=False, comment="Rows announced for them."),
    Column("calls", Integer, nullable=False, comment="API calls foreseen."),
    Column(
        "planned",
        Boolean,
        nullable=False,
        comment="By `magnetis plan`, for all days; else by a run, for its own.",
    ),
    Column("forecast_at", _moment, nullable=False),
    PrimaryKeyConstraint("work", "collection", "first_day"),
    comment="What backfills were expected to cost, to be held against what they did.",
)

quarantine = Table(
    "quarantine",
    ops_metadata,
    Column("collection", Text, nullable=False),
    Column(
        "key", Text, nullable=False, comment="The row's id, or a digest of it where it has none."
    ),
    Column("reason", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("window_id", BigInteger, ForeignKey(windows.c.id), nullable=False),
    Column("first_seen_at", _moment, nullable=False),
    Column("last_seen_at", _moment, nullable=False),
    PrimaryKeyConstraint("collection", "key"),
    Index("ix_quarantine_window", "window_id"),
    comment="Rows that could not be placed, whole, with the reason.",
)

schema_state = Table(
    "schema_state",
    ops_metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("applied_at", _moment, nullable=False, server_default=func.now()),
    comment="Which catalogue the tables of the schema magnetis were last brought to.",
)


def history_name(collection: Collection) -> str:
    """Name of the history table of a snapshot collection."""
    return f"{collection.name}_history"


def data_metadata(catalogue: Catalogue) -> MetaData:
    """Return the tables of the schema `magnetis` that the catalogue asks for, switched-off collections included."""
    metadata = MetaData(schema=DATA_SCHEMA)
    for collection in catalogue.collections.values():
        tables_of(collection, metadata)
    return metadata


def tables_of(collection: Collection, metadata: MetaData | None = None) -> list[Table]:
    """Return the tables of one collection, added to `metadata` where it is given."""
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
    return (
        name
        if len(name) <= LONGEST_NAME
        else f"{name[: LONGEST_NAME - 9]}_{crc32(name.encode()):08x}"
    )


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
        # one open version per id, held by the database and not by our care alone
        Index(
            f"uq_{history_name(collection)}_open",
            "id",
            unique=True,
            postgresql_where="valid_to IS NULL",
        ),
        comment=f"Versions over time. {collection.description}",
    )
