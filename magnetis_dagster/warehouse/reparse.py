"""Refills typed columns from `payload` after the catalogue changed, without requests to the API.

Updates only rows whose columns differ. `changed_at` stays, because the payload has not changed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.copying import copy_rows
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.reconcile import recount
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, declared_types, history_name
from magnetis_dagster.warehouse.warehouse import Warehouse

BATCH = 5_000


@dataclass(slots=True)
class ReparseResult:
    """Counts of a reparse."""

    read: int = 0
    """Rows read, versions of the history included."""
    updated: int = 0
    misfits: int = 0
    untimed: int = 0
    """Events without a readable time in the declared time fields; they keep their stored time."""


def reparse(
    warehouse: Warehouse,
    collection: Collection,
    progress: Callable[[int], None] = lambda _read: None,
) -> ReparseResult:
    """Parse the connection's rows of a collection again, in one transaction.

    `progress` receives the number of rows parsed so far.

    Raises: SchemaDisagrees if a declared type differs.
    """
    warehouse.prepare()
    result = ReparseResult()
    with (
        guarded(warehouse.engine, f"reparse {collection.name}"),
        warehouse.engine.begin() as connection,
    ):
        name = warehouse.connection_name
        wait_for_turn(connection, collection, name)
        require_declared_types(connection, collection)
        reader = warehouse.reader(collection)
        _reparse_table(connection, reader, collection.name, name, result, progress)
        if collection.is_events:
            recount(connection, collection, name)
        else:
            _reparse_table(connection, reader, history_name(collection), name, result, progress)
    return result


def _reparse_table(
    connection: Connection,
    reader: RowParser,
    name: str,
    connection_name: str,
    result: ReparseResult,
    progress: Callable[[int], None],
) -> None:
    table = f"{DATA_SCHEMA}.{name}"
    moment = {"occurred_at": "timestamptz", "day": "date"} if reader.collection.is_events else {}
    columns = {"account_id": "text"} | moment | declared_types(reader.collection)
    names = [f'"{column}"' for column in columns]
    connection.execute(
        text(
            "CREATE TEMPORARY TABLE reparsed ON COMMIT DROP AS "
            f"SELECT ctid::text AS _at, {', '.join(names)} FROM {table} WITH NO DATA"
        )
    )
    old, new = (", ".join(f"{row}.{column}" for column in names) for row in ("t", "v"))
    update = text(
        f"UPDATE {table} AS t SET {', '.join(f'{column} = v.{column}' for column in names)} "
        "FROM reparsed AS v "
        f"WHERE t.ctid = v._at::tid AND ({old}) IS DISTINCT FROM ({new})"
    )
    # ctid identifies a row until this transaction updates it: the lock blocks other writers of the
    # connection's rows
    select = text(
        f"SELECT ctid::text, payload, {', '.join(moment) or 'NULL, NULL'} FROM {table} "
        "WHERE connection = :connection"
    ).bindparams(connection=connection_name)
    streaming = {"stream_results": True, "yield_per": BATCH}
    with connection.execute(select, execution_options=streaming) as rows:
        for batch in rows.partitions(BATCH):
            records = _records(reader, batch, result)
            with driver_of(connection).cursor() as cursor:
                copy_rows(cursor, "reparsed", {"_at": "text"} | columns, records)
            result.updated += connection.execute(update).rowcount
            connection.execute(text("TRUNCATE reparsed"))
            result.read += len(batch)
            progress(result.read)
    connection.execute(text("DROP TABLE reparsed"))


def _records(
    reader: RowParser, batch: Sequence[Row[Any]], result: ReparseResult
) -> Iterator[tuple[Any, ...]]:
    places, payloads, moments, days = zip(*batch, strict=True)
    parsed = reader.read_all(payloads)
    result.misfits += sum(map(len, parsed.misfits.values()))
    lists: list[Sequence[Any]] = [places, parsed.account_ids]
    if reader.collection.is_events:
        result.untimed += parsed.occurred_at.count(None)
        lists.append([new or old for new, old in zip(parsed.occurred_at, moments, strict=True)])
        lists.append([new or old for new, old in zip(parsed.days, days, strict=True)])
    return zip(*lists, *parsed.columns, strict=True)
