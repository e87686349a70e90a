"""Unusual responses, from the wire to the tables.

Charsets, long numbers, errors in a 200, rows that PostgreSQL cannot store.
"""

import asyncio
import json
from datetime import date, timedelta
from typing import Any

import pytest
from small_api import KEY, Answer, Open, Request, SmallApi, call

from magnetis_dagster.api import ApiCall, CallOutcome, MagnetisClient, ServerUnavailable
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.notification_settings.change_detection import Observation, observe
from magnetis_dagster.quota.ledger import QuotaExhausted

DAY = date(2025, 3, 28)
DAYS = [DAY - timedelta(days=2), DAY - timedelta(days=1), DAY]


def calls(number: int, **members: Any) -> list[dict[str, Any]]:
    return [
        call(f"{day:%d}{n:03d}", f"{day} 10:00:00", **members)
        for day in DAYS
        for n in range(number)
    ]


def encoded(api: SmallApi, request: Request, charset: str) -> Answer:
    _, _, body = api.envelope(api.window(request), request)
    text = json.dumps(json.loads(body), ensure_ascii=False)
    return 200, {"Content-Type": f"application/json; charset={charset}"}, text.encode(charset)


def test_pages_in_another_charset_are_cached_and_read_again(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = calls(300, caller_name="Hélène Çà")
    api.respond = lambda request: encoded(api, request, "iso-8859-1")
    with pytest.raises(QuotaExhausted), open_ingestion(run="first", quota=3) as ingestion:
        list(ingestion.read_days(catalogue["calls"], DAYS))
    assert query("SELECT count(*) > 0 FROM magnetis_ops.pages") == [(True,)]
    with open_ingestion(run="first", resumes=True) as ingestion:
        list(ingestion.read_days(catalogue["calls"], DAYS))
    assert query("SELECT caller_name, count(*) FROM magnetis.calls GROUP BY 1") == [
        ("Hélène Çà", 900)
    ]


@pytest.mark.parametrize("at", [1, 2])
def test_an_error_inside_any_page_completes_no_day(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any, at: int
) -> None:
    api.rows["/calls"] = calls(300)
    broken = b'{"data": [], "success": false, "meta": {"total": 900, "last_page": 4}}'
    api.respond = lambda request: (200, {}, broken) if request.page == at else None
    with pytest.raises(ServerUnavailable), open_ingestion() as ingestion:
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert query("SELECT count(*) FROM magnetis_ops.days") == [(0,)]


def test_a_poisoned_row_costs_one_row_of_its_window(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = calls(300)

    def respond(request: Request) -> Answer:
        status, headers, body = api.envelope(api.window(request), request)
        for number, poison in ((5, "[" * 3_000 + "]" * 3_000), (6, "1e9999"), (7, "1" * 200_000)):
            name = f'"call-28{number:03d}"'
            body = body.replace(name.encode(), f'{name}, "poison": {poison}'.encode())
        return status, headers, body

    api.respond = respond
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], DAYS)
    assert (result.received, result.quarantined) == (900, 3)
    assert query("SELECT key FROM magnetis_ops.quarantine ORDER BY 1") == [
        ("call-28005",),
        ("call-28006",),
        ("call-28007",),
    ]
    assert query("SELECT count(*) FROM magnetis.calls") == [(897,)]


class _OpenGuard:
    async def charge(self, call: ApiCall) -> int:
        return call.page

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        pass


def test_settings_are_compared_by_every_digit_and_at_any_depth(
    api: SmallApi, catalogue: Catalogue, query: Any
) -> None:
    collection = catalogue["email_alerts"]

    def seen(members: str) -> Observation:
        body = f'{{"data": [{{"id": "ale-1", {members}}}], "meta": {{"total": 1, "last_page": 1}}}}'
        api.respond = lambda _request: (200, {}, body.encode())

        async def read() -> Observation:
            async with MagnetisClient(api.url, KEY, _OpenGuard()) as client:
                return await observe(client, collection, query("SELECT now()")[0][0])

        return asyncio.run(read())

    deep = "[" * 2_000 + "%d" + "]" * 2_000
    for one, other in (("0.12345678901234567890", "0.12345678901234567891"), (deep % 1, deep % 2)):
        assert seen(f'"a": 1, "b": {one}').digest == seen(f'"b": {one}, "a": 1').digest
        assert seen(f'"b": {one}').digest != seen(f'"b": {other}').digest
