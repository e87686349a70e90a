"""Merges a window in one transaction: rows, deletions, versions, quarantine, counts, completion.

Merges of one connection and collection run one after the other, under an advisory lock. For each
day, a newer read supersedes an older one. So two concurrent loads of a day end like the newer load
alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from typing import Any

from sqlalchemy import Connection, CursorResult, func, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.errors import TransientError
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.merge_queries import merge_queries
from magnetis_dagster.warehouse.page_cache import forget_committed
from magnetis_dagster.warehouse.plausibility import (
    Decisions,
    Doubt,
    Rules,
    StoredDay,
    decide,
    refuse_mass_moves,
)
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import windows
from magnetis_dagster.warehouse.staging import RowCounts

_BOOKKEEPING = Queries("bookkeeping")
_RECORDED_FACTS = (
    *("read_at", "announced", "received", "api_calls", "bytes", "milliseconds", "run_id"),
    "witness_calls",
)
"""Fields of WindowFacts that are columns of `windows`."""
_Moves = Counter[tuple[date | None, date]]
"""Former and new day to moved rows; a deleted row that returns has no former day."""


class CountMismatch(TransientError):
    """The announced, received and stored rows disagree; the transaction was rolled back."""


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """The read of one window, as recorded in `magnetis_ops.windows`."""

    days: Sequence[date]
    """Requested days, ascending."""
    read_at: datetime
    announced: int
    received: int
    api_calls: int
    bytes: int
    milliseconds: int
    run_id: str | None
    read_on: date
    """Local day of `read_at`."""
    rules: Rules = field(default_factory=Rules)
    witness_calls: int = 0


@dataclass(frozen=True, slots=True)
class MergedDay:
    """One completed day."""

    day: date
    announced: int
    held: int
    """Rows in the table that are not deleted; `announced` are those that the API announced."""
    inserted: int
    changed: int
    deleted: int
    first_read: bool = False
    """Whether this is the first complete read of the day, so that none of its rows are late."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """Result of a merge. Superseded and doubted days are not among `days`."""

    days: list[MergedDay]
    padding: int
    quarantined: int
    superseded: list[date]
    """Requested days for which a newer read was already committed."""
    doubted: dict[date, Doubt]
    """Requested days with implausible rows; the merge left them unchanged."""
    moved: int = 0
    """Rows that the table contained on another day before."""


def merge(
    connection: Connection,
    collection: Collection,
    facts: WindowFacts,
    counts: RowCounts,
    *,
    connection_name: str = UNNAMED,
) -> MergeResult:
    """Merge the staged rows, counted by `counts`, in the caller's transaction.

    Rows of other connections stay as they are.

    Raises: CountMismatch if the counts disagree; MovedRows if many ids belong to other days.
    """
    return _Merge(connection, collection, facts, counts, connection_name).run()


def age_days(day: date, read_on: date) -> int:
    """Return the days from the end of `day` to its read: 0 in the night after it.

    A snapshot has the age 0 on its own day.
    """
    return max(0, (read_on - day).days - 1)


class _Merge:
    """One merge; its methods run in the caller's transaction."""

    def __init__(
        self,
        connection: Connection,
        collection: Collection,
        facts: WindowFacts,
        counts: RowCounts,
        connection_name: str,
    ) -> None:
        self._connection = connection
        self._connection_name = connection_name
        self._collection = collection
        self._facts = facts
        self._unplaced = counts.unplaced.total()
        self._announced = counts.by_day
        if not collection.is_events:
            self._announced = Counter({facts.days[0]: counts.by_day.total()})
        self._parameters: dict[str, Any] = {
            "connection": connection_name,
            "collection": collection.name,
            "read_at": facts.read_at,
            "run_id": facts.run_id,
            "days": list(facts.days),
        }
        """Parameters of all statements. `run` removes superseded and doubted days from `days`."""

    def run(self) -> MergeResult:
        self._analyze_staging()
        wait_for_turn(self._connection, self._collection, self._connection_name)
        superseded = self._superseded_days()
        requested = [day for day in self._facts.days if day not in superseded]
        self._parameters["days"] = requested
        undeclared = compare_columns(self._connection, self._collection).undeclared
        table = self._collection.name
        self._queries = merge_queries(
            self._collection, [column.name for column in undeclared if column.table == table]
        )
        # days of a backfill have no rows yet, so nothing is compared or deleted
        has_rows = bool(requested) and self._merge("has_rows").first() is not None
        stored = self._stored_days() if has_rows else []
        decisions = decide(self._facts.rules, self._announced, stored)
        requested = [day for day in requested if day not in decisions.doubted]
        self._parameters |= {"days": requested, "undeleted": decisions.undeleted}
        forget_committed(
            self._connection,
            self._collection,
            self._facts.run_id,
            self._facts.days,
            self._connection_name,
        )
        usable = sum(self._announced[day] for day in self._facts.days)
        result = MergeResult(
            days=[],
            padding=self._announced.total() - usable,
            quarantined=self._unplaced,
            superseded=sorted(superseded),
            doubted=decisions.doubted,
        )
        if requested:
            return self._merge_days(requested, decisions, result, has_rows=has_rows)
        if self._unplaced:
            self._quarantine(self._insert_window())
        return result

    def _merge_days(
        self, requested: list[date], decisions: Decisions, result: MergeResult, *, has_rows: bool
    ) -> MergeResult:
        known = set(self._record("known_days").scalars())
        changes, moves = self._upsert(requested)
        deleted = self._rows_per_day("mark_deleted") if has_rows else {}
        if not self._collection.is_events:
            # counted by versions, so that a deleted row that returns unchanged is a new row
            changes = {requested[0]: self._write_versions()}
        held = self._rows_per_day("count_rows")
        self._verify_counts(requested, decisions, held)
        window = self._insert_window(
            held=sum(held.values()),
            padding=result.padding,
            inserted=sum(inserted for inserted, _ in changes.values()),
            changed=sum(changed for _, changed in changes.values()),
            deleted=sum(deleted.values()),
        )
        self._quarantine(window)
        days = [
            MergedDay(
                day,
                self._announced[day],
                held.get(day, 0),
                *changes.get(day, (0, 0)),
                deleted.get(day, 0),
                first_read=day not in known,
            )
            for day in requested
        ]
        records = [
            self._parameters
            | asdict(day)
            | {"window": window, "age_days": age_days(day.day, self._facts.read_on)}
            for day in days
        ]
        self._connection.execute(_BOOKKEEPING["upsert_day"], records)
        self._record("delete_strays")
        self._adjust_other_days(moves, requested)
        self._connection.execute(_BOOKKEEPING["insert_day_read"], records)
        return replace(result, days=days, moved=moves.total())

    def _analyze_staging(self) -> None:
        # Without statistics the planner assumes 1,000 rows in a temporary table, and joins 60,000
        # by nested loops. Statistics of the other columns, above all of the payload, and the
        # default sample of 30,000 rows would take more time than they save.
        self._connection.execute(text("SET LOCAL default_statistics_target = 10"))
        self._connection.execute(text("ANALYZE incoming (key, id, reason, day)"))

    def _superseded_days(self) -> set[date]:
        if self._collection.is_events:
            return set(self._record("newer_days").scalars())
        # all snapshots write the same rows, so a newer one of any day supersedes this one
        return set(self._facts.days) if self._record("newer_snapshot").first() else set()

    def _stored_days(self) -> list[StoredDay]:
        without_id = self._rows_per_day("rows_without_id") if self._unplaced else {}
        return [
            StoredDay(day, held, missing, unreadable, without_id.get(day, 0))
            for day, held, missing, unreadable in self._merge("stored_days")
        ]

    def _upsert(self, requested: list[date]) -> tuple[dict[date, tuple[int, int]], _Moves]:
        """Insert and update rows; return inserted and changed rows by day, and the moves."""
        changes: dict[date, tuple[int, int]] = {}
        moves: _Moves = Counter()
        for day, was, inserted, changed, rows in self._merge("upsert"):
            before = changes.get(day, (0, 0))
            changes[day] = before[0] + inserted, before[1] + changed
            if was != day and (was is not None or day not in requested):
                moves[was, day] += rows
        announced = {day: self._announced[day] for day in requested}
        refuse_mass_moves(self._collection, self._facts.rules, moves, announced)
        return changes, moves

    def _write_versions(self) -> tuple[int, int]:
        self._merge("move_versions")
        self._merge("close_versions")
        total, changed = self._merge("open_versions").one()
        return total - changed, changed

    def _verify_counts(
        self, requested: list[date], decisions: Decisions, held: dict[date, int]
    ) -> None:
        for day in requested:
            expected = self._announced[day] + decisions.kept.get(day, 0)
            if expected != held.get(day, 0):
                raise CountMismatch(
                    f"{self._collection.name}, {day}: the API returned {expected} rows, but the "
                    f"table would contain {held.get(day, 0)}. Another load changed the same rows "
                    "at the same time. The transaction was rolled back; load the day again."
                )

    def _insert_window(self, **counts: int) -> int:
        """Insert the record of the window; return its id. Counts that are not given are 0."""
        facts = self._facts
        values = dict.fromkeys(("held", "padding", "inserted", "changed", "deleted"), 0) | counts
        statement = windows.insert().values(
            committed_at=func.clock_timestamp(),
            connection=self._connection_name,
            collection=self._collection.name,
            first_day=facts.days[0],
            last_day=facts.days[-1],
            quarantined=self._unplaced,
            **{name: getattr(facts, name) for name in _RECORDED_FACTS},
            **values,
        )
        return int(self._connection.execute(statement.returning(windows.c.id)).scalar_one())

    def _quarantine(self, window: int) -> None:
        if self._unplaced:
            self._record("quarantine_rows", window=window)
        self._record("release_rows")

    def _adjust_other_days(self, moves: _Moves, requested: Sequence[date]) -> None:
        """Adjust the counts of other days that rows moved to or from."""
        differences: Counter[date | None] = Counter()
        for (was, day), rows in moves.items():
            differences[was] -= rows
            differences[day] += rows
        for other, rows in differences.items():
            if not rows or other is None or other in requested:
                continue
            if not self._record("adjust_day", day=other, rows=rows).rowcount:
                self._record("adjust_strays", day=other, rows=rows)

    def _rows_per_day(self, query: str) -> dict[date, int]:
        return {day: int(rows) for day, rows in self._merge(query)}

    def _merge(self, query: str) -> CursorResult[*tuple[Any, ...]]:
        return self._connection.execute(self._queries[query], self._parameters)

    def _record(self, query: str, **more: object) -> CursorResult[*tuple[Any, ...]]:
        return self._connection.execute(_BOOKKEEPING[query], self._parameters | more)
