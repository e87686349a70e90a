"""Encode rows of events once, except for members that vary.

A page of 250 rows must cost less than its HTTP transfer. So a row is formatted from a `bytes`
template and is never a dict.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from magnetis_dagster.sandbox.group import (
    CHANNELS,
    EMAIL_CHANNEL,
    TERMS,
    Group,
    Origin,
    Row,
    reference,
)

VARIANTS = 512
"""Number of row templates of each collection: combinations of called number and campaign."""
_SLOT = re.compile(rb'"@(\w+)@"')


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of contact, with its row templates."""

    web: bool
    """Whether the contact came through the website, so that visits precede it."""
    miss: float
    """Factor for the share of missed calls."""
    templates: dict[str, bytes]
    """Row template by collection, with a slot such as `%(start)b` for each JSON value that varies.

    Leads have two, for calls and e-mails.
    """


def variants(group: Group, seed: int, restyle: Callable[[str, Row], Row]) -> list[Variant]:
    """Return the variants of a group; equal seeds give equal variants.

    `restyle` renames members of a collection's row.
    """
    pick = random.Random(f"variants:{seed}")  # noqa: S311 - invented data
    weights = [origin.weight for origin in group.origins]
    return [
        Variant(
            web=origin.channel[2] is not None or origin.channel[0] == CHANNELS[0][0],
            miss=origin.miss,
            templates={
                name: _template(restyle(name.split()[0], row))
                for name, row in _rows(group, origin, pick).items()
            },
        )
        for origin in pick.choices(group.origins, weights, k=VARIANTS)
    ]


def _template(row: Row) -> bytes:
    return _SLOT.sub(rb"%(\1)b", orjson.dumps(row).replace(b"%", b"%%"))


def _rows(group: Group, origin: Origin, pick: random.Random) -> dict[str, Row]:
    """Return a row of each collection; `@start@` stands for a value that varies."""
    channel, _, source, medium, campaign, has_click = origin.channel
    utm: Row = {
        "utm_campaign": campaign,
        "utm_content": "annonce-b" if has_click else None,
        "utm_medium": medium,
        "utm_source": source,
        "utm_term": pick.choice(TERMS) if has_click else None,
    }
    click = f"Cj0KCQ{pick.getrandbits(96):024x}" if has_click else None
    first: Row = {"id": "@id@", "account": reference(origin.account)}
    linked = {**first, "call": "@call@", "channel_name": channel}
    lead = linked | {
        "contact": {"email": "@address@", "name": "@name@", "phone": "@number@"},
        "created_at": "@start@",
        "email": "@email@",
        "gclid": click,
        "status": "@status@",
    }
    return {
        "calls": {
            **first,
            "analysis": {"channel": channel, "duration": "@duration@"},
            "caller_name": "@name@",
            "caller_number": "@number@",
            "channel_name": channel,
            "duration": "@duration@",
            "end_at": "@end@",
            "gclid": click,
            "number": {"id": origin.number["id"], "number": origin.number["number"]},
            "recipient": {"id": origin.recipient["id"], "number": origin.recipient["number"]},
            "start_at": "@start@",
            "status": "@status@",
            **utm,
            "visit": "@visit@",
            "waiting_time": "@waiting@",
        },
        "visits": linked | _visit(origin.account["website"], pick, click, utm),
        "conversions": linked
        | {"created_at": "@start@", "gclid": click, "type": "call", **utm}
        | {"value": round(pick.uniform(5, 400), 2), "visit": "@visit@"},
        "emails": first | _email(group, origin),
        "leads": lead | {"type": "call", **utm},
        "leads from emails": lead
        | {"channel_name": EMAIL_CHANNEL, "gclid": None, "type": "email", **dict.fromkeys(utm)},
    }


def _visit(website: str, pick: random.Random, click: str | None, utm: Row) -> Row:
    pages = [website, f"{website}/estimation"][: pick.randrange(1, 3)]
    return {
        "created_at": "@start@",
        "device": pick.choices(("mobile", "desktop", "tablet"), (60, 34, 6))[0],
        "duration": pick.randrange(5, 900),
        "gclid": click,
        "landing_url": website,
        "pages": pages,
        "referrer": "https://www.google.com/" if utm["utm_source"] == "google" else None,
        **utm,
        "visitor": {"id": "@visitor@"},
    }


def _email(group: Group, origin: Origin) -> Row:
    account = origin.account["id"]
    tracker = next(row for row in group.rows["email_trackers"] if row["account"]["id"] == account)
    return {
        "channel_name": EMAIL_CHANNEL,
        "created_at": "@start@",
        "email_tracker": {"id": tracker["id"]},
        "to": tracker["email"],
        "from": "@address@",
        "subject": "@subject@",
    }
