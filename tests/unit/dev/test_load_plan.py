"""The days that a load requests, and the runs that load the missing days."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.dev.load import Batch, LoadResult, batches, requested_days
from magnetis_dagster.errors import KeyRefused, PermanentError

TODAY = date(2026, 11, 23)


def test_events_get_complete_days_and_snapshots_get_today(catalogue: Catalogue) -> None:
    requested = requested_days(catalogue.enabled, 3, today=TODAY, start=date(2024, 1, 1))
    assert requested["calls"] == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
    assert requested["entities"] == [TODAY]
    assert len(requested) == 18


def test_days_before_the_first_partition_are_not_requested(catalogue: Catalogue) -> None:
    requested = requested_days(catalogue.enabled, 30, today=TODAY, start=date(2026, 11, 22))
    assert requested["calls"] == [date(2026, 11, 22)]


def test_collections_that_miss_the_same_days_share_a_run() -> None:
    days = [date(2026, 11, 1), date(2026, 11, 2), date(2026, 11, 5)]
    assert batches({"calls": days, "visits": days[:2], "leads": []}) == [
        Batch(("calls", "visits"), days[0], days[1]),
        Batch(("calls",), days[2], days[2]),
    ]


@given(st.dictionaries(st.sampled_from(["calls", "visits", "leads"]), st.sets(st.integers(0, 40))))
def test_runs_load_exactly_the_missing_days_once(missing: dict[str, set[int]]) -> None:
    expected = sorted(
        (name, TODAY - timedelta(days=age)) for name, ages in missing.items() for age in ages
    )
    runs = batches(
        {name: [TODAY - timedelta(days=age) for age in ages] for name, ages in missing.items()}
    )
    loaded = sorted(
        (name, batch.first + timedelta(days=number))
        for batch in runs
        for name in batch.collections
        for number in range((batch.last - batch.first).days + 1)
    )
    assert loaded == expected


def test_collections_with_the_same_reason_share_a_line() -> None:
    result = LoadResult(
        failures={
            **{
                name: f"{name}: GET /{name}, page 1: the key is unknown."
                for name in ("calls", "visits", "leads", "emails")
            },
            "tags": "tags: GET /tags, page 2: HTTP 500.",
            "sms": "3 days were not loaded, the first is 2026-11-01.",
        }
    )
    assert result.reasons() == [
        "calls, visits and 2 more: the key is unknown.",
        "tags: GET /tags, page 2: HTTP 500.",
        "sms: 3 days were not loaded, the first is 2026-11-01.",
    ]


def test_a_load_needs_a_change_if_every_failure_is_permanent() -> None:
    assert issubclass(KeyRefused, PermanentError)
    refused = LoadResult(
        failures={"calls": "no", "leads": "no"},
        errors={"calls": "KeyRefused", "leads": "RouteUnavailable"},
    )
    assert refused.needs_change()
    for other in ("Unreachable", "SomebodyElsesError"):
        refused.errors["leads"] = other
        assert not refused.needs_change()
    del refused.errors["leads"]
    assert not refused.needs_change()
