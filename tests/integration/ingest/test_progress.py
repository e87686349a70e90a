"""The progress of a run: each committed window, and each newly cached page."""

from datetime import date, timedelta
from typing import Any

import pytest
from small_api import Answer, Open, Request, SmallApi, call

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.errors import MagnetisError

DAY = date(2025, 3, 28)
DOWN: Answer = (503, {}, b"{}")


@pytest.fixture
def advances(api: SmallApi, open_ingestion: Open, catalogue: Catalogue) -> Any:
    """Return the number of advances of a run until it ended or failed."""

    def advances(days: int = 1, *, resumes: bool = False, run: str = "run-1") -> int:
        calls: list[None] = []
        with open_ingestion(
            run=run,
            resumes=resumes,
            concurrency=1,
            chunk_rows=150,
            advanced=lambda: calls.append(None),
        ) as ingestion:
            try:
                list(
                    ingestion.read_days(
                        catalogue["calls"], [DAY + timedelta(days=n) for n in range(days)]
                    )
                )
            except MagnetisError:
                assert api.respond(api.requests[-1]) == DOWN, (
                    "a run may fail only while the API is down"
                )
        return len(calls)

    return advances


def rows(days: int, number: int) -> list[dict[str, Any]]:
    return [
        call(f"{day}{n:03d}", f"{DAY + timedelta(days=day)} 10:00:00")
        for day in range(days)
        for n in range(number)
    ]


def test_each_newly_committed_window_is_progress(api: SmallApi, advances: Any) -> None:
    api.rows["/calls"] = rows(3, 100)
    assert advances(3) >= 2
    assert advances(3, resumes=True) == 0
    assert advances(3, run="another") >= 2


def test_a_page_is_progress_once_when_it_is_cached(api: SmallApi, advances: Any) -> None:
    api.limit = 20
    api.rows["/calls"] = rows(1, 100)

    def down_after(page: int) -> None:
        api.respond = lambda request: DOWN if request.page > page else None

    down_after(0)
    assert advances() == 0
    down_after(2)
    assert advances(resumes=True) == 1
    assert advances(resumes=True) == 0, "the next page failed"
    down_after(3)
    assert advances(resumes=True) == 1
    api.respond = lambda _request: None
    assert advances(resumes=True) == 2, "a page and the window"


def test_pages_of_a_route_without_announcement_are_progress(api: SmallApi, advances: Any) -> None:
    api.rows["/calls"] = rows(1, 600)

    def bare(request: Request) -> Answer | None:
        status, headers, body = api.envelope(api.window(request), request)
        if request.page > 2:
            return DOWN
        return status, headers, body.replace(b'"meta"', b'"other"').replace(b'"total"', b'"x"')

    api.respond = bare
    assert advances() == 1
    assert advances(resumes=True) == 0


def test_a_day_that_a_newer_read_has_committed_is_not_progress(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, clock: Any
) -> None:
    api.rows["/calls"] = rows(1, 5)
    calls: list[None] = []
    with open_ingestion(run="older", advanced=lambda: calls.append(None)) as older:

        def newer(request: Request) -> None:
            api.respond = lambda _request: None
            with open_ingestion(run="newer") as ingestion:
                list(ingestion.read_days(catalogue["calls"], [DAY]))

        api.respond = newer
        [window] = older.read_days(catalogue["calls"], [DAY])
    assert window.days[0].rows == 5
    assert calls == []
