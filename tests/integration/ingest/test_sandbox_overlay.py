"""Collections, routes and member names of MAGNETIS_CONFIG in the sandbox, and their loads."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_api import PARIS, Open
from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.sandbox import PERSONAL_MARKERS, SANDBOX_KEYS, SandboxOptions, SandboxServer
from magnetis_dagster.warehouse.migrate import migrate

OVERLAY = """
collections:
  invoices:
    family: organization
    kind: snapshot
    route: /invoices
    columns:
      amount: {type: decimal}
      contact: {paths: [contact.name], personal_data: personal}
  bookings:
    family: leads
    kind: events
    route: /bookings
    window: {start: since, end: until, format: "%Y-%m-%dT%H:%M:%S"}
    time_fields: [booked_at]
    id_paths: [booking_id]
    columns:
      phone: {personal_data: personal}
      seats: {type: integer}
      paid: {type: boolean}
      wanted_at: {type: timestamp}
      tags: {type: json}
  calls:
    route: /v2/calls
    time_fields: [begun_at]
    id_paths: [[call_id, leg]]
    columns:
      caller_number: {paths: [caller_msisdn]}
      our_reference: {paths: [custom.ref]}
"""
DAYS = [date(2026, 3, 2) + timedelta(days=number) for number in range(3)]
Query = Callable[..., list[Any]]


@pytest.fixture
def overlaid(tmp_path: Path) -> Catalogue:
    (tmp_path / "magnetis.yaml").write_text(OVERLAY)
    return load_catalogue(tmp_path / "magnetis.yaml")


def test_a_load_stores_the_rows_of_the_sandbox(
    overlaid: Catalogue, open_ingestion: Open, engine: Engine, query: Query
) -> None:
    migrate(engine, overlaid)
    with (
        SandboxServer(
            SandboxOptions(accounts=3, calls_per_day=60, daily_quota=None), overlaid
        ) as sandbox,
        open_ingestion(catalogue=overlaid, origin=sandbox.url, key=sandbox.key) as ingestion,
    ):
        for name in ("bookings", "calls"):
            list(ingestion.read_days(overlaid[name], DAYS))
            member = {"bookings": "booking_id", "calls": "call_id"}[name]
            held = {row[member]: row for (row,) in query(f"SELECT payload FROM magnetis.{name}")}
            assert held == {
                row[member]: row for row in sandbox.world.truth(name, DAYS[0], DAYS[-1])
            }
            assert len(held) == sandbox.world.count(name, DAYS[0], DAYS[-1]) > 30
        # an edit and a deletion of an added collection
        row = next(sandbox.world.truth("bookings", DAYS[1], DAYS[1]))
        sandbox.world.edit("bookings", row["booking_id"], seats=1234)
        sandbox.world.delete(
            "bookings", next(sandbox.world.truth("bookings", DAYS[2], DAYS[2]))["booking_id"]
        )
        list(ingestion.read_days(overlaid["bookings"], DAYS))
        assert query(
            "SELECT seats FROM magnetis.bookings WHERE id = :id", id=row["booking_id"]
        ) == [(1234,)]
        assert query("SELECT count(*) FROM magnetis.bookings WHERE deleted_at IS NOT NULL") == [
            (1,)
        ]
    missing = " OR ".join(
        f"{column} IS NULL"
        for column in ("account_id", "phone", "seats", "paid", "wanted_at", "tags", "day")
    )
    assert query(f"SELECT count(*) FROM magnetis.bookings WHERE {missing}") == [(0,)]
    assert query(
        "SELECT count(*) FROM magnetis.calls "
        "WHERE our_reference IS NULL OR occurred_at IS NULL OR status IS NULL"
    ) == [(0,)]
    assert query("SELECT count(*) FROM magnetis.calls WHERE caller_number IS NOT NULL")[0][0] > 100
    for (phone,) in query("SELECT phone FROM magnetis.bookings"):
        assert any(marker in phone for marker in PERSONAL_MARKERS)


def test_rows_of_added_collections_follow_seed_and_key(overlaid: Catalogue) -> None:
    worlds = [
        SandboxServer(SandboxOptions(accounts=3, seed=seed), overlaid).world for seed in (1, 1, 2)
    ]
    rows = [
        {name: list(world.truth(name, DAYS[0], DAYS[0])) for name in ("invoices", "bookings")}
        for world in worlds
    ]
    assert rows[0] == rows[1] != rows[2]
    assert len(rows[0]["invoices"]) == 6
    assert all(row["contact"]["name"] for row in rows[0]["invoices"])


def test_a_collection_that_the_catalogue_ships_needs_no_code_either(
    overlaid: Catalogue,
    open_ingestion: Open,
    engine: Engine,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("magnetis_dagster.sandbox.declared_rows.load_catalogue", lambda: overlaid)
    migrate(engine, overlaid)
    options = SandboxOptions(accounts=3, calls_per_day=60, daily_quota=None)
    with (
        SandboxServer(options, overlaid) as sandbox,
        open_ingestion(catalogue=overlaid, origin=sandbox.url, key=sandbox.key) as ingestion,
    ):
        list(ingestion.read_days(overlaid["bookings"], DAYS))
        ingestion.read_snapshot(overlaid["invoices"], datetime.now(PARIS).date())
        expected = sandbox.world.count("bookings", DAYS[0], DAYS[-1])
    assert query("SELECT count(*) FROM magnetis.bookings") == [(expected,)]
    assert expected > 30
    assert query("SELECT count(*) FROM magnetis.invoices WHERE amount > 0") == [(6,)]


def test_a_key_of_an_account_reads_its_rows_only(overlaid: Catalogue) -> None:
    with SandboxServer(SandboxOptions(accounts=3), overlaid) as sandbox:
        window = {"since": "2026-03-02T00:00:00", "until": "2026-03-02T23:59:59"}
        found = [
            httpx.get(
                f"{sandbox.url}/bookings",
                params=window,
                headers={"x-api-key": key},
                trust_env=False,
            ).json()["data"]
            for key in SANDBOX_KEYS
        ]
        assert [len({row["account"]["id"] for row in rows}) for rows in found] == [3, 2, 1]
        refused = httpx.get(
            f"{sandbox.url}/bookings",
            params={"since": "20260302"},
            headers={"x-api-key": sandbox.key},
            trust_env=False,
        )
        assert refused.status_code == 422
