"""Stages the rows of one window in a temporary table, one row per key.

Pages arrive by COPY, in any order. Memory usage is that of one page, whatever the window's size.
"""

import hmac
import threading
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import repeat
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine, TextClause, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.row_parser import ParsedRows, RowParser, mask_name
from magnetis_dagster.database import driver_of, guarded
from magnetis_dagster.exact_json import dump_json, dump_jsonb, dump_rows
from magnetis_dagster.privacy.classification import CONTACT_SIDE
from magnetis_dagster.privacy.masking import MaskedRow, Row
from magnetis_dagster.warehouse.copying import copy_rows, rejects_value
from magnetis_dagster.warehouse.masking import Masking
from magnetis_dagster.warehouse.page_cache import Keep
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import staged_types
from magnetis_dagster.warehouse.stored_rows import (
    RowRewriter,
    Target,
    privacy_values,
    staging_of,
    tables_with_rows,
)

_QUERIES = Queries("staging")
_VERIFY = "verify the received rows"
LONGEST_ID = 512
"""Bytes; PostgreSQL indexes no key longer than a third of a page (2,704 bytes)."""

_FIXED = {
    "key": "text",
    "reason": "text",
    "id": "text",
    "account_id": "text",
    "payload": "jsonb",
    "occurred_at": "timestamptz",
    "day": "date",
}
_Record = tuple[Any, ...]


def _quarantined(record: _Record, reason: str) -> _Record:
    """Return a record that PostgreSQL can store: its payload as a string, no typed columns."""
    key, _, id_, account_id, payload, occurred_at, day, *columns = record
    blank = [None] * len(columns)
    return key, reason, id_, account_id, dump_json(payload), occurred_at, day, *blank


@dataclass(slots=True)
class RowCounts:
    """Numbers of distinct rows received."""

    by_day: Counter[date | None] = field(default_factory=Counter)
    """Rows that can be placed, by day; rows of a snapshot have the day None."""
    unplaced: Counter[str] = field(default_factory=Counter)

    @property
    def received(self) -> int:
        """The number of all distinct rows."""
        return self.by_day.total() + self.unplaced.total()


class Staging:
    """The temporary table of one window, a context manager. Threads may call `add` concurrently.

    Rows are masked before they reach the database.
    """

    def __init__(
        self, engine: Engine, collection: Collection, reader: RowParser, masking: Masking
    ) -> None:
        self._engine = engine
        self._masking = masking
        self._masker = masking.masker(collection)
        self._secret = masking.protection.require_keys().digest_secret
        self._blank = dict.fromkeys(collection.columns)
        self.reader = reader
        self.collection = collection
        self._lock = threading.Lock()
        self._columns = _FIXED | staged_types(collection)
        self.misfits: Counter[str] = Counter()
        """Column to the number of received values that do not fit it."""
        self.unknown: set[str] = set()
        """Names of members without a declaration, safe to display; the payload contains them."""
        self.members: set[str] = set()
        """Names of all received members, safe to display in error texts."""
        self._seen: set[str] = set()
        self.repeated = 0
        """Rows that occurred twice on one page."""
        self.conflicting = 0
        """Rows with the same id as another row of their page but other content."""
        self.row_counts = RowCounts()
        """Result of the last `deduplicate`."""

    def __enter__(self) -> Self:
        """Open a database session and create the table. Raises: DatabaseUnavailable."""
        columns = {"seq": "bigint GENERATED ALWAYS AS IDENTITY"} | self._columns
        declarations = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
        with guarded(self._engine, "prepare the load"):
            self.connection: Connection = self._engine.connect()
            self.connection.execute(text("DROP TABLE IF EXISTS pg_temp.incoming"))
            self.connection.execute(text(f"CREATE TEMPORARY TABLE incoming ({declarations})"))
            self.state = self._masking.state(self.connection)
            self.connection.commit()
        self._oldest_contact = self._masker.contact_cutoff(self.state.today) or date.min
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the database session, which drops the table."""
        # If a page fails, another thread may still load one: wait until it has written.
        with self._lock:
            # The pool must not reuse a session in an unknown state, with the table and its rows.
            self.connection.invalidate()
            self.connection.close()

    def clear(self) -> None:
        """Delete every row, so that the window can be read again."""
        self._execute("prepare the load", text("TRUNCATE incoming"))
        self.misfits.clear()
        self.unknown.clear()
        self._seen.clear()
        self.repeated = self.conflicting = 0

    def add(self, rows: Sequence[Any], keep: Keep | None = None) -> list[date]:
        """Parse one page of rows and COPY it into the table; return the days of its rows.

        `keep` stores the page in the cache, in the same transaction, unless it contains values that
        may not be stored: those of an erased person, or of a class that is hashed or dropped on
        arrival.
        """
        objects = [row for row in rows if isinstance(row, dict)]
        self._collect_members(set().union(*objects))
        parsed = self.reader.read_all(objects)
        for column, numbers in parsed.misfits.items():
            self.misfits[column] += len(numbers)
        nameless: Counter[str] = Counter()
        masked = self._mask_rows(objects, parsed)
        others = [self._mask_other(row) for row in rows if not isinstance(row, dict)]
        if any(each.is_withheld for each in (*masked, *others)):
            keep = None
        records = self._records(objects, parsed, masked, nameless)
        if len(objects) < len(rows):
            records.extend(self._records_of_others(rows, others, nameless))
        with self._lock, guarded(self._engine, f"load a page of {self.collection.name}"):
            self._copy_page(records, keep)
        return [day for day in parsed.days if day]

    def may_cache(self, rows: Sequence[Any]) -> bool:
        """Return whether a page contains only values that may be stored as received.

        Values of an erased person, or of a class that is hashed or dropped on arrival, may not.
        """
        if not self.state.suppressed and not self._masker.stores_less:
            return True
        objects = [row for row in rows if isinstance(row, dict)]
        masked = self._mask_rows(objects, self.reader.read_all(objects))
        masked += [self._mask_other(row) for row in rows if not isinstance(row, dict)]
        return not any(each.is_withheld for each in masked)

    def _records(
        self,
        objects: list[dict[str, Any]],
        parsed: ParsedRows,
        masked: list[MaskedRow],
        nameless: Counter[str],
    ) -> list[_Record]:
        # ids of rows without an id, copies and contradictions are those of the received rows
        payloads, unstorable = dump_rows(objects)
        keys = [
            id_ if id_ is not None and len(id_) <= LONGEST_ID else self._digest(payload, nameless)
            for id_, payload in zip(parsed.ids, payloads, strict=True)
        ]
        if (distinct := len(set(keys))) < len(keys):
            contents = len(set(zip(keys, payloads, strict=True)))
            self.conflicting += contents - distinct
            self.repeated += len(keys) - contents
        reasons = map(self._why_unplaceable, parsed.ids, parsed.occurred_at, parsed.unreadable_time)
        # the day of a row without a time is a hint only: such a row is not placed on it
        days = [day or hint for day, hint in zip(parsed.days, parsed.hint_days, strict=True)]
        for number, each in enumerate(masked):
            if each.row.payload is not objects[number]:
                payloads[number] = dump_json(each.row.payload)
        fixed = (keys, reasons, parsed.ids, parsed.account_ids, payloads, parsed.occurred_at, days)
        records: list[_Record] = [
            (*beginning, *each.row.columns.values(), *privacy_values(self.collection, each))
            for beginning, each in zip(zip(*fixed, strict=True), masked, strict=True)
        ]
        for number, reason in unstorable.items():
            records[number] = _quarantined(records[number], reason)
        return records

    def _digest(self, payload: str, seen: Counter[str]) -> str:
        """Return a key for a row without an id: its digest and its ordinal within the page.

        Two equal rows of one page are two rows, but a page that arrives twice adds none. The digest
        needs the secret: without one, whoever guesses a row could prove that it was received.
        """
        digest = hmac.digest(self._secret, payload.encode(), "sha256").hex()
        seen[digest] += 1
        return f"{digest}-{seen[digest]}"

    def _mask_rows(self, objects: list[dict[str, Any]], parsed: ParsedRows) -> list[MaskedRow]:
        names = list(self.collection.columns)
        values = zip(*parsed.columns, strict=True) if names else repeat((), len(objects))
        days = map(self._day_of, parsed.days, parsed.hint_days)
        return [
            self._mask(Row(dict(zip(names, each, strict=True)), received), day)
            for received, each, day in zip(objects, values, days, strict=True)
        ]

    def _day_of(self, day: date | None, hint: date | None) -> date | None:
        return day or hint if self.collection.is_events else None

    def _mask(self, row: Row, day: date | None) -> MaskedRow:
        return self._masker.mask(
            row,
            today=self.state.today,
            row_day=day,
            # the commit knows when the person was in contact last; until then, as if today
            last_contact=self.state.today if day and day <= self._oldest_contact else None,
            suppressed=self.state.suppressed,
        )

    def _mask_other(self, row: object) -> MaskedRow:
        return self._mask(Row(self._blank, row), None)

    def _records_of_others(
        self, rows: Sequence[Any], masked: Sequence[MaskedRow], nameless: Counter[str]
    ) -> Iterator[_Record]:
        blank = [None] * (len(self._columns) - 5)
        others = (row for row in rows if not isinstance(row, dict))
        for row, each in zip(others, masked, strict=True):
            received, unstorable = dump_jsonb(row)
            payload = dump_json(each.row.payload)
            reason = f"not an object but {type(row).__name__}"
            record = (
                self._digest(received, nameless),
                reason,
                None,
                None,
                payload,
                *blank,
            )
            yield _quarantined(record, unstorable) if unstorable else record

    def _copy_page(self, records: list[_Record], keep: Keep | None) -> None:
        driver = driver_of(self.connection)
        with driver.cursor() as cursor:
            if keep and not self._is_newer_erasure(cursor):
                keep(cursor)
            try:
                # no savepoint: it would cost every good page two round trips
                copy_rows(cursor, "incoming", self._columns, records)
            except psycopg.Error as error:
                if not rejects_value(error):
                    raise
                driver.rollback()
                if keep and not self._is_newer_erasure(cursor):
                    keep(cursor)
                self._copy_halves(cursor, records)
        driver.commit()

    def _is_newer_erasure(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Return whether a person was erased since the rows began to arrive."""
        cursor.execute("SELECT coalesce(max(id), 0) FROM magnetis_ops.suppressions")
        return cursor.fetchone() != (self.state.generation[0],)

    def _copy_halves(self, cursor: psycopg.Cursor[Any], records: list[_Record]) -> None:
        """COPY records by halves until each record that PostgreSQL rejects is quarantined."""
        try:
            with cursor.connection.transaction():
                copy_rows(cursor, "incoming", self._columns, records)
        except psycopg.Error as error:
            if not rejects_value(error):
                raise
            if middle := len(records) // 2:
                self._copy_halves(cursor, records[:middle])
                self._copy_halves(cursor, records[middle:])
                return
            reason = f"PostgreSQL rejects a value: {type(error).__name__}"
            quarantined = [_quarantined(records[0], reason)]
            copy_rows(cursor, "incoming", self._columns, quarantined)

    def _collect_members(self, members: set[str]) -> None:
        fresh = members - self._seen
        self._seen |= fresh
        self.members.update(map(mask_name, fresh))
        self.unknown.update(map(mask_name, self.reader.unknown(fresh)))

    def _why_unplaceable(
        self, id_: str | None, occurred_at: datetime | None, unreadable_time: str | None
    ) -> str | None:
        if id_ is None:
            return "no id"
        # only an id longer than a quarter of the limit can exceed it: a character has up to 4 bytes
        if len(id_) > LONGEST_ID // 4 and len(id_.encode()) > LONGEST_ID:
            return f"id longer than {LONGEST_ID} bytes"
        if unreadable_time:
            return f"unreadable time in {unreadable_time}"
        if occurred_at is None and self.collection.is_events:
            return f"no usable time in {', '.join(self.collection.time_fields)}"
        return None

    def outer_moments(self, rows: int) -> tuple[datetime, datetime] | None:
        """Return the times of the `rows`-th oldest and newest row, or None if there are fewer."""
        number = {"n": max(0, rows - 1)}
        [[oldest, newest]] = self._execute(_VERIFY, _QUERIES["outer_moments"], number)
        return None if oldest is None else (oldest, newest)

    def settle(self) -> None:
        """Mask staged rows by facts that only the commit knows, in its transaction.

        The caller holds the lock of the rows' writers. Persons may have been erased since the rows
        were received. Rules that count from the last contact need the stored rows. And stored rows
        that are old enough by now are masked as the received ones, so that an unchanged row is not
        counted as changed.
        """
        state = self._masking.state(self.connection)
        rewriter = RowRewriter(self.connection, self._masking, state, staged=self.collection)
        staged = staging_of(self.collection)
        # as in merge.py, which needs statistics of further columns after this
        self.connection.execute(text("SET LOCAL default_statistics_target = 10"))
        self.connection.execute(text("ANALYZE incoming (key)"))
        if state != self.state:
            rewriter.mask(staged, "true")
            self.state = state
        elif self.collection.is_events and self._oldest_contact > date.min:
            rewriter.mask(staged, "t.day <= :oldest", {"oldest": self._oldest_contact})
        self._keep_erased(rewriter, staged)
        differs = "(s.p_masked, s.p_payload_masked) IS DISTINCT FROM (t.masked, t.payload_masked)"
        if state.suppressed:
            # an erasure that is not complete yet
            differs = f"({differs} OR s.payload IS DISTINCT FROM t.payload)"
        for target in tables_with_rows(self.collection):
            joined = replace(target, joined="JOIN incoming AS s ON s.key = t.id")
            rewriter.mask(joined, f"s.reason IS NULL AND {differs} AND {target.is_present}")

    def _keep_erased(self, rewriter: RowRewriter, staged: Target) -> None:
        """Mask staged rows whose stored row contains nothing about the caller any more.

        The API may have removed the number since, so that the row no longer tells whom it is about.
        """
        table = f"magnetis.{self.collection.name}"
        join = f"JOIN {table} AS o ON o.connection = :connection AND o.id = t.key"
        rewriter.mask(
            replace(staged, joined=join),
            "o.masked @> CAST(:everything AS text[]) AND t.reason IS NULL "
            "AND NOT coalesce(t.p_masked @> CAST(:everything AS text[]), false)",
            {"everything": sorted(CONTACT_SIDE)},
            inherited=CONTACT_SIDE,
        )

    def lacks(self, rows: Sequence[Any], days: Container[date]) -> bool:
        """Return whether one of these rows lies on one of `days` and is not staged."""
        parsed = self.reader.read_all([row for row in rows if isinstance(row, dict)])
        ids = {
            id_
            for id_, day in zip(parsed.ids, parsed.days, strict=True)
            if id_ is not None and day in days
        }
        staged = text("SELECT DISTINCT id FROM incoming WHERE id = ANY(:ids)")
        return len(self._execute(_VERIFY, staged, {"ids": list(ids)})) < len(ids)

    def deduplicate(self) -> RowCounts:
        """Delete all rows of a key but the newest, then count the rows that remain."""
        with guarded(self._engine, "count the received rows"):
            total, distinct = self.connection.execute(_QUERIES["count_keys"]).one()
            if total != distinct:
                self.connection.execute(_QUERIES["delete_older_copies"])
            counts = RowCounts()
            for day, reason, rows in self.connection.execute(_QUERIES["count_rows"]):
                if reason is None:
                    counts.by_day[day] += rows
                else:
                    counts.unplaced[reason] += rows
            self.connection.commit()
        self.row_counts = counts
        return counts

    def _execute(
        self, action: str, statement: TextClause, parameters: dict[str, Any] | None = None
    ) -> Sequence[Any]:
        with guarded(self._engine, action):
            result = self.connection.execute(statement, parameters)
            rows = result.all() if result.returns_rows else []
            self.connection.commit()
        return rows
