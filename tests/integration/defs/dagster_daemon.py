"""Dagster's daemon in this process, with the real storage: ticks that launch real runs.

The tick that launches a run executes it. The clock of the ticks stands still between two ticks.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorTick, SensorInstigatorData
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._scheduler.scheduler import launch_scheduled_runs

INSTANCE = """
storage:
  custom:
    module: magnetis_dagster.dagster_support.instance_storage
    class: MagnetisInstanceStorage
    config: {}
run_launcher:
  module: dagster._core.launcher.sync_in_memory_run_launcher
  class: SyncInMemoryRunLauncher
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
"""
LOCATION = """
import dagster as dg
from magnetis_dagster.definitions import build_defs
# the executor of our own code location
defs = dg.Definitions.merge(build_defs(), dg.Definitions(executor=dg.in_process_executor))
"""
LOGGER = logging.getLogger("daemon")


class Daemon:
    def __init__(self, instance: dg.DagsterInstance, workspace: WorkspaceProcessContext) -> None:
        self.instance = instance
        self.workspace = workspace
        [entry] = workspace.create_request_context().get_code_location_entries().values()
        assert entry.code_location, entry.load_error
        [self.repository] = entry.code_location.get_repositories().values()
        self._now = datetime.now(UTC)
        self._alone = ""

    def sensor_tick(self, name: str, after: timedelta = timedelta(hours=1)) -> InstigatorTick:
        """Run a tick `after` the previous one."""
        if self._alone != name:
            for other in self.repository.get_sensors():
                if other.name != name:
                    self.instance.stop_sensor(
                        other.get_remote_origin_id(), other.selector_id, other
                    )
            self._alone = name
        sensor = self.repository.get_sensor(name)
        if (
            self.instance.get_instigator_state(sensor.get_remote_origin_id(), sensor.selector_id)
            is None
        ):
            self.instance.start_sensor(sensor)
        self._now += after
        with freeze_time(self._now):
            errors = list(execute_sensor_iteration(self.workspace, LOGGER, None, None))
        assert not any(errors), errors
        return self.instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id, limit=1)[
            0
        ]

    def cursor(self, name: str) -> str | None:
        sensor = self.repository.get_sensor(name)
        state = self.instance.get_instigator_state(
            sensor.get_remote_origin_id(), sensor.selector_id
        )
        return (
            state.instigator_data.cursor
            if state and isinstance(state.instigator_data, SensorInstigatorData)
            else None
        )

    def set_cursor(self, name: str, cursor: str) -> None:
        """Set the cursor as on the sensor's page."""
        sensor = self.repository.get_sensor(name)
        state = self.instance.get_instigator_state(
            sensor.get_remote_origin_id(), sensor.selector_id
        )
        assert state
        assert isinstance(state.instigator_data, SensorInstigatorData)
        self.instance.update_instigator_state(
            state.with_data(state.instigator_data._replace(cursor=cursor))
        )

    def schedule_tick(self, name: str, moment: datetime) -> InstigatorTick:
        for other in self.repository.get_schedules():
            if other.name != name:
                self.instance.stop_schedule(other.get_remote_origin_id(), other.selector_id, other)
        for now in (
            moment - timedelta(minutes=1),
            moment + timedelta(minutes=1),
        ):  # the first evaluation records since when the schedule is on
            with freeze_time(now):
                errors = list(launch_scheduled_runs(self.workspace, LOGGER, now, {}))
            assert not any(errors), errors
        schedule = self.repository.get_schedule(name)
        return self.instance.get_ticks(
            schedule.get_remote_origin_id(), schedule.selector_id, limit=1
        )[0]

    def run_of(self, tick: InstigatorTick) -> dg.DagsterRun:
        [run_id] = tick.run_ids
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run

    def check(self, name: str, collection: str) -> dg.AssetCheckEvaluation | Any:
        """Return the newest evaluation."""
        key = dg.AssetCheckKey(dg.AssetKey(["magnetis", collection]), name)
        record = self.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
        assert record.event
        return record.event.asset_check_evaluation


@contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """Return a daemon over the code location, with settings from the environment."""
    (folder / "dagster.yaml").write_text(INSTANCE)
    (folder / "location.py").write_text(LOCATION)
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(folder / "location.py")), location_name="location"
    )
    with (
        # Dagster's own code uses its deprecated parts
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),
        dg.DagsterInstance.from_config(str(folder)) as instance,
        # opening the instance takes half the time of a tick; tests/end_to_end use a code server
        patch.object(dg.DagsterInstance, "from_ref", lambda _ref: nullcontext(instance)),
        WorkspaceProcessContext(instance, InProcessWorkspaceLoadTarget(origin)) as workspace,
    ):
        yield Daemon(instance, workspace)
