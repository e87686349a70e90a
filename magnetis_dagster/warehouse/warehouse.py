"""Gives ingestion its view of the tables: stage a window, commit it, list completed days."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import fetch, guarded, write
from magnetis_dagster.privacy.protection import MissingPrivacyKey, Protection
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.connections import register
from magnetis_dagster.warehouse.masking import Masking
from magnetis_dagster.warehouse.merge import MergedDay, MergeResult, WindowFacts, merge
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.page_cache import PageCache
from magnetis_dagster.warehouse.plausibility import Emptied, Rules
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.reconcile import DayDifference, reconcile
from magnetis_dagster.warehouse.settings_changes import Changes, read_changes
from magnetis_dagster.warehouse.staging import Staging

_BOOKKEEPING = Queries("bookkeeping")


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """Longest windows that the API answers completely. None: no limit is known."""

    most_days: int | None = None
    most_rows: int | None = None
    reason: str = ""


class Warehouse:
    """One connection's rows in the tables of a catalogue. RowParser describes the time zones.

    Connections share the tables. No method reads or writes rows of another connection.

    Every method may raise DatabaseUnavailable or DatabaseRefused.
    """

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        *,
        connection_name: str = UNNAMED,
        response_zone: ZoneInfo,
        partition_zone: ZoneInfo,
        view_zone: ZoneInfo | None = None,
        emptied: Emptied = Emptied.DOUBT,
        rules: Rules | None = None,
        protection: Protection | None = None,
    ) -> None:
        """`rules` are the limits of a plausible change; None: the defaults with `emptied`.

        `protection`: plan and secrets for personal data. Without it, rows can only be read.
        """
        self.engine = engine
        self.connection_name = connection_name
        self.rules = rules or Rules(emptied)
        self.catalogue = catalogue
        self.response_zone = response_zone
        self.partition_zone = partition_zone
        self.view_zone = view_zone or partition_zone
        self.protection = protection
        self._masking: Masking | None = None
        self._verified: set[str] = set()
        """Names of the collections whose columns have their declared types."""
        self._is_registered = False

    def prepare(self, progress: Callable[[str], None] = lambda _line: None) -> None:
        """Bring the tables up to date. See `migrate`."""
        migrate(
            self.engine,
            self.catalogue,
            progress,
            self.view_zone,
            connection_name=self.connection_name,
            plan=self.protection.plan if self.protection else None,
        )

    @property
    def masking(self) -> Masking:
        """What the connection's rows are masked with. Raises: MissingPrivacyKey."""
        if self._masking is None:
            if self.protection is None:
                raise MissingPrivacyKey
            self._masking = Masking(
                self.protection, self.catalogue, self.connection_name, self.partition_zone
            )
        return self._masking

    def reader(self, collection: Collection) -> RowParser:
        """Return a parser of the collection's rows in this warehouse's time zones."""
        return RowParser(
            collection, response_zone=self.response_zone, partition_zone=self.partition_zone
        )

    @contextmanager
    def staging(self, collection: Collection) -> Iterator[Staging]:
        """Stage one window.

        Raises: MissingPrivacyKey and WrongPrivacyKey; SchemaDisagrees if a column has another type.
        """
        masking = self.masking
        if not self._is_registered:
            register(self.engine, self.connection_name)
            self._is_registered = True
        if collection.name not in self._verified:
            with guarded(self.engine, "compare the columns"), self.engine.connect() as connection:
                require_declared_types(connection, collection)
            self._verified.add(collection.name)
        with Staging(self.engine, collection, self.reader(collection), masking) as staging:
            yield staging

    def page_cache(self, collection: Collection, work: str, request: str) -> PageCache:
        """Return the cached pages of an interrupted run; for parameters see PageCache."""
        return PageCache(
            self.engine, collection, work, request, connection_name=self.connection_name
        )

    def window_limits(self, collection: Collection) -> WindowLimits:
        """Return the limits of a window that were learned in the last 30 days."""
        found = self._fetch("read the window limits", "window_limits", collection)
        return WindowLimits(*found[0]) if found else WindowLimits()

    def learn_longest_window(self, collection: Collection, most_days: int, reason: str) -> None:
        """Record for 30 days that windows longer than `most_days` days fail.

        `reason` says how they fail.
        """
        self._learn("learn_most_days", collection, most_days, reason)

    def learn_row_cap(self, collection: Collection, most_rows: int, reason: str) -> None:
        """Record for 30 days that the API returns at most `most_rows` rows for one window."""
        self._learn("learn_most_rows", collection, most_rows, reason)

    def _learn(self, query: str, collection: Collection, limit: int, reason: str) -> None:
        parameters = self._names(collection) | {"limit": limit, "reason": reason}
        write(self.engine, "record a window limit", _BOOKKEEPING[query], parameters)

    def announced_totals(self, collection: Collection, days: Sequence[date]) -> list[int]:
        """Return the announced total of the newest window over other days than `days`, if any."""
        found = self._fetch(
            "read the announced totals",
            "newest_other_total",
            collection,
            first=days[0],
            last=days[-1],
        )
        return [total for (total,) in found]

    def discard_windows_at_cap(self, collection: Collection, cap: int) -> list[date]:
        """Delete the completion records of windows that announced `cap` rows; return their days.

        Such a window may be capped. The days are ascending.
        """
        statement = _BOOKKEEPING["discard_windows_at_cap"]
        parameters = self._names(collection) | {"cap": cap}
        return [
            day for (day,) in write(self.engine, "discard windows at a cap", statement, parameters)
        ]

    def now(self) -> datetime:
        """Return the time of the database in UTC: the one clock that all machines share."""
        [[moment]] = fetch(self.engine, "read the clock", text("SELECT magnetis_ops.now()"))
        assert isinstance(moment, datetime)
        return moment

    def commit(self, staging: Staging, facts: WindowFacts) -> MergeResult:
        """Merge the staged rows, deduplicated before, in one transaction. Raises: see `merge`."""
        with guarded(self.engine, f"merge {staging.collection.name}"), staging.connection.begin():
            wait_for_turn(staging.connection, staging.collection, self.connection_name)
            staging.settle()
            return merge(
                staging.connection,
                staging.collection,
                facts,
                staging.row_counts,
                connection_name=self.connection_name,
            )

    def completed_days(
        self, collection: Collection, days: Sequence[date], *, run_id: str | None = None
    ) -> dict[date, MergedDay]:
        """Return the completed days among `days`, with their row counts.

        With `run_id`, only the days that this run completed, with their changes.
        """
        query = "completed_days_of_run" if run_id else "completed_days"
        found = self._fetch(
            "read the completed days", query, collection, days=list(days), run_id=run_id
        )
        return {row[0]: MergedDay(*row) for row in found}

    def changes(
        self, collection: Collection, day: date, read_at: datetime | None = None
    ) -> Changes | None:
        """Return the changes of notification settings that the read of `read_at` found.

        Default: the newest read of `day`. None if there is no such read, or for other collections.
        """
        if not collection.is_setting:
            return None
        newest = text(
            "SELECT read_at FROM magnetis_ops.days "
            "WHERE connection = :connection AND collection = :collection AND day = :day"
        )
        parameters = self._names(collection) | {"day": day}
        with guarded(self.engine, "read the changes"), self.engine.connect() as connection:
            read_at = read_at or connection.execute(newest, parameters).scalar()
            if not read_at:
                return None
            return read_changes(
                connection, collection, read_at, connection_name=self.connection_name
            )

    def quarantined(self, collection: Collection, days: Sequence[date]) -> int:
        """Return the number of rows that the newest windows of `days` quarantined."""
        action = "count quarantined rows"
        [[number]] = self._fetch(action, "quarantined_rows", collection, days=list(days))
        return int(number)

    def reconcile(
        self, collection: Collection, days: Sequence[date] | None = None
    ) -> list[DayDifference]:
        """Return the days whose recorded count differs from their rows. None: compare all days."""
        return reconcile(self.engine, collection, days, connection_name=self.connection_name)

    def count_rows(self, collection: Collection) -> int:
        """Return the number of rows in the table that are not deleted."""
        if collection.is_events:
            # The sum of the recorded counts is one small scan. Counting tens of millions of rows
            # after each load is not.
            found = self._fetch("count rows", "recorded_rows", collection)
        else:
            count = text(
                f"SELECT count(*) FROM magnetis.{collection.name} "
                "WHERE connection = :connection AND deleted_at IS NULL"
            )
            found = fetch(self.engine, "count rows", count, self._names(collection))
        return int(found[0][0])

    def _fetch(
        self, action: str, query: str, collection: Collection, **parameters: object
    ) -> Sequence[Any]:
        names = self._names(collection) | parameters
        return fetch(self.engine, action, _BOOKKEEPING[query], names)

    def _names(self, collection: Collection) -> dict[str, object]:
        return {"connection": self.connection_name, "collection": collection.name}
