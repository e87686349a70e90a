"""Deletes old bookkeeping: requests, reads, windows, cached pages, and Dagster's events.

It never deletes what a person or a program still uses: rows, history, completion records, runs, the
newest event of each partition. Every batch is a short transaction. So a prune that is interrupted
or runs twice is harmless, and no load waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, TextClause, text

from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.page_cache import RETENTION_DAYS
from magnetis_dagster.warehouse.queries import Queries

LATE_CHANGES_DAYS = 91
"""The view late_changes covers 90 days of reads."""
BATCH = 5_000
"""Rows that one transaction scans."""
LOCK_TIMEOUT = "5s"
"""A batch that cannot lock its rows fails, and the next prune repeats it."""
_LOCK = 0x6D61676E_7072756E
"""Advisory lock of a batch: only one prune deletes at a time."""
_QUERIES = Queries("prune")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which rows of a table are deleted."""

    table: str
    age: str
    """Time of the row in `source`, timestamptz."""
    unused: str
    """Name of the condition in prune.sql: nothing uses the row."""
    source: str = ""
    """Table whose ids are scanned; `table` if empty. Its ids ascend with time."""
    key: str = "id"
    """Column of `table` that refers to the id."""
    run: str = "NULL::text"
    """Run whose log files are deleted with the row."""
    least_days: int = 0
    """Shortest retention period, whatever the setting."""

    def statement(self, dagster: str) -> TextClause:
        """Return the statement for one batch; `dagster` is the schema of Dagster's tables."""
        return _QUERIES.fill(
            table=self.table.format(dagster=dagster),
            source=(self.source or self.table).format(dagster=dagster),
            age=self.age,
            key=self.key,
            run=self.run,
            unused=_QUERIES.fill(dagster=dagster).sql(self.unused),
        )["delete_batch"]


_OWN_RULES = (
    _Rule("magnetis_ops.api_calls", age="charged_at", unused="unused_api_calls"),
    _Rule(
        "magnetis_ops.day_reads",
        source="magnetis_ops.windows",
        age="committed_at",
        unused="unused_day_reads",
        key="window_id",
        least_days=LATE_CHANGES_DAYS,
    ),
    _Rule(
        "magnetis_ops.windows",
        age="committed_at",
        unused="unused_windows",
        least_days=LATE_CHANGES_DAYS,
    ),
)
_DAGSTER_RULES = (
    _Rule(
        "{dagster}.event_logs",
        age="timestamp AT TIME ZONE 'UTC'",
        unused="unused_events",
        run="t.run_id",
    ),
    _Rule(
        "{dagster}.asset_event_tags",
        age="event_timestamp AT TIME ZONE 'UTC'",
        unused="unused_event_tags",
    ),
    _Rule(
        "{dagster}.asset_check_executions",
        age="evaluation_event_timestamp AT TIME ZONE 'UTC'",
        unused="unused_check_executions",
    ),
)


def prune(
    engine: Engine, days: int, dagster_schema: str, forget_run: Callable[[str], None]
) -> dict[str, int]:
    """Delete bookkeeping older than `days` (24 hours each, by the database's clock).

    `dagster_schema`: schema of Dagster's tables; they are skipped if it contains none.
    `forget_run`: deletes the log files of a run; may be called more than once for a run.

    Returns: deleted rows by qualified table name. A prune stops if another one is running.
    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "prune"):
        with engine.connect() as connection:
            now: datetime = connection.execute(text("SELECT magnetis_ops.now()")).scalar_one()
            exists = text("SELECT to_regclass(:table) IS NOT NULL")
            has_dagster_tables = connection.execute(
                exists, {"table": f"{dagster_schema}.event_logs"}
            ).scalar_one()
        deleted = {}
        for rule in (*_OWN_RULES, *(_DAGSTER_RULES if has_dagster_tables else ())):
            before = now - timedelta(days=max(days, rule.least_days))
            deleted[rule.table.format(dagster=dagster_schema)] = _prune(
                engine, rule.statement(dagster_schema), before, forget_run
            )
        with engine.begin() as connection:
            old = text("DELETE FROM magnetis_ops.pages WHERE fetched_at < :before")
            before = now - timedelta(days=RETENTION_DAYS)
            deleted["magnetis_ops.pages"] = connection.execute(old, {"before": before}).rowcount
    return deleted


def _prune(
    engine: Engine, statement: TextClause, before: datetime, forget_run: Callable[[str], None]
) -> int:
    """Delete batches until one scans no old row; return the number of deleted rows."""
    total, after, more = 0, 0, True
    while more:
        with engine.begin() as connection:
            connection.execute(
                text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": LOCK_TIMEOUT}
            )
            alone = text("SELECT pg_try_advisory_xact_lock(:lock)")
            if not connection.execute(alone, {"lock": _LOCK}).scalar_one():
                break
            found = connection.execute(
                statement, {"before": before, "after": after, "batch": BATCH}
            ).one()
            # before the commit, so that the next prune repeats a deletion that fails
            for run in found.runs or ():
                forget_run(run)
        total, after, more = total + found.number, found.last, found.more
    return total


def sizes(engine: Engine, schemas: list[str]) -> dict[str, int]:
    """Return the bytes of each schema: tables, indexes and TOAST.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "measure the tables"), engine.connect() as connection:
        found = connection.execute(_QUERIES["sizes"], {"schemas": schemas})
        return {row.name: row.bytes for row in found}
