"""Generate changes of notification settings and numbers over time.

Equal seeds give equal changes at equal times, independent of the start of the sandbox, except for
the demonstration's. `late_changes.py` generates changes of events.
"""

import random
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from itertools import count
from typing import NamedTuple
from zoneinfo import ZoneInfo

from magnetis_dagster.sandbox.callers import CALLERS, address_of, number_of
from magnetis_dagster.sandbox.group import Group, Row

FIRST_DAY = date(2026, 1, 1)
"""Day of the first change."""
SOON = timedelta(minutes=2)
"""Time after the start of the first edit, so that a demonstration works at any time of day."""
AGAIN = timedelta(hours=4)
"""Interval of further edits like the first."""
_DEMONSTRATED = ("threshold", "switch", "recipient", "title")
ALERTS = ("email_alerts", "sms_alerts")
SETTINGS = ("reports", *ALERTS)
Rows = dict[str, list[Row]]
"""Rows of the snapshot collections, oldest first. A change replaces, adds or removes rows."""


class Change(NamedTuple):
    """One change, at a Unix time."""

    moment: int
    kind: str
    seed: str


def changes(seed: int, zone: ZoneInfo, started: datetime, after: int, until: int) -> list[Change]:
    """Return the changes after `after` and up to `until`, oldest first.

    `started` is the start of the sandbox.
    """
    found: list[Change] = []
    day = max(FIRST_DAY, datetime.fromtimestamp(after, zone).date())
    while day <= datetime.fromtimestamp(until, zone).date():
        found += _changes_of_day(seed, day, zone)
        day += timedelta(days=1)
    for number in count():
        second = int((started + SOON + number * AGAIN).timestamp())
        if second > until:
            break
        kind = _DEMONSTRATED[number % len(_DEMONSTRATED)]
        found.append(Change(second, kind, f"{seed}:demonstrated:{number}"))
    return sorted(change for change in found if after < change.moment <= until)


def _changes_of_day(seed: int, day: date, zone: ZoneInfo) -> Iterator[Change]:
    if day.weekday() >= 5:
        return
    pick = random.Random(f"activity:{seed}:{day}")  # noqa: S311 - invented data
    opening = datetime(day.year, day.month, day.day, 8, 30, tzinfo=zone)
    for number in range(pick.choices((0, 1, 2, 3), (45, 35, 15, 5))[0]):
        moment = opening + timedelta(seconds=pick.randrange(9 * 3600))
        kind = pick.choices(list(_ACTIONS), [weight for weight, _ in _ACTIONS.values()])[0]
        yield Change(int(moment.timestamp()), kind, f"{seed}:{day}:{number}")


def apply(change: Change, rows: Rows, group: Group, zone: ZoneInfo) -> None:
    """Apply the change to the rows. Does nothing if it finds no suitable row."""
    pick = random.Random(f"change:{change.seed}")  # noqa: S311 - invented data
    _, act = _ACTIONS[change.kind]
    act(rows, pick, group.at(datetime.fromtimestamp(change.moment, zone), pick))


def _pick_setting(
    rows: Rows, pick: random.Random, *collections: str, kind: str | None = None
) -> Row | None:
    found = [
        row for name in collections for row in rows[name] if kind is None or row.get("type") == kind
    ]
    return pick.choice(found) if found else None


def _change_recipient(rows: Rows, pick: random.Random, _group: Group) -> None:
    if row := _pick_setting(rows, pick, *SETTINGS):
        person = pick.randrange(CALLERS)
        is_sms = any(row is each for each in rows["sms_alerts"])
        recipient = number_of(person) if is_sms else address_of(person)
        others = row.get("recipients") or []
        row["recipients"] = [*others, recipient] if len(others) < 3 else [recipient]


def _change_threshold(rows: Rows, pick: random.Random, _group: Group) -> None:
    if row := _pick_setting(rows, pick, *ALERTS, kind="custom_calls"):
        others = [seconds for seconds in (20, 23, 30, 45, 60) if seconds != row.get("less_than")]
        row["less_than"] = pick.choice(others)


def _switch(rows: Rows, pick: random.Random, _group: Group) -> None:
    off = [row for name in SETTINGS for row in rows[name] if not row.get("enabled")]
    if off:  # at most one setting is disabled at a time
        off[0]["enabled"] = 1
    elif row := _pick_setting(rows, pick, *SETTINGS):
        row["enabled"] = 0


def _change_title(rows: Rows, pick: random.Random, _group: Group) -> None:
    if row := _pick_setting(rows, pick, *SETTINGS):
        plain, _, suffix = str(row.get("title") or "Alerte").partition(" - ")
        teams = [team for team in ("accueil", "direction", "location") if team != suffix]
        row["title"] = f"{plain} - {pick.choice(teams)}"


def _change_frequency(rows: Rows, pick: random.Random, _group: Group) -> None:
    if row := _pick_setting(rows, pick, "reports"):
        row["frequency"] = "weekly" if row.get("frequency") != "weekly" else "monthly"


def _add_alert(rows: Rows, pick: random.Random, group: Group) -> None:
    if rows["accounts"]:
        name, prefix = pick.choice((("email_alerts", "ale"), ("sms_alerts", "als")))
        _, number, address = group.person()
        kind = pick.choice(("lost_calls", "custom_calls"))
        recipient = number if prefix == "als" else address
        rows[name].append(group.alert(prefix, pick.choice(rows["accounts"]), kind, recipient))


def _remove_alert(rows: Rows, pick: random.Random, _group: Group) -> None:
    alerts = rows[pick.choice(ALERTS)]
    # each account keeps at least one alert
    accounts = [_account_of(row) for row in alerts]
    if removable := [row for row in alerts if accounts.count(_account_of(row)) > 1]:
        alerts.remove(pick.choice(removable))


def _add_number(rows: Rows, pick: random.Random, group: Group) -> None:
    pools = [row for row in rows["pools"] if _account_of(row) and row.get("numbers")]
    if not pools:
        return
    pool = pick.choice(pools)
    account = _account_of(pool)
    indexes = [n for n, row in enumerate(rows["accounts"]) if row.get("id") == account]
    recipients = [row for row in rows["recipients"] if _account_of(row) == account]
    if indexes and recipients:
        index, line = indexes[0], len(pool["numbers"])
        number = group.number(rows["accounts"][index], recipients[0], pool, index, line)
        rows["numbers"].append(number)
        pool["numbers"].append(number["number"])


def _disable_number(rows: Rows, pick: random.Random, _group: Group) -> None:
    if enabled := [row for row in rows["numbers"] if row.get("enabled")]:
        pick.choice(enabled)["enabled"] = 0


def _add_account(rows: Rows, pick: random.Random, group: Group) -> None:
    if rows["networks"]:
        network = pick.choice(rows["networks"])
        for name, added in group.account(len(rows["accounts"]), network, 2).items():
            rows[name] += added
        address = group.person()[2]
        rows["email_alerts"].append(group.alert("ale", rows["accounts"][-1], "lost_calls", address))


def _account_of(row: Row) -> object:
    return (row.get("account") or {}).get("id")


_ACTIONS: dict[str, tuple[int, Callable[[Rows, random.Random, Group], None]]] = {
    "recipient": (30, _change_recipient),
    "threshold": (20, _change_threshold),
    "switch": (14, _switch),
    "title": (10, _change_title),
    "frequency": (10, _change_frequency),
    "alert": (5, _add_alert),
    "removal": (4, _remove_alert),
    "number": (4, _add_number),
    "end": (2, _disable_number),
    "account": (1, _add_account),
}
"""Relative frequency and action of each kind of change."""
