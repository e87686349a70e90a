"""Refills typed columns from `payload` after the catalogue changed, without requests to the API.

Streams each table through a server-side cursor and updates only rows whose columns differ.
`changed_at` stays, because the payload has not changed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.copying import copy_rows
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.reconcile import recount
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, declared_types, history_name
from magnetis_dagster.warehouse.warehouse import Warehouse

BATCH = 5_000
"""Rows in memory at a time."""


@dataclass(frozen=True, slots=True)
class ReparseResult:
    """Counts of a reparse."""

    read: int
    """Rows read, versions of the history included."""
    updated: int
    """Rows whose columns were different."""
    misfits: int
    """Values that do not fit their column."""
    untimed: int
    """Events without a readable time in the declared time fields; they keep their stored time."""


def reparse(
    warehouse: Warehouse,
    collection: Collection,
    progress: Callable[[int], None] = lambda _read: None,
) -> ReparseResult:
    """Parse every row of the collection again by its declaration, in one transaction.

    `progress` receives the number of rows parsed so far.

    Raises: DatabaseUnavailable, DatabaseRefused; SchemaDisagrees if a declared type differs.
    """
    warehouse.prepare()
    tables = (
        [collection.name] if collection.is_events else [collection.name, history_name(collection)]
    )
    with (
        guarded(warehouse.engine, f"reparse {collection.name}"),
        warehouse.engine.begin() as connection,
    ):
        wait_for_turn(connection, collection)
        require_declared_types(connection, collection)
        worker = _Reparse(connection, collection, warehouse.reader(collection), progress)
        for table in tables:
            worker.table(f"{DATA_SCHEMA}.{table}", has_moment=collection.is_events)
        if collection.is_events:
            recount(connection, collection)
        return ReparseResult(worker.read, worker.updated, worker.misfits, worker.untimed)


class _Reparse:
    def __init__(
        self,
        connection: Connection,
        collection: Collection,
        reader: RowParser,
        progress: Callable[[int], None],
    ) -> None:
        self.connection = connection
        self.collection = collection
        self.reader = reader
        self.progress = progress
        self.read = self.updated = self.misfits = self.untimed = 0

    def table(self, table: str, *, has_moment: bool) -> None:
        moment = {"occurred_at": "timestamptz", "day": "date"} if has_moment else {}
        columns = {"account_id": "text"} | moment | declared_types(self.collection)
        names = [f'"{name}"' for name in columns]
        self.connection.execute(
            text(
                "CREATE TEMPORARY TABLE reparsed ON COMMIT DROP AS "
                f"SELECT ctid::text AS _at, {', '.join(names)} FROM {table} WITH NO DATA"
            )
        )
        old, new = (", ".join(f"{row}.{name}" for name in names) for row in ("t", "v"))
        update = text(
            f"UPDATE {table} AS t SET {', '.join(f'{name} = v.{name}' for name in names)} "
            "FROM reparsed AS v "
            f"WHERE t.ctid = v._at::tid AND ({old}) IS DISTINCT FROM ({new})"
        )
        # ctid identifies a row until this transaction updates it: the lock blocks other writers
        select = text(
            f"SELECT ctid::text, payload, {', '.join(moment) or 'NULL, NULL'} FROM {table}"
        )
        with self.connection.execute(
            select, execution_options={"stream_results": True, "yield_per": BATCH}
        ) as rows:
            for batch in rows.partitions(BATCH):
                records = self._records(batch, has_moment=has_moment)
                copy_rows(self.connection, "reparsed", {"_at": "text"} | columns, records)
                self.updated += self.connection.execute(update).rowcount
                self.connection.execute(text("TRUNCATE reparsed"))
                self.read += len(batch)
                self.progress(self.read)
        self.connection.execute(text("DROP TABLE reparsed"))

    def _records(self, batch: Sequence[Row[Any]], *, has_moment: bool) -> Iterator[tuple[Any, ...]]:
        places, payloads, moments, days = zip(*batch, strict=True)
        parsed = self.reader.read_all(payloads)
        self.misfits += sum(map(len, parsed.misfits.values()))
        lists: list[Sequence[Any]] = [places, parsed.account_ids]
        if has_moment:
            self.untimed += parsed.occurred_at.count(None)
            lists.append([new or old for new, old in zip(parsed.occurred_at, moments, strict=True)])
            lists.append([new or old for new, old in zip(parsed.days, days, strict=True)])
        return zip(*lists, *parsed.columns, strict=True)
