"""Responses with a false size or wrong pages cost few API calls, and complete no day."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from small_api import Open, Request, SmallApi, call, ok

from magnetis_dagster.api import CHARGED_AHEAD
from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.ingest import IncompleteWindow, UnplaceableRows

DAY = date(2025, 3, 28)


def calls(number: int) -> list[dict[str, Any]]:
    return [call(n, "2025-03-28 10:00:00") for n in range(number)]


@pytest.mark.parametrize(
    "meta",
    [
        {"last_page": 3000},
        {"last_page": 3000, "total": 750_000},
        {"last_page": None, "total": 750_000},
    ],
)
def test_nonexistent_pages_are_not_requested_one_by_one(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, meta: dict[str, Any]
) -> None:
    api.rows["/calls"] = calls(300)
    api.respond = lambda request: api.envelope(api.window(request), request, **meta)
    with open_ingestion() as ingestion:
        if "total" in meta:
            with pytest.raises(
                IncompleteWindow,
                match="announced 750000 rows and returned 300 distinct ones; page 3",
            ):
                list(ingestion.read_days(catalogue["calls"], [DAY]))
        else:
            list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert len(api.requests) <= 3 * (2 + 8 + CHARGED_AHEAD) + 4, (
        "two halves and two bounds of a round total"
    )


def test_an_empty_first_page_with_a_total(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.respond = lambda request: ok({"data": [], "meta": {"total": 60_000}})
    with open_ingestion() as ingestion, pytest.raises(IncompleteWindow):
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert len(api.requests) <= 3


def test_an_empty_page_in_the_middle_without_a_total(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = calls(1000)

    def respond(request: Request) -> Any:
        if request.page == 2:
            return ok({"data": [], "meta": {"last_page": 4}})
        return api.envelope(api.window(request), request, total=None)

    api.respond = respond
    with open_ingestion() as ingestion, pytest.raises(IncompleteWindow):
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


def test_an_empty_page_that_links_to_a_next_one(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    rows = calls(600)

    def respond(request: Request) -> Any:
        page = rows[(request.page - 1) * 250 : request.page * 250] if request.page != 2 else []
        return ok({"data": page, "links": {"next": "x" if request.page < 3 else None}})

    api.respond = respond
    with open_ingestion() as ingestion, pytest.raises(IncompleteWindow):
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


def test_a_bare_array_that_is_not_paged_is_read_once(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.respond = lambda _request: ok(calls(300))
    with open_ingestion(quota=50) as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    # two pages, and two searches at the edges, because the array does not announce its end
    assert (result.received, len(api.requests)) == (300, 2 + 2)


def test_a_route_without_window_is_read_once_for_the_whole_range(
    api: SmallApi, open_ingestion: Open, tmp_path: Path, query: Any
) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text("collections: {calls: {window: null}}")
    catalogue = load_catalogue(path)
    requested = [DAY + timedelta(days=n) for n in range(10)]
    api.rows["/calls"] = [
        call(f"{n}{m:03d}", f"{day} 10:00:00") for n, day in enumerate(requested) for m in range(99)
    ]
    with open_ingestion(chunk_rows=200, catalogue=catalogue) as ingestion:
        list(ingestion.read_days(catalogue["calls"], requested))
    assert len(api.requests) == 4 + 1, "page 1 is verified"
    assert query("SELECT count(*) FROM magnetis_ops.days WHERE held = 99") == [(10,)]


def test_members_named_by_a_number_or_an_address_are_not_shown(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    named = {"0033199000001": 1, "jeanne@example.org": 2, "Jeanne Personne": 3, "plain": 4}
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00", **named)]
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    assert result.unknown == ["*", "plain"]
    api.respond = lambda request: api.envelope([{"id": "call-1", **named}], request)
    with (
        open_ingestion() as ingestion,
        pytest.raises(UnplaceableRows, match=r"Members of the rows: \*, id, plain\."),
    ):
        list(ingestion.read_days(catalogue["calls"], [DAY]))
