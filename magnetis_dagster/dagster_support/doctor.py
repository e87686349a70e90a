"""Checks of Dagster's instance, for `magnetis doctor`. Reads dagster.yaml and opens no storage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from magnetis_dagster.doctor.findings import Finding, error, ok, warning

RETRIES = 2
"""`max_retries` that `run_retries.py` expects."""
_OURS = "magnetis/backfill"
"""Tag that `MagnetisRunCoordinator` adds to each backfill run."""
_PER_VALUE = {"applyLimitPerUniqueValue": True}
_TAGGING = "MagnetisRunCoordinator"
_QUEUES = {"QueuedRunCoordinator", _TAGGING}
RESERVE = 10
"""Concurrent runs, in addition to one waiting backfill run for each connection."""
_WATCHED = {
    "CeleryK8sRunLauncher",
    "DockerRunLauncher",
    "EcsRunLauncher",
    "K8sRunLauncher",
    "MagnetisCeleryRunLauncher",
    "MagnetisRunLauncher",
}
"""Run launchers that detect a worker that died."""


def check_instance(
    environment: Mapping[str, str | None], dev_home: Path, connections: int
) -> list[Finding]:
    """Check the instance that DAGSTER_HOME names, or else the one of `magnetis dev`.

    `dev_home`: DAGSTER_HOME of `magnetis dev`. `connections`: number of connections.
    """
    home, findings = _find_home(environment.get("DAGSTER_HOME") or "", dev_home)
    if home is None:
        return findings
    from dagster import DagsterError
    from dagster._core.instance.ref import InstanceRef

    try:
        reference = InstanceRef.from_dir(str(home))
    except (DagsterError, OSError, yaml.YAMLError) as problem:
        # Dagster's text may contain values of the file
        broken = error(
            "dagster.yaml",
            f"{home / 'dagster.yaml'} cannot be used ({type(problem).__name__}).",
            "No Dagster command starts.",
            "Compare it with the dagster.yaml of this project; `dagster instance info` shows the "
            "reason.",
        )
        return [*findings, broken]
    return [*findings, *judge(describe(reference), connections)]


def _find_home(given: str, dev_home: Path) -> tuple[Path | None, list[Finding]]:
    name = "Dagster's home"
    cost = (
        "Commands such as `dg launch` use a temporary instance: their runs and materializations "
        "are lost."
    )
    remedy = f"export DAGSTER_HOME={dev_home.resolve()}, or another folder with a dagster.yaml."
    if not given:
        if (dev_home / "dagster.yaml").is_file():
            text = f"DAGSTER_HOME is not set; `magnetis dev` uses {dev_home.resolve()}."
            return dev_home, [warning(name, text, cost, remedy)]
        return None, [
            warning(
                name,
                "DAGSTER_HOME is not set, and `magnetis dev` has not run in this folder.",
                f"{cost} The settings of dagster.yaml are not checked.",
                "Start `magnetis dev`, or set DAGSTER_HOME to a folder with a dagster.yaml.",
            )
        ]
    home, reason = Path(given).expanduser(), None
    try:
        if not home.is_absolute():
            reason = "is not an absolute path"
        elif not home.is_dir():
            reason = "is not a folder"
        elif not (home / "dagster.yaml").is_file():
            reason = "contains no dagster.yaml"
        else:
            (home / "dagster.yaml").read_bytes()
    except OSError as problem:
        reason = f"cannot be read ({problem.strerror})"
    if reason:
        text = f"DAGSTER_HOME {reason}: {given}"
        return None, [
            error(name, text, "Dagster does not use this project's dagster.yaml.", remedy)
        ]
    return home, [ok(name, str(home))]


def describe(reference: Any) -> dict[str, Any]:
    """Return the settings of a Dagster InstanceRef, and the classes and configuration it names."""
    queue = yaml.safe_load(reference.run_coordinator_data.config_yaml) or {}
    storage = reference.storage_data.class_name
    if storage == "CompositeStorage":
        storage = reference.run_storage_data.class_name
    concurrency = dict(reference.settings.get("concurrency") or {})
    concurrency["runs"] = queue | (concurrency.get("runs") or {})
    return {
        **reference.settings,
        "concurrency": concurrency,
        "storage": storage,
        "run_coordinator": reference.run_coordinator_data.class_name,
        "run_launcher": reference.run_launcher_data.class_name,
        "scheduler": yaml.safe_load(reference.scheduler_data.config_yaml) or {},
    }


def judge(instance: Mapping[str, Any], connections: int) -> list[Finding]:
    """Check the settings of an instance, as `describe` returns them."""
    checks: Sequence[Callable[[Mapping[str, Any]], Iterator[Finding]]] = (
        _storage,
        lambda each: _queue(each, connections),
        _retries,
        _monitoring,
        _pools,
        _launcher,
        _scheduler,
    )
    return [finding for check in checks for finding in check(instance)]


def _storage(instance: Mapping[str, Any]) -> Iterator[Finding]:
    if "Sqlite" not in instance["storage"]:
        yield ok("Dagster's storage", instance["storage"])
        return
    yield warning(
        "Dagster's storage",
        "Dagster stores runs and events in SQLite.",
        'Concurrent runs lock the event log: steps fail with "database is locked".',
        "Store them in PostgreSQL: `storage` in dagster.yaml with magnetis_dagster.dagster_support"
        ".instance_storage.MagnetisInstanceStorage, or with Dagster's own `postgres`.",
    )


def _queue(instance: Mapping[str, Any], connections: int) -> Iterator[Finding]:
    name, coordinator = "run queue", instance["run_coordinator"]
    if coordinator not in _QUEUES:
        yield warning(
            name,
            f"{coordinator} launches every run immediately.",
            "All runs of a backfill start together; each takes about 300 MB of memory.",
            "Set run_coordinator to magnetis_dagster.dagster_support.run_coordinator"
            f".{_TAGGING} in dagster.yaml.",
        )
        return
    runs = instance["concurrency"]["runs"]
    yield _concurrent_runs(name, runs.get("max_concurrent_runs", 10), connections)
    limits = runs.get("tag_concurrency_limits") or []
    yield _backfill_limit(limits, connections, tagged=coordinator == _TAGGING)


def _concurrent_runs(name: str, most: Any, connections: int) -> Finding:
    field = "concurrency.runs.max_concurrent_runs"
    if most == 0:
        return error(
            name, "max_concurrent_runs is 0.", "No run starts.", f"Set {field} to {RESERVE}."
        )
    if isinstance(most, int) and most < 0:
        return warning(
            name,
            "The number of concurrent runs has no limit.",
            "Each run takes about 300 MB of memory; without memory, the system kills workers.",
            f"Set {field} to {RESERVE} in dagster.yaml.",
        )
    if connections > 1 and isinstance(most, int) and most < connections + RESERVE:
        return warning(
            name,
            f"At most {most} concurrent runs for {connections} connections.",
            "A backfill run that waits for its quota keeps its place: runs of other connections "
            "wait in the queue.",
            f"Set {field} to {connections + RESERVE} in dagster.yaml.",
        )
    return ok(name, f"at most {most} concurrent runs")


def _backfill_limit(
    limits: Sequence[Mapping[str, Any]], connections: int, *, tagged: bool
) -> Finding:
    """Check that a limit applies to the runs of backfills; `tagged`: whether they have our tag."""
    name = "backfill limit"
    limit = (
        f"{{key: {_OURS}, value: {{applyLimitPerUniqueValue: true}}, limit: 1}} in "
        "concurrency.runs.tag_concurrency_limits"
    )
    coordinator = (
        ""
        if tagged
        else f" and run_coordinator: magnetis_dagster.dagster_support.run_coordinator.{_TAGGING}"
    )
    remedy = f"Set {limit}{coordinator} in dagster.yaml."
    effective = [
        each
        for each in limits
        if each.get("key") == "dagster/backfill" or (tagged and each.get("key") == _OURS)
    ]
    if not effective:
        unused = any(each.get("key") == _OURS for each in limits)
        return warning(
            name,
            f"The limit of {_OURS} has no effect: no run has this tag."
            if unused
            else "No limit applies to the runs of a backfill.",
            "They take all places of the queue and of the pool: manual runs and schedules wait.",
            remedy,
        )
    shared = [each for each in effective if each["key"] != _OURS or each.get("value") != _PER_VALUE]
    if connections > 1 and shared:
        return warning(
            name,
            f"The limit of {shared[0]['key']} applies to all {connections} connections together.",
            "The backfill of one connection waits for the backfills of others, although each has "
            "its own quota.",
            f"Replace it. {remedy}",
        )
    most, key = effective[0].get("limit"), effective[0]["key"]
    scope = " for each connection" if key == _OURS else ""
    return ok(name, f"at most {most} concurrent {'run' if most == 1 else 'runs'}{scope} ({key})")


def _retries(instance: Mapping[str, Any]) -> Iterator[Finding]:
    name, retries = "run retries", instance.get("run_retries") or {}
    if not retries.get("enabled", False):
        yield warning(
            name,
            "run_retries is disabled.",
            "A run whose worker died is not resumed: its backfill stops until somebody re-executes "
            "it.",
            f"Set run_retries: {{enabled: true, max_retries: {RETRIES}, "
            "retry_on_asset_or_op_failure: false} in dagster.yaml.",
        )
        return
    findings = []
    if (most := retries.get("max_retries", 0)) != RETRIES:
        cost = (
            "A run whose worker died is retried less often than this program expects."
            if isinstance(most, int) and most < RETRIES
            else "A run whose workers die without progress spends more API calls before it fails."
        )
        findings.append(
            warning(
                name,
                f"max_retries is {most}; expected {RETRIES}.",
                cost,
                f"Set run_retries.max_retries to {RETRIES} in dagster.yaml.",
            )
        )
    if retries.get("retry_on_asset_or_op_failure", True):
        findings.append(
            warning(
                name,
                "Failed steps also retry their run.",
                "A step has its own retries, so a lasting error is retried several times over, and "
                "each attempt spends API calls.",
                "Set run_retries.retry_on_asset_or_op_failure to false in dagster.yaml.",
            )
        )
    yield from findings or [ok(name, f"at most {RETRIES}, for workers that died")]


def _monitoring(instance: Mapping[str, Any]) -> Iterator[Finding]:
    name, monitoring = "run monitoring", instance.get("run_monitoring") or {}
    if not monitoring.get("enabled", False):
        yield error(
            name,
            "run_monitoring is disabled.",
            "A run whose worker was killed stays in progress, and keeps its slot in the pool "
            "permanently.",
            "Set run_monitoring: {enabled: true, free_slots_after_run_end_seconds: 60} in "
            "dagster.yaml.",
        )
    elif not monitoring.get("free_slots_after_run_end_seconds"):
        yield error(
            name,
            "free_slots_after_run_end_seconds is not set.",
            "A killed worker keeps its slot in the pool permanently; after a few, no load starts.",
            "Set run_monitoring.free_slots_after_run_end_seconds to 60 in dagster.yaml.",
        )
    else:
        yield ok(name, "enabled; slots of ended runs are freed")


def _pools(instance: Mapping[str, Any]) -> Iterator[Finding]:
    pools = instance["concurrency"].get("pools") or {}
    limit = pools.get("default_limit")
    if pools.get("granularity", "op") == "op":
        shown = f"; at most {limit} steps of a pool at a time" if limit else ""
        yield ok("pools", f"slots belong to steps{shown}")
        return
    yield warning(
        "pools",
        "Pool slots belong to whole runs (granularity: run).",
        "A run that waits for its quota keeps its slot, and runs of other assets wait with it.",
        "Set concurrency.pools.granularity to op in dagster.yaml.",
    )


def _launcher(instance: Mapping[str, Any]) -> Iterator[Finding]:
    launcher = instance["run_launcher"]
    if launcher in _WATCHED:
        yield ok("run launcher", launcher)
        return
    yield warning(
        "run launcher",
        f"{launcher} does not detect a worker that died.",
        "The run of a killed worker stays in progress until max_runtime_seconds, if that is set; "
        "otherwise until somebody terminates it. It is not retried before.",
        "Set run_launcher to magnetis_dagster.dagster_support.run_launcher.MagnetisRunLauncher in "
        "dagster.yaml.",
    )


def _scheduler(instance: Mapping[str, Any]) -> Iterator[Finding]:
    most = instance["scheduler"].get("max_catchup_runs", 5)
    if most == 1:
        yield ok("scheduler", "at most 1 missed tick is executed")
        return
    yield warning(
        "scheduler",
        f"After a stop, up to {most} missed ticks of each schedule are executed.",
        "Each tick of daily_events reads the same past days again, which spends API calls. Past "
        "snapshots cannot be taken, so their runs fail.",
        "Set scheduler.config.max_catchup_runs to 1 in dagster.yaml.",
    )
