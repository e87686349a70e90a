"""The run coordinator tags every backfill run of our assets, and no other run."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.run_coordinator import SubmitRunContext
from dagster_daemon import daemon
from dagster_runs import make_run

from magnetis_dagster.dagster_support.run_coordinator import connections_of

# Dagster's own code uses its deprecated parts
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_backfill_of_a_job_selects_no_assets_and_is_limited_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "magnetis.yaml").write_text("connections: {nord: {api_key_env: KEY_NORD}}")
    monkeypatch.setenv("MAGNETIS_CONFIG", str(tmp_path / "magnetis.yaml"))
    with daemon(tmp_path) as running:
        workspace = running.workspace.create_request_context()
        found = {}
        for job, asset in (
            ("daily_events", None),
            ("nord_daily_events", None),
            ("daily_events", dg.AssetKey(["magnetis", "calls"])),
            ("load_latest", None),  # consists of ops
        ):
            run = make_run(
                running.instance, workspace, job, {}, location_name="location", asset=asset
            )
            found[job, asset and asset.path[-1]] = connections_of(SubmitRunContext(run, workspace))
    assert found == {
        ("daily_events", None): ["magnetis"],
        ("nord_daily_events", None): ["nord"],
        ("daily_events", "calls"): ["magnetis"],
        ("load_latest", None): [],
    }
