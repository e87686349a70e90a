"""Deletes old bookkeeping: requests, reads, windows, cached pages, and Dagster's events.

It keeps everything in use: rows, history, completion records, runs, the newest event of each
partition. Every batch is a short transaction, so an interrupted or repeated prune is harmless.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Engine, TextClause, text

from magnetis_dagster.database import fetch, guarded
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
    run: str = "NULL::text"
    least_days: int = 0
    """Shortest retention period, whatever the setting."""


_OWN_RULES = (
    _Rule("magnetis_ops.api_calls", "charged_at", "unused_api_calls"),
    _Rule(
        "magnetis_ops.day_reads",
        "committed_at",
        "unused_day_reads",
        source="magnetis_ops.windows",
        key="window_id",
        least_days=LATE_CHANGES_DAYS,
    ),
    _Rule("magnetis_ops.windows", "committed_at", "unused_windows", least_days=LATE_CHANGES_DAYS),
)
_DAGSTER_RULES = (
    _Rule("event_logs", "timestamp AT TIME ZONE 'UTC'", "unused_events", run="t.run_id"),
    _Rule("asset_event_tags", "event_timestamp AT TIME ZONE 'UTC'", "unused_event_tags"),
    _Rule(
        "asset_check_executions",
        "evaluation_event_timestamp AT TIME ZONE 'UTC'",
        "unused_check_executions",
    ),
)


def prune(
    engine: Engine, days: int, dagster_schema: str | None, forget_run: Callable[[str], None]
) -> dict[str, int]:
    """Delete bookkeeping older than `days` (24 hours each, by the database's clock).

    `dagster_schema`: schema of Dagster's tables; they are skipped if it is None or contains none.
    `forget_run`: deletes the log files of a run; may be called more than once for a run.

    Returns: deleted rows by qualified table name. A prune stops if another one is running.
    """
    moment = text(
        "SELECT magnetis_ops.now() AS now, to_regclass(:table) IS NOT NULL AS has_dagster_tables"
    )
    with guarded(engine, "prune"):
        [found] = fetch(engine, "prune", moment, {"table": f"{dagster_schema}.event_logs"})
        rules = list(_OWN_RULES)
        if dagster_schema and found.has_dagster_tables:
            rules += [
                replace(each, table=f"{dagster_schema}.{each.table}") for each in _DAGSTER_RULES
            ]
        deleted = {}
        for rule in rules:
            unused = _QUERIES.fill(dagster=dagster_schema or "").sql(rule.unused)
            source = rule.source or rule.table
            placeholders = asdict(rule) | {"source": source, "unused": unused}
            statement = _QUERIES.fill(**placeholders)["delete_batch"]
            before = found.now - timedelta(days=max(days, rule.least_days))
            deleted[rule.table] = _prune(engine, statement, before, forget_run)
        with engine.begin() as connection:
            old = text("DELETE FROM magnetis_ops.pages WHERE fetched_at < :before")
            before = found.now - timedelta(days=RETENTION_DAYS)
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
    """Return the bytes of each schema: tables, indexes and TOAST."""
    found = fetch(engine, "measure the tables", _QUERIES["sizes"], {"schemas": schemas})
    return {row.name: row.bytes for row in found}
