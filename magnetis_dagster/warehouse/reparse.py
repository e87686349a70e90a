"""Filling typed columns again from `payload` after the catalogue changed, with no API call.

Streams each table through a server-side cursor and updates only rows whose columns come out different. `changed_at` stays: the
payload has not changed, our reading of it has.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.reconcile import recount
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, history_name
from magnetis_dagster.warehouse.staging import copy_rows, postgresql_type
from magnetis_dagster.warehouse.warehouse import Warehouse

BATCH = 5_000
"""Rows in memory at a time."""


@dataclass(frozen=True, slots=True)
class Reparsed:
    """What a reparse did."""

    read: int
    """Rows read, versions of the history included."""
    updated: int
    """Rows whose columns came out different."""
    misfits: int
    """Values that do not fit their column."""
    untimed: int
    """Events whose moment can no longer be read by the declared time fields; they keep the one that they have."""


def reparse(
    warehouse: Warehouse,
    collection: Collection,
    progress: Callable[[int], None] = lambda _read: None,
) -> Reparsed:
    """Read every row of the collection again by its declaration; `progress` is told the rows read so far.

    One transaction: readers see the table before or after. Raises DatabaseUnavailable, DatabaseRefused, SchemaDisagrees.
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
        return Reparsed(worker.read, worker.updated, worker.misfits, worker.untimed)


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
        typed = {
            name: postgresql_type(column.type) for name, column in self.collection.columns.items()
        }
        columns = {"account_id": "text"} | moment | typed
        names = [f'"{name}"' for name in columns]
        listed = ", ".join(names)
        self.connection.execute(
            text(
                f"CREATE TEMPORARY TABLE reparsed ON COMMIT DROP AS SELECT ctid::text AS _at, {listed} FROM {table} WITH NO DATA"
            )
        )
        update = text(
            f"UPDATE {table} AS t SET {', '.join(f'{name} = v.{name}' for name in names)} FROM reparsed AS v "
            f"WHERE t.ctid = v._at::tid "
            f"AND ({', '.join(f't.{name}' for name in names)}) IS DISTINCT FROM ({', '.join(f'v.{name}' for name in names)})"
        )
        # the merge lock keeps every other writer out, so a row's place (ctid) stays its name until we move it
        select = text(
            f"SELECT ctid::text, payload, {', '.join(moment) or 'NULL, NULL'} FROM {table}"
        )
        with self.connection.execute(
            select, execution_options={"stream_results": True, "yield_per": BATCH}
        ) as rows:
            for batch in rows.partitions(BATCH):
                copy_rows(
                    self.connection,
                    "reparsed",
                    {"_at": "text"} | columns,
                    self._records(batch, has_moment=has_moment),
                )
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
