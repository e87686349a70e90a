"""An edited alert is detected by the daemon, loaded by one run and recorded."""

from typing import Any

import pytest
from harness import Dev, Start

from magnetis_dagster.dagster_support.webserver_client import DagsterApi
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

KEY = "e2e-settings-0b1d77a94c"


@pytest.fixture
def sandbox() -> Any:
    with SandboxServer(
        SandboxOptions(keys=(KEY,), accounts=3, calls_per_day=60, daily_quota=None)
    ) as sandbox:
        yield sandbox


def runs(api: DagsterApi) -> list[dict[str, Any]]:
    found = api.ask(
        "query { runsOrError(filter: "
        '{tags: [{key: "dagster/sensor_name", value: "alert_settings_sensor"}]}) '
        "{ ... on Runs { results { status assetSelection { path } } } } }"
    )["runsOrError"]["results"]
    return list(found)


def changes(dev: Dev, kind: str) -> list[tuple[object, ...]]:
    return dev.query(
        "SELECT setting_id, changes FROM magnetis.settings_changes "
        f"WHERE kind = '{kind}' ORDER BY changed_at"
    )


def test_an_edited_alert_is_detected_loaded_once_and_recorded(
    start: Start, sandbox: SandboxServer
) -> None:
    dev = start(
        "--load",
        "0",
        environment={
            "MAGNETIS_API_KEY": KEY,
            "MAGNETIS_API_URL": sandbox.url,
            "MAGNETIS_SETTINGS_INTERVAL_SECONDS": "10",
        },
    )
    dev.wait_until(lambda: "http://" in dev.output, "the UI address is printed")
    loaded = (
        "SELECT count(*) FROM magnetis_ops.days WHERE collection IN ('email_alerts', 'sms_alerts')"
    )
    dev.wait_until(
        lambda: "settings_changes" in str(dev.query("SELECT viewname FROM pg_views")),
        "the tables exist",
    )
    dev.wait_until(lambda: dev.query(loaded) == [(2,)], "the first snapshots are loaded")
    assert changes(dev, "changed") == []

    number = str(dev.query("SELECT id FROM magnetis.email_alerts ORDER BY id LIMIT 1")[0][0])
    before = sandbox.world.edit("email_alerts", number)
    sandbox.world.edit("email_alerts", number, title="A test")
    dev.wait_until(lambda: bool(changes(dev, "changed")), "the edit is detected and loaded")
    assert changes(dev, "changed") == [
        (number, {"title": {"old": before["title"], "new": "A test"}})
    ]
    sandbox.world.delete("email_alerts", number)
    dev.wait_until(lambda: bool(changes(dev, "removed")), "the deletion is detected and loaded")

    requests = sandbox.received
    dev.wait_until(lambda: sandbox.received >= requests + 6, "two more ticks of each sensor")
    with DagsterApi(dev.ui) as api:
        found = runs(api)
    assert [run["status"] for run in found] == ["SUCCESS"] * 3
    assert [[key["path"][-1] for key in run["assetSelection"]] for run in found[:2]] == [
        ["email_alerts"]
    ] * 2
    assert len(changes(dev, "changed")) == len(changes(dev, "removed")) == 1
    assert dev.query("SELECT count(*) FROM magnetis_ops.api_calls WHERE lane <> 'settings'") == [
        (0,)
    ], "runs spent no API call"
