"""Proposed classes of personal data: which members, which class, and never a wrong `none`."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.catalog import Catalogue, PersonalData, load_catalogue
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.privacy.plan import build_plan, load_plan
from magnetis_dagster.probe.classes import without_refused
from magnetis_dagster.probe.overlay import write_overlay
from magnetis_dagster.probe.proposals import Proposals, propose
from magnetis_dagster.probe.report import Availability, Finding, ProbeReport
from magnetis_dagster.probe.rows import Sample

PARIS = ZoneInfo("Europe/Paris")
ZONES = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
SHIPPED = load_catalogue()
ROWS = 50
FIRST = datetime(2025, 6, 17, 8)  # noqa: DTZ001 - as the API sends it

FILLED: dict[str, dict[str, str]] = {name: {} for name in SHIPPED.collections} | {
    # without them, a member with phone numbers is proposed for a column
    "calls": {
        "caller_number": "+33698765432",
        "called_number": "+33198765432",
        "recipient_number": "+33198765433",
    },
    "recipients": {"number": "+33198765433"},
}


def sample(
    *values: Any, name: str = "calls", path: str = "x", catalogue: Catalogue = SHIPPED
) -> Sample:
    """Return rows of a collection that differ in the member at `path`; values repeat."""
    rows = []
    for number in range(ROWS if len(values) != 1 else 1):
        member: Any = values[number % len(values)]
        for part in reversed(path.split(".")):
            member = {part: member}
        at = FIRST + timedelta(minutes=number)
        rows.append({"id": f"row-{number}", "created_at": f"{at}", **FILLED[name], **member})
    return Sample(catalogue[name], rows, ZONES)


def proposals(*values: Any, plan: Any = None, **changes: Any) -> Proposals:
    received = sample(*values, **changes)
    catalogue = changes.get("catalogue", SHIPPED)
    of = build_plan(plan, "privacy", catalogue).of(received.collection.name)
    return propose(received, of)


def proposed(*values: Any, path: str = "x", **changes: Any) -> str | None:
    found = proposals(*values, path=path, **changes)
    assert set(found.classes) <= {path}
    assert (path in found.unclassified) is not (path in found.classes)
    return found.classes.get(path)


PHONES = [f"+3361234{number:04}" for number in range(ROWS)]
EMAILS = [f"jean{number}@exemple.fr" for number in range(ROWS)]
TIMES = [f"2025-06-17 10:{number:02}:07" for number in range(ROWS)]


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("x", EMAILS),
        ("customer.mail", ["Jean <jean@exemple.fr>", None]),
        ("x", [["jean@exemple.fr", "marie@exemple.fr"]]),
        ("customer.mobile", PHONES),
        ("firstName", ["Jean", "Marie"]),
        ("customer.last_name", ["Martin"]),
        ("nom", ["Martin", "Petit"]),
        ("Prénom", ["Jean"]),
        ("contact.nom", ["Martin"]),
        ("client_name", ["Martin"]),
        ("civilite", ["M.", "Mme"]),
        ("adresse", ["12 rue de la Paix", "3 quai Branly"]),
        ("code_postal", [75002, 1000]),
    ],
)
def test_names_numbers_and_addresses_of_contacts(path: str, values: list[Any]) -> None:
    assert proposed(*values, path=path) == "contact"


@pytest.mark.parametrize(
    ("path", "values", "expected"),
    [
        ("callerMobile", PHONES, "caller_number"),
        ("callerMobile", PHONES[:2], "contact"),
        ("customer.mobile", PHONES, "contact"),
        ("agent_phone", PHONES, None),
        ("dialled", PHONES[:3], None),
        ("account.email", EMAILS[:3], None),
    ],
)
def test_a_number_is_a_callers_only_if_name_and_variation_say_so(
    path: str, values: list[str], expected: str | None
) -> None:
    assert proposed(*values, path=path) == expected


def test_phone_numbers_that_may_belong_to_a_column_have_no_class() -> None:
    """The class of the column is better, and a class of the plan would replace it."""
    rows = [
        {"id": f"call-{number}", "first": PHONES[number], "second": PHONES[-number]}
        for number in range(ROWS)
    ]
    found = propose(Sample(SHIPPED["calls"], rows, ZONES), load_plan(None, SHIPPED).of("calls"))
    assert found.unmatched == found.unclassified == ["first", "second"]
    assert found.classes == {}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("file", "https://cdn.exemple.fr/recordings/81.mp3", "recording_link"),
        ("media.audio", "https://cdn.exemple.fr/81", "recording_link"),
        ("voicemailLink", "https://cdn.exemple.fr/81", "recording_link"),
        ("enregistrement_appel", ["https://cdn.exemple.fr/81"], "recording_link"),
        ("page", "https://www.exemple.fr/contact", None),
        ("record", "81", None),
    ],
)
def test_links_to_recordings(path: str, value: Any, expected: str | None) -> None:
    assert proposed(value, path=path) == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ip", "192.0.2.7"),
        ("x", "2001:db8::7"),
        ("x", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("user_agent", "curl"),
        ("adresse_ip", "unknown"),
        ("cookie", "abc"),
        ("web.session.id", "abc"),
        ("visitorId", "abc"),
        ("clientId", 1718000000),
        ("tracking.fbclid", "abc"),
        ("msclkid", "abc"),
        ("li_fat_id", "abc"),
        ("_ga", "GA1.2.1.2"),
    ],
)
def test_ids_of_visitors(path: str, value: Any) -> None:
    assert proposed(value, path=path) == "visitor"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("note", "wants a quote", "free_text"),
        ("lead.commentaire", "rappeler demain", "free_text"),
        ("callDescription", "complaint", "free_text"),
        ("messages", [{"text": "hello"}, {"text": "there"}], "free_text"),
        ("objet", "devis", "free_text"),
        ("note", 4, None),
        ("message_type", "mail", None),
    ],
)
def test_texts_that_people_write(path: str, value: Any, expected: str | None) -> None:
    assert proposed(value, path=path) == expected


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("is_new", [True, False]),
        ("is_new", ["oui", "non"]),
        ("x", [0, 12, 99_999]),
        ("score", [0.25, 7.5]),
        ("turns", ["0", "12", "1999"]),
        ("picked_up", TIMES),
        (
            "picked_up",
            [*TIMES[:2], "2025-06-17T10:09:00+02:00", "17/06/2025 10:00", "0000-00-00 00:00:00"],
        ),
        ("call_type", ["inbound", "outbound", "web_callback"]),
        ("country", ["FR", "BE"]),
    ],
)
def test_harmless_members(path: str, values: list[Any]) -> None:
    assert proposed(*values, path=path) == "none"


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("agent", ["jeanne", "paul"]),
        ("handled", ["jeanne", "paul"]),
        ("agent_type", ["jeanne", "paul"]),
        ("sale_type", ["Jeanne", "Paul"]),
        ("call_type", [f"type{chr(97 + number)}" for number in range(7)]),
        ("call_type", ["a"] * (ROWS - 1) + ["martin"]),
        ("call_type", ["id1234", "id5678"]),
        ("customer.age", [42, 43]),
        ("user_id", [1, 2, 3]),
        ("last_digits", [5678, 1234]),
        ("callercode", [5678, 1234]),
        ("возраст", [42, 43]),
        ("latitude", [48.85, 48.86]),
        ("ratio", [48.853412, 2.348812]),
        ("x", [100_000, 7]),
        ("x", ["75002", "69001"]),
        ("x", ["0612", "3456"]),
        ("x", [1_718_000_000 + number for number in range(ROWS)]),
        ("birth_at", TIMES),
        ("born", ["1994-02-03 00:00:00", "2001-05-06 00:00:00"]),
        ("day", ["1994-02-03", "2001-05-06"]),
        ("opened", ["1994-02-03 00:00:00", "2001-05-06 00:00:00"]),
        ("opened", ["1994-02-02T23:00:00Z", "2001-05-05T22:00:00Z"]),
        ("x", [0, 0]),
        ("call_type", ["inbound", "inbound"]),
        ("x", [True, "Jeanne"]),
        ("x", [3, [4]]),
        ("tags", [[], []]),
        ("company", ["Exemple SARL", "Autre SAS"]),
        ("societe", ["exemple", "autre"]),
        ("x", [None, None]),
        ("x", ["", " "]),
    ],
)
def test_in_doubt_a_member_stays_unclassified(path: str, values: list[Any]) -> None:
    assert proposed(*values, path=path) is None


@pytest.mark.parametrize("value", [True, 7, TIMES[0], "inbound"])
def test_one_row_proves_no_absence_of_personal_data(value: Any) -> None:
    assert proposed(value, path="call_type") is None


def test_an_object_in_other_rows_prevents_a_proposal() -> None:
    """A class of the member would apply to everything in the object."""
    rows = [{"id": str(n), "x": {"name": "Jeanne"} if n == 7 else n} for n in range(ROWS)]
    found = propose(Sample(SHIPPED["calls"], rows, ZONES), load_plan(None, SHIPPED).of("calls"))
    assert "x" not in found.classes
    assert "x" in found.unclassified


def test_spellings_of_one_member_are_judged_together() -> None:
    rows: list[dict[str, Any]] = [{"id": str(n), "myValue": n} for n in range(ROWS)]
    rows[7] = {"id": "7", "my": {"value": "Jeanne Martin"}}
    rows[8] = {"id": "8", "my value": "0612345678"}
    found = propose(Sample(SHIPPED["calls"], rows, ZONES), load_plan(None, SHIPPED).of("calls"))
    assert found.classes == {}


def test_settings_of_recipients_are_not_contacts() -> None:
    assert not {"contact", "caller_number"} & {
        proposed(*EMAILS, name="recipients", path="mail2"),
        proposed(*PHONES, name="recipients", path="mobile2"),
    }


@pytest.mark.parametrize(
    "members",
    [
        {"customer": "free_text"},
        {"customer.mobile": "none"},
        {"customer.mobile": "unclassified"},
        {"Customer_Mobile": "personal"},
        {"customerMobile.x": "personal"},
        {"customer.mobile.x": "personal"},
    ],
)
def test_a_declared_class_is_never_replaced(members: dict[str, str]) -> None:
    plan = {"collections": {"calls": {"members": members}}}
    assert "customer.mobile" not in proposals(*PHONES, path="customer.mobile", plan=plan).classes
    assert proposals(*PHONES, path="customer.mobile").classes == {"customer.mobile": "contact"}
    of = build_plan(plan, "privacy", SHIPPED).of("calls")
    assert without_refused({"customer.mobile": PersonalData.CONTACT}, SHIPPED["calls"], of) == {}


def test_the_default_plan_is_respected() -> None:
    for path in ("recording_url", "recordingUrl", "transcript", "analysis.summary"):
        found = proposals("https://cdn.exemple.fr/recordings/81.mp3", path=path)
        assert found.classes == {}
        assert found.unclassified == []


def test_ids_accounts_and_times_are_refused() -> None:
    classes = dict.fromkeys(("id", "account.id", "accountId", "start_at", "x"), PersonalData.NONE)
    plan = load_plan(None, SHIPPED).of("calls")
    assert without_refused(classes, SHIPPED["calls"], plan) == {"x": "none"}
    assert without_refused(classes, None, plan) == {}


def test_a_proposed_time_id_or_column_has_no_class() -> None:
    """The plan refuses them once the other proposals are saved."""
    rows = [
        {"begun": TIMES[number], "call_ref": f"call-{UUID(int=number)}", "msisdn": PHONES[number]}
        for number in range(ROWS)
    ]
    window = tuple(datetime(2025, 6, 17, hour, tzinfo=PARIS) for hour in (8, 12))
    received = Sample(SHIPPED["calls"], rows, ZONES, (window[0], window[1]))
    found = propose(received, load_plan(None, SHIPPED).of("calls"))
    assert (found.time_field, found.id_path) == ("begun", ["call_ref"])
    assert found.columns == {"caller_number": "msisdn"}
    assert found.classes == {}
    assert found.unclassified == []


def report_of(found: Proposals) -> ProbeReport:
    finding = Finding("calls", "/calls", Availability.YES, answered="/calls", proposals=found)
    return ProbeReport([finding], 1, ("", ""), "2025-06-20")


def test_the_written_classes_are_a_valid_plan_that_is_proposed_only_once(tmp_path: Path) -> None:
    values = {
        "customer": [{"mail": mail} for mail in EMAILS],
        "fbclid": [f"s{number}" for number in range(ROWS)],
        "picked_up": TIMES,
        "on": [True] * ROWS,
        "null": ["Jeanne"] * ROWS,
    }
    rows = [
        {"id": f"call-{number}", "start_at": TIMES[number]}
        | {name: each[number] for name, each in values.items()}
        for number in range(ROWS)
    ]
    received = Sample(SHIPPED["calls"], rows, ZONES)
    report = report_of(propose(received, load_plan(None, SHIPPED).of("calls")))
    expected = {
        "customer.mail": "contact",
        "fbclid": "visitor",
        "picked_up": "none",
        "on": "none",
    }
    path = tmp_path / "magnetis.yaml"
    path.write_text("privacy: {collections: {calls: {members: {other: free_text}}}}\n")
    assert write_overlay(path, report.overlay())
    plan = load_plan(path, load_catalogue(path)).of("calls")
    assert dict(plan.members).items() >= (expected | {"other": "free_text"}).items()
    again = propose(received, plan)
    assert again.classes == {}
    assert again.unclassified == ["null"]
    assert not write_overlay(path, report_of(again).overlay())


def test_the_report_gives_reasons_in_counts_and_no_value() -> None:
    report = report_of(proposals(*EMAILS[:40], None, path="customer.mail"))
    notes = report.findings[0].notes()
    assert "class of customer.mail: contact (e-mail addresses in 49 of 50 rows)" in notes
    assert "jean" not in notes + json.dumps(report.as_dict())
    content = json.loads(json.dumps(report.as_dict()))
    assert content["findings"][0]["proposals"]["classes"] == {"customer.mail": "contact"}
    assert yaml.safe_load(yaml.safe_dump(content["overlay"])) == content["overlay"]
    unknown = report_of(proposals("Jeanne", path="who")).findings[0]
    assert (
        "Unclassified, so personal until privacy.collections.calls.members says otherwise: who."
        in unknown.notes()
    )
    harmless = report_of(proposals(*TIMES, path="picked_up")).findings[0]
    assert "class of picked_up: none (times in 50 of 50 rows)" in harmless.notes()
    assert "Check each member of class none" in harmless.notes()


# --- any member with a phone number or an address

SEPARATORS = st.sampled_from(["", " ", ".", "-", "/", "\u00a0"])
DIGITS = "0123456789"


@st.composite
def persons(draw: st.DrawFn) -> Any:
    """Return a phone number or an e-mail address in some spelling, within some value."""
    if draw(st.booleans()):
        prefix = draw(
            st.sampled_from(["06", "+336", "00336", "336", "+447", "01", "7", "1212", ""])
        )
        digits = prefix + draw(st.text(DIGITS, min_size=8, max_size=9))
        separator = draw(SEPARATORS)
        text = separator.join(digits[at : at + 2] for at in range(0, len(digits), 2))
        if draw(st.booleans()) and digits.isdecimal():
            return draw(st.sampled_from([int("1" + digits), float("1" + digits), int(digits)]))
        text = text.translate(
            {48 + n: 0xFF10 + n for n in range(10)} if draw(st.booleans()) else {}
        )
    else:
        local = draw(st.text("abcdefghijklmnopqrstuvwxyz0123456789._-", min_size=1, max_size=20))
        at = draw(st.sampled_from(["@", "＠"]))
        text = f"{local}{at}exemple.{draw(st.sampled_from(['fr', 'com']))}"
    before, after = (
        draw(st.sampled_from(["", " ", "tel:", "x", "2025-06-17 10:00:00 "])) for _ in "12"
    )
    value: Any = f"{before}{text}{after}"
    return draw(st.sampled_from([value, [value], {"y": value}]))


harmless = st.sampled_from(
    [
        [True, False],
        list(range(ROWS)),
        TIMES,
        ["inbound", "outbound"],
        ["FR", "BE"],
        ["oui", "non"],
        [None],
        ["0", "1"],
    ]
)


@settings(deadline=None, max_examples=500)
@given(
    values=harmless,
    person=persons(),
    rows=st.one_of(
        st.just({7}),
        st.just({7, 8}),
        st.just(set(range(ROWS))),
        st.sets(st.integers(0, ROWS - 1), min_size=1),
    ),
    path=st.sampled_from(["x", "call_type", "sub.state", "is_new", "picked_up"]),
    name=st.sampled_from(["calls", "leads", "emails", "visits"]),
)
def test_a_member_with_a_number_or_address_is_never_none(
    values: list[Any], person: Any, rows: set[int], path: str, name: str
) -> None:
    received = [person if at in rows else values[at % len(values)] for at in range(ROWS)]
    found = proposals(*received, name=name, path=path)
    assert PersonalData.NONE not in found.classes.values()
