"""Masking of rows: idempotent, in any order, nothing personal left, nothing else changed."""

import json
import re
import unicodedata
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spellings import NATIONAL, spellings

from magnetis_dagster.catalog import Collection, PersonalData, load_catalogue
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.classification import CONTACT_SIDE
from magnetis_dagster.privacy.masking import Row, RowMasker
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.plan import CollectionPlan, build_plan

CATALOGUE = load_catalogue()
PARIS = ZoneInfo("Europe/Paris")
KEYS = PrivacyKeys.parse("1:0123456789abcdefghijklmnopqrstuvwxyz")
ROTATED = PrivacyKeys.parse(
    "2:zyxwvutsrqponmlkjihgfedcba9876543210,1:0123456789abcdefghijklmnopqrstuvwxyz"
)
PERSONS = PersonKeys(KEYS, "magnetis")
ROTATED_PERSONS = PersonKeys(ROTATED, "magnetis")
DAY = date(2024, 3, 4)
FRESH = DAY + timedelta(1)
NOBODY: frozenset[str] = frozenset()

PLANS = [
    "{}",
    "{classes: {caller_number: {on_arrival: hash}, contact: {on_arrival: hash}}}",
    "{classes: {caller_number: {on_arrival: hash}, contact: {on_arrival: drop}}}",
    "{classes: {caller_number: {on_arrival: drop}, unclassified: {on_arrival: drop}}}",
    """
    classes:
      caller_number: {mask_after: 6 months, mask_to: hash}
      contact: {mask_after: 2 months}
      free_text: {mask_after: never}
    payload: {mask_after: never}
    """,
    """
    classes: {free_text: {mask_after: 10 days}, staff_recipient: {mask_after: 1 month}}
    payload: {mask_after: 20 days}
    """,
    "{collections: {calls: {members: {note: free_text, channel: visitor}}}}",
]
MASKERS = {
    (name, plan): RowMasker(
        CATALOGUE[name], build_plan(yaml.safe_load(plan), "x", CATALOGUE).of(name), PERSONS
    )
    for name in ("calls", "leads", "emails", "email_alerts")
    for plan in PLANS
}
ROTATED_MASKERS = {
    key: RowMasker(each.collection, each._plan, ROTATED_PERSONS) for key, each in MASKERS.items()
}


def parse(collection: Collection, payload: dict[str, Any]) -> Row:
    parsed = RowParser(collection, response_zone=PARIS, partition_zone=PARIS).read_all([payload])
    values = zip(collection.columns, parsed.columns, strict=True)
    return Row({name: each[0] for name, each in values}, payload)


def default_plan(name: str) -> CollectionPlan:
    return build_plan(None, "x", CATALOGUE).of(name)


def masker(name: str, plan: str = "{}") -> RowMasker:
    return RowMasker(
        CATALOGUE[name], build_plan(yaml.safe_load(plan), "x", CATALOGUE).of(name), PERSONS
    )


def key(number: str) -> frozenset[str]:
    return frozenset(PERSONS.phone(number).accepted)


def texts(value: object) -> list[str]:
    """Return all texts and names in a value, with JSON columns decoded."""
    if isinstance(value, dict):
        return [each for pair in value.items() for part in pair for each in texts(part)]
    if isinstance(value, list | tuple):
        return [each for part in value for each in texts(part)]
    return [str(value)]


def contains_number(value: object, national: str) -> bool:
    """Search by digits alone, independent of the code under test."""
    for text in texts(value):
        plain = unicodedata.normalize("NFKC", text)
        for digits in {re.sub(r"\D", "", plain), re.sub(r"\D", "", plain.replace("(0)", ""))}:
            if national in digits:
                return True
    return False


CALL = {
    "id": "call-0c5ac87f-6d8b-4e94-9ce2-f4773bced2f5",
    "account": {"id": "acc-1", "name": "Agence"},
    "start_at": "2024-03-04 09:06:09",
    "caller": {"number": "06 12 34 56 78", "name": "Jean Dupont", "city": "Lyon"},
    "duration": 12,
    "status": "missed",
    "channel": "Tout le SEO",
    "recipient": {"id": "rec-1", "number": "0188112233"},
    "recording_url": "https://example.com/1",
    "analysis": {"channel": "SEO", "transcript": "bonjour"},
    "gclid": "abc",
    "vip": True,
}


def test_a_fresh_row_stays_clear_and_has_keys() -> None:
    row = parse(CATALOGUE["calls"], CALL)
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY)
    assert masked.row.columns == row.columns
    assert masked.row.payload == CALL
    assert masked.row.keys == {
        "caller_number": PERSONS.phone("0612345678").key,
        "recipient_number": PERSONS.phone("0188112233").key,
    }
    assert masked.changed == masked.row.masked == frozenset()
    assert CATALOGUE["calls"].key_columns == {
        "caller_number": "caller_key",
        "recipient_number": "recipient_key",
    }
    assert CATALOGUE["leads"].key_columns["contact_phone"] == "contact_phone_key"


def test_an_erased_caller_vanishes_and_the_rest_stays() -> None:
    row = parse(CATALOGUE["calls"], CALL | {"title": "Appel de 0033 6.12.34.56.78"})
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=key("0612345678"))
    assert masked.row.payload == {
        **{name: CALL[name] for name in ("id", "account", "start_at", "duration", "status")},
        "caller": {"number": None, "name": None, "city": None},
        "channel": "Tout le SEO",
        "recipient": CALL["recipient"],
        "recording_url": None,
        "analysis": {"channel": "SEO", "transcript": None},
        "gclid": None,
        "vip": None,
        "title": None,
    }
    assert masked.row.masked == CONTACT_SIDE
    assert masked.row.keys == {
        "caller_number": None,
        "recipient_number": PERSONS.phone("0188112233").key,
    }
    assert PersonalData.CALLER_NUMBER in masked.changed
    reparsed = parse(CATALOGUE["calls"], masked.row.payload)
    assert reparsed.columns == masked.row.columns


def test_an_erased_recipient_vanishes_alone() -> None:
    row = parse(CATALOGUE["calls"], CALL)
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=key("+33188112233"))
    assert masked.row.payload == CALL | {"recipient": {"id": "rec-1", "number": None}}
    assert masked.row.columns["recipient_number"] is None
    assert masked.row.columns["caller_number"] == "06 12 34 56 78"
    assert masked.row.keys["recipient_number"] is None
    assert masked.changed == {PersonalData.STAFF_RECIPIENT}


def test_an_erased_recipient_vanishes_from_a_list_of_recipients() -> None:
    payload = {
        "id": "ale-1",
        "account": {"id": "acc-1", "name": "Agence"},
        "title": "Alerte pour Jean <jean@exemple.fr>",
        "recipients": ["Jean@Exemple.fr", "paul@exemple.fr", {"email": "jean@exemple.fr"}],
        "less_than": 612345678,
    }
    row = parse(CATALOGUE["email_alerts"], payload)
    erased = frozenset(PERSONS.email("jean@exemple.fr").accepted) | key("0612345678")
    masked = masker("email_alerts").mask(row, today=FRESH, suppressed=erased).row
    assert masked.payload["recipients"] == [None, "paul@exemple.fr", {"email": None}]
    assert json.loads(masked.columns["recipients"]) == masked.payload["recipients"]
    assert masked.payload["title"] is None
    assert masked.payload["less_than"] == 612345678, "a number of seconds is not a phone number"


def test_retention_masks_each_class_at_its_age() -> None:
    row = parse(CATALOGUE["calls"], CALL)
    ages = {
        DAY + timedelta(180): set(),
        date(2024, 9, 4): {"recording_link"},
        date(2025, 4, 3): {"recording_link"},
        date(2025, 4, 4): {
            *("recording_link", "visitor", "free_text", "unclassified", "personal", "pseudonym")
        },
        date(2027, 3, 4): set(CONTACT_SIDE),
    }
    for today, classes in ages.items():
        masked = masker("calls").mask(row, today=today, row_day=DAY)
        assert masked.row.masked == classes, today
        assert bool(masked.row.payload_masked) == (today >= date(2025, 4, 4))
    late = masker("calls").mask(
        row, today=date(2027, 3, 4), row_day=DAY, last_contact=date(2024, 3, 5)
    )
    assert late.row.columns["caller_number"] == "06 12 34 56 78"
    # the current state of an object has no age
    assert masker("calls").mask(row, today=date(2099, 1, 1)).row.masked == set()


def test_withheld_numbers_and_short_codes_are_nobody() -> None:
    for number, text in (("anonymous", "anonymous"), (3949, "3949")):
        row = parse(CATALOGUE["calls"], CALL | {"caller": {"number": number}})
        masked = masker("calls").mask(row, today=date(2099, 1, 1), row_day=DAY)
        assert masked.row.columns["caller_number"] == text
        assert masked.row.payload["caller"] == {"number": number}
        assert masked.row.keys["caller_number"] is None
        assert masked.unparsable == ()
    row = parse(CATALOGUE["calls"], CALL | {"caller": {"number": "06 12"}})
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY)
    assert masked.unparsable == ("caller_number",) or masked.row.keys["caller_number"] is None


def test_names_of_members_may_be_personal_too() -> None:
    payload = CALL | {"+33612345678": 1, "by_number": {"0612345678": {"calls": 2}}, "n": 612345678}
    row = parse(CATALOGUE["calls"], payload)
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=key("0612345678"))
    assert not contains_number(masked.row.payload, "612345678")


def test_a_list_or_object_in_place_of_a_scalar_counts_as_personal() -> None:
    payload = CALL | {"channel": {"contact": "x"}, "duration": ["x"], "visit": "vis-1"}
    row = parse(CATALOGUE["calls"], payload)
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=key("0612345678")).row
    assert masked.payload["channel"] == {"contact": None}
    assert masked.payload["duration"] is None
    assert masked.payload["visit"] is None
    assert masked.payload["account"] == CALL["account"]
    payload = CALL | {"account": "acc-1", "recipient": "01 88 11 22 33", "visit": "06.12.34.56.78"}
    row = parse(CATALOGUE["calls"], payload)
    erased = key("0612345678") | key("0188112233")
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=erased).row
    assert masked.payload["account"] == "acc-1"
    assert masked.payload["recipient"] is masked.payload["visit"] is None


def test_deep_rows_are_masked() -> None:
    deep: Any = "06 12 34 56 78"
    for _ in range(250):
        deep = [deep]
    row = parse(CATALOGUE["calls"], CALL | {"deep": deep, "caller": None})
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY, suppressed=key("0612345678")).row
    assert "12 34" not in json.dumps(masked.payload)


def test_no_repr_contains_a_value() -> None:
    row = parse(CATALOGUE["calls"], CALL)
    masked = masker("calls").mask(row, today=FRESH, row_day=DAY)
    assert not re.search("Jean|12 34|k1:|Lyon", repr(masked) + repr(row))


NAMES = st.sampled_from(["Jean Dupont", "Zoé Élan", "O'Hara, Mia", "李小龍先生", "Anne-Lise Roy"])


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, dict[str, Any], str, str, str]:
    """Return a collection, a row with a person in many places, her number, name and address."""
    national, name = draw(NATIONAL), draw(NAMES)
    other = draw(NATIONAL.filter(lambda each: each not in national))
    address = draw(st.sampled_from(["jean.d@exemple.fr", "zoe+x@exemple.org"]))

    def number() -> str:
        return draw(spellings(national))

    def text() -> Any:
        return draw(
            st.sampled_from(
                [
                    None,
                    "bonjour",
                    f"Rappeler {number()} svp",
                    f"{name} a appelé",
                    f"de {name} <{address.upper()}>, {number()}",
                    {"phone": number(), "tags": ["a", name]},
                    [number(), {"mail": address}, 7],
                    f"tel:{draw(spellings(other))}",
                    int(f"33{national}"),
                    True,
                ]
            )
        )

    base = {
        "id": "x-0c5ac87f-6d8b",
        "account": {"id": "acc-7", "name": draw(st.sampled_from(["Agence", f"Chez {name}"]))},
        "created_at": "2024-03-04 09:06:09",
        "status": "missed",
        "channel": draw(st.sampled_from(["Tout le SEO", f"Campagne {name}"])),
        "note": text(),
        "Extra-Field": text(),
        "gclid": "abc",
    }
    match draw(st.sampled_from(["calls", "leads", "emails", "email_alerts"])):
        case "calls" as collection:
            base |= {
                "caller": {"number": number(), "name": name, "misc": text()},
                "duration": 31,
                "recipient": {"id": "rec-1", "number": draw(spellings(other)), "title": text()},
                "analysis": text(),
                "recording": text(),
            }
        case "leads" as collection:
            base |= {"contact": {"name": name, "phone": number(), "email": address}}
        case "emails" as collection:
            base |= {"from": f"{name} <{address}>", "subject": text(), "to": "a@suivi.fr"}
        case collection:
            base |= {"title": text(), "recipients": [address, "paul@exemple.fr", number()]}
    return collection, base, national, name, address


OLD = st.sampled_from([1, 15, 25, 45, 70, 200, 400, 800, 1096, 2000])


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from(PLANS), OLD, st.booleans())
def test_masking_is_idempotent_and_keeps_ids_times_counts_and_status(
    made: tuple[str, dict[str, Any], str, str, str], plan: str, days: int, erased: bool
) -> None:
    collection, payload, national, _, address = made
    each = MASKERS[collection, plan]
    received = parse(CATALOGUE[collection], payload)
    suppressed = key(f"0{national}") | set(PERSONS.email(address).accepted) if erased else NOBODY
    when = {"today": DAY + timedelta(days), "row_day": DAY, "suppressed": suppressed}
    first = each.mask(received, **when)  # type: ignore[arg-type]
    second = each.mask(first.row, **when)  # type: ignore[arg-type]
    assert second.row == first.row
    assert second.changed == frozenset()
    assert each.mask(received, **when) == first  # type: ignore[arg-type]
    status = {"status"} if "status" in CATALOGUE[collection].columns else set()
    for name in ("id", "created_at", "duration", *status):
        assert first.row.payload.get(name) == payload.get(name)
    assert first.row.payload["account"]["id"] == "acc-7"
    for name in ("status", "duration_seconds", "recipient_id", "ended_at"):
        if name in received.columns:
            assert first.row.columns[name] == received.columns[name]
    json.dumps(first.row.payload)


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from(PLANS), OLD, OLD)
def test_any_order_of_retention_erasure_reload_and_rotation_reaches_the_same_state(
    made: tuple[str, dict[str, Any], str, str, str], plan: str, days: int, more: int
) -> None:
    collection, payload, national, _, address = made
    each, rotated = MASKERS[collection, plan], ROTATED_MASKERS[collection, plan]
    received = parse(CATALOGUE[collection], payload)
    erased = key(f"0{national}") | set(PERSONS.email(address).accepted)
    early, late = DAY + timedelta(min(days, more)), DAY + timedelta(max(days, more))

    def mask(row: Row, today: date, suppressed: frozenset[str], by: RowMasker = each) -> Row:
        return by.mask(row, today=today, row_day=DAY, suppressed=suppressed).row

    def reload(stored: Row) -> Row:
        return replace(received, masked=stored.masked, payload_masked=stored.payload_masked)

    loaded = mask(received, DAY, NOBODY)
    final = mask(received, late, erased)
    orders = {
        "retention, erasure": mask(mask(loaded, late, NOBODY), late, erased),
        "erasure, retention": mask(mask(loaded, DAY, erased), late, erased),
        "retention in two steps": mask(
            mask(mask(loaded, early, NOBODY), late, NOBODY), late, erased
        ),
        "early retention, erasure": mask(
            mask(mask(loaded, early, NOBODY), early, erased), late, erased
        ),
        "reload": mask(reload(final), late, erased),
        "reload after retention": mask(reload(mask(loaded, early, NOBODY)), late, erased),
        "rotation": mask(mask(loaded, early, NOBODY), late, erased, rotated),
    }
    for name, row in orders.items():
        assert row.payload == final.payload, name
        assert row.columns == final.columns, name
        assert row.masked == final.masked, name
        assert row.payload_masked == final.payload_masked, name
        if "rotation" not in name:
            assert row.keys == final.keys, name
    # an unchanged row never counts as changed: also with a new active secret
    for today in (early, late):
        stored = mask(received, today, NOBODY)
        again = mask(reload(stored), today, NOBODY, rotated)
        assert (again.columns, again.payload) == (stored.columns, stored.payload)


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from(PLANS), OLD)
def test_nothing_about_an_erased_person_is_left(
    made: tuple[str, dict[str, Any], str, str, str], plan: str, days: int
) -> None:
    collection, payload, national, name, address = made
    received = parse(CATALOGUE[collection], payload)
    erased = key(f"0{national}") | set(PERSONS.email(address).accepted)
    masked = MASKERS[collection, plan].mask(
        received, today=DAY + timedelta(days), row_day=DAY, suppressed=frozenset(erased)
    )
    left = [dict(masked.row.columns), masked.row.payload, dict(masked.row.keys)]
    assert not contains_number(left, national)
    written = " ".join(texts(left)).casefold()
    assert address not in written
    assert not erased & set(texts(left))
    if collection != "email_alerts":
        assert name.casefold() not in written, "her name, next to her number or address"


@settings(max_examples=60, deadline=None)
@given(rows(), st.booleans())
def test_nothing_is_left_in_clear_if_the_plan_hashes_on_arrival(
    made: tuple[str, dict[str, Any], str, str, str], contacts: bool
) -> None:
    collection, payload, national, name, _ = made
    plan = PLANS[1] if contacts else PLANS[3]
    masked = MASKERS[collection, plan].mask(
        parse(CATALOGUE[collection], payload), today=DAY, row_day=DAY
    )
    if collection in {"calls", "leads"} and (contacts or collection == "calls"):
        left = [dict(masked.row.columns), masked.row.payload]
        assert not contains_number(left, national)
        assert not contacts or name.casefold() not in " ".join(texts(left)).casefold()


def test_the_default_plan_of_the_suite_is_the_shipped_one() -> None:
    assert MASKERS["calls", "{}"]._plan == default_plan("calls")


@pytest.mark.parametrize("name", CATALOGUE.collections)
def test_every_collection_can_be_masked(name: str) -> None:
    collection = CATALOGUE[name]
    payload = dict.fromkeys(collection.columns, "06 12 34 56 78")
    row = parse(collection, payload | {"id": "x", "account_id": "a"})
    masked = masker(name).mask(row, today=FRESH, row_day=DAY, suppressed=key("0612345678")).row
    assert masked.payload["id"] == "x"
    for column in RowMasker(collection, default_plan(name), PERSONS).identified:
        assert masked.columns[column] is None
