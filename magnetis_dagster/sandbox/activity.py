"""Changes of settings and numbers as days pass: alerts and reports edited, added and removed, numbers added and ended.

Equal seeds give equal changes at equal moments, whenever the sandbox was started. `late.py` does the same for events.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from magnetis_dagster.sandbox.callers import CALLERS, address_of, number_of
from magnetis_dagster.sandbox.group import Group, Row

FIRST_DAY = date(2026, 1, 1)
"""No setting has changed before."""
SOON = timedelta(minutes=2)
"""After the start of the sandbox somebody edits an alert, so that a demonstration need not wait for office hours."""
AGAIN = timedelta(hours=4)
"""Somebody edits another one this long after, and so on."""
_KINDS = {
    "recipient": 30,
    "threshold": 20,
    "switch": 14,
    "title": 10,
    "frequency": 10,
    "alert": 5,
    "removal": 4,
    "number": 4,
}
_KINDS |= {"end": 2, "account": 1}
_DEMONSTRATED = ("threshold", "switch", "recipient", "title")
ALERTS = ("email_alerts", "sms_alerts")
Rows = dict[str, list[Row]]
"""Rows of the snapshot collections, oldest first; a change replaces, adds or removes some."""


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """One change, at a moment in Unix time."""

    moment: int
    kind: str
    seed: str


def changes(seed: int, zone: ZoneInfo, born: datetime, after: int, until: int) -> list[Change]:
    """Return the changes after the one moment and until the other, oldest first; `born` is when the sandbox was started."""
    found: list[Change] = []
    day = max(FIRST_DAY, datetime.fromtimestamp(after, zone).date())
    while day <= datetime.fromtimestamp(until, zone).date():
        found += _of_day(seed, day, zone)
        day += timedelta(days=1)
    moment, number = born + SOON, 0
    while (second := int(moment.timestamp())) <= until:
        found.append(
            Change(
                second, _DEMONSTRATED[number % len(_DEMONSTRATED)], f"{seed}:demonstrated:{number}"
            )
        )
        moment, number = moment + AGAIN, number + 1
    return sorted(change for change in found if after < change.moment <= until)


def _of_day(seed: int, day: date, zone: ZoneInfo) -> Iterator[Change]:
    if day.weekday() >= 5:
        return
    pick = random.Random(f"activity:{seed}:{day}")  # noqa: S311 - invented data
    for number in range(pick.choices((0, 1, 2, 3), (45, 35, 15, 5))[0]):
        moment = datetime(day.year, day.month, day.day, 8, 30, tzinfo=zone) + timedelta(
            seconds=pick.randrange(9 * 3600)
        )
        kind = pick.choices(list(_KINDS), list(_KINDS.values()))[0]
        yield Change(int(moment.timestamp()), kind, f"{seed}:{day}:{number}")


def apply(change: Change, rows: Rows, group: Group, zone: ZoneInfo) -> None:
    """Make the change. A change for which there is no row changes nothing."""
    pick = random.Random(f"change:{change.seed}")  # noqa: S311 - invented data
    _ACTIONS[change.kind](rows, pick, group.at(datetime.fromtimestamp(change.moment, zone), pick))


def _setting(
    rows: Rows, pick: random.Random, *collections: str, of: str | None = None
) -> tuple[str, Row] | None:
    found = [
        (name, row)
        for name in collections
        for row in rows[name]
        if of is None or row.get("type") == of
    ]
    return pick.choice(found) if found else None


def _recipient(rows: Rows, pick: random.Random, _group: Group) -> None:
    if found := _setting(rows, pick, "reports", *ALERTS):
        name, row = found
        person = pick.randrange(CALLERS)
        told = number_of(person) if name == "sms_alerts" else address_of(person)
        kept = row.get("recipients") or []
        row["recipients"] = [*kept, told] if len(kept) < 3 else [told]


def _threshold(rows: Rows, pick: random.Random, _group: Group) -> None:
    if found := _setting(rows, pick, *ALERTS, of="custom_calls"):
        _, row = found
        row["less_than"] = pick.choice(
            [seconds for seconds in (20, 23, 30, 45, 60) if seconds != row.get("less_than")]
        )


def _switch(rows: Rows, pick: random.Random, _group: Group) -> None:
    off = [row for name in ("reports", *ALERTS) for row in rows[name] if not row.get("enabled")]
    if off:  # nothing stays off for long
        off[0]["enabled"] = 1
    elif found := _setting(rows, pick, "reports", *ALERTS):
        found[1]["enabled"] = 0


def _title(rows: Rows, pick: random.Random, _group: Group) -> None:
    if found := _setting(rows, pick, "reports", *ALERTS):
        plain, _, added = str(found[1].get("title") or "Alerte").partition(" - ")
        found[1]["title"] = (
            f"{plain} - {pick.choice([team for team in ('accueil', 'direction', 'location') if team != added])}"
        )


def _frequency(rows: Rows, pick: random.Random, _group: Group) -> None:
    if found := _setting(rows, pick, "reports"):
        found[1]["frequency"] = "weekly" if found[1].get("frequency") != "weekly" else "monthly"


def _alert(rows: Rows, pick: random.Random, group: Group) -> None:
    if rows["accounts"]:
        name, prefix = pick.choice((("email_alerts", "ale"), ("sms_alerts", "als")))
        _, number, address = group.person()
        kind = pick.choice(("lost_calls", "custom_calls"))
        rows[name].append(
            group.alert(
                prefix, pick.choice(rows["accounts"]), kind, number if prefix == "als" else address
            )
        )


def _removal(rows: Rows, pick: random.Random, _group: Group) -> None:
    name = pick.choice(ALERTS)
    # an account keeps one alert
    accounts = [_account_of(row) for row in rows[name]]
    spare = [
        row
        for row, account in zip(rows[name], accounts, strict=True)
        if accounts.count(account) > 1
    ]
    if spare:
        rows[name].remove(pick.choice(spare))


def _number(rows: Rows, pick: random.Random, group: Group) -> None:
    pools = [row for row in rows["pools"] if _account_of(row) and row.get("numbers")]
    if not pools:
        return
    pool = pick.choice(pools)
    place = next(
        (n for n, row in enumerate(rows["accounts"]) if row.get("id") == _account_of(pool)), None
    )
    recipient = next(
        (row for row in rows["recipients"] if _account_of(row) == _account_of(pool)), None
    )
    if place is None or recipient is None:
        return
    number = group.number(rows["accounts"][place], recipient, pool, place, len(pool["numbers"]))
    rows["numbers"].append(number)
    pool["numbers"].append(number["number"])


def _end(rows: Rows, pick: random.Random, _group: Group) -> None:
    if used := [row for row in rows["numbers"] if row.get("enabled")]:
        pick.choice(used)["enabled"] = 0


def _account(rows: Rows, pick: random.Random, group: Group) -> None:
    if rows["networks"]:
        for name, added in group.account(
            len(rows["accounts"]), pick.choice(rows["networks"]), 2
        ).items():
            rows[name] += added
        rows["email_alerts"].append(
            group.alert("ale", rows["accounts"][-1], "lost_calls", group.person()[2])
        )


def _account_of(row: Row) -> object:
    return (row.get("account") or {}).get("id")


_ACTIONS: dict[str, Callable[[Rows, random.Random, Group], None]] = {
    "recipient": _recipient,
    "threshold": _threshold,
    "switch": _switch,
    "title": _title,
    "frequency": _frequency,
    "alert": _alert,
    "removal": _removal,
    "number": _number,
    "end": _end,
    "account": _account,
}
