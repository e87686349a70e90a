"""The asset `magnetis/quota`: the use of the key's calls, plotted by Dagster, with two checks.

The last load of each run observes it, and a sensor every quarter of an hour. A sensor and not a schedule, since a tick may report
observations and check results itself: a schedule would launch a run each time, 96 a day at 3 to 7 s of two cores each, among the
runs that people look for. The tick is shown as skipped (it requested no run), with the numbers as its reason. *Observe* on the
asset's page observes it immediately.

https://docs.dagster.io/guides/automate/sensors
"""

import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetObservation,
    AssetsDefinition,
    AssetSpec,
    BetaWarning,
    DagsterEventType,
    DagsterInstance,
    DefaultSensorStatus,
    MetadataValue,
    ObserveResult,
    OpExecutionContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    TimestampMetadataValue,
    multi_observable_source_asset,
    sensor,
)
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.defs.assets import OWNER, POOL
from magnetis_dagster.defs.checks import as_evaluation
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.defs.step_failures import failure
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.quota.report import FloorsKept, Today

KEY = AssetKey(["magnetis", "quota"])
PACE = "quota_pace"
FLOORS = "floors_kept"
INTERVAL_SECONDS = 900
WARN_SHARE = 0.8
WARN_BEFORE_HOUR = 18

SETTINGS = "settings"
JUDGED_SINCE = "judged since"
"""Metadata of an observation by which the next one knows since when these settings have been in force."""


def quota_asset() -> AssetsDefinition:
    """Return the asset; a run of it observes, it materializes nothing and sends no API request."""
    spec = AssetSpec(
        KEY,
        group_name="operations",
        description="The key's daily API calls: used and remaining, by lane and elsewhere. `magnetis quota` shows more.",
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
        metadata={"dagster/table_name": "magnetis_ops.quota_days"},
    )
    checks = [
        AssetCheckSpec(
            PACE,
            asset=KEY,
            description=f"Before {WARN_BEFORE_HOUR}:00, less than {WARN_SHARE:.0%} of the day's calls are used.",
        ),
        AssetCheckSpec(
            FLOORS,
            asset=KEY,
            description="Backfill used no call that was reserved for other lanes. The check replays its calls.",
        ),
    ]
    with warnings.catch_warnings():
        # the decorator is marked beta: a warning at each start of each process helps nobody
        warnings.simplefilter("ignore", BetaWarning)
        made: AssetsDefinition = multi_observable_source_asset(
            name="magnetis__quota", specs=[spec], check_specs=checks
        )(_observe)
    return made


def _observe(context: AssetExecutionContext) -> ObserveResult:
    try:
        seen = _Seen.now(context.instance)
    except MagnetisError as error:
        raise failure(error) from None
    return ObserveResult(asset_key=KEY, metadata=seen.metadata(), check_results=seen.checks())


def quota_sensor() -> SensorDefinition:
    """Return the sensor that observes the asset, on from the start."""

    @sensor(
        name="quota_sensor",
        asset_selection=[KEY],  # it requests no run: this names the sensor on the asset's page
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        description="Observes magnetis/quota every quarter of an hour, without a run and without an API call.",
    )
    def observe(context: SensorEvaluationContext) -> SensorResult:
        try:
            seen = _Seen.now(context.instance)
        except MagnetisError as error:
            return SensorResult(skip_reason=str(error))
        checks = seen.checks()
        # the same results within an hour are not logged again: 96 evaluations a day of each check took 130 MB a year
        results = f"{seen.hour} {[(result.check_name, result.passed) for result in checks]}"
        news = checks if results != context.cursor else []
        return SensorResult(
            cursor=results,
            skip_reason=f"Observed: {seen.sentence()}",
            asset_events=[seen.observation(), *map(as_evaluation, news)],
        )

    return observe


def log_quota(context: OpExecutionContext) -> None:
    """Observe the asset at the end of a run's last load, so that its figures are those after the run."""
    ends = {
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_SKIPPED,
    }
    ended = {
        event.step_key for event in context.instance.all_logs(context.run.run_id, of_type=ends)
    }
    planned = context.run.step_keys_to_execute or [node.name for node in context.job_def.nodes]
    loads = {
        name for name in planned if POOL in context.job_def.get_node_named(name).definition.pools
    }
    if loads - ended - {context.op_handle.name}:
        return
    try:
        seen = _Seen.now(context.instance)
    except MagnetisError as error:
        context.log.warning(
            f"Could not observe the quota; quota_sensor observes it within {INTERVAL_SECONDS} s. {error}"
        )
        return
    context.log_event(seen.observation())


class _Seen:
    """One observation of the quota."""

    def __init__(
        self, today: "Today", floors: "FloorsKept", settings: str, since: datetime
    ) -> None:
        self._today = today
        self._floors = floors
        self._settings = settings
        self._since = since

    @classmethod
    def now(cls, instance: DagsterInstance) -> "_Seen":
        """Observe the quota. Raises SettingsError, DatabaseUnavailable, DatabaseRefused."""
        from magnetis_dagster.quota.report import floors_kept, read_today
        from magnetis_dagster.wiring import open_engine

        settings = Settings.load()
        key, policy = settings.key_fingerprint, settings.quota_policy
        with open_engine(settings) as engine:
            today = read_today(engine, key_fingerprint=key, policy=policy)
            words = _words(key, policy)
            since = _in_force_since(instance, words) or today.at
            floors = floors_kept(
                engine, key_fingerprint=key, policy=policy, since=since, now=today.at
            )
        return cls(today, floors, words, since)

    @property
    def hour(self) -> str:
        """The hour of the observation, in the quota's zone."""
        return f"{self._today.at:%Y-%m-%dT%H%z}"

    def sentence(self) -> str:
        """Return the state in a few words."""
        today = self._today
        closed = (
            f", closed until {today.closed_until:%Y-%m-%d %H:%M %Z}" if today.closed_until else ""
        )
        return f"{today.used:,} of {today.limit:,} calls used, {today.remaining:,} left{closed}"

    def metadata(self) -> dict[str, RawMetadataValue]:
        """Return the numbers, which Dagster plots, and the settings that the next observation needs."""
        today = self._today
        return {
            "used": today.used,
            "remaining": today.remaining,
            **{f"used by {lane.lane}": lane.used for lane in today.lanes},
            "used elsewhere": today.used_elsewhere,
            **{f"{lane.lane} may use": lane.remaining for lane in today.lanes},
            "limit": today.limit,
            "quota day": str(today.day),
            SETTINGS: self._settings,
            JUDGED_SINCE: MetadataValue.timestamp(self._since.astimezone(UTC)),
        }

    def observation(self) -> AssetObservation:
        """Return the event that shows the numbers on the asset's page."""
        return AssetObservation(KEY, description=self.sentence(), metadata=self.metadata())

    def checks(self) -> list[AssetCheckResult]:
        """Return one result per check."""
        return [self._pace(), self._floors_kept()]

    def _pace(self) -> AssetCheckResult:
        today = self._today
        share = today.used / today.limit
        early = today.ends_at is None or today.at.hour < WARN_BEFORE_HOUR
        return AssetCheckResult(
            asset_key=KEY,
            check_name=PACE,
            passed=not (early and share >= WARN_SHARE),
            severity=AssetCheckSeverity.WARN,
            description=f"{self.sentence()} at {today.at:%H:%M %Z}. `magnetis quota` shows the runs that used them.",
            metadata={"used": today.used, "share": round(share, 4)},
        )

    def _floors_kept(self) -> AssetCheckResult:
        floors = self._floors
        if floors.first_broken is None:
            words = f"{floors.judged:,} calls of backfill checked."
        else:
            first = floors.first_broken.astimezone(self._today.at.tzinfo)
            words = (
                f"{floors.broken:,} of {floors.judged:,} calls of backfill were granted although only the floors of other lanes "
                f"remained, the first at {first:%H:%M:%S %Z}. Quota rules: {literal(self._settings)}. "
                "A process with other settings ignores these floors: give every process the same MAGNETIS_ variables, and "
                "restart runs that began with others."
            )
        return AssetCheckResult(
            asset_key=KEY,
            check_name=FLOORS,
            passed=not floors.broken,
            description=words,
            metadata={
                "judged calls": floors.judged,
                "broken": floors.broken,
                JUDGED_SINCE: MetadataValue.timestamp(self._since),
            },
        )


def _words(key: str, policy: QuotaPolicy) -> str:
    floors = (
        ", ".join(f"{lane} {share * 100:g} %" for lane, share in policy.floors.items()) or "none"
    )
    melting = (
        f" melting over {policy.release_hours:g} h" if policy.window is QuotaWindow.CALENDAR else ""
    )
    return f"key {key}, {policy.limit} calls, {policy.window} ({policy.zone}), floors: {floors}{melting}"


def _in_force_since(instance: DagsterInstance, settings: str) -> datetime | None:
    """Return since when these settings have been observed; None: the last observation saw others, or there is none.

    Earlier grants are not checked: their settings are unknown.
    """
    for record in instance.fetch_observations(KEY, limit=1).records:
        last = record.asset_observation
        if last and last.metadata.get(SETTINGS) == MetadataValue.text(settings):
            since = last.metadata.get(JUDGED_SINCE)
            if isinstance(since, TimestampMetadataValue):
                return datetime.fromtimestamp(since.value, UTC)
    return None
