"""Measure how a key's calls were used recently, for the forecast."""

from datetime import timedelta

from sqlalchemy import Engine, text

from magnetis_dagster.database import guarded
from magnetis_dagster.quota.forecast import Pace, mean_a_day
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.quota.rules import LANES, Usage

DAYS = 7
"""A week includes a weekend."""
SECONDS_PER_CALL = 0.1
"""Default without data: pages of 0.8 s, eight in flight."""
LEAST_CALLS = 20
"""Windows of fewer calls measure connecting and merging rather than pages."""

_DAYS = text("""
    SELECT day, schedule, settings, manual, backfill FROM magnetis_ops.quota_days
    WHERE key_fingerprint = :key AND day >= :first AND day < :today
""")
_SECONDS = text("""
    SELECT sum(milliseconds) / 1000.0 / sum(api_calls) FROM magnetis_ops.windows
    WHERE api_calls >= :least AND committed_at > magnetis_ops.now() - interval '30 days'
    GROUP BY connection = :connection
    ORDER BY connection = :connection DESC
    LIMIT 1
""")
"""Of the connection, which may have another API and concurrency; of all others without its own."""


def read_pace(engine: Engine, ledger: Ledger, *, usage: Usage) -> Pace:
    """Return each lane's calls on a mean day, and the seconds per call.

    Measured over the last week without today, or since a younger key's first day.
    """
    today = ledger.policy.day_of(usage.at)
    parameters = {
        "key": ledger.key_fingerprint,
        "first": today - timedelta(days=DAYS),
        "today": today,
    }
    with guarded(engine, "read past API calls"), engine.connect() as connection:
        rows = connection.execute(_DAYS, parameters).all()
        measured = {"least": LEAST_CALLS, "connection": ledger.connection_name}
        seconds = connection.execute(_SECONDS, measured).scalar()
    number = (today - min(row.day for row in rows)).days if rows else 0
    return Pace(
        mean_a_day=mean_a_day(
            ({lane: getattr(row, lane) for lane in LANES} for row in rows), number
        ),
        seconds_per_call=float(seconds) if seconds is not None else SECONDS_PER_CALL,
        expiries=tuple(ledger.expiries(usage.at)),
    )
