"""The plan: defaults, changes in MAGNETIS_CONFIG, ages, errors that name file and key."""

import re
from datetime import date, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from magnetis_dagster.catalog import CatalogueError, PersonalData, load_catalogue
from magnetis_dagster.privacy.ages import Age
from magnetis_dagster.privacy.plan import (
    CLASSES,
    HASHABLE,
    Plan,
    Treatment,
    build_plan,
    declassified,
    load_plan,
)

CATALOGUE = load_catalogue()


def plan_of(tmp_path: Path, text: str) -> Plan:
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({"privacy": yaml.safe_load(text)}), encoding="utf-8")
    load_catalogue(config)
    return load_plan(config, CATALOGUE)


def test_every_class_has_a_cautious_default() -> None:
    plan = load_plan(None, CATALOGUE)
    for name in CATALOGUE.collections:
        rules = plan.of(name).rules
        assert set(rules) == set(CLASSES)
        for data_class, rule in rules.items():
            assert rule.mask_to is Treatment.DROP
            assert (rule.mask_after is None) == (data_class is PersonalData.STAFF_RECIPIENT)
    calls = plan.of("calls")
    assert calls.rules[PersonalData.CALLER_NUMBER].mask_after == Age(
        months=36, since_last_contact=True
    )
    assert calls.payload.mask_after == Age(months=13)
    assert calls.members["recording_url"] is PersonalData.RECORDING_LINK
    assert load_plan(None, CATALOGUE).region == "FR"


def test_a_rule_of_a_collection_takes_precedence(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        "{region: CH, withheld: [réservé], payload: {mask_after: never}, classes: {contact: "
        "{on_arrival: hash}, free_text: {mask_after: 90 days}}, collections: {emails: {payload: "
        "{mask_after: 1 month}, classes: {contact: {mask_after: 2 years, mask_to: hash}}, "
        "members: {x.portal: none}}}}",
    )
    assert (plan.region, plan.withheld) == ("CH", ("réservé",))
    contact = plan.of("emails").rules[PersonalData.CONTACT]
    assert (contact.on_arrival, contact.mask_to) == (Treatment.HASH, Treatment.HASH)
    assert contact.mask_after == Age(months=24)
    assert plan.of("emails").payload.mask_after == Age(months=1)
    assert plan.of("emails").members == {"x.portal": PersonalData.NONE}
    for other in ("leads", "calls", "accounts"):
        rules = plan.of(other).rules
        assert rules[PersonalData.CONTACT].on_arrival is Treatment.HASH
        assert rules[PersonalData.CONTACT].mask_to is Treatment.DROP
        assert rules[PersonalData.FREE_TEXT].mask_after == Age(days=90)
        assert plan.of(other).payload.mask_after is None


def test_the_examples_of_the_documentation_are_valid_and_agree() -> None:
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\nprivacy:\n(.*?)```", page, re.DOTALL)
    declared = yaml.safe_load(example)
    assert build_plan(declared, "x", CATALOGUE) != load_plan(None, CATALOGUE)
    documented = dict(
        re.findall(r"^\| `([a-z_`, ]+)` \| [^|]+ \| clear \| ([^|]+) \|", page, re.MULTILINE)
    )
    default = load_plan(None, CATALOGUE).default
    ages = {name: rule.mask_after for name, rule in default.rules.items()}
    for names, age in documented.items():
        for name in names.split("`, `"):
            expected = None if age == "never" else Age.parse(age)
            found = (
                default.payload.mask_after if name == "payload" else ages.pop(PersonalData(name))
            )
            assert found == expected, name
    assert not ages, "every class is documented"


@pytest.mark.parametrize("text", ["", "{}", "{classes: }", "{classes: {contact: }}"])
def test_a_blank_section_changes_nothing(tmp_path: Path, text: str) -> None:
    assert plan_of(tmp_path, text) == load_plan(None, CATALOGUE)


def test_a_blank_age_means_never(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "{classes: {contact: {mask_after: }}}")
    assert plan.default.rules[PersonalData.CONTACT].mask_after is None


BAD = {
    "[1]": "privacy: expected a mapping, got a list",
    "{clases: {}}": "privacy.clases: unknown name. Did you mean 'classes'?",
    "{members: {x: none}}": "expected below a collection: collections.<name>.members",
    "{region: france}": "privacy.region: expected the two-letter code of a country",
    "{payload: {on_arrival: drop}}": "payload.on_arrival: unknown name. Allowed here: mask_after.",
    "{classes: {caller: {}}}": "classes.caller: Input should be 'none', 'pseudonym'",
    "{classes: {none: {}}}": "classes.none: expected one of pseudonym, personal, caller_number",
    "{classes: {contact: 3}}": "classes.contact: Input should be a valid dictionary",
    "{classes: {contact: {on_arival: hash}}}": "contact.on_arival: unknown name. Did you mean",
    "{classes: {contact: {on_arrival: hide}}}": "Input should be 'clear', 'hash' or 'drop'",
    "{classes: {contact: {mask_to: clear}}}": "contact.mask_to: expected hash or drop",
    "{classes: {free_text: {on_arrival: hash}}}": "hash needs phone numbers or e-mail addresses",
    "{classes: {visitor: {mask_to: hash}}}": "classes.visitor: hash needs phone numbers",
    "{classes: {contact: {mask_after: soon}}}": "contact.mask_after: expected an age such as",
    "{classes: {contact: {mask_after: 13}}}": "contact.mask_after: expected an age such as",
    "{classes: {contact: {mask_after: 0 days}}}": "contact.mask_after: expected an age such as",
    "{classes: {contact: {mask_after: 101 years}}}": "at most 100 years",
    "{classes: {contact: {mask_after: 9999 months}}}": "at most 100 years",
    "{collections: {cals: {}}}": "collections.cals: unknown name. Did you mean 'calls'?",
    "{collections: {calls: {region: FR}}}": "calls.region: unknown name. Allowed here: payload",
    "{collections: {calls: {members: {x: secret}}}}": "calls.members.x: Input should be 'none'",
    "{collections: {calls: {members: {id: contact}}}}": "an id, an account or the time of the row",
    "{collections: {calls: {members: {accountId: contact}}}}": "an id, an account or the time",
    "{collections: {calls: {members: {start_at: visitor}}}}": "which are never masked",
}


@pytest.mark.parametrize(("text", "problem"), BAD.items())
def test_a_bad_plan_is_reported_with_file_and_key(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        plan_of(tmp_path, text)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/x.yaml: privacy")


@given(
    age=st.builds(Age, days=st.integers(1, 36_500)) | st.builds(Age, months=st.integers(1, 1200)),
    one=st.dates(),
    other=st.dates(),
)
def test_an_age_never_decreases_with_time(age: Age, one: date, other: date) -> None:
    first, last = sorted((one, other))
    assert age.cutoff(first) <= age.cutoff(last) <= last


def test_ages_follow_the_calendar() -> None:
    assert Age.parse("13 months").cutoff(date(2025, 3, 31)) == date(2024, 2, 29)
    assert Age.parse("1 year").cutoff(date(2024, 2, 29)) == date(2023, 2, 28)
    assert Age.parse("180 days").cutoff(date(2024, 6, 29)) == date(2024, 6, 29) - timedelta(180)
    assert Age.parse("3 Years since  last_contact") == Age(months=36, since_last_contact=True)
    assert Age.parse("1 day since the row") == Age(days=1)


def test_whatever_is_declassified_is_reported_by_name(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text(
        "collections: {calls: {columns: {caller_number: {personal_data: none}, gclid: "
        "{personal_data: none}, caller_name: {personal_data: free_text}, status: "
        "{personal_data: personal}}}, leads: {columns: {contact_phone: null}}}\n"
        "privacy: {collections: {calls: {members: {analysis: none, caller.name: none, new: none, "
        "voicemail: visitor}}}}\n",
        encoding="utf-8",
    )
    catalogue = load_catalogue(config)
    found = declassified(catalogue, CATALOGUE, load_plan(config, catalogue))
    shipped, now = "in the shipped catalogue", "in MAGNETIS_CONFIG"
    assert found == [
        f"calls.caller_number: caller_number {shipped}, none {now}",
        f"calls.gclid: visitor {shipped}, none {now}",
        f"calls: member voicemail: recording_link {shipped}, visitor {now}",
        f"calls: member analysis: unclassified {shipped}, none {now}",
        f"calls: member caller.name: contact {shipped}, none {now}",
    ]
    assert declassified(CATALOGUE, CATALOGUE, load_plan(None, CATALOGUE)) == []


def test_phone_and_address_columns_of_the_catalogue_are_in_hashable_classes() -> None:
    found = {
        f"{collection.name}.{name}": column
        for collection in CATALOGUE.collections.values()
        for name, column in collection.columns.items()
        if column.contains
    }
    assert {"calls.caller_number", "leads.contact_phone", "emails.sender"} <= found.keys()
    for name, column in found.items():
        assert column.personal_data in HASHABLE, name
