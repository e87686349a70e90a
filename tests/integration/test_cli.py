"""The command line as a process: help, exit codes, and errors without traceback or key."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from protected import PRIVACY_KEY
from warm import run_cli

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.cli.app import app
from magnetis_dagster.database import embedded
from magnetis_dagster.privacy.plan import load_plan
from magnetis_dagster.sandbox import SANDBOX_KEY, SandboxOptions, SandboxServer

KEY = "cli-key-57d1f0a9"


def magnetis(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAGNETIS_", "DAGSTER_"))
    }
    known = {"COLUMNS": "200", "MAGNETIS_PRIVACY_KEY": PRIVACY_KEY}
    return run_cli(*arguments, environment={**clean, **known, **environment})


def names_of_commands() -> list[str]:
    commands = [
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    ]
    return commands + [
        group.typer_instance.info.name for group in app.registered_groups if group.typer_instance
    ]


def test_help_lists_the_commands() -> None:
    shown = magnetis("--help")
    assert shown.returncode == 0
    assert {"db-url", "dev", "probe", "reparse", "sandbox"} <= set(names_of_commands())
    for name in names_of_commands():
        assert re.search(rf"^\s+{name}\s", shown.stdout, re.MULTILINE)


def test_help_imports_nothing_that_is_slow() -> None:
    """Dagster takes two seconds to import."""
    slow = {"dagster", "sqlalchemy", "httpx", "pydantic", "psycopg", "rich"}
    code = f"import sys, magnetis_dagster.cli.app; print({slow} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["", *names_of_commands()])
def test_help_fits_a_terminal_of_80_columns(name: str) -> None:
    shown = magnetis(*filter(None, [name]), "--help", COLUMNS="80")
    assert [line for line in shown.stdout.splitlines() if len(line) > 80] == []


def test_versions_of_this_program_and_of_dagster() -> None:
    assert re.fullmatch(
        r"magnetis_dagster \d+\.\d+\.\d+, dagster 1\.\d+\.\d+\n", magnetis("--version").stdout
    )


@pytest.mark.parametrize("name", names_of_commands())
def test_every_command_and_option_has_help(name: str) -> None:
    shown = magnetis(name, "--help")
    assert shown.returncode == 0
    options = re.findall(r"^\s+(--[a-z-]+)(.*)$", shown.stdout, re.MULTILINE)
    assert options
    for option, rest in options:
        assert re.search(r"[a-z]{3,} [a-z]+", rest), f"{name} {option} has no description"


def test_no_command_shows_help() -> None:
    assert "Usage:" in magnetis().stdout + magnetis().stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (
            ["dev"],
            {"MAGNETIS_TIMEZONE": "Europe/Pariss"},
            2,
            "MAGNETIS_TIMEZONE: expected the name of a time zone",
        ),
        (["probe"], {}, 2, "MAGNETIS_API_KEY is not set"),
        (["probe", "--write"], {"MAGNETIS_API_KEY": KEY}, 2, "MAGNETIS_CONFIG"),
        (["reparse", "faxes"], {}, 2, "No collection faxes. There are: entities"),
        (
            ["sandbox", "--port", "0", "--fault", "fire=1"],
            {},
            2,
            "--fault: expected KIND=PROBABILITY",
        ),
        (
            ["sandbox", "--port", "0", "--fault", "error_500"],
            {},
            2,
            "--fault: expected KIND=PROBABILITY",
        ),
        (["dev", "--load", "-1"], {}, 2, "--load"),
        (
            ["reparse", "calls"],
            {"MAGNETIS_DATABASE_URL": "postgresql://me:hush@127.0.0.1:9/none"},
            3,
            "cannot be reached",
        ),
    ],
)
def test_mistakes_are_explained_in_a_sentence(
    arguments: list[str], environment: Mapping[str, str], code: int, words: str
) -> None:
    ended = magnetis(*arguments, **environment)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert KEY not in ended.stderr
    assert "hush" not in ended.stderr


def test_a_taken_port_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for command in ("dev", "sandbox"):
            ended = magnetis(command, "--port", str(port), MAGNETIS_HOME=str(tmp_path / "home"))
            assert ended.returncode == 2
            assert f"127.0.0.1:{port}" in ended.stderr
            assert "--port" in ended.stderr
    assert not (tmp_path / "home" / "postgres").exists()


def test_a_defect_prints_a_traceback_without_local_variables() -> None:
    code = f"""
from magnetis_dagster import settings
from magnetis_dagster.cli.app import main
def load():
    key = {KEY[:8]!r} + {KEY[8:]!r}
    raise RuntimeError("a defect")
settings.Settings.load = load
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, "db-url"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "RuntimeError: a defect" in ended.stderr
    assert KEY not in ended.stderr


def test_psql_accepts_the_output_of_db_url() -> None:
    ended = magnetis(
        "db-url", MAGNETIS_DATABASE_URL="postgresql+psycopg2://me:hush@db.example:5432/magnetis"
    )
    assert ended.stdout == "postgresql://me:hush@db.example:5432/magnetis\n"
    assert ended.stderr == ""
    assert (
        magnetis("db-url", MAGNETIS_DATABASE_URL="postgres://me@db/x").stdout
        == "postgresql://me@db/x\n"
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """Yield a home with an embedded database whose server does not run, before or after a test."""
    # not under pytest's folder: for root, the embedded server runs as another user
    with tempfile.TemporaryDirectory(prefix="magnetis-cli-") as home:
        embedded.start(Path(home))
        embedded.stop(Path(home))
        yield Path(home)


def test_db_url_of_the_embedded_server_starts_nothing(cluster: Path) -> None:
    ended = magnetis("db-url", MAGNETIS_HOME=str(cluster), MAGNETIS_API_KEY=KEY)
    assert re.fullmatch(r"postgresql://postgres:@/magnetis\?host=\S+\n", ended.stdout)
    assert "runs while `magnetis dev`" in ended.stderr
    assert not (cluster / "postgres" / "postmaster.pid").exists()

    running = embedded.start(cluster)
    try:
        again = magnetis("db-url", MAGNETIS_HOME=str(cluster), MAGNETIS_API_KEY=KEY)
        assert (again.stdout, again.stderr) == (f"{running}\n", "")
        assert again.stdout == ended.stdout
    finally:
        embedded.stop(cluster)


def test_a_killed_server_starts_again_and_stops_with_its_last_user(cluster: Path) -> None:
    """The server's process id may belong to another program, and its users have ended."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped
    (cluster / "postgres" / ".handle_pids.json").write_text(f"[{gone.pid}, {zombie.pid}]")
    pid = cluster / "postgres" / "postmaster.pid"
    pid.write_text(
        f"{os.getpid()}\n{cluster / 'postgres'}\n1712346200\n5432\n{cluster / 'postgres'}\n\n"
        " 8826964 65536\nready\n"
    )
    with psycopg.connect(embedded.start(cluster)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    embedded.stop(cluster)
    zombie.wait()
    assert not pid.exists()


@pytest.mark.parametrize(
    "key", [{}, {"MAGNETIS_API_KEY": SANDBOX_KEY}], ids=["no key", "the sandbox's key"]
)
def test_sandbox_rows_have_a_database_of_their_own(cluster: Path, key: Mapping[str, str]) -> None:
    assert "@/sandbox?" in magnetis("db-url", MAGNETIS_HOME=str(cluster), **key).stdout


@pytest.mark.parametrize(
    "command",
    [
        ["connections"],
        ["db-url"],
        ["db-url", "--tcp", "--read-only"],
        ["db-url", "--role", "analyst"],
        ["db-url", "--customer", "acme", "--connection", "magnetis"],
        ["migrate"],
        ["plan", "calls"],
        ["plan", "--report", "abcdefgh"],
        ["probe"],
        ["quota"],
        ["quota", "--reopen"],
        ["reparse", "calls"],
        ["settings", "diff", "baseline.yaml"],
        ["settings", "export"],
    ],
    ids=" ".join,
)
def test_commands_that_only_read_create_no_database(command: list[str], tmp_path: Path) -> None:
    if "baseline.yaml" in command:
        command = [*command[:-1], str(tmp_path.parent / "baseline.yaml")]
        Path(command[-1]).write_text("version: 1\nsettings: {}\n")
    ended = magnetis(*command, MAGNETIS_API_KEY=KEY)
    assert ended.returncode == 2
    assert f"There is no database under {tmp_path / '.magnetis'}." in ended.stderr
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_home_with_only_the_other_database_is_explained(cluster: Path) -> None:
    for command in (["quota"], ["reparse", "calls"], ["settings", "export"]):
        ended = magnetis(*command, MAGNETIS_HOME=str(cluster))
        assert ended.returncode == 2
        assert f"The server under {cluster} has no database sandbox" in ended.stderr
        assert "set MAGNETIS_API_KEY" in ended.stderr
        assert ended.stdout == ""


def test_tcp_and_read_only_need_the_server(cluster: Path) -> None:
    customer = ["--customer", "acme", "--connection", "magnetis"]
    for options in (["--tcp"], ["--read-only"], ["--tcp", "--role", "analyst"], customer):
        ended = magnetis("db-url", *options, MAGNETIS_HOME=str(cluster), MAGNETIS_API_KEY=KEY)
        assert ended.returncode == 2
        assert f"The embedded server under {cluster} is not running." in ended.stderr
        assert ended.stdout == ""
    url = "postgresql://me@db/x"
    assert magnetis("db-url", "--tcp", MAGNETIS_DATABASE_URL=url).stdout == f"{url}\n"
    refused = magnetis("db-url", "--read-only", MAGNETIS_DATABASE_URL="postgresql://me:hush@db/x")
    assert refused.returncode == 2
    assert "CREATE ROLE magnetis_reader LOGIN" in refused.stderr
    assert "ALTER DEFAULT PRIVILEGES FOR ROLE me IN SCHEMA magnetis" in refused.stderr
    assert "hush" not in refused.stderr
    refused = magnetis("db-url", *customer, MAGNETIS_DATABASE_URL="postgresql://me:hush@db/x")
    assert 'CREATE ROLE "acme" LOGIN' in refused.stderr
    assert "VALUES ('acme', 'magnetis', '*')" in refused.stderr
    assert 'GRANT CONNECT ON DATABASE "x" TO magnetis_customer' in refused.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--read-only", "--role", "analyst"], "--read-only is the role reader"),
        (["--role", "reader", "--customer", "acme"], "--customer is a role of its own"),
        (["--read-only", "--customer", "acme"], "--customer is a role of its own"),
        (["--connection", "nord"], "belong to --customer"),
        (["--role", "analyst", "--account", "a1"], "belong to --customer"),
        (["--customer", "acme", "--account", "a1"], "needs exactly one --connection"),
        (["--customer", "magnetis_reader"], "cannot be the name of a customer's role"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_contradictory_roles_are_refused(options: list[str], message: str) -> None:
    ended = magnetis("db-url", *options, MAGNETIS_DATABASE_URL="postgresql://me@db/x")
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stdout == ""


def test_probe_and_reparse_report_as_table_and_as_json(
    empty_database_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "magnetis.yaml"
    with SandboxServer(SandboxOptions(keys=(KEY,), accounts=2, calls_per_day=20)) as sandbox:
        environment = {
            "MAGNETIS_API_KEY": KEY,
            "MAGNETIS_API_URL": sandbox.url,
            "MAGNETIS_DATABASE_URL": empty_database_url,
            "MAGNETIS_CONFIG": str(config),
        }
        config.write_text("collections:\n  calls:\n    routes: [{path: /gone}, {path: /calls}]\n")
        found = magnetis("probe", "--json", "--write", **environment)
        assert found.returncode == 0, found.stderr
        report = json.loads(found.stdout)
        assert len(report["findings"]) == 18
        assert report["calls"] == sandbox.received >= 18 + 1 + 2 * 5
        assert (
            "Probing 18 collections: one request each, three more for each events collection"
            in found.stderr
        )
        assert "calls" in config.read_text()
        with psycopg.connect(empty_database_url) as connection:
            charged = connection.execute(
                "SELECT count(*) FROM magnetis_ops.api_calls WHERE run_id = 'magnetis probe'"
            ).fetchone()
        assert charged == (report["calls"],)

        table = magnetis("probe", **environment)
        assert table.returncode == 0
        assert "/calls" in table.stdout
        counts = json.loads(magnetis("reparse", "calls", "leads", "--json", **environment).stdout)
        assert counts["leads"] == {"read": 0, "updated": 0, "misfits": 0, "untimed": 0}
        assert "calls: 0 rows read" in magnetis("reparse", "calls", **environment).stdout
        for ended in (found, table):
            assert KEY not in ended.stdout + ended.stderr


def test_a_probe_creates_a_missing_overlay(empty_database_url: str, tmp_path: Path) -> None:
    config = tmp_path / "config" / "magnetis.yaml"
    with SandboxServer(SandboxOptions(keys=(KEY,), accounts=1, calls_per_day=5)) as sandbox:
        ended = magnetis(
            "probe",
            "--write",
            MAGNETIS_API_KEY=KEY,
            MAGNETIS_API_URL=sandbox.url,
            MAGNETIS_DATABASE_URL=empty_database_url,
            MAGNETIS_CONFIG=str(config),
        )
    assert ended.returncode == 0, ended.stderr
    assert f"{config} does not exist yet" in ended.stderr
    assert load_plan(config, load_catalogue(config)) == load_plan(None, load_catalogue())


def test_a_refused_key_ends_the_probe_with_the_reason_and_not_the_key(
    empty_database_url: str,
) -> None:
    with SandboxServer(SandboxOptions(keys=("another",), accounts=2)) as sandbox:
        ended = magnetis(
            "probe",
            MAGNETIS_API_KEY=KEY,
            MAGNETIS_API_URL=sandbox.url,
            MAGNETIS_DATABASE_URL=empty_database_url,
        )
        assert ended.returncode == 2
        assert "The probe ended early" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert KEY not in ended.stdout + ended.stderr
        assert sandbox.received == 1


def test_ctrl_c_is_130_without_a_traceback(empty_database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environment = {
            "MAGNETIS_API_KEY": KEY,
            "MAGNETIS_API_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "MAGNETIS_DATABASE_URL": empty_database_url,
        }
        with (
            subprocess.Popen(
                [sys.executable, "-m", "magnetis_dagster.cli", "probe"],
                env={**os.environ, **environment},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            ) as process,
            deaf.accept()[0],
        ):  # it has sent a request and waits for the response
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors


def test_the_sandbox_answers_until_it_is_stopped() -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "magnetis_dagster.cli",
            "sandbox",
            "--port",
            "0",
            "--accounts",
            "2",
            "--workers",
            "2",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert url, line
        with socket.create_connection(("127.0.0.1", int(url[1])), timeout=10) as connection:
            connection.sendall(
                b"GET /accounts?limit=1 HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n"
            )
            assert connection.recv(64).startswith(b"HTTP/1.1 401")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode in {0, -signal.SIGTERM}
