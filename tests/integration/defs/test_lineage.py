"""Lineage shows references; no asset waits for another, in a run or in a backfill."""

import logging
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.selector import (
    PartitionRangeSelector,
    PartitionsByAssetSelector,
    PartitionsSelector,
)
from dagster._core.execution.asset_backfill import AssetBackfillData
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_daemon import Daemon, daemon
from small_api import PARIS, SmallApi

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.dagster_support.partition_tags import days_of, days_tags
from magnetis_dagster.definitions import build_defs

pytestmark = pytest.mark.filterwarnings(
    "ignore:Function `AssetSelection.sources` is deprecated"
)  # used by Dagster itself

FIRST, LAST = date(2025, 3, 28), date(2025, 3, 29)
TODAY = datetime.now(PARIS).date()


def key(name: str) -> dg.AssetKey:
    return dg.AssetKey(["magnetis", name])


def backfill(running: Daemon, ranges: dict[str, tuple[date, date]]) -> None:
    """Launch a backfill like the UI and evaluate it once like the daemon."""
    asked: Sequence[PartitionsByAssetSelector] = [
        PartitionsByAssetSelector(
            asset_key=key(name),
            partitions=PartitionsSelector(
                ranges=[PartitionRangeSelector(start=str(first), end=str(last))]
            ),
        )
        for name, (first, last) in ranges.items()
    ]
    running.instance.add_backfill(
        PartitionBackfill.from_partitions_by_assets(
            backfill_id="abcdefgh",
            asset_graph=running.workspace.create_request_context().asset_graph,
            backfill_timestamp=datetime.now(PARIS).timestamp(),
            tags={},
            dynamic_partitions_store=running.instance,
            partitions_by_assets=asked,
            title=None,
            description=None,
            run_config=None,
        )
    )
    for error in execute_backfill_iteration(running.workspace, logging.getLogger("daemon")):
        assert error is None, error


def test_the_graph_shows_the_references_of_the_catalogue() -> None:
    graph = build_defs().resolve_asset_graph()
    for collection in load_catalogue().enabled:
        assert graph.get(key(collection.name)).parent_keys >= {
            key(name) for name in collection.references
        }
    assert graph.get(key("calls")).parent_keys == {
        key("numbers"),
        key("pools"),
        key("recipients"),
        key("visits"),
    }


def test_every_ancestor_of_an_asset_is_its_parent() -> None:
    """If a selection has a gap (visits and leads, not calls), a backfill drops its last asset."""
    graph = build_defs().resolve_asset_graph()
    for collection in load_catalogue().enabled:
        asset = key(collection.name)
        assert graph.get_ancestor_asset_keys(asset) - {asset} == graph.get(asset).parent_keys


EVENTS = [collection.name for collection in load_catalogue().enabled if collection.is_events]


@pytest.mark.parametrize(
    "names",
    [
        ("visits", "leads"),
        ("calls", "leads"),
        ("conversions", "visits"),
        EVENTS,
        ("emails", "leads"),
    ],
)
def test_a_backfill_by_partition_names_targets_every_day_of_every_asset(names: list[str]) -> None:
    """The UI launches it like this."""
    graph = build_defs(taken=[]).resolve_asset_graph()
    days = [str(FIRST), str(LAST)]
    with dg.DagsterInstance.ephemeral() as instance:
        target = AssetBackfillData.from_asset_partitions(
            partition_names=days,
            asset_graph=graph,
            asset_selection=[key(name) for name in names],
            dynamic_partitions_store=instance,
            backfill_start_timestamp=datetime.now(PARIS).timestamp(),
            all_partitions=False,
        ).target_subset
    found = {
        (partition.asset_key.path[-1], partition.partition_key)
        for partition in target.iterate_asset_partitions()
    }
    assert found == {(name, day) for name in names for day in days}


def test_todays_snapshot_and_yesterdays_events_are_targeted() -> None:
    graph = build_defs(taken=[]).resolve_asset_graph()
    with dg.DagsterInstance.ephemeral() as instance:
        target = AssetBackfillData.from_asset_partitions(
            partition_names=[str(TODAY)],
            asset_graph=graph,
            asset_selection=[key(name) for name in ("numbers", "calls", "leads")],
            dynamic_partitions_store=instance,
            backfill_start_timestamp=datetime.now(PARIS).timestamp(),
            all_partitions=False,
        ).target_subset
    found = {
        (partition.asset_key.path[-1], partition.partition_key)
        for partition in target.iterate_asset_partitions()
    }
    yesterday = str(TODAY - timedelta(days=1))
    assert found == {("numbers", str(TODAY)), ("calls", yesterday), ("leads", yesterday)}


def test_a_run_loads_collections_that_refer_to_a_failed_one(api: SmallApi) -> None:
    api.respond = lambda request: (
        (403, {}, b"{}") if request.path in {"/calls", "/visits"} else None
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs().resolve_job_def("daily_events")
        result = job.execute_in_process(
            instance=instance, tags=days_tags(FIRST, LAST), raise_on_error=False
        )
        skipped = [event.step_key for event in result.all_events if event.is_step_skipped]
        done = {
            name
            for name in ("calls", "visits", "leads", "emails")
            if instance.get_materialized_partitions(key(name))
        }
    assert (skipped, done) == ([], {"leads", "emails"})


def test_a_backfill_requests_all_runs_immediately_including_days_without_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only requested: a run in this process would block the event loop of the backfill daemon
    monkeypatch.setattr(SyncInMemoryRunLauncher, "launch_run", lambda *_: None)
    with daemon(tmp_path) as running:
        days = {
            "calls": (FIRST, LAST),
            "leads": (FIRST, LAST),
            "numbers": (TODAY, TODAY),
            "recipients": (TODAY, TODAY),
        }
        backfill(running, days)
        requested = {
            (frozenset(key.path[-1] for key in run.asset_selection or ()), *days_of(run.tags))
            for run in running.instance.get_runs()
        }
    assert requested == {
        (frozenset({"calls", "leads"}), FIRST, LAST),
        (frozenset({"numbers", "recipients"}), TODAY),
    }


def test_snapshots_have_partitions_for_taken_days_and_today() -> None:
    days = [TODAY - timedelta(days=age) for age in (9, 8, 1)]

    def keys(taken: list[date] | None) -> list[str]:
        partitions = (
            build_defs(taken=taken).resolve_asset_graph().get(key("accounts")).partitions_def
        )
        assert partitions
        return list(partitions.get_partition_keys())

    assert keys([]) == [str(TODAY)]
    assert keys(days) == [*map(str, days), str(TODAY)]
    assert keys([*days, TODAY]) == [*map(str, days), str(TODAY)]
    assert keys([date(2026, 3, 29), date(2026, 10, 25)]) == ["2026-03-29", "2026-10-25", str(TODAY)]
    assert keys(None)[0] == "2024-01-01"
