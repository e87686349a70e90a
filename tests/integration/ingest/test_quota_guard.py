"""The guard between client and ledger: the key's state, pacing and trial requests."""

import re
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pytest
from closed_key import close_key
from small_api import KEY, PARIS, Open, Request, SmallApi, call
from sqlalchemy import Engine

from magnetis_dagster.api import (
    CHARGED_AHEAD,
    KeyRefused,
    NotConnected,
    RateLimited,
    ServerUnavailable,
)
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import DatabaseUnavailable
from magnetis_dagster.ingest.key_reopening import reopen
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import REFUSED_PAUSE, Charge, Ledger, QuotaExhausted, Settlement

DAY = date(2025, 3, 28)


def test_the_apis_own_count_is_recorded_in_the_ledger(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: api.envelope(
        api.window(request), request, apiKey={"id": "key-1", "remaining": 3}
    )
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    assert result.quota_left == 3
    assert query("SELECT used_elsewhere FROM magnetis_ops.quota_days") == [(4996,)]


def test_paced_calls_are_sent_at_their_pace(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, engine: Engine
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-28 10:00:00") for n in range(740)]
    with open_ingestion() as ingestion:
        policy = QuotaPolicy(limit=5000, zone=ingestion._parts.zones.partition, calls_per_second=4)
        ingestion._parts.guard.ledger = ingestion._parts.ledger = Ledger(
            engine, key_fingerprint="0123456789ab", policy=policy
        )
        started = time.monotonic()
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert len(api.requests) == 3
    assert time.monotonic() - started >= 2 / 4


def test_an_outcome_is_recorded_again_if_the_database_session_ends(
    api: SmallApi,
    open_ingestion: Open,
    catalogue: Catalogue,
    query: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-03 12:00:00")]
    charge_and_settle, ended = Ledger.charge_and_settle, []

    def once_too_late(
        ledger: Ledger, charges: Sequence[Charge], settlements: Mapping[int, Settlement]
    ) -> list[Any]:
        if settlements and not ended:
            ended.extend(settlements)
            raise DatabaseUnavailable("the session has ended")
        return list(charge_and_settle(ledger, charges, settlements))

    monkeypatch.setattr(Ledger, "charge_and_settle", once_too_late)
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [date(2025, 3, 3)])
    assert (result.received, result.api_calls) == (1, 1)
    assert query("SELECT id, status FROM magnetis_ops.api_calls WHERE settled_at IS NOT NULL") == [
        (ended[0], 200)
    ]


REFUSAL = (401, {}, b'{"message": "Unauthenticated."}')
WEEK = [date(2025, 3, day) for day in range(1, 8)]


def test_a_refused_key_costs_one_request_over_all_collections_and_runs(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    for run, name in enumerate(("calls", "visits", "leads", "calls")):
        with (
            open_ingestion(run=f"run-{run}", key="expired") as ingestion,
            pytest.raises(KeyRefused),
        ):
            list(ingestion.read_days(catalogue[name], WEEK))
    assert len(api.requests) == 1
    assert query("SELECT status, error FROM magnetis_ops.api_calls") == [(401, "KeyRefused")]
    assert query("SELECT closed_signal FROM magnetis_ops.quota_keys") == [
        ("HTTP 401, key refused",)
    ]


def test_a_manually_retried_run_tries_the_key_once_more(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-02 10:00:00")]
    for requests in (1, 2):
        with (
            open_ingestion(key="expired", resumes=requests > 1) as ingestion,
            pytest.raises(KeyRefused),
        ):
            list(ingestion.read_days(catalogue["calls"], WEEK))
        assert len(api.requests) == requests
    with open_ingestion(resumes=True) as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], WEEK)
    assert (result.received, len(api.requests)) == (1, 3 + 2), (
        "both edges of the week are empty, and verified"
    )


def test_a_key_refused_during_a_window_stops_the_window(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-02 10:00:00") for n in range(250 * 40 - 7)]
    api.respond = lambda request: REFUSAL if request.page > 1 else None
    with open_ingestion(concurrency=4) as ingestion, pytest.raises(KeyRefused):
        list(ingestion.read_days(catalogue["calls"], WEEK))
    assert len(api.requests) <= 1 + 4 + CHARGED_AHEAD, "the requests charged before the first 401"
    assert query("SELECT count(*) FROM magnetis_ops.api_calls") == [(len(api.requests),)]


def test_an_unreachable_api_costs_one_charge_and_is_reported_immediately(
    open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as closed:
        origin = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with (
        open_ingestion(origin=origin, progress=lines.append) as ingestion,
        pytest.raises(NotConnected),
    ):
        list(ingestion.read_days(catalogue["calls"], WEEK))
    assert query("SELECT status, error FROM magnetis_ops.api_calls") == [(None, "NotConnected")]
    assert [
        re.sub(r"[\d.]+ s \(", "N s (", line.partition("Nothing was sent. ")[2]) for line in lines
    ] == [
        "Next attempt in N s (2 of 3).",
        "Next attempt in N s (3 of 3).",
    ]


def test_a_429_is_recorded_with_its_headers_and_closes_as_long_as_they_say(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    reset = int(time.time()) + 300
    headers = {"Retry-After": str(reset), "X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0"}
    api.respond = lambda _request: (429, headers, b'{"message": "Too Many Attempts."}')
    with (
        open_ingestion() as ingestion,
        pytest.raises(QuotaExhausted, match="The API said: HTTP 429, Retry-After: ") as raised,
    ):
        list(ingestion.read_days(catalogue["calls"], WEEK))
    assert 290 <= (raised.value.available_at - raised.value.at).total_seconds() <= 301
    [(signal, seconds)] = query(
        "SELECT closed_signal, extract(epoch FROM closed_until - magnetis_ops.now()) "
        "FROM magnetis_ops.quota_keys"
    )
    shown = f"{datetime.fromtimestamp(reset, UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert (
        signal
        == f"HTTP 429, Retry-After: {shown}, X-RateLimit-Limit: limit=60, X-RateLimit-Remaining: 0"
    )
    assert 290 <= seconds <= 301
    assert query("SELECT used_elsewhere FROM magnetis_ops.quota_days") == [(0,)], (
        "a limit of 60 a minute does not limit the day"
    )


def test_a_429_with_retry_after_0_does_not_cause_a_hot_loop(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue
) -> None:
    api.respond = lambda _request: (429, {"Retry-After": "0"}, b"{}")
    started = time.monotonic()
    with open_ingestion() as ingestion, pytest.raises(RateLimited):
        list(ingestion.read_days(catalogue["calls"], WEEK))
    assert len(api.requests) == 3
    assert time.monotonic() - started >= 2


def test_the_daily_remaining_header_reaches_the_ledger(
    api: SmallApi, open_ingestion: Open, catalogue: Catalogue, query: Any
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]

    def respond(request: Request) -> Any:
        status, headers, body = api.envelope(api.window(request), request)
        return status, headers | {"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "3"}, body

    api.respond = respond
    with open_ingestion() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    assert result.quota_left == 3


def closed_ledger(engine: Engine, limit: int = 10) -> Ledger:
    ledger = Ledger(
        engine,
        key_fingerprint="0123456789ab",
        policy=QuotaPolicy(limit=limit, zone=PARIS, floors={}),
    )
    close_key(ledger, 7 * 86_400.0)
    return ledger


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, r"open again: the API answered the trial request\.$"),
        ((404, {}, b"{}"), r"open again: .* with an error about the route: .*HTTP 404"),
    ],
)
def test_reopening_spends_one_request(
    api: SmallApi, engine: Engine, catalogue: Catalogue, query: Any, answer: Any, words: str
) -> None:
    ledger = closed_ledger(engine)
    api.respond = lambda _request: answer
    assert re.search(words, reopen(ledger, catalogue["email_alerts"], origin=api.url, key=KEY))
    assert [(request.path, request.query["limit"]) for request in api.requests] == [
        ("/alerts/email", "1")
    ]
    assert query("SELECT run_id, lane FROM magnetis_ops.api_calls") == [
        ("magnetis quota --reopen", "manual")
    ]
    assert (ledger.usage().closed_until, ledger.left("manual")) == (None, 9)
    assert (
        reopen(ledger, catalogue["email_alerts"], origin=api.url, key=KEY)
        == "The key is open: nothing was sent."
    )
    assert len(api.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error", "closed_seconds"),
    [
        ((429, {"Retry-After": "60"}, b"{}"), RateLimited, 60),
        ((503, {}, b"{}"), ServerUnavailable, 7 * 86_400),
        (REFUSAL, KeyRefused, REFUSED_PAUSE),
    ],
)
def test_a_trial_that_fails_closes_as_long_as_the_api_says(
    api: SmallApi,
    engine: Engine,
    catalogue: Catalogue,
    answer: Any,
    error: type[Exception],
    closed_seconds: float,
) -> None:
    ledger = closed_ledger(engine)
    api.respond = lambda _request: answer
    with pytest.raises(error):
        reopen(ledger, catalogue["email_alerts"], origin=api.url, key=KEY)
    usage = ledger.usage()
    assert usage.closed_until is not None
    assert (usage.closed_until - usage.at).total_seconds() == pytest.approx(closed_seconds, abs=10)
    assert len(api.requests) == 1


def test_reopening_sends_nothing_if_the_quota_is_used_up(
    api: SmallApi, engine: Engine, catalogue: Catalogue
) -> None:
    ledger = closed_ledger(engine, limit=1)
    ledger.settle(
        ledger.charge(Charge("calls", "/calls", 1, "manual", trial=True)).number, Settlement(503)
    )
    with pytest.raises(QuotaExhausted, match="all 1 API calls are used"):
        reopen(ledger, catalogue["email_alerts"], origin=api.url, key=KEY)
    assert api.requests == []
