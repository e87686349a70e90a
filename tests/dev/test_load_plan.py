"""Which days are asked, and which runs bring those that are missing."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.dev.load import Batch, Outcome, asked_days, batches
from magnetis_dagster.errors import KeyRefused, PermanentError

TODAY = date(2026, 11, 23)


def test_events_get_closed_days_and_snapshots_today(catalogue: Catalogue) -> None:
    asked = asked_days(catalogue.enabled, 3, today=TODAY, start=date(2024, 1, 1))
    assert asked["calls"] == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)]
    assert asked["entities"] == [TODAY]
    assert len(asked) == 18


def test_days_before_the_first_partition_are_not_asked(catalogue: Catalogue) -> None:
    asked = asked_days(catalogue.enabled, 30, today=TODAY, start=date(2026, 11, 22))
    assert asked["calls"] == [date(2026, 11, 22)]


def test_collections_that_miss_the_same_days_share_a_run() -> None:
    days = [date(2026, 11, 1), date(2026, 11, 2), date(2026, 11, 5)]
    assert batches({"calls": days, "visits": days[:2], "leads": []}) == [
        Batch(("calls", "visits"), days[0], days[1]),
        Batch(("calls",), days[2], days[2]),
    ]


@given(st.dictionaries(st.sampled_from(["calls", "visits", "leads"]), st.sets(st.integers(0, 40))))
def test_runs_bring_exactly_the_missing_days_once(missing: dict[str, set[int]]) -> None:
    wanted = sorted(
        (name, TODAY - timedelta(days=age)) for name, ages in missing.items() for age in ages
    )
    made = batches(
        {name: [TODAY - timedelta(days=age) for age in ages] for name, ages in missing.items()}
    )
    brought = sorted(
        (name, batch.first + timedelta(days=number))
        for batch in made
        for name in batch.collections
        for number in range(batch.days)
    )
    assert brought == wanted


def test_equal_reasons_are_told_once_without_the_name_twice() -> None:
    outcome = Outcome(
        failures={
            **{
                name: f"{name}: GET /{name}, page 1: the key is unknown."
                for name in ("calls", "visits", "leads", "emails")
            },
            "tags": "tags: GET /tags, page 2: HTTP 500.",
            "sms": "3 days were not loaded, the first is 2026-11-01.",
        }
    )
    assert outcome.reasons() == [
        "calls, visits and 2 more: the key is unknown.",
        "tags: GET /tags, page 2: HTTP 500.",
        "sms: 3 days were not loaded, the first is 2026-11-01.",
    ]


def test_a_load_needs_a_change_where_nothing_failed_for_another_reason() -> None:
    assert issubclass(KeyRefused, PermanentError)
    refused = Outcome(
        failures={"calls": "no", "leads": "no"},
        errors={"calls": "KeyRefused", "leads": "RouteUnavailable"},
    )
    assert refused.needs_change()
    for other in ("Unreachable", "SomebodyElsesError"):
        refused.errors["leads"] = other
        assert not refused.needs_change()
    del refused.errors["leads"]
    assert not refused.needs_change()
