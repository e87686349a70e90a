"""Commands with several connections: `connections`, --connection, and overlaps of a probe."""

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml
from sqlalchemy import Connection, Engine, text
from test_cli import magnetis

from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

GROUP, NORD = "group-key-77a1", "nord-key-77a2"
TODAY = date.today()  # noqa: DTZ011 - a day more or less
START = TODAY - timedelta(days=20)


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    options = SandboxOptions(
        keys=(GROUP, NORD), scopes={NORD: "network:1"}, calls_per_day=20, accounts=6
    )
    with SandboxServer(options) as sandbox:
        yield sandbox


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "magnetis.yaml"
    path.write_text(
        f"""
connections:
  nord:
    api_key_env: KEY_NORD
    scope: network
    daily_quota: 300
    start_date: {START}
    collections: [accounts, calls, visits]
    key_expires: {TODAY + timedelta(days=3)}
  group:
    api_key_env: KEY_GROUP
    scope: organization
    start_date: {START}
"""
    )
    return path


@pytest.fixture
def environment(sandbox: SandboxServer, database_url: str, config: Path) -> dict[str, str]:
    return {
        "KEY_GROUP": GROUP,
        "KEY_NORD": NORD,
        "MAGNETIS_API_URL": sandbox.url,
        "MAGNETIS_DATABASE_URL": database_url,
        "MAGNETIS_CONFIG": str(config),
        "MAGNETIS_HOME": str(config.parent / "home"),
    }


def store_accounts(engine: Engine, sandbox: SandboxServer, connection: str, key: str) -> int:
    """Insert the accounts that the sandbox returns for a key; return their number."""
    answer = httpx.get(
        f"{sandbox.url}/accounts?limit=250", headers={"x-api-key": key}, trust_env=False
    )
    ids = [str(row["id"]) for row in answer.json()["data"]]
    with engine.begin() as session:
        session.execute(
            text(
                "INSERT INTO magnetis.accounts "
                "(connection, id, payload, first_seen_at, last_seen_at, changed_at) "
                "SELECT :connection, id, '{}', now(), now(), now() "
                "FROM unnest(CAST(:ids AS text[])) AS id"
            ),
            {"connection": connection, "ids": ids},
        )
    return len(ids)


def complete_days(session: Connection, day: date) -> None:
    """Record a window of the connection nord with two complete days of calls, the last is `day`."""
    session.execute(
        text(
            "INSERT INTO magnetis_ops.windows (connection, collection, first_day, last_day, "
            "read_at, committed_at, announced, received, padding, held, quarantined, inserted, "
            "changed, deleted, api_calls, bytes, milliseconds) VALUES "
            "('nord', 'calls', :day, :day, now(), now(), 5, 5, 0, 5, 0, 5, 0, 0, 1, 1, 1)"
        ),
        {"day": day},
    )
    session.execute(
        text(
            "INSERT INTO magnetis_ops.days (connection, collection, day, window_id, read_at, "
            "announced, held) SELECT 'nord', 'calls', d, "
            "(SELECT max(id) FROM magnetis_ops.windows), now(), 5, 5 "
            "FROM unnest(ARRAY[CAST(:day AS date), CAST(:day AS date) - 1]) AS d"
        ),
        {"day": day},
    )


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "calls"],
        ["plan", "--report", "abcdefgh"],
        ["probe"],
        ["quota"],
        ["reparse", "calls"],
        ["settings", "export"],
        ["settings", "diff", "baseline.yaml"],
        ["migrate", "--adopt-key"],
    ],
    ids=" ".join,
)
def test_several_connections_require_a_name(
    command: list[str], environment: dict[str, str], sandbox: SandboxServer
) -> None:
    ended = magnetis(*command, **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "There are several connections: nord, group. Add --connection" in ended.stderr
    unknown = magnetis(*command, "--connection", "sud", **environment)
    assert unknown.returncode == 2
    assert "No connection 'sud' is declared. There are: nord, group." in unknown.stderr
    assert sandbox.received == 0


def test_each_connection_has_its_own_quota(environment: dict[str, str], engine: Engine) -> None:
    spent = magnetis("plan", "calls", "--connection", "nord", "--json", **environment)
    assert spent.returncode == 0, spent.stderr
    plan = json.loads(spent.stdout)
    assert (plan["from"], plan["quota"]["limit"]) == (str(START), 300)
    quotas = {
        name: json.loads(magnetis("quota", "--connection", name, "--json", **environment).stdout)
        for name in ("nord", "group")
    }
    assert {name: each["today"]["used"] for name, each in quotas.items()} == {"nord": 1, "group": 0}
    assert {name: each["today"]["limit"] for name, each in quotas.items()} == {
        "nord": 300,
        "group": 5000,
    }
    with engine.connect() as session:
        charged = session.execute(
            text("SELECT connection, count(*) FROM magnetis_ops.api_calls GROUP BY 1")
        ).all()
    assert charged == [("nord", 1)]


def test_the_list_of_connections(
    environment: dict[str, str], engine: Engine, sandbox: SandboxServer, config: Path
) -> None:
    prepared = magnetis("migrate", **environment)
    assert prepared.returncode == 0, prepared.stderr
    with engine.begin() as session:
        declared = session.execute(
            text("SELECT name, scope FROM magnetis_ops.connections ORDER BY rank")
        ).all()
        complete_days(session, START)
    assert [tuple(each) for each in declared[:2]] == [
        ("group", "organization"),
        ("nord", "network"),
    ]
    magnetis("plan", "calls", "--connection", "nord", **environment)
    before = sandbox.received

    shown = json.loads(magnetis("connections", "--json", **environment).stdout)
    nord, group = shown
    assert (nord["name"], nord["scope"], nord["declared"]) == ("nord", "network", True)
    assert (nord["calls_today"], nord["daily_quota"]) == (1, 300)
    assert nord["last_load"] is not None
    closed = (TODAY - START).days
    assert abs(nord["missing_days"] - (2 * closed - 1)) <= 2, "calls and visits, less one day"
    assert abs(group["missing_days"] - 5 * closed) <= 5
    assert nord["key_expires"] == str(TODAY + timedelta(days=3))
    assert nord["problems"] == [f"Its key expires in 3 days, on {nord['key_expires']}."]
    assert group["problems"] == []

    words = magnetis("connections", **environment, COLUMNS="80")
    assert (words.returncode, words.stderr) == (0, "")
    assert max(map(len, words.stdout.splitlines())) <= 80
    assert "1 / 300" in words.stdout
    assert sandbox.received == before, "the list sends no API call"

    content = yaml.safe_load(config.read_text())
    del content["connections"]["nord"]
    content["connections"]["twin"] = {"api_key_env": "KEY_GROUP"}
    content["connections"]["sud"] = {"api_key_env": "KEY_SUD"}
    config.write_text(yaml.safe_dump(content))
    assert magnetis("migrate", **environment).returncode == 0
    lines = {
        each["name"]: each
        for each in json.loads(magnetis("connections", "--json", **environment).stdout)
    }
    assert set(lines) == {"group", "twin", "sud", "nord"}
    assert "The same key as twin: they share one quota" in lines["group"]["problems"][0]
    assert "KEY_SUD" in lines["sud"]["problems"][0]
    assert (lines["nord"]["declared"], lines["nord"]["missing_days"]) == (False, None)
    assert "10 rows are still stored" in lines["nord"]["problems"][0]
    assert NORD not in str(shown) + words.stdout + str(lines)


def test_a_probe_reports_overlaps_without_ids(
    environment: dict[str, str], engine: Engine, sandbox: SandboxServer
) -> None:
    stored = store_accounts(engine, sandbox, "group", GROUP)
    before = sandbox.received
    probed = magnetis("probe", "--connection", "nord", "--json", **environment)
    assert probed.returncode == 0, probed.stderr
    report = json.loads(probed.stdout)
    assert sandbox.received - before == report["calls"]
    overlap = report["overlaps"]["accounts"]
    assert 0 < overlap["received"] < stored
    assert overlap["shared"] == {"group": overlap["received"]}
    assert "ids" not in report
    words = magnetis("probe", "--connection", "nord", **environment).stdout
    number = overlap["received"]
    assert (
        f"{number} of {number} accounts are also loaded by group (organization): the view "
        "accounts_distinct returns each once." in " ".join(words.split())
    )


def test_a_probe_writes_to_the_overlay_of_its_connection(
    environment: dict[str, str], config: Path
) -> None:
    content = yaml.safe_load(config.read_text())
    calls = {"routes": [{"path": "/gone"}, {"path": "/calls"}]}
    content["collections"] = {"calls": calls}
    config.write_text(yaml.safe_dump(content))
    ended = magnetis("probe", "--connection", "nord", "--write", **environment)
    assert ended.returncode == 0, ended.stderr
    written = yaml.safe_load(config.read_text())
    assert written["connections"]["nord"]["overlay"]["collections"]["calls"]["route"] == "/calls"
    assert written["collections"] == {"calls": calls}

    (config.parent / "nord.yaml").write_text("collections: {}\n")
    content["connections"]["nord"]["overlay"] = "nord.yaml"
    config.write_text(yaml.safe_dump(content))
    ended = magnetis("probe", "--connection", "nord", "--write", **environment)
    assert ended.returncode == 0, ended.stderr
    assert yaml.safe_load(config.read_text()) == content
    own = yaml.safe_load((config.parent / "nord.yaml").read_text())
    assert own["collections"]["calls"]["route"] == "/calls"


def test_a_rotated_key_is_adopted_for_one_connection(
    environment: dict[str, str], engine: Engine
) -> None:
    with engine.begin() as session:
        session.execute(
            text(
                "INSERT INTO magnetis_ops.sources (connection, collection, key_fingerprint, origin,"
                " adopted_at) SELECT name, 'calls', 'an old key', 'http://old', now() "
                "FROM unnest(ARRAY['nord', 'group']) AS name"
            )
        )
    adopted = magnetis("migrate", "--adopt-key", "--connection", "nord", **environment)
    assert adopted.returncode == 0, adopted.stderr
    assert "Adopted: calls." in adopted.stdout
    with engine.connect() as session:
        left = session.execute(
            text("SELECT connection FROM magnetis_ops.sources WHERE key_fingerprint = 'an old key'")
        ).scalars()
        assert left.all() == ["group"]


def test_a_column_of_any_connection_is_not_dropped(
    environment: dict[str, str], config: Path, engine: Engine
) -> None:
    content = yaml.safe_load(config.read_text())
    own = {"type": "text", "paths": ["custom.ref"], "description": "Reference."}
    content["connections"]["group"]["overlay"] = {
        "collections": {"calls": {"columns": {"our_reference": own}}}
    }
    config.write_text(yaml.safe_dump(content))

    def columns() -> list[str]:
        with engine.connect() as session:
            return list(
                session.execute(
                    text(
                        "SELECT attname FROM pg_attribute "
                        "WHERE attrelid = 'magnetis.calls'::regclass "
                        "AND attname = 'our_reference' AND NOT attisdropped"
                    )
                ).scalars()
            )

    assert magnetis("migrate", **environment).returncode == 0
    kept = magnetis("migrate", "--drop-columns", "--yes", "--connection", "nord", **environment)
    assert kept.returncode == 0, kept.stderr
    assert columns() == ["our_reference"]
    del content["connections"]["group"]["overlay"]
    config.write_text(yaml.safe_dump(content))
    dropped = magnetis("migrate", "--drop-columns", "--yes", **environment)
    assert "Dropped magnetis.calls.our_reference." in dropped.stdout
    assert columns() == []


def test_one_connection_is_the_default(sandbox: SandboxServer, database_url: str) -> None:
    environment = {"MAGNETIS_API_URL": sandbox.url, "MAGNETIS_DATABASE_URL": database_url}
    plain = magnetis("quota", "--json", MAGNETIS_API_KEY=GROUP, **environment)
    named = magnetis(
        "quota", "--json", "--connection", "magnetis", MAGNETIS_API_KEY=GROUP, **environment
    )
    assert (plain.returncode, named.returncode) == (0, 0)
    assert (
        json.loads(plain.stdout)["today"]["key_fingerprint"]
        == json.loads(named.stdout)["today"]["key_fingerprint"]
    )


def documented_sql(word: str) -> str:
    """Return the statements of docs/connections.md that contain a word."""
    page = (Path(__file__).parents[2] / "docs/connections.md").read_text()
    [found] = [each for each in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) if word in each]
    return str(found)


def stored(engine: Engine) -> dict[str, list[int]]:
    """Return by connection the number of its accounts, days, windows, charges, declarations."""
    tables = ("magnetis.accounts", "magnetis_ops.days", "magnetis_ops.windows")
    counts: dict[str, list[int]] = {}
    with engine.connect() as session:
        for name in ("nord", "group", "sud"):
            counts[name] = [
                session.execute(
                    text(f"SELECT count(*) FROM {table} WHERE {column} = :name"), {"name": name}
                ).scalar_one()
                for table, column in [
                    *((each, "connection") for each in (*tables, "magnetis_ops.api_calls")),
                    ("magnetis_ops.connections", "name"),
                ]
            ]
    return counts


def test_the_documented_statements_delete_and_rename_a_connection(
    environment: dict[str, str], engine: Engine, sandbox: SandboxServer, database_url: str
) -> None:
    assert magnetis("migrate", **environment).returncode == 0
    assert magnetis("plan", "calls", "--connection", "nord", **environment).returncode == 0
    nord = store_accounts(engine, sandbox, "nord", NORD)
    group = store_accounts(engine, sandbox, "group", GROUP)
    with engine.begin() as session:
        complete_days(session, START)
    before = stored(engine)
    assert before == {"nord": [nord, 2, 1, 1, 1], "group": [group, 0, 0, 0, 1], "sud": [0] * 5}
    with psycopg.connect(database_url) as session:
        session.execute("INSERT INTO magnetis_ops.connections (name) VALUES ('sud')")
        session.execute("INSERT INTO magnetis_ops.row_access VALUES ('customer', 'nord', 'a1')")
        session.execute(
            "INSERT INTO magnetis_ops.column_visibility "
            "SELECT 'sud', collection, name, visible FROM magnetis_ops.column_visibility "
            "WHERE connection = 'nord'"
        )
        session.commit()
        session.execute(documented_sql("UPDATE %s"))
        access = session.execute("SELECT * FROM magnetis_ops.row_access").fetchall()
        assert access == [("customer", "sud", "a1")]
    assert stored(engine) == before | {"sud": before["nord"], "nord": [0] * 5}
    with psycopg.connect(database_url) as session:
        session.execute(documented_sql("DELETE FROM %s").replace("'nord'", "'sud'"))
    assert stored(engine) == before | {"nord": [0] * 5, "sud": [0, 0, 0, 1, 0]}, "the ledger stays"
    with psycopg.connect(database_url) as session:
        assert session.execute("SELECT * FROM magnetis_ops.row_access").fetchall() == []
