"""Ids and times by declaration: the errors of a wrong one, and the overlay that fixes it."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from small_api import Open, SmallApi, call

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.ingest import UnplaceableRows

DAY = date(2025, 3, 28)
AT = "2025-03-28 10:00:00"


def overlaid(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "overlay.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalogue(path)


def load(open_ingestion: Open, catalogue: Catalogue) -> Any:
    with open_ingestion(catalogue=catalogue) as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    return result


def without_id(number: int, **members: Any) -> dict[str, Any]:
    return {name: value for name, value in call(number, AT).items() if name != "id"} | members


def test_an_id_under_another_name_is_declared_in_the_overlay(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, tmp_path: Path
) -> None:
    api.rows["/calls"] = [without_id(number, call_id=f"c{number}") for number in range(3)]
    with pytest.raises(
        UnplaceableRows, match=r"no id \(3 rows\).*\(collections\.calls\.id_paths\)"
    ):
        load(open_ingestion, catalogue)
    result = load(open_ingestion, overlaid(tmp_path, "collections: {calls: {id_paths: [call_id]}}"))
    assert (result.received, result.quarantined, result.unknown) == (3, 0, [])
    assert query("SELECT id FROM magnetis.calls ORDER BY id") == [("c0",), ("c1",), ("c2",)]


def test_two_legs_of_a_call_may_share_an_id(
    api: SmallApi, open_ingestion: Open, query: Any, tmp_path: Path
) -> None:
    api.rows["/calls"] = [
        call(1, AT, leg=1, duration=5),
        call(1, AT, leg=2, duration=9),
        call(2, AT, leg=1),
    ]
    catalogue = overlaid(tmp_path, "collections: {calls: {id_paths: [[id, leg]]}}")
    for _ in range(2):
        assert load(open_ingestion, catalogue).received == 3
    assert query(
        "SELECT id, duration_seconds FROM magnetis.calls WHERE deleted_at IS NULL ORDER BY id"
    ) == [
        ("call-1|1", 5),
        ("call-1|2", 9),
        ("call-2|1", None),
    ]


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("28 March, 10 h", "unreadable time in start_at"),
        (None, "no usable time in start_at, started_at, date, created_at"),
    ],
)
def test_errors_of_times_name_the_time_fields(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, moment: str | None, reason: str
) -> None:
    api.respond = lambda request: api.envelope([call(1, AT) | {"start_at": moment}], request)
    with pytest.raises(
        UnplaceableRows, match=rf"{reason} \(1 rows\).*\(collections\.calls\.time_fields\)"
    ):
        load(open_ingestion, catalogue)


def test_rows_in_another_convention_fill_the_same_columns(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    row = {
        "Id": "call-1",
        "Account": {"Id": 12},
        "startAt": AT,
        "CallerNumber": 33612345678.0,
        "Duration": "00:03:21",
        "recipient-number": "0033",
        "utm.source": "google",
    }
    api.respond = lambda request: api.envelope([row], request)
    result = load(open_ingestion, catalogue)
    assert (result.misfits, result.unknown, result.quarantined) == ({}, [], 0)
    columns = (
        "id, account_id, day::text, caller_number, duration_seconds, recipient_number, utm_source"
    )
    assert query(f"SELECT {columns} FROM magnetis.calls") == [
        ("call-1", "12", "2025-03-28", "33612345678", 201, "0033", "google")
    ]
