"""The warehouse as ingestion sees it: stage a window, commit it, and ask what is already done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.columns import require_declared_types
from magnetis_dagster.warehouse.merge import Emptied, Merged, MergedDay, Rules, WindowFacts, merge
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.page_cache import PageCache
from magnetis_dagster.warehouse.reconcile import DayDifference, reconcile
from magnetis_dagster.warehouse.settings_changes import Changes, read_changes
from magnetis_dagster.warehouse.staging import Staging


@dataclass(frozen=True, slots=True)
class WindowLimits:
    """What is known about the longest windows that the API answers completely; None: no limit is known."""

    most_days: int | None = None
    most_rows: int | None = None


class Warehouse:
    """The tables of one catalogue in one database. Zones: see RowParser.

    Every method may raise DatabaseUnavailable or DatabaseRefused.
    """

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        *,
        response_zone: ZoneInfo,
        partition_zone: ZoneInfo,
        emptied: Emptied = Emptied.DOUBT,
        rules: Rules | None = None,
    ) -> None:
        """`rules`: when the answer for a day is doubted; `emptied` alone if None."""
        self.engine = engine
        self.rules = rules or Rules(emptied=emptied)
        self.catalogue = catalogue
        self.response_zone = response_zone
        self.partition_zone = partition_zone
        self._compared: set[str] = set()
        """Names of the collections whose columns have their declared types."""

    def prepare(self, progress: Callable[[str], None] = lambda _line: None) -> None:
        """Bring the tables up to date; one query where they are. `progress` receives a line for each wait for a lock."""
        migrate(self.engine, self.catalogue, progress, self.partition_zone)

    def reader(self, collection: Collection) -> RowParser:
        """Return a reader of the collection's rows in this warehouse's zones."""
        return RowParser(
            collection, response_zone=self.response_zone, partition_zone=self.partition_zone
        )

    @contextmanager
    def staging(self, collection: Collection) -> Iterator[Staging]:
        """Open a staging table for one window of the collection. Raises SchemaDisagrees."""
        if collection.name not in self._compared:
            with guarded(self.engine, "compare the columns"), self.engine.connect() as connection:
                require_declared_types(connection, collection)
            self._compared.add(collection.name)
        with Staging(self.engine, collection, self.reader(collection)) as staging:
            yield staging

    def kept_pages(self, collection: Collection, work: str, request: str) -> PageCache:
        """Return the pages that an interrupted read of `work` has left, as far as `request` is the fingerprint of theirs."""
        return PageCache(self.engine, collection, work, request)

    def window_limits(self, collection: Collection) -> WindowLimits:
        """Return what was learned in the last 30 days about the longest windows that the API answers completely."""
        statement = (
            "SELECT most_days, most_rows FROM magnetis_ops.window_limits "
            "WHERE collection = :collection AND learned_at > magnetis_ops.now() - interval '30 days'"
        )
        with guarded(self.engine, "read what was learned"), self.engine.connect() as connection:
            found = connection.execute(
                text(statement), {"collection": collection.name}
            ).one_or_none()
        return WindowLimits(*found) if found else WindowLimits()

    def learn_longest_window(self, collection: Collection, most_days: int, reason: str) -> None:
        """Remember for 30 days that the API answers windows of `most_days` days and failed at a longer one for `reason`."""
        self._learn(collection, "most_days", most_days, reason)

    def learn_row_cap(self, collection: Collection, most_rows: int, reason: str) -> None:
        """Remember for 30 days that the API returns at most `most_rows` rows of a search."""
        self._learn(collection, "most_rows", most_rows, reason)

    def _learn(self, collection: Collection, column: str, limit: int, reason: str) -> None:
        statement = (
            f"INSERT INTO magnetis_ops.window_limits AS l (collection, {column}, reason, learned_at) "
            "VALUES (:collection, :limit, :reason, magnetis_ops.now()) ON CONFLICT (collection) DO UPDATE "
            f"SET {column} = excluded.{column}, reason = excluded.reason, learned_at = excluded.learned_at"
        )
        with guarded(self.engine, "remember what was learned"), self.engine.begin() as connection:
            connection.execute(
                text(statement), {"collection": collection.name, "limit": limit, "reason": reason}
            )

    def announced_totals(self, collection: Collection, days: Sequence[date]) -> list[int]:
        """Return the total of the newest window of the collection that covers other days than `days`, if there is one."""
        statement = (
            "SELECT announced FROM magnetis_ops.windows WHERE collection = :collection "
            "AND (first_day <> :first OR last_day <> :last) ORDER BY id DESC LIMIT 1"
        )
        with guarded(self.engine, "read what was announced"), self.engine.connect() as connection:
            names = {"collection": collection.name, "first": days[0], "last": days[-1]}
            return list(connection.execute(text(statement), names).scalars())

    def doubt_windows(self, collection: Collection, cap: int) -> list[date]:
        """Mark as not read the days whose newest window announced just `cap` rows; return them, ascending."""
        statement = (
            "WITH doubtful AS (DELETE FROM magnetis_ops.days AS d USING magnetis_ops.windows AS w "
            "WHERE d.collection = :collection AND w.id = d.window_id AND w.announced = :cap RETURNING d.day, d.held), "
            "stray AS (INSERT INTO magnetis_ops.strays (collection, day, held) "
            "SELECT :collection, day, held FROM doubtful WHERE held > 0) "
            "SELECT day FROM doubtful ORDER BY day"
        )
        with guarded(self.engine, "doubt windows at a cap"), self.engine.begin() as connection:
            return list(
                connection.execute(
                    text(statement), {"collection": collection.name, "cap": cap}
                ).scalars()
            )

    def now(self) -> datetime:
        """Return the database's clock, UTC: the one clock that loads on several machines share."""
        with guarded(self.engine, "read the clock"), self.engine.connect() as connection:
            moment: datetime = connection.execute(text("SELECT magnetis_ops.now()")).scalar_one()
        return moment

    def commit(self, staging: Staging, facts: WindowFacts) -> Merged:
        """Make the settled staging visible in one transaction, or nothing of it. Raises Incomplete where counts disagree."""
        with guarded(self.engine, f"merge {staging.collection.name}"), staging.connection.begin():
            return merge(staging.connection, staging.collection, facts, staging.tally)

    def done(
        self, collection: Collection, days: Sequence[date], *, run_id: str | None = None
    ) -> dict[date, MergedDay]:
        """Return those of `days` that are done, with what they hold; where `run_id` is given, by that run, and what it changed."""
        condition = " AND d.run_id = :run_id" if run_id else ""
        read = "coalesce(r.inserted, 0), coalesce(r.changed, 0), coalesce(r.deleted, 0), coalesce(r.first_read, false)"
        changed = read if run_id else "0, 0, 0, false"
        with guarded(self.engine, "read what is done"), self.engine.connect() as connection:
            found = connection.execute(
                text(
                    f"SELECT d.day, d.announced, d.held, {changed} FROM magnetis_ops.days AS d "
                    "LEFT JOIN magnetis_ops.day_reads AS r ON r.window_id = d.window_id AND r.day = d.day "
                    f"WHERE d.collection = :collection AND d.day = ANY(:days){condition}"
                ),
                {"collection": collection.name, "days": list(days), "run_id": run_id},
            )
            return {day: MergedDay(day, *counts) for day, *counts in found}

    def changes(
        self, collection: Collection, day: date, read_at: datetime | None = None
    ) -> Changes | None:
        """Return what a committed reading of settings found to be changed: that of `read_at`, else the newest of `day`.

        None for other collections, and where there is no such reading.
        """
        if not collection.is_setting:
            return None
        newest = (
            "SELECT read_at FROM magnetis_ops.days WHERE collection = :collection AND day = :day"
        )
        with guarded(self.engine, "read what has changed"), self.engine.connect() as connection:
            read_at = (
                read_at
                or connection.execute(
                    text(newest), {"collection": collection.name, "day": day}
                ).scalar()
            )
            return read_changes(connection, collection, read_at) if read_at else None

    def quarantined(self, collection: Collection, days: Sequence[date]) -> int:
        """Return how many rows the newest windows of `days` could not place."""
        with guarded(self.engine, "read what is done"), self.engine.connect() as connection:
            statement = (
                "SELECT coalesce(sum(quarantined), 0) FROM magnetis_ops.windows WHERE id IN "
                "(SELECT window_id FROM magnetis_ops.days WHERE collection = :collection AND day = ANY(:days))"
            )
            return int(
                connection.execute(
                    text(statement), {"collection": collection.name, "days": list(days)}
                ).scalar_one()
            )

    def reconcile(
        self, collection: Collection, days: Sequence[date] | None = None
    ) -> list[DayDifference]:
        """Return the days, among `days` or of the whole table, whose recorded count is not the number of their rows."""
        return reconcile(self.engine, collection, days)

    def rows_held(self, collection: Collection) -> int:
        """Return how many rows the table holds that are not deleted."""
        with guarded(self.engine, "count rows"), self.engine.connect() as connection:
            if collection.is_events:
                # the sum of recorded counts is one small scan; counting tens of millions of rows after each load is not
                statement = (
                    "SELECT coalesce(sum(held), 0) FROM (SELECT held FROM magnetis_ops.days WHERE collection = :collection "
                    "UNION ALL SELECT held FROM magnetis_ops.strays WHERE collection = :collection) AS recorded"
                )
            else:
                statement = (
                    f"SELECT count(*) FROM magnetis.{collection.name} WHERE deleted_at IS NULL"
                )
            return int(
                connection.execute(text(statement), {"collection": collection.name}).scalar_one()
            )
