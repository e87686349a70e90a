"""The daily schedules, on by default. https://docs.dagster.io/guides/automate/schedules

Clock changes in Europe/Paris affect 02:00 to 03:00 only, so they neither skip nor repeat a tick.
"""

from datetime import date, datetime, timedelta
from zlib import crc32

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from magnetis_dagster.catalog import Kind
from magnetis_dagster.connections import Connection
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.settings import Settings

HOURS = {Kind.EVENTS: 1, Kind.SNAPSHOT: 0}
MINUTE, MINUTES = 30, 30
"""First minute of the schedules, and the minutes over which connections are spread. Each run starts
a process, and 20 simultaneous ones would slow each other down."""
MONDAY = 0


def daily_schedule(
    job: UnresolvedAssetJobDefinition, kind: Kind, connection: Connection
) -> dg.ScheduleDefinition:
    """Return the schedule of the job.

    Events: yesterday and the look-back days. Snapshots: today. Days are in MAGNETIS_TIMEZONE.
    """
    settings = connection.settings

    def request(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # the day of the tick, so that a past tick that is run again requests the same days
        today = context.scheduled_execution_time.astimezone(settings.timezone).date()
        yesterday = datetime.now(settings.timezone).date() - timedelta(days=1)
        if kind is Kind.SNAPSHOT and today == yesterday:
            # the daemon runs the last missed tick later (`scheduler` in dagster.yaml), and midnight
            # has passed in the meantime
            return dg.SkipReason(
                f"The snapshot of {today} was missed: that day has ended, and the API returns only "
                "the current state."
            )
        first, last = (today, today) if kind is Kind.SNAPSHOT else _closed_days(today, settings)
        if last < settings.start_date:
            return dg.SkipReason(
                f"No day since MAGNETIS_START_DATE ({settings.start_date}) has ended yet."
            )
        key = last.isoformat()
        if first == last:
            return dg.RunRequest(run_key=key, partition_key=key)
        return dg.RunRequest(run_key=key, tags=days_tags(first, last))

    return dg.ScheduleDefinition(
        name=connection.scoped(JOB_NAMES[kind]),
        job=job,
        cron_schedule=cron(connection, kind),
        execution_timezone=settings.timezone.key,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        execution_fn=request,
        description=job.description if kind is Kind.SNAPSHOT else _events_description(settings),
    )


def cron(connection: Connection, kind: Kind) -> str:
    """Return the cron expression: the unnamed connection first, others at a minute of their own.

    The minute depends on the name only, so that it stays when connections are added.
    """
    own = 0 if connection.is_unnamed else crc32(connection.name.encode()) % MINUTES
    return f"{MINUTE + own} {HOURS[kind]} * * *"


def _closed_days(today: date, settings: Settings) -> tuple[date, date]:
    back = settings.lookback_days
    if today.weekday() == MONDAY:
        back = max(back, settings.weekly_lookback_days)
    yesterday = today - timedelta(days=1)
    return max(settings.start_date, yesterday - timedelta(days=back)), yesterday


def _events_description(settings: Settings) -> str:
    nightly, weekly = settings.lookback_days, settings.weekly_lookback_days
    words = "Loads yesterday of every events collection"
    if nightly:
        words += f" and re-reads the {nightly} days before it (MAGNETIS_LOOKBACK_DAYS)"
    if weekly > nightly:
        words += (
            f"; on Mondays, re-reads the {weekly} days before it (MAGNETIS_WEEKLY_LOOKBACK_DAYS)"
        )
    return f"{words}. One run loads all days. Late changes are received only by re-reading a day."
