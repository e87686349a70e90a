"""`magnetis quota` as a process, with and without a terminal of 80 columns.

With and without a key, which is never shown.
"""

import json
from zoneinfo import ZoneInfo

from small_api import KEY as API_KEY
from small_api import serve
from sqlalchemy import Engine, text
from test_cli import magnetis

from magnetis_dagster.database import connect
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Charge, Ledger, Settlement
from magnetis_dagster.sandbox import SANDBOX_KEY
from magnetis_dagster.settings import Settings

KEY = "quota-key-91c2e7"


def spend(engine: Engine, key: str, number: int) -> str:
    fingerprint = Settings.load(api_key=key).key_fingerprint
    ledger = Ledger(
        engine,
        key_fingerprint=fingerprint,
        policy=QuotaPolicy(limit=100, zone=ZoneInfo("Europe/Paris")),
    )
    for _ in range(number):
        ledger.charge(
            Charge(
                collection="calls", route="/calls", page=1, lane="manual", run_id="magnetis probe"
            )
        )
    return fingerprint


def test_the_calls_of_a_key_as_text_and_as_json(engine: Engine, database_url: str) -> None:
    fingerprint = spend(engine, KEY, 7)
    spend(engine, SANDBOX_KEY, 3)
    environment = {
        "MAGNETIS_API_KEY": KEY,
        "MAGNETIS_DATABASE_URL": database_url,
        "MAGNETIS_DAILY_QUOTA": "100",
        "COLUMNS": "80",
    }
    words = magnetis("quota", **environment)
    assert (words.returncode, words.stderr) == (0, "")
    assert f"Quota of key {fingerprint}: " in words.stdout
    assert "7 of 100 calls used (7%), 93 left" in words.stdout
    assert "magnetis probe" in words.stdout
    assert "1 other key has called" in words.stdout
    assert max(map(len, words.stdout.splitlines())) <= 80
    assert "\x1b" not in words.stdout, "no colours without a terminal"
    report = json.loads(magnetis("quota", "--json", **environment).stdout)
    assert (report["today"]["used"], report["today"]["remaining"], report["other_keys"]) == (
        7,
        93,
        1,
    )
    assert [lane["lane"] for lane in report["today"]["lanes"]] == [
        "schedule",
        "settings",
        "manual",
        "backfill",
    ]
    for secret in (KEY, SANDBOX_KEY):
        assert secret not in words.stdout + json.dumps(report)


def test_without_a_key_the_sandboxs_quota_is_shown(engine: Engine, database_url: str) -> None:
    fingerprint = spend(engine, SANDBOX_KEY, 3)
    shown = magnetis("quota", MAGNETIS_DATABASE_URL=database_url)
    assert f"Quota of key {fingerprint} (sandbox): " in shown.stdout
    assert "3 of 5,000 calls used" in shown.stdout
    assert SANDBOX_KEY not in shown.stdout


def test_an_ascii_terminal(engine: Engine, database_url: str) -> None:
    spend(engine, SANDBOX_KEY, 3)
    shown = magnetis("quota", MAGNETIS_DATABASE_URL=database_url, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "# used  = kept from backfill" in shown.stdout


def test_reading_creates_no_tables(empty_database_url: str) -> None:
    shown = magnetis("quota", MAGNETIS_DATABASE_URL=empty_database_url)
    assert "0 of 5,000 calls used (0%), 5,000 left" in shown.stdout
    engine = connect(empty_database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT to_regnamespace('magnetis_ops')")).scalar() is None
    engine.dispose()


def test_an_unreachable_database_is_reported() -> None:
    ended = magnetis(
        "quota", "--json", MAGNETIS_DATABASE_URL="postgresql://me:hush@127.0.0.1:9/none"
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hush" not in ended.stderr


def test_a_closed_key_is_shown_with_its_signal_and_reopened(
    engine: Engine, database_url: str
) -> None:
    fingerprint = Settings.load(api_key=API_KEY).key_fingerprint
    ledger = Ledger(
        engine,
        key_fingerprint=fingerprint,
        policy=QuotaPolicy(limit=100, zone=ZoneInfo("Europe/Paris")),
    )
    charged = ledger.charge(Charge(collection="calls", route="/calls", page=1, lane="manual"))
    signal = "HTTP 429, Retry-After: 7200"
    ledger.settle(
        charged.number, Settlement(status=429, over_quota=True, retry_after=7200.0, signal=signal)
    )
    with serve() as api:
        environment = {
            "MAGNETIS_API_KEY": API_KEY,
            "MAGNETIS_API_URL": api.url,
            "MAGNETIS_DATABASE_URL": database_url,
            "MAGNETIS_DAILY_QUOTA": "100",
        }
        shown = magnetis("quota", **environment)
        assert f"Signal: {signal}" in shown.stdout
        assert "magnetis quota --reopen" in shown.stdout
        assert (
            json.loads(magnetis("quota", "--json", **environment).stdout)["today"]["closed_signal"]
            == signal
        )
        api.respond = lambda _request: (
            429,
            {"Retry-After": "600"},
            b'{"message": "Too Many Attempts."}',
        )
        refused = magnetis("quota", "--reopen", **environment)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "It requests a wait of 600 s" in refused.stderr
        assert "Signal: HTTP 429, Retry-After: 600" in magnetis("quota", **environment).stdout
        api.respond = lambda _request: None
        opened = magnetis("quota", "--reopen", **environment)
        assert (opened.returncode, opened.stderr) == (
            0,
            "The key is open again: the API answered the trial request.\n",
        )
        assert "Closed until" not in opened.stdout
        again = magnetis("quota", "--reopen", **environment)
        assert again.stderr == "The key is open: nothing was sent.\n"
        assert len(api.requests) == 2
