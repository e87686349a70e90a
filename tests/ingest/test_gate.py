"""Between client and ledger: what the API tells of the key reaches the ledger, and paced calls wait their turn."""

import time
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pytest
from small_api import Open, SmallApi, call
from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import DatabaseUnwell
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Charge, Ledger, Settlement

DAY = date(2025, 3, 28)


def test_the_apis_own_count_reaches_the_ledger(api: SmallApi, opened: Open, catalogue: Catalogue, query: Any) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: api.envelope(api.window(request), request, apiKey={"id": "key-1", "remaining": 3})
    with opened() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [DAY])
    assert result.quota_left == 3
    assert query("SELECT used_elsewhere FROM magnetis_ops.quota_days") == [(4996,)]


def test_paced_calls_are_sent_at_their_pace(api: SmallApi, opened: Open, catalogue: Catalogue, engine: Engine) -> None:
    api.rows["/calls"] = [call(n, "2025-03-28 10:00:00") for n in range(740)]
    with opened() as ingestion:
        policy = QuotaPolicy(limit=5000, zone=ingestion._zones.partition, calls_per_second=4)
        ingestion._gate.ledger = ingestion._ledger = Ledger(engine, key_fingerprint="0123456789ab", policy=policy)
        started = time.monotonic()
        list(ingestion.read_days(catalogue["calls"], [DAY]))
    assert len(api.requests) == 3
    assert time.monotonic() - started >= 2 / 4


def test_a_session_that_ends_before_the_outcome_is_noted_costs_nothing(
    api: SmallApi, opened: Open, catalogue: Catalogue, query: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-03 12:00:00")]
    turn, ended = Ledger.turn, []

    def once_too_late(ledger: Ledger, charges: Sequence[Charge], settlements: Mapping[int, Settlement]) -> list[Any]:
        if settlements and not ended:
            ended.extend(settlements)
            raise DatabaseUnwell("the session has ended")
        return list(turn(ledger, charges, settlements))

    monkeypatch.setattr(Ledger, "turn", once_too_late)
    with opened() as ingestion:
        [result] = ingestion.read_days(catalogue["calls"], [date(2025, 3, 3)])
    assert (result.received, result.api_calls) == (1, 1)
    assert query("SELECT id, status FROM magnetis_ops.api_calls WHERE settled_at IS NOT NULL") == [(ended[0], 200)]
