"""Checks of time zones: known to Python and PostgreSQL, with equal offsets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from magnetis_dagster.doctor.findings import Finding, error, ok

_REFERENCE = {
    "Europe/Paris": (timedelta(hours=1), timedelta(hours=2)),
    "America/New_York": (timedelta(hours=-5), timedelta(hours=-4)),
}
"""Offsets in winter and summer."""


def check_zone_data(zone_of: type[ZoneInfo] = ZoneInfo) -> Finding:
    """Check that Python has the data of time zones, with daylight saving time."""
    name = "time zone data"
    for key, expected in _REFERENCE.items():
        try:
            zone = zone_of(key)
        except (KeyError, OSError, ValueError):
            found = None
        else:
            moments = (datetime(2025, 1, 15, tzinfo=zone), datetime(2025, 7, 15, tzinfo=zone))
            found = tuple(moment.utcoffset() for moment in moments)
        if found != expected:
            return error(
                name,
                f"Python has no data, or wrong data, for {key}.",
                "Days begin at the wrong hour, and rows get the wrong day.",
                "Install the Python package tzdata, and the system's package tzdata.",
            )
    return ok(name, "present, with daylight saving time")


def moments_of(ahead: timedelta = timedelta(), now: datetime | None = None) -> list[datetime]:
    """Return now by the database's clock, and a moment in winter and in summer of this year.

    `ahead`: the database's clock minus this machine's. The moments are in UTC.
    """
    now = (now or datetime.now(UTC)) + ahead
    return [now, *(datetime(now.year, month, 15, tzinfo=UTC) for month in (1, 7))]


def compare_offsets(
    zones: Iterable[ZoneInfo],
    moments: Sequence[datetime],
    offsets: Mapping[str, Mapping[datetime, timedelta]],
) -> list[Finding]:
    """Compare Python's offsets from UTC with the server's at each moment.

    `offsets`: by name of the zone and moment; zones that the server does not know are missing.
    """
    keys = sorted({zone.key for zone in zones})
    remedy = "Update the package tzdata of the server and of this machine, then restart both."
    findings = []
    for key in keys:
        name, server = f"time zone {key}", offsets.get(key)
        if server is None:
            findings.append(
                error(
                    name,
                    "PostgreSQL does not know it.",
                    "Views with local times cannot be created, so loads fail.",
                    f"{remedy} Or choose the zone's usual name, such as Europe/Paris.",
                )
            )
        elif different := _different(ZoneInfo(key), moments, server):
            findings.append(
                error(
                    name,
                    f"Python and PostgreSQL disagree about its offset on {different:%Y-%m-%d}.",
                    "Local times in views do not match the days of the rows.",
                    remedy,
                )
            )
    return findings or [_equal(keys)]


def _different(
    zone: ZoneInfo, moments: Sequence[datetime], server: Mapping[datetime, timedelta]
) -> datetime | None:
    known = {moment.timestamp(): offset for moment, offset in server.items()}
    return next(
        (
            moment
            for moment in moments
            if moment.astimezone(zone).utcoffset() != known.get(moment.timestamp())
        ),
        None,
    )


def _equal(keys: Collection[str]) -> Finding:
    return ok("time zones", f"Python and PostgreSQL have the same offsets for {', '.join(keys)}")
