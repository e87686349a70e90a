"""Checks of time zones."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from magnetis_dagster.doctor import Status
from magnetis_dagster.doctor.zones import check_zone_data, compare_offsets, moments_of

PARIS, TOKYO = ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Tokyo")
MOMENTS = moments_of(now=datetime(2026, 11, 29, 12, tzinfo=UTC))


def offsets(zone: ZoneInfo, error: timedelta = timedelta()) -> dict[datetime, timedelta]:
    return {
        moment: (moment.astimezone(zone).utcoffset() or timedelta()) + error for moment in MOMENTS
    }


def test_moments_lie_in_both_halves_of_the_year() -> None:
    assert len(set(offsets(PARIS).values())) == 2


def test_equal_offsets_are_one_finding() -> None:
    known = {"Europe/Paris": offsets(PARIS), "Asia/Tokyo": offsets(TOKYO)}
    [found] = compare_offsets([PARIS, TOKYO, PARIS], MOMENTS, known)
    assert found.status is Status.OK
    assert "Asia/Tokyo, Europe/Paris" in found.text


def test_unknown_and_different_zones_are_errors() -> None:
    known = {"Asia/Tokyo": offsets(TOKYO, timedelta(hours=1))}
    tokyo, paris = compare_offsets([PARIS, TOKYO], MOMENTS, known)
    assert (paris.status, tokyo.status) == (Status.ERROR, Status.ERROR)
    assert "does not know" in paris.text
    assert "disagree about its offset on 2026-11-29" in tokyo.text


class NoData(ZoneInfo):
    def __new__(cls, key: str) -> "NoData":
        raise ZoneInfoNotFoundError(key)


class WithoutSummer(ZoneInfo):
    def __new__(cls, key: str) -> "WithoutSummer":
        return super().__new__(cls, "Etc/GMT-1")


def test_missing_data_is_an_error() -> None:
    assert check_zone_data().status is Status.OK
    assert check_zone_data(NoData).status is Status.ERROR
    assert check_zone_data(WithoutSummer).status is Status.ERROR
