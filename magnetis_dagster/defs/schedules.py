"""Schedules, on from the start. https://docs.dagster.io/guides/automate/schedules

At 01:30 yesterday has ended, and no clock change of Europe/Paris (02:00 to 03:00) skips or repeats the moment.
"""

from datetime import timedelta

from dagster import DefaultScheduleStatus, RunRequest, ScheduleDefinition, ScheduleEvaluationContext
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from magnetis_dagster.catalog import Kind
from magnetis_dagster.defs.jobs import JOB_NAMES
from magnetis_dagster.settings import Settings

CRON = {Kind.EVENTS: "30 1 * * *", Kind.SNAPSHOT: "30 0 * * *"}


def daily_schedule(job: UnresolvedAssetJobDefinition, kind: Kind, settings: Settings) -> ScheduleDefinition:
    """Return the schedule of the job: yesterday for events, today for snapshots, in MAGNETIS_TIMEZONE."""
    age = timedelta(days=1 if kind is Kind.EVENTS else 0)

    def request(context: ScheduleEvaluationContext) -> RunRequest:
        day = (context.scheduled_execution_time.astimezone(settings.timezone).date() - age).isoformat()
        return RunRequest(run_key=day, partition_key=day)

    return ScheduleDefinition(
        name=JOB_NAMES[kind],
        job=job,
        cron_schedule=CRON[kind],
        execution_timezone=settings.timezone.key,
        default_status=DefaultScheduleStatus.RUNNING,
        execution_fn=request,
        description=job.description,
    )
