"""Refills typed columns from `payload` after the catalogue changed, without requests to the API.

Updates only rows whose columns differ. `changed_at` stays, because the payload has not changed.
Rows are masked as on arrival.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import repeat
from typing import Any

from sqlalchemy import text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.copying import copy_rows
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.reconcile import recount
from magnetis_dagster.warehouse.stored_rows import (
    RowReader,
    RowRewriter,
    Target,
    tables_with_rows,
)
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
        masking = warehouse.masking
        rewriter = RowRewriter(connection, masking, masking.state(connection))
        parser = warehouse.reader(collection)
        for target in tables_with_rows(collection):
            _reparse_table(rewriter, parser, target, result, progress)
        if collection.is_events:
            recount(connection, collection, name)
    return result


def _reparse_table(
    rewriter: RowRewriter,
    parser: RowParser,
    target: Target,
    result: ReparseResult,
    progress: Callable[[int], None],
) -> None:
    connection, collection = rewriter.connection, parser.collection
    reader = RowReader(target, rewriter.zone)
    moment = {"occurred_at": "timestamptz", "day": "date"} if collection.is_events else {}
    columns = {"account_id": "text"} | moment | reader.types
    names = [f'"{column}"' for column in columns if column != "_at"]
    connection.execute(
        text(
            "CREATE TEMPORARY TABLE reparsed ON COMMIT DROP AS "
            f"SELECT CAST(ctid AS text) AS _at, {', '.join(names)} FROM {target.table} "
            "WITH NO DATA"
        )
    )
    old, new = (", ".join(f"{row}.{column}" for column in names) for row in ("t", "v"))
    update = text(
        f"UPDATE {target.table} AS t SET {', '.join(f'{each} = v.{each}' for each in names)} "
        "FROM reparsed AS v "
        f"WHERE t.ctid = CAST(v._at AS tid) AND ({old}) IS DISTINCT FROM ({new})"
    )
    # ctid identifies a row until this transaction updates it: the lock blocks other writers of the
    # connection's rows
    select = text(reader.select_with(*moment)).bindparams(**rewriter.parameters(reader.select))
    streaming = {"stream_results": True, "yield_per": BATCH}
    with connection.execute(select, execution_options=streaming) as rows:
        for batch in rows.partitions(BATCH):
            records = _records(rewriter, parser, reader, batch, result)
            with driver_of(connection).cursor() as cursor:
                copy_rows(cursor, "reparsed", columns, records)
            result.updated += connection.execute(update).rowcount
            connection.execute(text("TRUNCATE reparsed"))
            result.read += len(batch)
            progress(result.read)
    connection.execute(text("DROP TABLE reparsed"))


def _records(
    rewriter: RowRewriter,
    parser: RowParser,
    reader: RowReader,
    batch: Sequence[Any],
    result: ReparseResult,
) -> Iterator[tuple[Any, ...]]:
    """Yield the records to write: parsed from the stored payload, and masked.

    A class that was masked in the payload only keeps the stored value of its columns.
    """
    collection = parser.collection
    stored = [reader.row(each) for each in batch]
    parsed = parser.read_all([each.payload for each in stored])
    result.misfits += sum(map(len, parsed.misfits.values()))
    names = list(collection.columns)
    values = zip(*parsed.columns, strict=True) if names else repeat((), len(stored))
    masker = rewriter.masker(collection)
    rows = [
        replace(row, columns=masker.keep_columns(dict(zip(names, each, strict=True)), row))
        for row, each in zip(stored, values, strict=True)
    ]
    lists: list[Sequence[Any]] = [parsed.account_ids]
    days: Sequence[date | None] = [each.row_day for each in batch]
    if collection.is_events:
        result.untimed += parsed.occurred_at.count(None)
        moments = [
            new or each.occurred_at for new, each in zip(parsed.occurred_at, batch, strict=True)
        ]
        days = [new or old for new, old in zip(parsed.days, days, strict=True)]
        lists += [moments, days]
    for number, masked in enumerate(rewriter.mask_parsed(collection, rows, days)):
        own = (each[number] for each in lists)
        yield (*own, *reader.values(batch[number], masked))
