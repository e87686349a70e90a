"""Judgements of facts about a database."""

from dataclasses import replace
from datetime import timedelta

import pytest

from magnetis_dagster.database.health import SchemaRights, ServerFacts
from magnetis_dagster.doctor import Status
from magnetis_dagster.doctor.database import (
    OWNED_SCHEMAS,
    judge_clock,
    judge_rights,
    judge_server,
    judge_tables,
)
from magnetis_dagster.warehouse.migration_state import MigrationState

ALL = SchemaRights(is_usable=True, creates_tables=True)
GOOD = ServerFacts(
    version="18.1",
    version_number=180001,
    encoding="UTF8",
    database="magnetis",
    by_socket=False,
    creates_schemas=True,
    creates_temporary_tables=True,
    data_directory=None,
    schemas=dict.fromkeys(OWNED_SCHEMAS, ALL),
    ahead=timedelta(milliseconds=3),
    accuracy=timedelta(milliseconds=1),
)


def test_a_good_server() -> None:
    assert [each.status for each in judge_server(GOOD)] == [Status.OK]
    assert judge_rights(GOOD, is_current=True).status is Status.OK
    assert judge_clock(GOOD).status is Status.OK


def test_version_and_encoding() -> None:
    old, latin = judge_server(
        replace(GOOD, version="12.3", version_number=120003, encoding="LATIN1")
    )
    assert (old.status, latin.status) == (Status.WARNING, Status.ERROR)


@pytest.mark.parametrize(
    ("seconds", "accuracy", "status"),
    [
        (1.9, 0, Status.OK),
        (-1.9, 0, Status.OK),
        (2.5, 1, Status.OK),
        (2.5, 0.1, Status.WARNING),
        (-30, 0.1, Status.WARNING),
        (61, 0.1, Status.ERROR),
        (-3600, 0.1, Status.ERROR),
    ],
)
def test_clocks(seconds: float, accuracy: float, status: Status) -> None:
    facts = replace(GOOD, ahead=timedelta(seconds=seconds), accuracy=timedelta(seconds=accuracy))
    found = judge_clock(facts)
    assert found.status is status
    if status is not Status.OK:
        assert ("ahead of" if seconds > 0 else "behind") in found.text


def test_rights() -> None:
    reader = SchemaRights(is_usable=True, creates_tables=False)
    loader = replace(GOOD, creates_schemas=False, schemas=dict.fromkeys(OWNED_SCHEMAS, reader))
    assert judge_rights(loader, is_current=True).status is Status.WARNING
    assert judge_rights(loader, is_current=False).status is Status.ERROR
    nothing = replace(GOOD, creates_schemas=False, schemas={})
    assert "create the schema magnetis" in judge_rights(nothing, is_current=True).text
    assert judge_rights(nothing, is_current=True).status is Status.ERROR
    assert judge_rights(replace(nothing, creates_schemas=True), is_current=True).status is Status.OK
    staging = judge_rights(replace(GOOD, creates_temporary_tables=False), is_current=True)
    assert staging.status is Status.ERROR
    locked = SchemaRights(is_usable=False, creates_tables=False)
    masked = dict.fromkeys(OWNED_SCHEMAS, reader) | {"magnetis_masked": locked}
    found = judge_rights(replace(loader, schemas=masked), is_current=True)
    assert found.status is Status.WARNING, "loads do not read the masked views"
    found = judge_rights(replace(GOOD, schemas={"dagster": locked}), is_current=True)
    assert (found.status, found.text) == (
        Status.ERROR,
        "The role may not use the schema dagster.",
    )


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        (MigrationState("0008", False, (), ()), Status.OK, "up to date (migration 0008)"),
        (MigrationState("0099", True, (), ()), Status.ERROR, "newer version"),
        (MigrationState(None, False, ("0001",), ()), Status.WARNING, "do not exist yet"),
        (
            MigrationState("0007", False, ("0008",), tuple("abcdefg")),
            Status.WARNING,
            "0008, a, b, c, d and 3 more",
        ),
    ],
)
def test_tables(state: MigrationState, status: Status, words: str) -> None:
    found = judge_tables(state)
    assert found.status is status
    assert words in found.text
