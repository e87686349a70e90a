"""Environment variables: defaults, precedence and errors.

Each bad value causes one sentence that names the variable and never shows a secret.
"""

import stat
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from magnetis_dagster.dev.home import claim_home
from magnetis_dagster.errors import MagnetisError, PermanentError
from magnetis_dagster.private_files import write_private
from magnetis_dagster.running_dev import STATE, RunningDev, publish
from magnetis_dagster.settings import Settings, SettingsError
from magnetis_dagster.wiring import embedded_database, uses_sandbox

SECRET = "s3cr3t-0ff"


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings.load()
    assert settings.api_key is None
    assert settings.database_url is None
    assert settings.config is None
    assert settings.api_url == "https://api.magnetis.io"
    assert settings.daily_quota == 5000
    assert settings.timezone == settings.response_timezone == ZoneInfo("Europe/Paris")
    assert settings.query_timezone == ZoneInfo("UTC")
    assert settings.start_date == date(2024, 1, 1)
    assert settings.lookback_days == 7
    assert settings.weekly_lookback_days == 30
    assert settings.repair_attempts == 3
    assert settings.concurrency == 8
    assert settings.allow_http is False


BAD = {
    "API_KEY": {
        f"{SECRET} x": "without spaces or line breaks",
        f"{SECRET}\nX-Evil: 1": "without spaces or line breaks",
        f"{SECRET}é": "ASCII",
    },
    "API_URL": {
        "": "expected an origin",
        "api.magnetis.io": "expected an origin",
        "ftp://api.magnetis.io": "expected an origin",
        "https://": "expected an origin",
        f"https://user:{SECRET}@api.magnetis.io": "without user",
        f"https://api.magnetis.io?key={SECRET}": "query",
        "https://api.magnetis.io:99999": "Port out of range",
        "https://api.magnetis.io:0": "port from 1",
        "https://[::1": "IPv6",
        "http://api.magnetis.io": "expected https",
    },
    "ALERT_WEBHOOK_URL": {
        SECRET: "https://hooks.slack.com/services/…",
        f"https:///{SECRET}": "as the chat shows it",
        f"ftp://hooks.slack.com/{SECRET}": "as the chat shows it",
        f"https://user:{SECRET}@hooks.slack.com/": "without a user",
        f"https://hooks.slack.com:{SECRET}/": "as the chat shows it",
        f"https://[::1/{SECRET}": "as the chat shows it",
        f"https://hooks.slack.com/{SECRET} x": "as the chat shows it",
        f"https://hooks.slack.com/{SECRET}\nx": "as the chat shows it",
        f"http://hooks.slack.com/{SECRET}": "expected https: the URL is a secret",
    },
    "PRIVACY_KEY": {
        SECRET: "key 1 of 1: expected id:secret",
        f"1:{SECRET}": "at least 32 random characters",
        f"1:{SECRET * 2}{'x' * 30}é": "printable ASCII without spaces",
        f"1:{SECRET * 2} {'x' * 30}": "printable ASCII without spaces",
        f"1:{'ab' * 40}": "at least 32 random characters",
        f"Prod-1:{SECRET * 4}": "an id has 1 to 8 characters of a-z and 0-9",
        f"{SECRET * 4}": "expected id:secret",
        f"1:{SECRET * 4},1:x{SECRET * 4}": "one id occurs twice",
        f"1:{SECRET * 4},2:{SECRET * 4}": "one secret occurs twice",
        f"1:{SECRET * 4},2:{SECRET}": "key 2 of 2: expected a secret of at least 32",
        ",": "expected id:secret, such as 1:",
    },
    "CELERY_BROKER_URL": {
        SECRET: "expected redis://",
        f"amqp://guest:{SECRET}@host//": "expected redis://",
        f"redis://:p@{SECRET}@host:6379/0": "written as %40",
        f"redis://:12/{SECRET}@host:6379/0": "written as %40",
        f"redis://:{SECRET}@host:port/0": "redis://:password@host:6379/0",
        f"redis://:{SECRET}@/0": "redis://:password@host:6379/0",
    },
    "UI_URL": {
        "dagster.example.com": "such as https://dagster.example.com",
        "ftp://dagster.example.com": "such as https://dagster.example.com",
        f"https://user:{SECRET}@dagster.example.com": "without user",
        f"https://dagster.example.com/?token={SECRET}": "without user, query",
        "https://dagster.example.com/#/runs": "fragment",
    },
    "UI_HOSTS": {
        "https://dagster.example.com": "without scheme and port",
        "dagster.example.com:3000": "without scheme and port",
        "localhost, *": "expected host names such as dagster.example.com",
        f"{SECRET}@localhost": "expected host names",
        "dagster..example.com": "expected host names",
    },
    "DAGSTER_URL": {
        "127.0.0.1:3000": "such as https://dagster.example.com",
        f"http://admin:{SECRET}@127.0.0.1:3000": "without user",
        "": "such as https://dagster.example.com",
    },
    "DATABASE_URL": {
        "postgresql": "expected a postgresql:// URL",
        "postgresql://": "expected a postgresql:// URL",
        f"mysql://user:{SECRET}@host/db": "expected a postgresql:// URL",
        "sqlite:///magnetis.db": "expected a postgresql:// URL",
        f"postgresql://user:{SECRET}@host:port/db": "expected user:password@host:5432",
        f"postgresql://user:p@{SECRET}@host/db": "written as %40",
        f"postgresql://user:p@x#{SECRET}@host/db": "written as %40",
        f"postgresql://user:p@{SECRET}@a:5432,b:5432/db": "written as %40",
        f"postgresql://user:{SECRET}@a:5432,b:port/db": "expected user:password@host:5432",
        f"postgresql://user:12/{SECRET}@host/db": "written as %40",
    },
    "DAILY_QUOTA": {
        "0": "greater than 0",
        "-1": "greater than 0",
        "many": "valid integer",
        "1.5": "valid integer",
        "": "valid integer",
    },
    "TIMEZONE": {
        "Paris": "such as Europe/Paris",
        "Europe": "such as Europe/Paris",
        "": "such as",
        "../../etc/passwd": "such as",
    },
    "QUERY_TIMEZONE": {"GMT+25": "such as Europe/Paris or UTC"},
    "RESPONSE_TIMEZONE": {"local time": "such as Europe/Paris or UTC"},
    "START_DATE": {
        "yesterday": "expected a day such as 2024-01-01",
        "2024-13-01": "expected a day such as",
        "1704067200": "expected a day such as",
        "01/02/2024": "expected a day such as",
        "1970-01-01": "1990-01-01",
        "": "expected a day such as",
    },
    "LOOKBACK_DAYS": {
        "-1": "greater than or equal to 0",
        "367": "less than or equal to 366",
        "week": "valid integer",
    },
    "WEEKLY_LOOKBACK_DAYS": {
        "-1": "greater than or equal to 0",
        "367": "less than or equal to 366",
    },
    "REPAIR_ATTEMPTS": {
        "1": "greater than or equal to 2",
        "11": "less than or equal to 10",
        "often": "valid integer",
    },
    "RETENTION_DAYS": {
        "31": "greater than or equal to 32",
        "3651": "less than or equal to 3650",
        "ever": "valid integer",
    },
    "SETTINGS_INTERVAL_SECONDS": {
        "9": "greater than or equal to 10",
        "86401": "less than or equal to 86400",
    },
    "EMPTIED_DAYS": {"": "'doubt', 'keep' or 'delete'", "yes": "'doubt', 'keep' or 'delete'"},
    "DOUBTED_SHARE": {"": "valid number", "0": "greater than 0", "1.5": "less than or equal to 1"},
    "UNREADABLE_SHARE": {
        "": "valid number",
        "-0.1": "greater than or equal to 0",
        "2": "less than or equal to 1",
    },
    "CONCURRENCY": {"0": "greater than or equal to 1", "65": "less than or equal to 64"},
    "ALLOW_HTTP": {"perhaps": "valid boolean"},
    "HOME": {"": "path"},
    "QUOTA_WINDOW": {"weekly": "'calendar' or 'rolling'"},
    "QUOTA_FLOORS": {
        "schedule": "expected lane=share such as schedule=0.20",
        "nightly=0.1": "unknown lane 'nightly'",
        "backfill=0.1": "backfill cannot have a floor",
        "schedule=0.7,manual=0.3": "sum below 1 (100 %)",
        "schedule=-0.1": "at least 0",
    },
    "QUOTA_RELEASE_HOURS": {"25": "0 to 24 hours", "soon": "valid number"},
    "QUOTA_SPREAD": {"backfills": "unknown lane 'backfills'"},
    "QUOTA_RECHECK_SECONDS": {"0": "greater than 0"},
    "CALLS_PER_SECOND": {"0": "more than 0", "fast": "valid number"},
}


@pytest.mark.parametrize(
    ("name", "given", "expected"), [(n, g, e) for n, cases in BAD.items() for g, e in cases.items()]
)
def test_a_bad_value_names_the_variable_and_what_is_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, given: str, expected: str
) -> None:
    monkeypatch.setenv(f"MAGNETIS_{name}", given)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    message = str(caught.value)
    assert message.startswith(f"MAGNETIS_{name}: ")
    assert expected in message
    assert ".env.example" in message
    assert SECRET not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__, "pydantic's own report would show the value"


def test_only_variables_without_a_wrong_value_have_no_case_above() -> None:
    covered = {f"MAGNETIS_{name}" for name in BAD}
    every = {f"MAGNETIS_{name.upper()}" for name in Settings.model_fields}
    assert every - covered == {
        "MAGNETIS_CONFIG",
        "MAGNETIS_SETTINGS_BASELINE",
        "MAGNETIS_DATABASE_PASSWORD",
    }, "the reader refuses a missing path, and the server a wrong password"


def test_a_settings_error_is_permanent() -> None:
    assert issubclass(SettingsError, PermanentError)
    assert issubclass(SettingsError, MagnetisError)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_http_is_for_localhost_only(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("MAGNETIS_API_URL", f"http://{host}:8000/")
    assert Settings.load().api_url == f"http://{host}:8000"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_webhook_over_http_is_on_localhost_or_needs_allow_http(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    def given(url: str) -> str:
        monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", url)
        webhook = Settings.load().alert_webhook_url
        assert webhook
        return webhook.get_secret_value()

    assert given(f"http://{host}:9000/hook") == f"http://{host}:9000/hook"
    monkeypatch.setenv("MAGNETIS_ALLOW_HTTP", "true")
    assert given("http://chat/hook") == "http://chat/hook"


def test_a_webhook_is_read_without_the_line_break_of_its_file_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_ALERT_WEBHOOK_URL", f"https://hooks.slack.com/services/{SECRET}\n")
    monkeypatch.setenv("MAGNETIS_UI_URL", "https://dagster.example.com/ui/")
    settings = Settings.load()
    assert settings.alert_webhook_url
    assert (
        settings.alert_webhook_url.get_secret_value()
        == f"https://hooks.slack.com/services/{SECRET}"
    )
    assert settings.ui_url == "https://dagster.example.com/ui"
    assert SECRET not in repr(settings) + settings.model_dump_json()


def test_http_elsewhere_needs_allow_http_which_may_be_in_the_env_file() -> None:
    Path(".env").write_text(
        "MAGNETIS_API_URL=http://sandbox:8000\nMAGNETIS_ALLOW_HTTP=1\n", encoding="utf-8"
    )
    assert Settings.load().api_url == "http://sandbox:8000"


def test_the_environment_takes_precedence_over_the_env_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text(
        "MAGNETIS_DAILY_QUOTA=10\nMAGNETIS_CONCURRENCY=2\nOTHER=1\n", encoding="utf-8"
    )
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "20")
    settings = Settings.load()
    assert (settings.daily_quota, settings.concurrency) == (20, 2)


def test_an_env_file_in_another_encoding_is_reported_in_one_sentence() -> None:
    Path(".env").write_bytes(f"MAGNETIS_API_KEY={SECRET}\xe9".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"^\.env cannot be read as UTF-8 text") as caught:
        Settings.load()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(
    "name",
    [
        "API_KEY",
        "PRIVACY_KEY",
        "DATABASE_URL",
        "CONFIG",
        "ALERT_WEBHOOK_URL",
        "CELERY_BROKER_URL",
        "UI_URL",
    ],
)
def test_a_blank_value_is_none(monkeypatch: pytest.MonkeyPatch, name: str, blank: str) -> None:
    monkeypatch.setenv(f"MAGNETIS_{name}", blank)
    assert getattr(Settings.load(), name.lower()) is None


def test_a_missing_key_error_says_where_to_create_one_and_what_works_without() -> None:
    with pytest.raises(
        SettingsError, match=r"MAGNETIS_API_KEY is not set.*API & connecteurs > API.*magnetis dev"
    ):
        Settings.load().require_key()


def test_a_key_is_read_without_the_line_break_of_its_file_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_API_KEY", f"{SECRET}\n")
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", f"postgresql://user:{SECRET}@host/db")
    settings = Settings.load()
    assert settings.require_key() == SECRET
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json(
        exclude={"timezone", "query_timezone", "response_timezone"}
    )


def test_fingerprints_identify_keys_without_revealing_them() -> None:
    one, other = (
        Settings.load(api_key=SECRET).key_fingerprint,
        Settings.load(api_key=f"{SECRET}2").key_fingerprint,
    )
    assert one != other
    assert len(one) == 12
    assert one == Settings.load(api_key=SECRET).key_fingerprint
    assert SECRET not in one


def test_settings_do_not_change_during_a_run() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().daily_quota = 9


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MAGNETIS_TIMEZON", "MAGNETIS_TIMEZONE"),
        ("MAGNETIS_DALY_QUOTA", "MAGNETIS_DAILY_QUOTA"),
        ("MAGNETIS_APIKEY", "MAGNETIS_API_KEY"),
        ("MAGENTIS_API_KEY", "MAGNETIS_API_KEY"),
        ("MAGNETIS_KEY", "MAGNETIS_API_KEY"),
        ("MAGNETIS_QUOTA", "MAGNETIS_DAILY_QUOTA"),
        ("MAGNETIS_START", "MAGNETIS_START_DATE"),
    ],
)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_misspelled_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str, where: str
) -> None:
    if where == ".env":
        Path(".env").write_text(f"{name}=10\n")
    else:
        monkeypatch.setenv(name, "10")
    with pytest.raises(SettingsError, match=f"^{name}: unknown variable. Did you mean {meant}"):
        Settings.load()


def test_an_unknown_variable_is_reported_once_and_others_of_the_project_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("magnetis_dagster.settings._reported", set())
    monkeypatch.setenv("MAGNETIS_DASHBOARD_COLOUR", SECRET)
    monkeypatch.setenv("MAGNETIS_DEV_CHILD", "1")
    for name in (
        "MAGAZINE",
        "MAGNETIS_PORT",
        "MAGNETIS_CODE_SERVICE_HOST",
        "MAGNETIS_CODE_PORT_4000_TCP_ADDR",
    ):
        monkeypatch.setenv(name, "1")
    for _ in range(2):
        assert Settings.load().daily_quota == 5000
    assert [record.getMessage() for record in caplog.records] == [
        (
            "MAGNETIS_DASHBOARD_COLOUR: unknown variable, which has no effect. "
            ".env.example lists every variable."
        )
    ]


def test_a_start_in_the_future_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNETIS_TIMEZONE", "Pacific/Kiritimati")
    today = datetime.now(ZoneInfo("Pacific/Kiritimati")).date()
    monkeypatch.setenv("MAGNETIS_START_DATE", str(today))
    assert Settings.load().start_date == today
    monkeypatch.setenv("MAGNETIS_START_DATE", str(today + timedelta(days=1)))
    with pytest.raises(
        SettingsError, match=r"^MAGNETIS_START_DATE: expected a day that is not after today, \d{4}"
    ):
        Settings.load()


def test_secrets_are_read_from_the_files_of_a_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/magnetis_api_key").write_text(f"{SECRET}\n")
    (tmp_path / "secrets/magnetis_database_password").write_text("a:b@c/d %\n")
    monkeypatch.setenv(
        "MAGNETIS_DATABASE_URL", "postgresql://magnetis@db:5432/magnetis?sslmode=require"
    )
    settings = Settings.load()
    assert settings.require_key() == SECRET
    assert (
        settings.database_address
        == "postgresql://magnetis:a%3Ab%40c%2Fd%20%25@db:5432/magnetis?sslmode=require"
    )
    monkeypatch.setenv("MAGNETIS_API_KEY", "from-the-environment")
    assert Settings.load().require_key() == "from-the-environment"


def test_the_privacy_key_is_read_from_its_file_and_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAGNETIS_PRIVACY_KEY")
    assert Settings.load().privacy_keys is None
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/magnetis_privacy_key").write_text(
        f"2:{SECRET * 4}\n1:{SECRET[::-1] * 4}\n", encoding="utf-8"
    )
    settings = Settings.load()
    assert settings.privacy_keys is not None
    assert settings.privacy_keys.ids == ("2", "1")
    shown = f"{settings!r} {settings.model_dump_json()} {settings.privacy_keys!r}"
    assert SECRET not in shown
    assert SECRET[::-1] not in shown


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://user:own@db/x", "postgresql://user:own@db/x"),
        ("postgresql://db/x", "postgresql://db/x?password=given"),
        ("postgresql:///x?service=main", "postgresql:///x?service=main&password=given"),
        ("postgresql://db/x?user=me&password=own", "postgresql://db/x?user=me&password=own"),
        ("postgresql://user@a:5432,b:5433/x", "postgresql://user:given@a:5432,b:5433/x"),
        ("postgresql://user@db/x", "postgresql://user:given@db/x"),
    ],
)
def test_a_separate_password_is_added_to_a_url_without_one(url: str, address: str) -> None:
    assert Settings.load(database_url=url, database_password="given").database_address == address
    assert Settings.load(database_url=url).database_address == url
    assert "given" not in repr(Settings.load(database_url=url, database_password="given"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user@a,b/x?target_session_attrs=read-write",
        "postgresql://user:own@a:5432,[::1]:5433,b/x?sslmode=verify-full",
        "postgresql:///x?host=/run/postgresql",
        "postgresql:///?service=main&passfile=/run/secrets/pass",
    ],
)
def test_database_urls_of_libpq(url: str) -> None:
    assert Settings.load(database_url=url).database_address == url


@pytest.fixture
def running_sandbox(tmp_path: Path) -> Iterator[RunningDev]:
    """Run a `magnetis dev` with the sandbox in the home of the working directory."""
    running = RunningDev(
        "http://127.0.0.1:8251",
        "sandbox-key",
        f"postgresql://me:{SECRET}@db/x",
        "2026-01-31",
        "http://127.0.0.1:3041",
    )
    with claim_home(tmp_path / ".magnetis"), publish(tmp_path / ".magnetis", running):
        yield running


def test_without_a_key_a_running_sandbox_is_found(
    running_sandbox: RunningDev, tmp_path: Path
) -> None:
    settings = Settings.load()
    assert settings.require_key() == running_sandbox.sandbox_key
    assert settings.api_url == running_sandbox.api_url
    assert settings.database_address == running_sandbox.database_url
    assert settings.start_date == date(2026, 1, 31)
    assert settings.dagster_url == "http://127.0.0.1:3041"
    assert stat.S_IMODE((tmp_path / ".magnetis" / "dev.json").stat().st_mode) == 0o600


@pytest.mark.usefixtures("running_sandbox")
def test_variables_take_precedence_over_a_running_sandbox(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", "postgresql://me@mine/x")
    assert Settings.load().database_address == "postgresql://me@mine/x"
    monkeypatch.setenv("MAGNETIS_API_KEY", "real")
    settings = Settings.load()
    assert (settings.require_key(), settings.api_url) == ("real", "https://api.magnetis.io")
    assert settings.dagster_url == "http://127.0.0.1:3041", "the webserver of this home"
    assert Settings.load(dagster_url="https://ui.example").dagster_url == "https://ui.example"
    monkeypatch.delenv("MAGNETIS_API_KEY")
    monkeypatch.setenv("MAGNETIS_API_URL", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="MAGNETIS_API_KEY is not set"):
        Settings.load().require_key()
    monkeypatch.delenv("MAGNETIS_API_URL")
    monkeypatch.setenv("MAGNETIS_HOME", str(tmp_path / "another"))
    with pytest.raises(
        SettingsError, match=f"no `magnetis dev` with a sandbox runs in {tmp_path / 'another'}"
    ):
        Settings.load().require_key()


def test_the_file_of_a_killed_dev_is_ignored(tmp_path: Path) -> None:
    with claim_home(tmp_path / ".magnetis"):
        write_private(
            tmp_path / ".magnetis" / STATE,
            '{"api_url": "http://127.0.0.1:9", "sandbox_key": "k", "database_url": null}',
        )
        assert Settings.load().api_key
    assert Settings.load().api_key is None
    with claim_home(tmp_path / ".magnetis"):
        assert Settings.load().api_key is None, "the new process has not published its settings yet"


def test_a_real_key_is_never_written(tmp_path: Path) -> None:
    """Without the key, this terminal sees the other one's database but not the sandbox's quota."""
    with (
        claim_home(tmp_path / ".magnetis"),
        publish(tmp_path / ".magnetis", RunningDev("https://api.magnetis.io", None, None)),
    ):
        settings = Settings.load()
        assert settings.api_key is None
        assert embedded_database(settings) == "magnetis"
        assert not uses_sandbox(settings)
    assert embedded_database(settings) == "sandbox"


def test_an_env_file_that_others_can_read_gets_mode_600(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".env").write_text("MAGNETIS_API_KEY=real\n")
    (tmp_path / ".env").chmod(0o644)
    for _ in range(2):
        assert Settings.load().require_key() == "real"
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert [record.message for record in caplog.records] == [
        f"Other users could read {tmp_path / '.env'}. Its mode was changed to 600."
    ]
