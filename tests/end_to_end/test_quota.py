"""A backfill that exceeds its day's quota, with Dagster's real processes.

It waits, does not block other runs, survives a power loss, and completes on a later quota day. The
test moves the database's clock to change the day. The steps poll every 2 s.
"""

import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from harness import Dev, Start, backfill_status, move_clock, runs_of

from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi, asset_key
from magnetis_dagster.dev.load import TAGS
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

KEY = "e2e-quota-71c0de5577"
PARIS = ZoneInfo("Europe/Paris")
TODAY = datetime.now(PARIS).date()
EVENTS = ("calls", "visits", "conversions", "emails", "leads")
FIRST, LAST = TODAY - timedelta(days=31), TODAY - timedelta(days=1)
LIMIT = 40
FLOORS = 18  # 25 % + 5 % + 15 % of 40: backfill has 22 calls a day


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxServer]:
    # without a quota: it counts requests, and only the ledger enforces the limit
    with SandboxServer(
        SandboxOptions(keys=(KEY,), accounts=3, calls_per_day=60, daily_quota=None)
    ) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def environment(sandbox: SandboxServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    overlay = tmp_path_factory.mktemp("overlay") / "magnetis.yaml"
    # their sensors would spend API calls while the test counts the backfill's
    disabled = (
        f"{name}: {{enabled: false, reason: not tested}}"
        for name in ("reports", "email_alerts", "sms_alerts")
    )
    overlay.write_text(f"collections: {{{', '.join(disabled)}}}\n")
    return {
        "MAGNETIS_CONFIG": str(overlay),
        "MAGNETIS_API_KEY": KEY,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_DAILY_QUOTA": str(LIMIT),
        "MAGNETIS_QUOTA_FLOORS": "schedule=0.25,settings=0.05,manual=0.15",
        "MAGNETIS_QUOTA_RECHECK_SECONDS": "2",
    }


def spent(dev: Dev, lane: str) -> int:
    return int(
        str(dev.query(f"SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = '{lane}'")[0][0])
    )


def final_status(dev: Dev, api: DagsterApi, run: str) -> str:
    dev.wait_until(lambda: api.news(run).status in ENDED, f"run {run} ends")
    return api.news(run).status


@pytest.mark.timeout(800)
def test_a_backfill_waits_for_quota_and_completes(
    module_start: Start, environment: dict[str, str], sandbox: SandboxServer
) -> None:
    dev = module_start("--load", "0", environment=environment)
    dev.wait_for("Serving until Ctrl-C.")
    move_clock(dev, TODAY)
    with DagsterApi(dev.ui) as api:
        assert api.loaded()
        backfill = api.ask(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) "
            "{ __typename ... on LaunchBackfillSuccess { backfillId } ... on Error { message } } }",
            p={
                "assetSelection": [asset_key(name) for name in EVENTS],
                "partitionNames": [(FIRST + timedelta(days=n)).isoformat() for n in range(31)],
            },
        )["launchPartitionBackfill"]["backfillId"]

        # it spends the lane's share and waits: in progress, with the reason in the log
        dev.wait_until(
            lambda: spent(dev, "backfill") >= LIMIT - FLOORS - 2, "the lane is almost exhausted"
        )
        [run] = runs_of(api, backfill)
        dev.wait_until(
            lambda: "Waiting for API calls." in _log(api, run["runId"]), "it logs that it waits"
        )
        assert "are reserved for the schedule, settings and manual lanes" in _log(api, run["runId"])
        assert spent(dev, "backfill") <= LIMIT - FLOORS
        assert [each["status"] for each in runs_of(api, backfill)] == ["STARTED"]

        # other runs proceed on their own lanes
        manual = api.launch(["calls"], FIRST - timedelta(days=9), FIRST - timedelta(days=9), {})
        scheduled = api.launch(list(EVENTS), LAST, LAST, {"magnetis/lane": "schedule"})
        assert (final_status(dev, api, manual), final_status(dev, api, scheduled)) == (
            "SUCCESS",
            "SUCCESS",
        )
        assert (spent(dev, "manual"), spent(dev, "schedule")) == (1, 5)

        # a run of `--load` is in progress too at the power loss
        load = api.launch(["entities"], TODAY, TODAY, TAGS)
        dev.wait_until(lambda: "Waiting for API calls." in _log(api, load), "the load waits too")
    dev.kill()
    dev = module_start("--load", "0", environment=environment)
    dev.wait_for("Unfinished runs of the previous magnetis dev: 1 to be started again, 1 canceled.")
    dev.wait_for("Serving until Ctrl-C.")
    with DagsterApi(dev.ui) as api:
        assert api.loaded()
        day = TODAY
        while backfill_status(api, backfill) in {"REQUESTED", "CANCELING"}:
            before = spent(dev, "backfill")
            day += timedelta(days=1)
            assert day < TODAY + timedelta(days=9), "the backfill makes no progress"
            move_clock(dev, day)
            dev.wait_until(
                lambda before=before: (
                    spent(dev, "backfill") >= before + LIMIT - FLOORS - 2
                    or backfill_status(api, backfill) != "REQUESTED"
                ),
                "the day's API calls are spent, or the backfill ends",
                180,
            )
        assert backfill_status(api, backfill) == "COMPLETED_SUCCESS"

        # all partitions are green and complete, none was fetched twice, no day exceeds its limit
        partitions = api.ask(
            "query($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) { "
            "assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status } } } } }",
            keys=[asset_key(name) for name in EVENTS],
        )["assetNodes"]
        assert {
            span["status"]
            for node in partitions
            for span in node["assetPartitionStatuses"]["ranges"]
        } == {"MATERIALIZED"}
    for name in EVENTS:
        rows = dev.query(
            f"SELECT count(*) FROM magnetis.{name} WHERE day BETWEEN '{FIRST}' AND '{LAST}'"
        )[0][0]
        assert rows == sandbox.world.count(name, FIRST, LAST)
    repeated = dev.query(
        "SELECT w.collection, d.day, count(*) FROM magnetis_ops.windows AS w "
        "CROSS JOIN LATERAL generate_series(w.first_day, w.last_day, interval '1 day') AS d(day) "
        f"WHERE d.day < '{LAST}' GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert repeated == []
    assert dev.query(
        "SELECT max(schedule + settings + manual + backfill) <= 40 FROM magnetis_ops.quota_days"
    ) == [(True,)]
    assert dev.query("SELECT count(*) FROM magnetis_ops.api_calls")[0][0] == sandbox.received
    assert dev.query("SELECT count(DISTINCT day) >= 2 FROM magnetis_ops.api_calls") == [(True,)]
    assert dev.end(signal.SIGINT, 60) == 0
    assert dev.remaining() == []


def _log(api: DagsterApi, run: str) -> str:
    log = api.ask(
        "query($run: ID!) { logsForRun(runId: $run, limit: 1000) { ... on EventConnection { events "
        "{ ... on MessageEvent { message } } } } }",
        run=run,
    )
    return "\n".join(event.get("message", "") for event in log["logsForRun"]["events"])
