"""The asset `magnetis/quota`: the use of the key's API calls, plotted by Dagster, with two checks.

The last load of each run observes it. So does a sensor every 15 minutes, without a run: 96 runs a
day would each take 3 to 7 s. Dagster shows these ticks as skipped; the skip reason contains the
numbers. *Observe* on the asset's page observes it immediately.

https://docs.dagster.io/guides/automate/sensors
"""

import warnings

import dagster as dg

from magnetis_dagster.dagster_support.run_identity import CONNECTION_TAG
from magnetis_dagster.defs.assets import POOL
from magnetis_dagster.defs.checks import as_evaluation
from magnetis_dagster.defs.connection_assets import OWNER, ConnectionAssets
from magnetis_dagster.defs.quota_observation import QUOTA, QuotaObservation, check_specs
from magnetis_dagster.defs.step_failures import failure, steps_of_run
from magnetis_dagster.errors import MagnetisError

INTERVAL_SECONDS = 900


def quota_asset(assets: ConnectionAssets) -> dg.AssetsDefinition:
    """Return the asset. A run of it observes; it materializes nothing and sends no API request."""
    key, connection = assets.operation(QUOTA), assets.connection
    spec = dg.AssetSpec(
        key,
        group_name="operations",
        description="The key's daily API calls: used and remaining, by lane and by other programs. "
        "`magnetis quota` shows details.",
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
        tags={CONNECTION_TAG: connection.name},
        metadata={"dagster/table_name": "magnetis_ops.quota_days"},
    )

    def observe(context: dg.AssetExecutionContext) -> dg.ObserveResult:
        try:
            observation = QuotaObservation.now(context.instance, connection)
        except MagnetisError as error:
            raise failure(error) from None
        return dg.ObserveResult(
            asset_key=key, metadata=observation.metadata(), check_results=observation.checks()
        )

    with warnings.catch_warnings():
        # the decorator is marked beta: each process would print a warning at its start
        warnings.simplefilter("ignore", dg.BetaWarning)
        definition: dg.AssetsDefinition = dg.multi_observable_source_asset(
            name=key.to_python_identifier(), specs=[spec], check_specs=check_specs(key, connection)
        )(observe)
    return definition


def quota_sensor(assets: ConnectionAssets) -> dg.SensorDefinition:
    """Return the sensor that observes the asset, on by default."""
    key, connection = assets.operation(QUOTA), assets.connection

    @dg.sensor(
        name=connection.scoped("quota_sensor"),
        asset_selection=[key],  # shows the sensor on the asset's page; it requests no run
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Observes {key.to_user_string()} every 15 minutes. No run and no API call.",
    )
    def observe(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            observation = QuotaObservation.now(context.instance, connection)
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


def log_quota(context: dg.OpExecutionContext, assets: ConnectionAssets) -> None:
    """Observe the asset after the connection's last load of a run, to include that run."""
    planned, ended = steps_of_run(context)
    pool = assets.connection.scoped(POOL)
    loads = {
        name for name in planned if pool in context.job_def.get_node_named(name).definition.pools
    }
    if loads - ended.keys() - {context.op_handle.name}:
        return
    try:
        observation = QuotaObservation.now(context.instance, assets.connection)
    except MagnetisError as error:
        context.log.warning(
            f"The quota was not observed; its sensor observes it within {INTERVAL_SECONDS} s. "
            f"{error}"
        )
        return
    context.log_event(observation.event())
