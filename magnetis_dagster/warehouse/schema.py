"""Declares the tables: those of `magnetis_ops`, and those of the catalogue's collections."""

from typing import Any
from zlib import crc32

from sqlalchemy import (
    ARRAY,
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
from magnetis_dagster.connection_names import UNNAMED

DATA_SCHEMA = "magnetis"
OPS_SCHEMA = "magnetis_ops"
MASKED_SCHEMA = "magnetis_masked"
_moment = DateTime(timezone=True)
_TYPES: dict[ColumnType, TypeEngine[Any]] = {
    ColumnType.TEXT: Text(),
    ColumnType.INTEGER: BigInteger(),
    ColumnType.DECIMAL: Numeric(),
    ColumnType.BOOLEAN: Boolean(),
    ColumnType.TIMESTAMP: _moment,
    ColumnType.JSON: JSONB(),
}
_CLASSES = ARRAY(Text)
_MASKED = {
    "masked": "Classes of personal data that retention or an erasure has masked in the row.",
    "payload_masked": "More classes that were masked in the payload only.",
    "mentioned_keys": "Caller keys of persons in texts without a key column, such as free text.",
}
DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
ALL_ACCOUNTS = "*"
"""`account_id` in magnetis_ops.row_access for all rows of a connection."""
_LONGEST_NAME = 63
"""Bytes; PostgreSQL truncates longer names."""


def type_name(type_: TypeEngine[Any]) -> str:
    """Return PostgreSQL's name of a type, in lower case."""
    return type_.compile(dialect=DIALECT).lower()


ops_metadata = MetaData(schema=OPS_SCHEMA)


def _ops_table(name: str, comment: str, *parts: Any, **options: Any) -> Table:
    return Table(name, ops_metadata, *parts, comment=comment, **options)


def _required(
    name: str, type_: Any, comment: str | None = None, *constraints: Any, **options: Any
) -> Column[Any]:
    return Column(name, type_, *constraints, nullable=False, comment=comment, **options)


def _optional(name: str, type_: Any, comment: str) -> Column[Any]:
    return Column(name, type_, comment=comment)


def _required_each(type_: Any, *names: str) -> list[Column[Any]]:
    return [_required(name, type_) for name in names]


def _count(name: str, comment: str) -> Column[Any]:
    return _required(name, Integer, comment, server_default="0")


def _connection(comment: str) -> Column[Any]:
    return _required("connection", Text, comment, server_default=UNNAMED)


def _window_id() -> Column[Any]:
    return _required("window_id", BigInteger, None, ForeignKey(windows.c.id))


_OWNER = "Connection that the row belongs to."
_LAST_CHARGED = "Connection that charged the last API call. Connections may share a key."
_FINGERPRINT = "Twelve hexadecimal digits of the key's SHA-256; never the key."

quota_keys = _ops_table(
    "quota_keys",
    "One row per key. Its row lock serializes the granting of requests.",
    Column("key_fingerprint", Text, primary_key=True, comment=_FINGERPRINT),
    _optional(
        "closed_until",
        _moment,
        "The API refuses requests until then. NULL after a successful trial.",
    ),
    _optional(
        "trial_call",
        BigInteger,
        "Request in api_calls that tests whether the API accepts requests again.",
    ),
    _optional("trial_until", _moment, "The trial expires then, in case its process has died."),
    _optional(
        "last_sent", _moment, "Time at which the last granted request was, or will be, sent."
    ),
    _required("lanes_last_sent", JSONB, "The same time for each lane.", server_default="{}"),
    _optional(
        "closed_signal",
        Text,
        "Status and rate-limit headers of the last response that closed the key.",
    ),
    _connection(_LAST_CHARGED),
)

quota_days = _ops_table(
    "quota_days",
    "One row per key and quota day: the API calls charged, by lane.",
    _required("key_fingerprint", Text),
    _required("day", Date, "Calendar day in MAGNETIS_TIMEZONE."),
    _required("daily_quota", Integer, "API calls allowed on that day, as last configured."),
    *(
        _count(lane, f"API calls charged in lane {lane}; never lowered.")
        for lane in ("schedule", "settings", "manual", "backfill")
    ),
    _count("used_elsewhere", "API calls that other programs made, as reported by the API."),
    _connection(_LAST_CHARGED),
    PrimaryKeyConstraint("key_fingerprint", "day"),
)

api_calls = _ops_table(
    "api_calls",
    "One row per request, retries included; written before the request is sent.",
    Column("id", BigInteger, Identity(), primary_key=True),
    _required("key_fingerprint", Text),
    _required("day", Date, "Quota day that the request is charged to."),
    _required("charged_at", _moment),
    _optional("settled_at", _moment, "NULL: in flight, or the process died before the response."),
    *_required_each(Text, "collection", "route"),
    _optional("first_day", Date, "First day of the window; NULL if the request has none."),
    Column("last_day", Date),
    _required("page", Integer),
    _optional("run_id", Text, "Dagster run or command that sent the request."),
    _required("lane", Text),
    _optional("status", Integer, "HTTP status; NULL if there was no response."),
    _optional("error", Text, "Class of the error, NULL on success."),
    Column("rows", Integer),
    Column("bytes", BigInteger),
    Column("milliseconds", Integer),
    _optional(
        "backfill_id", Text, "Dagster backfill that the run belongs to; NULL for any other run."
    ),
    _connection("Connection that charged the request."),
    Index("ix_api_calls_key_charged_at", "key_fingerprint", "charged_at"),
    Index("ix_api_calls_run", "run_id"),
    Index(
        "ix_api_calls_late",
        "key_fingerprint",
        "settled_at",
        postgresql_where=text("settled_at - charged_at > interval '0:05:00'"),  # LONGEST_CALL
    ),
    Index("ix_api_calls_backfill", "backfill_id", postgresql_where=text("backfill_id IS NOT NULL")),
)

windows = _ops_table(
    "windows",
    "One row per complete window, committed with its rows.",
    Column("id", BigInteger, Identity(), primary_key=True),
    _required("collection", Text),
    _required("first_day", Date),
    _required("last_day", Date, "Inclusive."),
    _required("read_at", _moment, "Start of the read: its rows are at least this fresh."),
    _required("committed_at", _moment),
    _required("announced", Integer, "meta.total of the window, padding included."),
    _required("received", Integer, "Distinct rows received."),
    _required("padding", Integer, "Rows outside the requested days."),
    _required("held", Integer, "Rows that the table contains for the requested days."),
    *_required_each(Integer, "quarantined", "inserted", "changed", "deleted", "api_calls"),
    _required("bytes", BigInteger),
    _required("milliseconds", Integer),
    Column("run_id", Text),
    _count("witness_calls", "API calls among them that only verified the window."),
    _connection("Connection whose key read the window."),
    Index("ix_windows_connection_days", "connection", "collection", "first_day", "last_day"),
)

days = _ops_table(
    "days",
    "Completed days: the newest complete read of each, committed with its rows.",
    _required("collection", Text),
    _required("day", Date),
    _window_id(),
    _required("read_at", _moment),
    _required("announced", Integer, "Distinct rows received for this day in a complete window."),
    _required("held", Integer, "Rows that the table contains for this day."),
    Column("run_id", Text),
    _connection(_OWNER),
    PrimaryKeyConstraint("connection", "collection", "day"),
    Index("ix_days_window", "window_id"),
)

_ops_table(
    "day_reads",
    "Rows that each complete read of a day changed. See the view late_changes.",
    _window_id(),
    _required("day", Date),
    _required(
        "age_days", Integer, "Days from the end of the day to the read: 0 is the first night."
    ),
    _required("first_read", Boolean, "Whether this is the first complete read of the day."),
    _required("held", Integer, "Rows that the table contained for the day after this read."),
    *_required_each(Integer, "inserted", "changed", "deleted"),
    PrimaryKeyConstraint("window_id", "day"),
)

_ops_table(
    "pages",
    "Pages of uncommitted windows. An interrupted read resumes with them.",
    _required("work", Text, "Run whose retries may use the page."),
    _required("collection", Text),
    *_required_each(Date, "first_day", "last_day"),
    _required("page", Integer),
    _required("fetched_at", _moment, "Start of the request."),
    _required("body", LargeBinary, "The body as received, compressed by Zstandard."),
    _required("request", Text, "Fingerprint of key, origin, request and declaration."),
    _connection("Connection whose key fetched the page."),
    PrimaryKeyConstraint("connection", "work", "collection", "first_day", "last_day", "page"),
    prefixes=["UNLOGGED"],  # a crash of the server empties it; the pages are requested again
)

_ops_table(
    "window_limits",
    "Limits of a window, learned from refusals and contradictory responses.",
    _required("collection", Text),
    _optional(
        "most_days",
        Integer,
        "Longest window that the API answered completely after a longer one failed.",
    ),
    _optional(
        "most_rows",
        Integer,
        "Rows beyond which the API caps a window, total included; NULL: no known cap.",
    ),
    _required(
        "reason", Text, "The API's response to the longer window, or how the limit was detected."
    ),
    _required(
        "learned_at", _moment, "The limit expires 30 days later, in case the API has changed."
    ),
    _connection("Connection to whose key the limit applies."),
    PrimaryKeyConstraint("connection", "collection"),
)

_ops_table(
    "sources",
    "Key and API origin that filled each table per connection; rows of others are refused.",
    _required("collection", Text),
    _required("key_fingerprint", Text, _FINGERPRINT),
    _required("origin", Text, "Origin of the API that filled the table."),
    _required("adopted_at", _moment),
    _connection("Connection that the key belongs to."),
    PrimaryKeyConstraint("connection", "collection"),
)

_ops_table(
    "strays",
    "Days without a complete read, with rows that moved there from other days.",
    _required("collection", Text),
    _required("day", Date),
    _required("held", Integer, "Rows that the table contains for the day."),
    _connection(_OWNER),
    PrimaryKeyConstraint("connection", "collection", "day"),
)

_ops_table(
    "forecasts",
    "Forecast API calls of backfills, for comparison with the calls they made.",
    _required("work", Text, "Dagster backfill or run that the forecast is for."),
    _required("collection", Text),
    *_required_each(Date, "first_day", "last_day"),
    _required("days", Integer, "Days to read between the two, both inclusive."),
    _required("rows", BigInteger, "Rows announced for these days."),
    _required("calls", Integer, "API calls forecast."),
    _required(
        "planned",
        Boolean,
        "true: by `magnetis plan`, for all days; false: by a run, for its own days.",
    ),
    _required("forecast_at", _moment),
    _connection("Connection that the forecast is for."),
    PrimaryKeyConstraint("connection", "work", "collection", "first_day"),
)

_ops_table(
    "quarantine",
    "Rows that could not be placed, complete and with the reason.",
    _required("collection", Text),
    _required("key", Text, "The row's id, or a digest of the row if it has no id."),
    _required("reason", Text),
    _required("payload", JSONB),
    _window_id(),
    *_required_each(_moment, "first_seen_at", "last_seen_at"),
    _connection(_OWNER),
    PrimaryKeyConstraint("connection", "collection", "key"),
    Index("ix_quarantine_window", "window_id"),
)

_ops_table(
    "connections",
    "API keys that load into this database, one row per name.",
    Column(
        "name",
        Text,
        primary_key=True,
        comment="Name of the connection: `connection` in other tables.",
    ),
    _optional(
        "scope",
        Text,
        "Where the key was created, as declared: organization, entity, network or account.",
    ),
    _optional(
        "rank",
        Integer,
        "1 is the widest scope, whose rows the views _distinct prefer; NULL: ranks last.",
    ),
    _optional("key_expires", Date, "Last day on which the key is valid, as declared."),
    _optional(
        "declared_in", Text, "`MAGNETIS_CONFIG`, or `component` for one of a defs.yaml file."
    ),
    _optional(
        "declared_at", _moment, "Time of the first declaration; NULL: rows without a declaration."
    ),
    _optional("removed_at", _moment, "Time at which the declaration was removed; its rows stay."),
)

erasures = _ops_table(
    "erasures",
    "Erasures of persons; written before the first change, so that each one is completed.",
    Column("id", BigInteger, Identity(), primary_key=True),
    _required("requested_at", _moment),
    _required("reason", Text, "Why the person is erased, without personal data."),
    _optional("expires_on", Date, "Day on which the suppression ends; NULL: never."),
    _optional("completed_at", _moment, "NULL: not every place is masked yet."),
)

_ops_table(
    "erasure_steps",
    "Rows that each erasure masked, by place.",
    _required("erasure_id", BigInteger, None, ForeignKey(erasures.c.id)),
    _required("place", Text, "Table with its schema."),
    _required("rows", BigInteger, "Rows masked or deleted in all runs of the step."),
    _required("done_at", _moment),
    _connection(_OWNER),
    PrimaryKeyConstraint("erasure_id", "connection", "place"),
)

_ops_table(
    "suppressions",
    "Erased persons. Loads mask them, so that no read restores an erased person.",
    Column("id", BigInteger, Identity(), primary_key=True),
    _required("person_key", Text, "Caller key of the number or address."),
    _required("erasure_id", BigInteger, None, ForeignKey(erasures.c.id)),
    _required("suppressed_at", _moment),
    _optional("expires_on", Date, "Day on which the suppression ends; NULL: never."),
    _connection("Connection that the caller key belongs to."),
    Index("uq_suppressions_key", "connection", "person_key", unique=True),
)

_ops_table(
    "retention",
    "Newest complete run of retention for each collection.",
    _required("collection", Text),
    _required("keyed", Text, "Digest of what the caller keys of the rows depend on."),
    _optional("rules", Text, "Digest of plan, declaration and active secret."),
    _optional("masked_on", Date, "Local day of the run: every row that was old enough is masked."),
    _connection(_OWNER),
    PrimaryKeyConstraint("connection", "collection"),
)

_ops_table(
    "privacy_keys",
    "Secrets that caller keys were computed with, by id; never a secret.",
    Column("key_id", Text, primary_key=True),
    _required("proof", Text, "Keyed hash of a constant: shows that a secret is the same."),
    _required("first_used_at", _moment),
)

_ops_table(
    "row_access",
    "Rows of the schema magnetis_masked that a role may read.",
    _required("role_name", Text, "Database role, such as that of a customer."),
    _required("connection", Text, "Connection whose rows the role may read."),
    _required(
        "account_id",
        Text,
        "Account whose rows the role may read; `*`: all rows of the connection.",
        server_default=ALL_ACCOUNTS,
    ),
    PrimaryKeyConstraint("role_name", "connection", "account_id"),
)

_ops_table(
    "column_visibility",
    "Columns that the catalogue and the privacy plan of a connection declare.",
    _required("connection", Text, "Connection whose catalogue declares the column."),
    _required("collection", Text),
    _required("name", Text, "Name of the column."),
    _required(
        "visible",
        Boolean,
        "Whether it contains no personal data. The views of magnetis_masked contain the columns "
        "that no connection declares personal.",
    ),
    PrimaryKeyConstraint("connection", "collection", "name"),
)

_ops_table(
    "schema_state",
    "Digest of the catalogue that the tables of the schema magnetis match.",
    Column("name", Text, primary_key=True),
    _required("digest", Text),
    _required("applied_at", _moment, server_default=func.now()),
)


def history_name(collection: Collection) -> str:
    """Return the name of the history table of a snapshot collection."""
    return f"{collection.name}_history"


def replaced_indexes(catalogue: Catalogue) -> dict[str, str]:
    """Return indexes of earlier versions that migrate drops, each with its successor."""
    replaced = {"ix_windows_collection_days": "ix_windows_connection_days"}
    for collection in catalogue.collections.values():
        if collection.is_events:
            name = f"ix_{collection.name}_day"
            replaced[name] = f"{name}_connection"
        else:
            name = f"uq_{history_name(collection)}"
            replaced[f"{name}_open"] = f"{name}_current"
    # an overlay may declare an index with such a name
    declared = {index.name for t in data_metadata(catalogue).tables.values() for index in t.indexes}
    return {old: new for old, new in replaced.items() if old not in declared}


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


def column_or_null(collection: Collection, alias: str, name: str, kind: str = "text") -> str:
    """Return SQL for a column, or NULL if an overlay removed it, cast to a type."""
    value = f'{alias}."{name}"' if name in collection.columns else "NULL"
    return f"CAST({value} AS {kind})"


def declared_types(collection: Collection) -> dict[str, str]:
    """Return PostgreSQL's type of each declared column."""
    return {name: type_name(_TYPES[column.type]) for name, column in collection.columns.items()}


def privacy_types(collection: Collection) -> dict[str, str]:
    """Return PostgreSQL's type of each column about personal data: caller keys and masked classes.

    These columns exist in every table of the collection.
    """
    keys = dict.fromkeys(collection.key_columns.values(), "text")
    return keys | dict.fromkeys(_MASKED, type_name(_CLASSES))


def staged_types(collection: Collection) -> dict[str, str]:
    """Return PostgreSQL's types of the staging columns of declared columns and personal data.

    The order is that of `declared_types` and `privacy_types`. Prefixes keep the names apart from
    the fixed columns of the staging table.
    """
    declared = {f"c_{name}": type_ for name, type_ in declared_types(collection).items()}
    return declared | {f"p_{name}": type_ for name, type_ in privacy_types(collection).items()}


def _received_columns(collection: Collection, moments: list[Column[Any]]) -> list[Column[Any]]:
    columns = [
        _optional("account_id", Text, "Account that the row belongs to."),
        _required("payload", JSONB, "The row as received. May hold personal data."),
        *moments,
    ]
    for name, column in collection.columns.items():
        comment = column.description
        if column.unit:
            comment += f" Unit: {column.unit}."
        if column.personal_data != "none":
            comment += f" Personal data: {column.personal_data.degree}."
        columns.append(Column(name, _TYPES[column.type], comment=comment.strip()))
    columns += [
        _optional(key, Text, f"Caller key of {name}: equal for every spelling of it.")
        for name, key in collection.key_columns.items()
    ]
    return [*columns, *(_optional(name, _CLASSES, about) for name, about in _MASKED.items())]


def _table(collection: Collection, metadata: MetaData) -> Table:
    moments, indexes = [], [Index(f"ix_{collection.name}_account", "account_id")]
    if collection.is_events:
        about_day = "Local day of the event in MAGNETIS_TIMEZONE: the partition."
        moments = [
            _required("occurred_at", _moment, "Moment of the event."),
            _required("day", Date, about_day),
        ]
        # `day` first: analysts filter by day, merges by both
        indexes.append(Index(f"ix_{collection.name}_day_connection", "day", "connection"))
    indexes += _person_indexes(collection)
    indexes += [Index(_index_name(collection.name, *names), *names) for names in collection.indexes]
    return Table(
        collection.name,
        metadata,
        _required("id", Text, "Identifier given by Magnetis; opaque."),
        *_received_columns(collection, moments),
        _required("first_seen_at", _moment, "Start of the first read that returned the row."),
        _required(
            "last_seen_at", _moment, "Start of the last read that changed anything in the row."
        ),
        _required("changed_at", _moment, "Start of the read in which the payload last differed."),
        _optional(
            "deleted_at", _moment, "Start of the complete read that no longer returned the row."
        ),
        _connection("Connection whose key returned the row."),
        PrimaryKeyConstraint("connection", "id", name=f"{collection.name}_pkey"),
        *indexes,
        comment=collection.description,
    )


def _person_indexes(collection: Collection) -> list[Index]:
    """Return the indexes that find the rows of one person."""
    keys = [
        Index(_index_name(collection.name, key), key, postgresql_where=text(f"{key} IS NOT NULL"))
        for key in collection.key_columns.values()
    ]
    mentioned = Index(
        _index_name(collection.name, "mentioned_keys"),
        "mentioned_keys",
        postgresql_using="gin",
        postgresql_where=text("mentioned_keys IS NOT NULL"),
    )
    return [*keys, mentioned]


def _index_name(*parts: str) -> str:
    name = "_".join(["ix", *parts])
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}_{crc32(name.encode()):08x}"


def _history(collection: Collection, metadata: MetaData) -> Table:
    return Table(
        history_name(collection),
        metadata,
        _required("id", Text, "Identifier given by Magnetis."),
        *_received_columns(collection, []),
        _required("valid_from", _moment, "Start of the read that first saw this version."),
        _optional(
            "valid_to", _moment, "Start of the read that no longer saw it; NULL: present version."
        ),
        _connection("Connection whose key returned the version."),
        PrimaryKeyConstraint(
            "connection", "id", "valid_from", name=f"{history_name(collection)}_pkey"
        ),
        # the database enforces one current version per connection and id
        Index(
            f"uq_{history_name(collection)}_current",
            "connection",
            "id",
            unique=True,
            postgresql_where="valid_to IS NULL",
        ),
        comment=f"Versions over time. {collection.description}",
    )
