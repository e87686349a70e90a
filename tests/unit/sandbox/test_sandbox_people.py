"""The data is realistic for analyses of callers, statuses and campaigns."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from statistics import mean, quantiles
from typing import Any

import pytest

from magnetis_dagster.sandbox import PERSONAL_MARKERS, SandboxOptions, World
from magnetis_dagster.sandbox.callers import CALLERS, FICTION_PREFIXES, name_of, number_of

FIRST, LAST = date(2025, 7, 1), date(2025, 11, 19)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def world() -> World:
    return World(
        SandboxOptions(
            first_day=date(2024, 1, 1), clock=lambda: datetime(2025, 11, 20, 10, tzinfo=UTC)
        )
    )


@pytest.fixture(scope="module")
def calls(world: World) -> list[Row]:
    return sorted(world.truth("calls", FIRST, LAST), key=lambda row: row["start_at"])


def share(rows: list[Row], status: str) -> float:
    return sum(row["status"] == status for row in rows) / len(rows)


def test_numbers_are_reserved_for_fiction_and_distinct_per_caller() -> None:
    assert FICTION_PREFIXES == (
        "003319900",
        "003326191",
        "003335301",
        "003346571",
        "003353649",
        "003363998",
    )
    numbers = {number_of(caller) for caller in range(CALLERS)}
    assert len(numbers) == CALLERS
    assert {len(number) for number in numbers} == {13}
    assert all(
        any(marker in name_of(caller) for marker in PERSONAL_MARKERS) for caller in range(200)
    )


def test_first_time_and_returning_callers(calls: list[Row]) -> None:
    known = [row for row in calls if row["caller_number"]]
    seen: set[str] = set()
    # in the first months, few callers have called before
    recent = [row for row in known if row["start_at"] > "2025-10-01"]
    first_time = 0
    for row in known:
        first_time += row["caller_number"] not in seen and row["start_at"] > "2025-10-01"
        seen.add(row["caller_number"])
    assert 0.38 < first_time / len(recent) < 0.48
    busiest = Counter(row["caller_number"] for row in known).most_common(1)[0][1]
    assert 3 < busiest < 30, "no caller calls all day"


def test_a_caller_always_has_the_same_name_account_and_called_number(calls: list[Row]) -> None:
    for member in ("account", "number", "caller_name", "channel_name"):
        by_caller: dict[str, set[str]] = {}
        for row in calls:
            if row["caller_number"]:
                by_caller.setdefault(row["caller_number"], set()).add(str(row[member]))
        assert {len(values) for values in by_caller.values()} == {1}, member


def test_some_numbers_are_withheld(calls: list[Row]) -> None:
    withheld = [row for row in calls if row["caller_number"] is None]
    assert 0.03 < len(withheld) / len(calls) < 0.08
    assert {row["caller_name"] for row in withheld} == {None}


def test_callers_of_missed_calls_call_again(calls: list[Row]) -> None:
    moments: dict[str, list[datetime]] = {}
    for row in calls:
        moments.setdefault(row["caller_number"], []).append(datetime.fromisoformat(row["start_at"]))

    def share_of_repeated(rows: list[Row]) -> float:
        within = timedelta(hours=24)
        return mean(
            any(
                timedelta(0) < moment - datetime.fromisoformat(row["start_at"]) < within
                for moment in moments[row["caller_number"]]
            )
            for row in rows
        )

    known = [row for row in calls if row["caller_number"]]
    missed = [row for row in known if row["status"] == "missed"]
    assert 0.25 < share_of_repeated(missed) < 0.6
    assert share_of_repeated(missed) > 3 * share_of_repeated(
        [row for row in known if row["status"] == "completed"]
    )


def test_statuses_durations_and_waiting_times_are_consistent(calls: list[Row]) -> None:
    assert {row["status"] for row in calls} == {"completed", "missed", "busy", "voicemail"}
    assert 0.6 < share(calls, "completed") < 0.8
    assert 0.13 < share(calls, "missed") < 0.27
    assert 0.01 < share(calls, "busy") < share(calls, "voicemail") < 0.12
    for row in calls:
        assert (row["duration"] > 0) is (row["status"] in {"completed", "voicemail"})
        assert row["analysis"]["duration"] == row["duration"]
    waiting = {
        status: mean(row["waiting_time"] for row in calls if row["status"] == status)
        for status in ("completed", "missed")
    }
    assert waiting["missed"] > 1.5 * waiting["completed"] > 5
    spoken = [row["duration"] for row in calls if row["status"] == "completed"]
    assert 100 < mean(spoken) < quantiles(spoken, n=10)[8] < 700


def test_most_calls_are_missed_at_lunch_and_out_of_hours(calls: list[Row]) -> None:
    week = [row for row in calls if datetime.fromisoformat(row["start_at"]).weekday() < 5]
    by_hour = {
        hour: [row for row in week if int(row["start_at"][11:13]) == hour] for hour in range(24)
    }
    assert share(by_hour[12], "missed") > 1.5 * share(by_hour[10], "missed")
    assert share(by_hour[20], "missed") > 2 * share(by_hour[10], "missed")
    assert share(by_hour[20], "voicemail") > 0.15


def test_accounts_differ_in_size_and_in_missed_calls(calls: list[Row]) -> None:
    by_account: dict[str, list[Row]] = {}
    for row in calls:
        by_account.setdefault(row["account"]["name"], []).append(row)
    rates = sorted(share(rows, "missed") for rows in by_account.values())
    sizes = sorted(map(len, by_account.values()))
    assert len(rates) == 12
    assert rates[-1] > 1.4 * rates[0]
    assert sizes[-1] > 3 * sizes[0]


def test_some_numbers_have_no_calls(world: World, calls: list[Row]) -> None:
    called = {row["number"]["id"] for row in calls}
    silent = [row for row in world.truth("numbers") if row["id"] not in called]
    assert 2 <= len(silent) <= 8


def test_campaigns_have_visits_calls_leads_and_conversions(world: World, calls: list[Row]) -> None:
    campaigns = {row["utm_campaign"] for row in calls if row["utm_campaign"]}
    assert len(campaigns) >= 3
    days = date(2025, 9, 1), date(2025, 9, 30)
    counts = [
        Counter(row["utm_campaign"] for row in world.truth(name, *days))
        for name in ("visits", "calls", "leads", "conversions")
    ]
    for campaign in campaigns:
        visits, called, leads, conversions = (count[campaign] for count in counts)
        assert visits > called > max(leads, conversions) > 0
        assert leads != conversions
