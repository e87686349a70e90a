"""Rate-limit headers in every form.

How long a 429 closes the key, whether it concerns the quota day, and which signal is recorded.
"""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.api.rate_limit import LONGEST_WAIT, read_rate_limit

NOW = 1_764_331_200  # 2025-11-28 12:00 UTC
DATE = "Fri, 28 Nov 2025 12:05:00 GMT"
HEADERS = (
    "retry-after",
    "x-ratelimit-reset",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "ratelimit",
    "ratelimit-policy",
    "date",
)


def read(**headers: str):
    found = read_rate_limit({name.replace("_", "-"): value for name, value in headers.items()}, NOW)
    assert found
    return found


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("1.5", 1.5),
        ("-5", 0),
        ("+60", 60),
        ('"60"', 60),
        ("60 seconds", 60),
        ("1500ms", 1.5),
        ("60, 60", 60),
        ("60,120", 60),
        ("soon, 60", 60),
        (str(NOW + 90), 90),
        (f"{NOW + 90}, {NOW + 90}", 90),
        (f"{NOW + 90}.25", 90.25),
        (str((NOW + 90) * 1_000), 90),
        (str((NOW + 90) * 1_000_000), 90),
        (str((NOW + 90) * 1_000_000_000), 90),
        (str(NOW - 7_200), 0),
        (str(NOW + 86_400), 86_400),
        (str(NOW + 7 * 86_400), None),
        ("604800", None),
        ("999999999999", None),
        ("9" * 20, None),
        ("9" * 400, None),
        (DATE, 300),
        (f"{DATE}, {DATE}", 300),
        (DATE.replace("GMT", "+0000"), 300),
        (DATE.replace("GMT", "-0000"), 300),
        ("Friday, 28-Nov-25 12:05:00 GMT", 300),
        ("2025-11-28T12:05:00Z", 300),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2125 07:28:00 GMT", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("nan", None),
        ("1e9999", None),
        ("soon", None),
        ("", None),
        (",", None),
        ("٣", None),
    ],
)
def test_retry_after(value, wait):
    found = read(retry_after=value)
    assert found.wait == (wait if wait is None else pytest.approx(wait, abs=0.01))
    assert not found.is_throttle


def test_a_time_is_measured_by_the_servers_own_clock():
    server = datetime.fromtimestamp(NOW, UTC) + timedelta(hours=3)
    assert (
        read(retry_after=str(NOW + 3 * 3600 + 45), date=format_datetime(server, usegmt=True)).wait
        == 45
    )


@pytest.mark.parametrize(
    ("headers", "wait", "throttle"),
    [
        ({"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0", "retry_after": "47"}, 47, True),
        (
            {"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0", "retry_after": "600"},
            600,
            True,
        ),
        ({"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0"}, 60, True),
        (
            {
                "x_ratelimit_limit": "60, 60",
                "x_ratelimit_remaining": "0, 0",
                "retry_after": "47, 47",
            },
            47,
            True,
        ),
        (
            {
                "x_ratelimit_limit": "60",
                "x_ratelimit_remaining": "0",
                "x_ratelimit_reset": str(NOW + 30),
            },
            30,
            True,
        ),
        (
            {"x_ratelimit_limit": "60", "x_ratelimit_remaining": "0", "retry_after": str(NOW + 30)},
            30,
            True,
        ),
        (
            {
                "x_ratelimit_limit": "60",
                "x_ratelimit_remaining": "0",
                "retry_after": "0",
                "x_ratelimit_reset": "30",
            },
            30,
            True,
        ),
        (
            {
                "x_ratelimit_limit": "5000",
                "x_ratelimit_remaining": "0",
                "x_ratelimit_reset": str(NOW + 7_200),
            },
            7_200,
            False,
        ),
        ({"x_ratelimit_limit": "5000", "x_ratelimit_remaining": "0"}, None, False),
        (
            {
                "x_ratelimit_limit": "500",
                "x_ratelimit_remaining": "0",
                "x_ratelimit_reset": "20000",
            },
            20_000,
            False,
        ),
        ({"x_ratelimit_remaining": "0", "x_ratelimit_reset": str(NOW + 3_000)}, 3_000, False),
        (
            {
                "ratelimit_limit": "60, 60;w=60, 5000;w=86400",
                "ratelimit_remaining": "0",
                "ratelimit_reset": "12",
            },
            12,
            True,
        ),
        ({"ratelimit": "limit=100, remaining=0, reset=5"}, 5, True),
        (
            {
                "ratelimit": '"burst";r=0;t=30, "day";r=4000;t=7200',
                "ratelimit_policy": '"burst";q=60;w=60,"day";q=5000;w=86400',
            },
            30,
            True,
        ),
        (
            {
                "ratelimit": '"burst";r=9;t=30, "day";r=0;t=7200',
                "ratelimit_policy": '"burst";q=60;w=60,"day";q=5000;w=86400',
            },
            7_200,
            False,
        ),
        ({"ratelimit_policy": "60;w=60"}, 60, True),
        ({"ratelimit": "; ;=;q"}, None, False),
    ],
)
def test_the_exhausted_limit_decides(headers, wait, throttle):
    found = read(**headers)
    assert (found.wait, found.is_throttle) == (wait, throttle)


@pytest.mark.parametrize(
    ("headers", "remaining"),
    [
        ({"x_ratelimit_limit": "5000", "x_ratelimit_remaining": "4321"}, 4_321),
        ({"x_ratelimit_limit": "60", "x_ratelimit_remaining": "59"}, None),
        ({"x_ratelimit_limit": "1000", "x_ratelimit_remaining": "999"}, None),
        (
            {
                "x_ratelimit_limit": "10000",
                "x_ratelimit_remaining": "17",
                "x_ratelimit_reset": str(NOW + 20_000),
            },
            17,
        ),
        ({"x_ratelimit_limit": "5000", "x_ratelimit_remaining": "6000"}, None),
        ({"x_ratelimit_limit": "5000", "x_ratelimit_remaining": "-1"}, None),
        ({"x_ratelimit_remaining": "12"}, None),
        (
            {
                "ratelimit": '"burst";r=9;t=30, "day";r=40;t=7200',
                "ratelimit_policy": '"burst";q=60;w=60,"day";q=5000;w=86400',
            },
            40,
        ),
    ],
)
def test_remaining_calls_are_read_only_from_a_daily_limit(headers, remaining):
    assert read(**headers).remaining_today(5_000) == remaining


def test_the_signal_contains_only_numbers_and_dates():
    found = read(
        retry_after="0033612345678",
        x_ratelimit_limit="60;comment=jean@exemple.fr",
        ratelimit='"jean";r=0;t=5',
    )
    assert (
        found.signal
        == "Retry-After: implausible, X-RateLimit-Limit: limit=60, RateLimit: remaining=0 reset=5"
    )
    assert (
        read(retry_after=f"{NOW + 60}, key-5ecret").signal
        == "Retry-After: 2025-11-28T12:01:00Z, unreadable"
    )


def test_a_response_without_the_headers_has_no_rate_limit():
    assert read_rate_limit({"content-type": "application/json", "date": DATE}, NOW) is None


VALUES = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[0-9\-+.;=,:\"a-zA-Z ]{0,60}", fullmatch=True),
    st.integers(-(10**20), 10**20).map(str),
    st.lists(st.integers(0, 10**10).map(str), max_size=12).map(", ".join),
    st.datetimes().map(lambda moment: format_datetime(moment.replace(tzinfo=UTC), usegmt=True)),
)


@given(
    headers=st.dictionaries(st.sampled_from(HEADERS), VALUES),
    now=st.integers(1_500_000_000, 2_500_000_000),
)
def test_no_header_closes_for_longer_than_a_day_or_fails(headers, now):
    found = read_rate_limit(headers, now)
    if found is None:
        return
    assert found.wait is None or 0 <= found.wait <= max(
        [LONGEST_WAIT, *(each.reset or each.window or 0 for each in found.allowances)]
    )
    assert len(found.signal) <= 200
    assert found.signal.isascii()
    assert found.signal.isprintable()
    assert found.remaining_today(5_000) is None or found.remaining_today(5_000) >= 0
