"""Encode rows of events once, except for members that vary.

A page of 250 rows must cost less than its HTTP transfer. So a row is formatted from a `bytes`
template and is never a dict.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from magnetis_dagster.sandbox.group import CHANNELS, EMAIL_CHANNEL, TERMS, Group, Origin, Row

VARIANTS = 512
"""Number of row templates of each collection: combinations of called number and campaign."""
_SLOT = re.compile(rb'"@(\w+)@"')

Restyle = Callable[[str, Row], Row]
"""Renames members of a collection's row as declared, in the same order."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of contact, with its row templates."""

    web: bool
    """Whether the contact came through the website, so that visits precede it."""
    miss: float
    """Factor for the share of missed calls."""
    templates: dict[str, bytes]
    """Row template with a `%b` per slot by collection; leads have two, for calls and e-mails."""


SLOTS = {
    "calls": (
        *("id", "duration", "name", "number", "duration"),
        *("end", "start", "status", "visit", "waiting"),
    ),
    "visits": ("id", "call", "start", "visitor"),
    "conversions": ("id", "call", "start", "visit"),
    "emails": ("id", "start", "address", "subject"),
    "leads": ("id", "call", "address", "name", "number", "start", "email", "status"),
    "leads from emails": ("id", "call", "address", "name", "number", "start", "email", "status"),
}
"""Slots in the order of a row's members; their values are JSON."""


def variants(
    group: Group, seed: int, restyle: Restyle = lambda _collection, row: row
) -> list[Variant]:
    """Return the variants of a group; equal seeds give equal variants."""
    pick = random.Random(f"variants:{seed}")  # noqa: S311 - invented data
    weights = [origin.weight for origin in group.origins]
    return [
        _variant(group, origin, pick, restyle)
        for origin in pick.choices(group.origins, weights, k=VARIANTS)
    ]


@dataclass(frozen=True, slots=True)
class _Contact:
    """Members that all rows of one contact share."""

    account: Row
    channel: str
    click: str | None
    utm: Row

    @property
    def start(self) -> Row:
        """The first members of a row."""
        return {"id": "@id@", "account": self.account}


def _variant(group: Group, origin: Origin, pick: random.Random, restyle: Restyle) -> Variant:
    label, _, source, medium, campaign, has_click = origin.channel
    utm: Row = {
        "utm_campaign": campaign,
        "utm_content": "annonce-b" if has_click else None,
        "utm_medium": medium,
        "utm_source": source,
        "utm_term": pick.choice(TERMS) if has_click else None,
    }
    click = f"Cj0KCQ{pick.getrandbits(96):024x}" if has_click else None
    account = {"id": origin.account["id"], "name": origin.account["name"]}
    contact = _Contact(account, label, click, utm)
    rows: dict[str, Row] = {
        "calls": _call(contact, origin),
        "visits": _visit(contact, origin, pick),
        "conversions": _conversion(contact, pick),
        "emails": _email(contact, group, origin),
        "leads": _lead_from_call(contact),
        "leads from emails": _lead_from_email(contact),
    }
    templates = {name: _template(name, restyle(name.split()[0], row)) for name, row in rows.items()}
    web = source is not None or label == CHANNELS[0][0]
    return Variant(web, origin.miss, templates)


def _call(contact: _Contact, origin: Origin) -> Row:
    return {
        **contact.start,
        "analysis": {"channel": contact.channel, "duration": "@duration@"},
        "caller_name": "@name@",
        "caller_number": "@number@",
        "channel_name": contact.channel,
        "duration": "@duration@",
        "end_at": "@end@",
        "gclid": contact.click,
        "number": {"id": origin.number["id"], "number": origin.number["number"]},
        "recipient": {"id": origin.recipient["id"], "number": origin.recipient["number"]},
        "start_at": "@start@",
        "status": "@status@",
        **contact.utm,
        "visit": "@visit@",
        "waiting_time": "@waiting@",
    }


def _visit(contact: _Contact, origin: Origin, pick: random.Random) -> Row:
    website = origin.account["website"]
    pages = [website, f"{website}/estimation"][: pick.randrange(1, 3)]
    return {
        **contact.start,
        "call": "@call@",
        "channel_name": contact.channel,
        "created_at": "@start@",
        "device": pick.choices(("mobile", "desktop", "tablet"), (60, 34, 6))[0],
        "duration": pick.randrange(5, 900),
        "gclid": contact.click,
        "landing_url": pages[0],
        "pages": pages,
        "referrer": "https://www.google.com/" if contact.utm["utm_source"] == "google" else None,
        **contact.utm,
        "visitor": {"id": "@visitor@"},
    }


def _conversion(contact: _Contact, pick: random.Random) -> Row:
    return {
        **contact.start,
        "call": "@call@",
        "channel_name": contact.channel,
        "created_at": "@start@",
        "gclid": contact.click,
        "type": "call",
        **contact.utm,
        "value": round(pick.uniform(5, 400), 2),
        "visit": "@visit@",
    }


def _email(contact: _Contact, group: Group, origin: Origin) -> Row:
    tracker = next(
        row for row in group.rows["email_trackers"] if row["account"]["id"] == origin.account["id"]
    )
    return {
        **contact.start,
        "channel_name": EMAIL_CHANNEL,
        "created_at": "@start@",
        "email_tracker": {"id": tracker["id"]},
        "to": tracker["email"],
        "from": "@address@",
        "subject": "@subject@",
    }


def _lead_from_call(contact: _Contact) -> Row:
    members = {"gclid": contact.click, "status": "@status@", "type": "call", **contact.utm}
    return _lead(contact, contact.channel) | members


def _lead_from_email(contact: _Contact) -> Row:
    members = {"gclid": None, "status": "@status@", "type": "email"}
    return _lead(contact, EMAIL_CHANNEL) | members | dict.fromkeys(contact.utm)


def _lead(contact: _Contact, channel: str) -> Row:
    return {
        **contact.start,
        "call": "@call@",
        "channel_name": channel,
        "contact": {"email": "@address@", "name": "@name@", "phone": "@number@"},
        "created_at": "@start@",
        "email": "@email@",
    }


def _template(collection: str, row: Row) -> bytes:
    pieces = _SLOT.split(orjson.dumps(row))
    slots = tuple(slot.decode() for slot in pieces[1::2])
    assert slots == SLOTS[collection], (collection, slots)
    return b"%b".join(piece.replace(b"%", b"%%") for piece in pieces[::2])
