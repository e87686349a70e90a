"""Rows on their way: a temporary table that takes pages by COPY as they arrive, in any order, and keeps one row per key.

Nothing here is visible to anybody else, and nothing survives the connection: a window becomes visible by its merge or not at all.
Memory stays that of one page, whatever the size of the window.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.sql import SQL, Identifier
from psycopg.types.json import JsonbBinaryDumper
from sqlalchemy import Connection, Engine, text
from sqlalchemy.dialects import postgresql

from magnetis_dagster.catalog import Collection, ColumnType
from magnetis_dagster.catalog.row_parser import RowParser, shown_name
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.exact_json import dump_json, dump_jsonb, dump_rows
from magnetis_dagster.warehouse.page_cache import Keep
from magnetis_dagster.warehouse.schema import POSTGRESQL_TYPES

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
LONGEST_ID = 512
"""Bytes; PostgreSQL's index takes no key beyond a third of a page (2,704 bytes)."""

_FIXED = {
    "key": "text",
    "reason": "text",
    "id": "text",
    "account_id": "text",
    "payload": "jsonb",
    "occurred_at": "timestamptz",
    "day": "date",
}


class _JsonText(JsonbBinaryDumper):
    """Writes JSON text as jsonb, in half the time of psycopg's own dumper with `str.encode` as its function."""

    def dump(self, obj: str) -> bytes:
        return b"\x01" + obj.encode()


def copy_rows(
    connection: Connection,
    table: str,
    columns: Mapping[str, str],
    records: Iterable[tuple[Any, ...]],
) -> None:
    """COPY `records`, JSON as text, into `columns` (name to PostgreSQL type) of a temporary table, in the transaction."""
    with driver_of(connection).cursor() as cursor:
        _copy_rows(cursor, table, columns, records)


def _copy_rows(
    cursor: psycopg.Cursor[Any],
    table: str,
    columns: Mapping[str, str],
    records: Iterable[tuple[Any, ...]],
) -> None:
    # in text, each value would be searched for what must be escaped
    statement = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        Identifier(table), SQL(", ").join(map(Identifier, columns))
    )
    cursor.adapters.register_dumper(None, _JsonText)
    with cursor.copy(statement) as copy:
        copy.set_types(list(columns.values()))
        for record in records:
            copy.write_row(record)


def _digest(payload: str, met: Counter[str]) -> str:
    """Return a key for a row without an id, by its content and how often the page held it before."""
    digest = hashlib.sha256(payload.encode()).hexdigest()
    # the ordinal within the page: two equal rows of a page are two rows, the same page received twice is not
    met[digest] += 1
    return f"{digest}-{met[digest]}"


def _quarantined(record: tuple[Any, ...], reason: str) -> tuple[Any, ...]:
    """Return a record that PostgreSQL can store: its payload becomes a string of JSON text, its columns are empty."""
    key, _, id_, account_id, payload, occurred_at, day, *columns = record
    return (
        key,
        reason,
        id_,
        account_id,
        dump_json(payload),
        occurred_at,
        day,
        *[None] * len(columns),
    )


def _rejects_value(error: psycopg.Error) -> bool:
    """Return whether PostgreSQL or the driver rejects a value, or the size or depth of one."""
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith("54")


def postgresql_type(kind: ColumnType) -> str:
    """Return the name that PostgreSQL gives to the type of a declared column."""
    return POSTGRESQL_TYPES[kind].compile(dialect=_DIALECT).lower()


@dataclass(slots=True)
class Tally:
    """The distinct rows that were received."""

    by_day: Counter[date | None] = field(default_factory=Counter)
    """Rows that can be placed by their day; those of a snapshot have none."""
    unplaced: Counter[str] = field(default_factory=Counter)
    """The others by the reason why they cannot."""

    def add(self, day: date | None, reason: str | None, rows: int) -> None:
        """Count rows; those with a reason cannot be placed."""
        if reason is None:
            self.by_day[day] += rows
        else:
            self.unplaced[reason] += rows

    @property
    def received(self) -> int:
        """All of them."""
        return self.by_day.total() + self.unplaced.total()


class Staging:
    """The temporary table of one window. A context manager; `add` may be called from several threads."""

    def __init__(self, engine: Engine, collection: Collection, reader: RowParser) -> None:
        self._engine = engine
        self.reader = reader
        self.collection = collection
        self._lock = threading.Lock()
        self._columns = _FIXED | {
            f"c_{name}": postgresql_type(column.type) for name, column in collection.columns.items()
        }
        self.misfits: Counter[str] = Counter()
        """Column to the number of received values that do not fit it."""
        self.unknown: set[str] = set()
        """Members of rows that no declaration reads, fit to be shown; they are kept in the payload."""
        self.members: set[str] = set()
        """Names of all members seen, fit to be shown; for error texts."""
        self._seen: set[str] = set()
        self.repeated = 0
        """Rows that came twice on one page."""
        self.conflicting = 0
        """Rows whose id another row of the same page has, with another content."""
        self.tally = Tally()
        """What `settle` found last."""

    def __enter__(self) -> Self:
        """Open a connection and make the table. Raises DatabaseUnavailable."""
        with guarded(self._engine, "prepare the load"):
            self.connection: Connection = self._engine.connect()
            columns = {"seq": "bigint GENERATED ALWAYS AS IDENTITY"} | self._columns
            self.connection.execute(text("DROP TABLE IF EXISTS pg_temp.incoming"))
            self.connection.execute(
                text(
                    f"CREATE TEMPORARY TABLE incoming ({', '.join(f'{n} {t}' for n, t in columns.items())})"
                )
            )
            self.connection.commit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop the connection, and the table with it."""
        # when a page fails, the thread that loads another one is left behind: it must not find its connection freed while it writes
        with self._lock:
            # a connection in an unknown state must not go back to the pool with the temporary table and its rows
            self.connection.invalidate()
            self.connection.close()

    def clear(self) -> None:
        """Forget every row, to read the window again."""
        with guarded(self._engine, "prepare the load"):
            self.connection.execute(text("TRUNCATE incoming"))
            self.connection.commit()
        self.misfits.clear()
        self.unknown.clear()
        self._seen.clear()
        self.repeated = self.conflicting = 0

    def add(self, rows: Sequence[Any], keep: Keep | None = None) -> list[date]:
        """Read one page of received rows by the declaration and COPY them in; return the days of those that have one.

        `keep` writes what shall outlive the connection, in the same transaction.
        """
        objects = [row for row in rows if isinstance(row, dict)]
        self._note_members(set().union(*objects))
        parsed = self.reader.read_all(objects)
        for column, numbers in parsed.misfits.items():
            self.misfits[column] += len(numbers)
        payloads, unstorable = dump_rows(objects)
        nameless: Counter[str] = Counter()
        keys = [
            id_ if id_ is not None and len(id_) <= LONGEST_ID else _digest(payload, nameless)
            for id_, payload in zip(parsed.ids, payloads, strict=True)
        ]
        if len(set(keys)) < len(keys):
            self._note_repeated(keys, payloads)
        reasons = map(self._why_unplaceable, parsed.ids, parsed.occurred_at, parsed.unreadable_time)
        # of a row without a moment, the day that it may belong to: nothing places it there
        days = [day or hint for day, hint in zip(parsed.days, parsed.hint_days, strict=True)]
        fixed = (keys, reasons, parsed.ids, parsed.account_ids, payloads, parsed.occurred_at, days)
        records: list[tuple[Any, ...]] = list(zip(*fixed, *parsed.columns, strict=True))
        for number, why in unstorable.items():
            records[number] = _quarantined(records[number], why)
        blank = [None] * (len(self._columns) - 5)
        for row in rows if len(objects) < len(rows) else ():
            if not isinstance(row, dict):
                payload, reason = dump_jsonb(row)
                record = (
                    _digest(payload, nameless),
                    f"not an object but {type(row).__name__}",
                    None,
                    None,
                    payload,
                    *blank,
                )
                records.append(_quarantined(record, reason) if reason else record)
        with self._lock, guarded(self._engine, f"load a page of {self.collection.name}"):
            driver = driver_of(self.connection)
            with driver.cursor() as cursor:
                if keep:
                    keep(cursor)
                try:
                    # without a savepoint, which a good page would pay for with two round trips
                    _copy_rows(cursor, "incoming", self._columns, records)
                except psycopg.Error as error:
                    if not _rejects_value(error):
                        raise
                    driver.rollback()
                    if keep:
                        keep(cursor)
                    self._copy_apart(cursor, records)
            driver.commit()
        return [day for day in parsed.days if day]

    def _copy_apart(self, cursor: psycopg.Cursor[Any], records: list[tuple[Any, ...]]) -> None:
        """COPY records by halves, so that of those that PostgreSQL rejects each one is found and quarantined."""
        try:
            with cursor.connection.transaction():
                _copy_rows(cursor, "incoming", self._columns, records)
        except psycopg.Error as error:
            if not _rejects_value(error):
                raise
            if len(records) == 1:
                reason = f"PostgreSQL rejects a value: {type(error).__name__}"
                _copy_rows(cursor, "incoming", self._columns, [_quarantined(records[0], reason)])
                return
            middle = len(records) // 2
            self._copy_apart(cursor, records[:middle])
            self._copy_apart(cursor, records[middle:])

    def _note_repeated(self, keys: list[str], payloads: list[str]) -> None:
        distinct = len(set(keys))
        contents = len(set(zip(keys, payloads, strict=True)))
        self.conflicting += contents - distinct
        self.repeated += len(keys) - contents

    def _note_members(self, members: set[str]) -> None:
        fresh = members - self._seen
        self._seen |= fresh
        self.members.update(map(shown_name, fresh))
        self.unknown.update(map(shown_name, self.reader.unknown(fresh)))

    def _why_unplaceable(
        self, id_: str | None, occurred_at: datetime | None, unreadable_time: str | None
    ) -> str | None:
        if id_ is None:
            return "no id"
        # a character has up to four bytes
        if len(id_) > LONGEST_ID // 4 and len(id_.encode()) > LONGEST_ID:
            return f"id longer than {LONGEST_ID} bytes"
        if unreadable_time:
            return f"unreadable time in {unreadable_time}"
        if occurred_at is None and self.collection.is_events:
            return f"no usable time in {', '.join(self.collection.time_fields)}"
        return None

    def outer_moments(self, rows: int) -> tuple[datetime, datetime] | None:
        """Return the times of the `rows`-th oldest and the `rows`-th newest row; None if fewer rows have a time."""
        nth = "(SELECT occurred_at FROM incoming WHERE occurred_at IS NOT NULL ORDER BY occurred_at {} OFFSET :n LIMIT 1)"
        with guarded(self._engine, "verify what was received"):
            found = self.connection.execute(
                text(f"SELECT {nth.format('')}, {nth.format('DESC')}"), {"n": max(0, rows - 1)}
            ).one()
            self.connection.commit()
        return None if found[0] is None else (found[0], found[1])

    def lacks(self, rows: Sequence[Any], days: Container[date]) -> bool:
        """Return whether one of these rows of the API lies on one of `days` and was not received before."""
        parsed = self.reader.read_all([row for row in rows if isinstance(row, dict)])
        ids = [
            id_
            for id_, day in zip(parsed.ids, parsed.days, strict=True)
            if id_ is not None and day in days
        ]
        with guarded(self._engine, "verify what was received"):
            known = self.connection.execute(
                text("SELECT DISTINCT id FROM incoming WHERE id = ANY(:ids)"), {"ids": ids}
            ).scalars()
            unknown = set(ids) - set(known)
            self.connection.commit()
        return bool(unknown)

    def settle(self) -> Tally:
        """Keep the newest row of each key, and count what is left."""
        with guarded(self._engine, "count what was received"):
            total, distinct = self.connection.execute(
                # count(DISTINCT key) would sort
                text(
                    "SELECT coalesce(sum(times), 0), count(*) FROM (SELECT count(*) AS times FROM incoming GROUP BY key) AS keys"
                )
            ).one()
            if total != distinct:
                # against the newest alone: joined to each other, 1,000 copies of a row would be 500,000 pairs
                self.connection.execute(
                    text(
                        "DELETE FROM incoming AS a USING (SELECT key, max(seq) AS seq FROM incoming GROUP BY key) AS newest "
                        "WHERE a.key = newest.key AND a.seq < newest.seq"
                    )
                )
            tally = Tally()
            for day, reason, rows in self.connection.execute(
                text("SELECT day, reason, count(*) FROM incoming GROUP BY 1, 2")
            ):
                tally.add(day, reason, rows)
            self.connection.commit()
        self.tally = tally
        return tally
