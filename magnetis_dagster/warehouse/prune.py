"""Deletes old bookkeeping: requests, reads, windows, kept pages, and Dagster's events.

What a person or a program still uses stays, however old: rows, history, completion records, the
newest event of each partition, runs. Every batch is a short transaction. So a prune that is
interrupted or runs twice is harmless, and no load waits for it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, TextClause, text

from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.page_cache import LONGEST_KEPT_DAYS

LATE_CHANGES_DAYS = 91
"""The view late_changes covers 90 days of reads."""
BATCH = 5_000
"""Rows that one transaction looks at."""
LOCK_TIMEOUT = "5s"
"""A batch that cannot lock its rows fails, and the next prune repeats it."""
_LOCK = 0x6D61676E_7072756E
"""Advisory lock of a batch: only one prune deletes at a time."""
_BATCH = """
    WITH scanned AS MATERIALIZED (
        SELECT id, coalesce({age} < :before, false) AS old FROM {source}
        WHERE id > :after ORDER BY id LIMIT :batch
    ), deleted AS (
        DELETE FROM {table} AS t USING scanned AS s
        WHERE s.old AND t.{key} = s.id AND {unused} RETURNING {run} AS run_id
    )
    SELECT (SELECT max(id) FROM scanned) AS last,
           (SELECT coalesce(bool_or(old), false) FROM scanned) AS more,
           (SELECT count(*) FROM deleted) AS number,
           (SELECT array_agg(DISTINCT run_id) FROM deleted WHERE run_id <> '') AS runs
"""
"""Ids ascend with time, so the scan ends at the first batch without an old row."""
_BROUGHT_ROWS = """coalesce(
    {call}.status = 200 AND {call}.rows > 0
    AND coalesce({call}.run_id, '') NOT IN ('magnetis probe', 'magnetis plan'), false)"""
"""The condition of `keys_used`."""
_FINISHED = """NOT EXISTS (
    SELECT FROM {dagster}.runs AS r WHERE r.run_id = t.run_id
    AND (r.status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')
         OR to_timestamp(coalesce(r.end_time, 0)) >= :before))"""
"""The row's run ended before the retention period, or does not exist."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which rows of a table are deleted."""

    table: str
    source: str
    """Table whose ids, ascending with time, are scanned."""
    age: str
    """Moment of the row of `source`, timestamptz."""
    unused: str
    """Condition on the row `t` of `table`: nothing uses it."""
    key: str = "id"
    """Column of `table` that refers to the id."""
    run: str = "NULL::text"
    """Run whose log files are deleted with the row."""
    least_days: int = 0
    """The retention period if the setting is shorter."""


_OURS = (
    _Rule(
        "magnetis_ops.api_calls",
        source="magnetis_ops.api_calls",
        age="charged_at",
        # a forecast is compared with its requests; the newest rows of a key prove that it filled tables
        unused=f"""NOT EXISTS (SELECT FROM magnetis_ops.forecasts AS f
                WHERE f.work = coalesce(t.backfill_id, t.run_id))
            AND (NOT {_BROUGHT_ROWS.format(call="t")} OR t.id <> (SELECT n.id FROM magnetis_ops.api_calls AS n
                WHERE n.key_fingerprint = t.key_fingerprint AND {_BROUGHT_ROWS.format(call="n")}
                ORDER BY n.charged_at DESC LIMIT 1))""",
    ),
    _Rule(
        "magnetis_ops.day_reads",
        source="magnetis_ops.windows",
        age="committed_at",
        unused="""NOT EXISTS (SELECT FROM magnetis_ops.days AS d
            WHERE d.window_id = t.window_id AND d.day = t.day)""",
        key="window_id",
        least_days=LATE_CHANGES_DAYS,
    ),
    _Rule(
        "magnetis_ops.windows",
        source="magnetis_ops.windows",
        age="committed_at",
        # the first window of a collection shows which settings existed from the start
        unused="""NOT EXISTS (SELECT FROM magnetis_ops.days AS d WHERE d.window_id = t.id)
            AND NOT EXISTS (SELECT FROM magnetis_ops.day_reads AS d WHERE d.window_id = t.id)
            AND NOT EXISTS (SELECT FROM magnetis_ops.quarantine AS q WHERE q.window_id = t.id)
            AND EXISTS (SELECT FROM magnetis_ops.windows AS w
                WHERE w.collection = t.collection AND w.read_at < t.read_at)""",
        least_days=LATE_CHANGES_DAYS,
    ),
)
_DAGSTERS = (
    _Rule(
        "{dagster}.event_logs",
        source="{dagster}.event_logs",
        age="timestamp AT TIME ZONE 'UTC'",
        # the newest event of each kind is the status of its partition
        unused=f"""{_FINISHED} AND (t.asset_key IS NULL OR t.dagster_event_type IS NULL
            OR t.partition IS NOT NULL AND EXISTS (SELECT FROM {{dagster}}.event_logs AS n
                WHERE n.asset_key = t.asset_key AND n.dagster_event_type = t.dagster_event_type
                AND n.partition = t.partition AND n.id > t.id)
            OR t.partition IS NULL AND EXISTS (SELECT FROM {{dagster}}.event_logs AS n
                WHERE n.asset_key = t.asset_key AND n.dagster_event_type = t.dagster_event_type
                AND n.partition IS NULL AND n.id > t.id))""",
        run="t.run_id",
    ),
    _Rule(
        "{dagster}.asset_event_tags",
        source="{dagster}.asset_event_tags",
        age="event_timestamp AT TIME ZONE 'UTC'",
        unused="NOT EXISTS (SELECT FROM {dagster}.event_logs AS e WHERE e.id = t.event_id)",
    ),
    _Rule(
        "{dagster}.asset_check_executions",
        source="{dagster}.asset_check_executions",
        age="evaluation_event_timestamp AT TIME ZONE 'UTC'",
        # the newest of each check is its status; earlier versions planned one for each partition
        unused=f"""{_FINISHED} AND EXISTS (SELECT FROM {{dagster}}.asset_check_executions AS n
            WHERE n.asset_key = t.asset_key AND n.check_name = t.check_name AND n.id > t.id
            AND (n.partition IS NOT DISTINCT FROM t.partition OR t.execution_status = 'PLANNED'))""",
    ),
)


def prune(
    engine: Engine, days: int, dagster_schema: str, forget_run: Callable[[str], None]
) -> dict[str, int]:
    """Delete bookkeeping older than `days` (24 hours each, by the database's clock).

    `dagster_schema`: schema of Dagster's tables; they are skipped if it contains none.
    `forget_run`: deletes the log files of a run; may be called more than once for a run.

    Returns: deleted rows by qualified table name. A prune that meets another one stops.
    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "prune"):
        with engine.connect() as connection:
            now: datetime = connection.execute(text("SELECT magnetis_ops.now()")).scalar_one()
            there = text("SELECT to_regclass(:table) IS NOT NULL")
            dagsters = connection.execute(
                there, {"table": f"{dagster_schema}.event_logs"}
            ).scalar_one()
        deleted = {}
        for rule in (*_OURS, *(_DAGSTERS if dagsters else ())):
            before = now - timedelta(days=max(days, rule.least_days))
            statement = text(_BATCH.format(**asdict(rule)).format(dagster=dagster_schema))
            deleted[rule.table.format(dagster=dagster_schema)] = _prune(
                engine, statement, before, forget_run
            )
        with engine.begin() as connection:
            old = text("DELETE FROM magnetis_ops.pages WHERE fetched_at < :before")
            before = now - timedelta(days=LONGEST_KEPT_DAYS)
            deleted["magnetis_ops.pages"] = connection.execute(old, {"before": before}).rowcount
    return deleted


def _prune(
    engine: Engine, statement: TextClause, before: datetime, forget_run: Callable[[str], None]
) -> int:
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
            # before the commit: what fails here is repeated by the next prune
            for run in found.runs or ():
                forget_run(run)
        total, after, more = total + found.number, found.last, found.more
    return total


def sizes(engine: Engine, schemas: list[str]) -> dict[str, int]:
    """Return the bytes of each schema: tables, indexes and TOAST.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    statement = text(
        "SELECT n.nspname AS name, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes FROM pg_namespace AS n "
        "LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'm') "
        "WHERE n.nspname = ANY(:schemas) GROUP BY 1 ORDER BY 1"
    )
    with guarded(engine, "measure the tables"), engine.connect() as connection:
        return {row.name: row.bytes for row in connection.execute(statement, {"schemas": schemas})}
