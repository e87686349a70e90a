"""Rows of events, rendered once up to the few members that differ from row to row: ids, times and links.

A page of 250 rows must cost less than its way through HTTP, so a row is a join of a dozen byte strings and never a dict.
"""

import random
import re
from dataclasses import dataclass

import orjson

from magnetis_dagster.sandbox.group import CHANNELS, TERMS, Group, Origin, Row

VARIANTS = 512
"""Different rows of a collection: who called which number, how long, with which campaign."""
_SLOT = re.compile(rb'"@(\w+)@"')


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of contact, in every collection that it can appear in."""

    web: bool
    """Whether the contact came over the website, so that a visitor journey leads to it."""
    duration: int
    """Seconds; 0 for a missed call."""
    pieces: dict[str, tuple[bytes, ...]]
    """Collection to the byte strings between its slots; leads are there twice, from calls and from e-mails."""


SLOTS = {
    "calls": ("id", "end", "start", "visit"),
    "visits": ("id", "call", "start"),
    "conversions": ("id", "call", "start", "visit"),
    "emails": ("id", "start"),
    "leads": ("id", "call", "start", "email"),
    "leads from emails": ("id", "call", "start", "email"),
}
"""Slots in the order in which they stand in a row."""


def variants(group: Group, seed: int) -> list[Variant]:
    """Return the variants of a group, the same for equal seeds."""
    pick = random.Random(f"variants:{seed}")  # noqa: S311 - invented data
    weights = [next(channel[1] for channel in CHANNELS if channel[0] == origin.channel[0]) for origin in group.origins]
    return [_variant(group, origin, pick) for origin in pick.choices(group.origins, weights, k=VARIANTS)]


def _variant(group: Group, origin: Origin, pick: random.Random) -> Variant:
    label, _, source, medium, campaign, has_click = origin.channel
    account = {"id": origin.account["id"], "name": origin.account["name"]}
    name, number, address = group.person()
    missed = pick.random() < 0.2
    duration = 0 if missed else min(3600, int(pick.lognormvariate(4.8, 0.9)) + 5)
    web = source is not None or label == "Tout le SEO"
    utm: Row = {
        "utm_campaign": campaign,
        "utm_content": "annonce-b" if has_click else None,
        "utm_medium": medium,
        "utm_source": source,
        "utm_term": pick.choice(TERMS) if has_click else None,
    }
    click = f"Cj0KCQ{pick.getrandbits(96):024x}" if has_click else None
    website = origin.account["website"]
    pages = [website, f"{website}/estimation"][: pick.randrange(1, 3)]
    call = {
        "caller_name": name if pick.random() < 0.3 else None,
        "caller_number": number,
        "channel_name": label,
        "duration": duration,
        "end_at": "@end@",
        "gclid": click,
        "number": {"id": origin.number["id"], "number": origin.number["number"]},
        "recipient": {"id": origin.recipient["id"], "number": origin.recipient["number"]},
        "start_at": "@start@",
        "status": "missed" if missed else "completed",
        **utm,
        "visit": "@visit@",
        "waiting_time": pick.randrange(2, 40),
    }
    lead = {"contact": {"email": address, "name": name, "phone": number}, "created_at": "@start@"}
    status = pick.choice(("new", "qualified", "closed"))
    rows: dict[str, Row] = {
        "calls": {"id": "@id@", "account": account, "analysis": {"channel": label, "duration": duration}, **call},
        "visits": {
            "id": "@id@",
            "account": account,
            "call": "@call@",
            "channel_name": label,
            "created_at": "@start@",
            "device": pick.choice(("mobile", "desktop", "tablet")),
            "duration": pick.randrange(5, 900),
            "gclid": click,
            "landing_url": pages[0],
            "pages": pages,
            "referrer": "https://www.google.com/" if source == "google" else None,
            **utm,
            "visitor": {"id": group.identifier("vst")},
        },
        "conversions": {
            "id": "@id@",
            "account": account,
            "call": "@call@",
            "channel_name": label,
            "created_at": "@start@",
            "gclid": click,
            "type": "call",
            **utm,
            "value": round(pick.uniform(5, 400), 2),
            "visit": "@visit@",
        },
        "emails": {
            "id": "@id@",
            "account": account,
            "channel_name": "Portails d'annonces",
            "created_at": "@start@",
            **_tracker(group, origin),
            "from": address,
            "subject": f"Demande de visite de {name}",
        },
        "leads": {"id": "@id@", "account": account, "call": "@call@", "channel_name": label, **lead, "email": "@email@"}
        | {"gclid": click, "status": status, "type": "call", **utm},
        "leads from emails": {"id": "@id@", "account": account, "call": "@call@", "channel_name": "Portails d'annonces"}
        | {**lead, "email": "@email@", "gclid": None, "status": status, "type": "email"}
        | dict.fromkeys(utm),
    }
    return Variant(web, duration, {name: _pieces(name, row) for name, row in rows.items()})


def _tracker(group: Group, origin: Origin) -> Row:
    tracker = next(row for row in group.rows["email_trackers"] if row["account"]["id"] == origin.account["id"])
    return {"email_tracker": {"id": tracker["id"]}, "to": tracker["email"]}


def _pieces(collection: str, row: Row) -> tuple[bytes, ...]:
    pieces = _SLOT.split(orjson.dumps(row))
    slots = tuple(slot.decode() for slot in pieces[1::2])
    assert slots == SLOTS[collection], (collection, slots)
    return tuple(pieces[::2])
