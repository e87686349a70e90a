"""The asset `magnetis/quota`: the use of the key's API calls, plotted by Dagster, with two checks.

The last load of each run observes it. So does a sensor every 15 minutes, without a run: 96 runs a
day would each take 3 to 7 s. Dagster shows these ticks as skipped; the skip reason contains the
numbers. *Observe* on the asset's page observes it immediately.

https://docs.dagster.io/guides/automate/sensors
"""

import warnings

import dagster as dg

from magnetis_dagster.defs.assets import OWNER, POOL
from magnetis_dagster.defs.checks import as_evaluation
from magnetis_dagster.defs.quota_observation import KEY, QuotaObservation, check_specs
from magnetis_dagster.defs.step_failures import failure, steps_of_run
from magnetis_dagster.errors import MagnetisError

INTERVAL_SECONDS = 900


def quota_asset() -> dg.AssetsDefinition:
    """Return the asset. A run of it observes; it materializes nothing and sends no API request."""
    spec = dg.AssetSpec(
        KEY,
        group_name="operations",
        description="The key's daily API calls: used and remaining, by lane and by other programs. "
        "`magnetis quota` shows details.",
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
        metadata={"dagster/table_name": "magnetis_ops.quota_days"},
    )
    with warnings.catch_warnings():
        # the decorator is marked beta: each process would print a warning at its start
        warnings.simplefilter("ignore", dg.BetaWarning)
        definition: dg.AssetsDefinition = dg.multi_observable_source_asset(
            name="magnetis__quota", specs=[spec], check_specs=check_specs()
        )(_observe)
    return definition


def _observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
    try:
        observation = QuotaObservation.now(context.instance)
    except MagnetisError as error:
        raise failure(error) from None
    return dg.ObserveResult(
        asset_key=KEY, metadata=observation.metadata(), check_results=observation.checks()
    )


def quota_sensor() -> dg.SensorDefinition:
    """Return the sensor that observes the asset, on by default."""

    @dg.sensor(
        name="quota_sensor",
        asset_selection=[KEY],  # shows the sensor on the asset's page; it requests no run
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Observes magnetis/quota every 15 minutes. No run and no API call.",
    )
    def observe(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            observation = QuotaObservation.now(context.instance)
        except MagnetisError as error:
            return dg.SensorResult(skip_reason=str(error))
        checks = observation.checks()
        # Unchanged results are logged once per hour: 96 evaluations a day of each check took 130 MB
        # a year.
        results = f"{observation.hour} {[(result.check_name, result.passed) for result in checks]}"
        new_checks = checks if results != context.cursor else []
        return dg.SensorResult(
            cursor=results,
            skip_reason=f"Observed: {observation.summary()}",
            asset_events=[observation.event(), *map(as_evaluation, new_checks)],
        )

    return observe


def log_quota(context: dg.OpExecutionContext) -> None:
    """Observe the asset after the last load of a run, so that its numbers include the run."""
    planned, ended = steps_of_run(context)
    loads = {
        name for name in planned if POOL in context.job_def.get_node_named(name).definition.pools
    }
    if loads - ended.keys() - {context.op_handle.name}:
        return
    try:
        observation = QuotaObservation.now(context.instance)
    except MagnetisError as error:
        context.log.warning(
            f"The quota was not observed; quota_sensor observes it within {INTERVAL_SECONDS} s. "
            f"{error}"
        )
        return
    context.log_event(observation.event())
