"""Four connections with overlapping scopes, three sandboxes, one database, real Dagster processes.

Two of them finish, although one is out of quota and the key of another is refused.
"""

import json
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from harness import Dev, Start, backfill_status, move_clock, runs_of
from sandbox_rows import expected_rows

from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer
from magnetis_dagster.sandbox.app import _owner

PARIS = ZoneInfo("Europe/Paris")
TODAY = datetime.now(PARIS).date()
FIRST, LAST = TODAY - timedelta(days=20), TODAY - timedelta(days=1)
EVENTS, SNAPSHOTS = ("calls", "leads"), ("accounts", "numbers")
SCOPES = {"org": "", "nord": "network:1", "petit": "account:1"}
KEYS = {name: f"e2e-several-{name}-91cc" for name in (*SCOPES, "refused")}
QUOTA = 12
"""API calls a day of `petit`, of which a backfill may use half: too few for its 40 windows."""


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[dict[str, SandboxServer]]:
    servers = {}
    for name, scope in SCOPES.items():
        key = KEYS[name]
        options = SandboxOptions(
            keys=(key,),
            scopes={key: scope} if scope else {},
            accounts=6,
            # several pages of calls a day for the account too, so that its quota does not suffice
            calls_per_day=1_500,
            daily_quota=None,
        )
        servers[name] = SandboxServer(options)
    try:
        for server in servers.values():
            server.__enter__()
        yield servers
    finally:
        for server in servers.values():
            server.__exit__(None, None, None)


@pytest.fixture(scope="module")
def environment(
    sandboxes: dict[str, SandboxServer], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    names = [*EVENTS, *SNAPSHOTS]
    declared = {
        name: {
            "api_key_env": f"KEY_{name.upper()}",
            "api_url": sandboxes[name].url,
            "collections": names,
            "start_date": str(FIRST),
        }
        for name in SCOPES
    }
    declared["org"]["scope"] = "organization"
    declared["nord"]["scope"] = "network"
    declared["petit"] |= {"scope": "account", "daily_quota": QUOTA, "quota_recheck_seconds": 2}
    declared["petit"]["quota_floors"] = "schedule=0.25,settings=0.05,manual=0.2"
    declared["refused"] = declared["petit"] | {"api_key_env": "KEY_REFUSED"}
    config = tmp_path_factory.mktemp("config") / "magnetis.yaml"
    config.write_text(json.dumps({"connections": declared}))
    return {
        "MAGNETIS_CONFIG": str(config),
        **{f"KEY_{name.upper()}": key for name, key in KEYS.items()},
    }


def truth(sandbox: SandboxServer, name: str, collection: str) -> int:
    """Return the number of rows that the key of this sandbox can read."""
    allowed = sandbox.app._visible_owners(KEYS[name])
    days = (FIRST, LAST) if collection in EVENTS else (None, None)
    rows = expected_rows(sandbox.world, collection, *days)
    return sum(
        allowed is None or _owner(json.dumps(row, separators=(",", ":")).encode()) in allowed
        for row in rows
    )


def backfill(api: DagsterApi) -> str:
    ranges = {name: [(FIRST, LAST)] for name in EVENTS}
    return api.launch_backfill(ranges, title="all days", description="", tags={})


def counted(dev: Dev, statement: str) -> dict[str, int]:
    return {str(name): int(str(number)) for name, number in dev.query(statement)}


@pytest.mark.timeout(800)
def test_each_connection_loads_its_own_rows_within_its_own_quota(
    module_start: Start, environment: dict[str, str], sandboxes: dict[str, SandboxServer]
) -> None:
    dev = module_start("--load", "0", environment=environment)
    dev.wait_for("Serving until Ctrl-C.")
    apis = {name: DagsterApi(dev.ui, prefix=("magnetis", name)) for name in KEYS}
    assert all(api.loaded() for api in apis.values())
    snapshots = {
        name: api.launch(SNAPSHOTS, TODAY, TODAY, {}, job=f"{name}_daily_snapshots")
        for name, api in apis.items()
    }
    backfills = {name: backfill(api) for name, api in apis.items()}
    for name in ("org", "nord"):
        api = apis[name]
        dev.wait_until(
            lambda api=api, name=name: backfill_status(api, backfills[name]) == "COMPLETED_SUCCESS",
            f"the backfill of {name} ends",
        )
    # the others finish although one waits for quota and the key of another is refused
    assert backfill_status(apis["petit"], backfills["petit"]) == "REQUESTED"
    dev.wait_until(
        lambda: backfill_status(apis["refused"], backfills["refused"]) == "COMPLETED_FAILED",
        "the backfill with the refused key fails",
    )
    for name, run in snapshots.items():
        api = apis[name]
        dev.wait_until(lambda api=api, run=run: api.news(run).status in ENDED, f"{name}: snapshots")
        assert api.news(run).status == ("FAILURE" if name == "refused" else "SUCCESS")
    for name in KEYS:
        for run in runs_of(apis[name], backfills[name]):
            assert {"key": "magnetis/backfill", "value": name} in run["tags"]

    days = 0
    while backfill_status(apis["petit"], backfills["petit"]) == "REQUESTED":
        days += 1
        assert days < 12, "the backfill makes no progress"
        before = dev.query("SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'backfill'")
        move_clock(dev, TODAY + timedelta(days=days))
        dev.wait_until(
            lambda before=before: (
                dev.query("SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'backfill'")
                > before
                or backfill_status(apis["petit"], backfills["petit"]) != "REQUESTED"
            ),
            "the next day's calls are spent, or the backfill ends",
            120,
        )
    assert backfill_status(apis["petit"], backfills["petit"]) == "COMPLETED_SUCCESS"

    for collection in (*EVENTS, *SNAPSHOTS):
        days_ = f"AND day BETWEEN '{FIRST}' AND '{LAST}'" if collection in EVENTS else ""
        rows = counted(
            dev,
            f"SELECT connection, count(*) FROM magnetis.{collection} "
            f"WHERE deleted_at IS NULL {days_} GROUP BY 1",
        )
        expected = {name: truth(sandboxes[name], name, collection) for name in SCOPES}
        assert rows == {name: number for name, number in expected.items() if number}
        [[distinct]] = dev.query(
            f"SELECT count(*) FROM magnetis.{collection}_distinct "
            f"WHERE true {days_} AND connection = 'org'"
        )
        assert distinct == expected["org"], "the widest key has every row"
        assert dev.query(
            f"SELECT count(*) FROM magnetis.{collection}_distinct WHERE true {days_}"
        ) == [(expected["org"],)]
    calls = counted(dev, "SELECT connection, count(*) FROM magnetis_ops.api_calls GROUP BY 1")
    assert calls["org"] == sandboxes["org"].received
    assert calls["nord"] == sandboxes["nord"].received
    assert calls["petit"] + calls["refused"] == sandboxes["petit"].received
    assert calls == counted(
        dev,
        "SELECT connection, sum(schedule + settings + manual + backfill) "
        "FROM magnetis_ops.quota_days GROUP BY 1",
    )
    assert dev.query(
        "SELECT max(schedule + settings + manual + backfill) FROM magnetis_ops.quota_days "
        "WHERE connection = 'petit'"
    ) <= [(QUOTA,)]
    for api in apis.values():
        api.__exit__(None)
    assert dev.end(signal.SIGINT, 60) == 0
    assert dev.remaining() == []
