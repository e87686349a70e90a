"""An exhausted quota is not a failure: the step waits, resumes and repeats no request."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import stamina
from small_api import SmallApi, call

from magnetis_dagster.quota.ledger import Ledger, QuotaExhausted

Materialize = Callable[..., dg.ExecuteInProcessResult]
AdvanceAfter = Callable[[int, timedelta], None]
DAY = date(2025, 3, 3)


@pytest.fixture(autouse=True)
def _few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "4")
    monkeypatch.setenv("MAGNETIS_QUOTA_FLOORS", "")
    monkeypatch.setenv("MAGNETIS_QUOTA_RECHECK_SECONDS", "0.3")
    monkeypatch.setattr("magnetis_dagster.defs.missing_days_check.WAIT_SECONDS", 0.3)


@pytest.fixture
def advance_after(monkeypatch: pytest.MonkeyPatch, clock: Any) -> AdvanceAfter:
    """Advance the clock after a number of refusals by the ledger, however slow the steps are."""

    def advance_after(refusals: int, by: timedelta) -> None:
        charge_and_settle, refused = Ledger.charge_and_settle, []

        def counting(ledger: Ledger, *arguments: Any, **named: Any) -> Any:
            answers = charge_and_settle(ledger, *arguments, **named)
            if any(isinstance(answer, QuotaExhausted) for answer in answers):
                refused.append(answers)
                if len(refused) % refusals == 0:
                    clock.advance(by)
            return answers

        monkeypatch.setattr(Ledger, "charge_and_settle", counting)

    return advance_after


def test_a_range_resumes_on_the_next_days_and_each_day_is_read_and_logged_once(
    api: SmallApi,
    materialize: Materialize,
    advance_after: AdvanceAfter,
    query: Any,
    clock: Any,
    instance: dg.DagsterInstance,
) -> None:
    days = [DAY + timedelta(days=n) for n in range(7)]
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 12:00:00") for day in days for n in range(400)
    ]
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    advance_after(2, timedelta(days=1))
    result = materialize("calls", days[0], 7)
    assert result.success
    records = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    logged = Counter(
        record.asset_materialization.partition for record in records if record.asset_materialization
    )
    assert logged == Counter({str(day): 1 for day in days})
    assert query("SELECT count(*), count(DISTINCT day) FROM magnetis.calls") == [(2800, 7)]
    assert query("SELECT max(manual) FROM magnetis_ops.quota_days") == [(4,)]
    assert len(query("SELECT 1 FROM magnetis_ops.quota_days")) >= 3
    committed = query("SELECT first_day, last_day FROM magnetis_ops.windows ORDER BY first_day")
    assert sum((last - first).days + 1 for first, last in committed) == 7
    assert not [event for event in result.all_events if event.is_step_failure]


def test_the_log_contains_why_and_until_when_the_step_waits(
    api: SmallApi, materialize: Materialize, advance_after: AdvanceAfter, clock: Any, query: Any
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-03 12:00:00") for n in range(3)]
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    api.respond = lambda request: (
        (429, {"Retry-After": "7200"}, b"{}") if request.number == 1 else None
    )
    advance_after(2, timedelta(hours=2, seconds=1))
    result = materialize("calls", DAY)
    assert result.success
    assert query("SELECT status FROM magnetis_ops.api_calls ORDER BY id") == [(429,), (200,)]
    retried = [
        event
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY
    ]
    assert retried
    assert not [event for event in result.all_events if event.is_step_failure]


def test_a_day_larger_than_the_daily_quota_takes_two_days(
    api: SmallApi,
    materialize: Materialize,
    advance_after: AdvanceAfter,
    clock: Any,
    query: Any,
    instance: dg.DagsterInstance,
) -> None:
    api.rows["/calls"] = [call(n, "2025-03-03 12:00:00") for n in range(1100)]
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    advance_after(2, timedelta(days=1))
    assert materialize("calls", DAY).success
    pages = sorted(request.page for request in api.requests)
    assert pages == [1, 1, 2, 3, 4, 5], "page 1 is requested again and compared with the kept one"
    assert query("SELECT count(*) FROM magnetis.calls") == [(1100,)]
    assert query("SELECT count(*) FROM magnetis_ops.pages") == [(0,)]
    assert query("SELECT day::text, manual FROM magnetis_ops.quota_days ORDER BY day") == [
        ("2025-06-01", 4),
        ("2025-06-02", 2),
    ]
    # the day has not changed since its first page
    assert query("SELECT read_at::date::text FROM magnetis_ops.days") == [("2025-06-01",)]


def test_waits_do_not_count_as_retries(
    api: SmallApi,
    materialize: Materialize,
    advance_after: AdvanceAfter,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After five waits, the API fails for two attempts of the step, and the step still succeeds."""
    monkeypatch.setattr("magnetis_dagster.defs.step_failures.RETRIES", 2)
    api.rows["/calls"] = [call(1, "2025-03-03 12:00:00")]
    clock.set(datetime(2025, 6, 1, 10, tzinfo=UTC))
    waits = iter([(429, {"Retry-After": "7200"}, b"{}")])
    broken = iter(
        [(503, {}, b"{}")] * 10
    )  # the client sends five requests in each attempt of the step
    api.respond = lambda request: next(waits, None) or next(broken, None)
    advance_after(5, timedelta(hours=2, seconds=1))
    monkeypatch.setenv("MAGNETIS_DAILY_QUOTA", "40")
    with stamina.set_testing(True, attempts=100, cap=True):
        result = materialize("calls", DAY)
    assert result.success
    retried = [
        event
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.STEP_UP_FOR_RETRY
    ]
    causes = [
        event.step_retry_data.error.cause.cls_name
        for event in retried
        if event.step_key == "magnetis__calls"
    ]
    assert causes.count("QuotaExhausted") > 3
    assert causes.count("ServerUnavailable") == 2
