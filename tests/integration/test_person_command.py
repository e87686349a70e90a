"""`magnetis person` finds, erases and replays, and prints no personal data."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from protected import PRIVACY_KEY, protection
from sqlalchemy import Engine
from test_cli import magnetis
from windows import PARIS, load_window

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.warehouse import Warehouse

NUMBER, EMAIL, NAME = "0033199001122", "zoe.quenneville@exemple.fr", "Quenneville"
DAY = date.today() - timedelta(days=3)  # noqa: DTZ011 - any recent day


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {"MAGNETIS_DATABASE_URL": database_url, "MAGNETIS_HOME": f"{tmp_path}/home"}


@pytest.fixture(autouse=True)
def _loaded(engine: Engine, catalogue: Catalogue) -> None:
    for name in ("magnetis", "removed"):
        warehouse = Warehouse(
            engine,
            catalogue,
            connection_name=name,
            response_zone=PARIS,
            partition_zone=PARIS,
            protection=protection(None),
        )
        rows = [
            {"id": f"c{number}", "start_at": f"{DAY} 10:00:00", "caller": {"number": caller}}
            for number, caller in enumerate((NUMBER, "+33 1 99 00 11 22", "+33612345678"))
        ]
        load_window(warehouse, "calls", [DAY], rows, read_at=datetime.now(UTC))


def numbers(database_url: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT caller_number FROM magnetis.calls WHERE caller_number IS NOT NULL"
        )
        return sorted(number for (number,) in found)


def test_a_person_is_found_then_erased(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    found = magnetis("person", "find", NUMBER, EMAIL, "--json", **environment)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["rows"] == 4
    assert {place["connection"] for place in report["places"]} == {"magnetis", "removed"}
    with_keys = magnetis("person", "find", NUMBER, "--keys", "--json", **environment)
    [key] = json.loads(with_keys.stdout)["caller_keys"]["magnetis"]
    with psycopg.connect(database_url) as connection:
        stored = connection.execute(
            "SELECT count(*) FROM magnetis.calls WHERE caller_key = %s", (key,)
        )
        assert stored.fetchone() == (2,)
    dry = magnetis("person", "erase", NUMBER, EMAIL, **environment)
    assert dry.returncode == 0, dry.stderr
    assert "Nothing was erased" in dry.stderr
    assert len(numbers(database_url)) == 6
    done = magnetis(
        *("person", "erase", NUMBER, EMAIL, "--reason", f"request of {NUMBER}", "--yes"),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    assert "is complete. Rows masked or deleted: 4;" in done.stdout
    assert numbers(database_url) == ["+33612345678"] * 2
    again = magnetis("person", "find", "01 99 00 11 22", **environment)
    assert "No row is about this person" in again.stdout
    listed = magnetis("person", "export", **environment)
    entries = [json.loads(line) for line in listed.stdout.splitlines()]
    assert len(entries) == 4
    replayed = magnetis("person", "replay", "-", **environment)
    assert "Missing erasures recorded: 0." in replayed.stdout
    for output in (found, dry, done, again, listed):
        for secret in (NUMBER[4:], EMAIL, NAME, PRIVACY_KEY.partition(":")[2]):
            assert secret not in f"{output.stdout}{output.stderr}"
            assert not [
                path
                for path in tmp_path.rglob("*")
                if path.is_file() and secret.encode() in path.read_bytes()
            ]


def test_mistakes_are_named_without_the_value(environment: dict[str, str]) -> None:
    wrong = magnetis("person", "find", NUMBER, "Quenneville", **environment)
    assert wrong.returncode == 2
    assert "Identifier 2: expected a phone number" in wrong.stderr
    assert NAME not in wrong.stderr
    no_key = magnetis("person", "find", NUMBER, **environment, MAGNETIS_PRIVACY_KEY="")
    assert no_key.returncode == 2
    assert "MAGNETIS_PRIVACY_KEY is not set" in no_key.stderr
    other = magnetis(
        "person", "find", NUMBER, **environment, MAGNETIS_PRIVACY_KEY="t:" + PRIVACY_KEY[:1:-1]
    )
    assert other.returncode == 2
    assert "is not the one that the rows of this database were loaded with" in other.stderr
