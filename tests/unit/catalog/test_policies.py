"""Declarations of policies: defaults, overlays, and errors of overlays."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from magnetis_dagster.catalog import Catalogue, CatalogueError, Severity, load_catalogue
from magnetis_dagster.catalog.masking import MASK, Masking, mask_id, mask_text
from magnetis_dagster.catalog.policies import KINDS, AllowedDomains, HasRecipient, MissedCallAlert

Overlay = Callable[[str], Path]
DOCS = ROOT / "docs" / "settings.md"


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    def write(text: str) -> Path:
        path = tmp_path / "magnetis.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_defaults_are_one_policy_per_kind_and_only_allowed_domains_is_disabled(
    catalogue: Catalogue,
) -> None:
    assert list(catalogue.policies) == list(KINDS)
    assert [policy.kind for policy in catalogue.policies.values()] == list(KINDS)
    assert [name for name, policy in catalogue.policies.items() if not policy.enabled] == [
        "allowed_domains"
    ]
    assert {policy.severity for policy in catalogue.policies.values()} == {Severity.WARN}
    missed = catalogue.policies["missed_call_alert"]
    assert isinstance(missed, MissedCallAlert)
    assert missed.types == ("lost_calls", "all_calls")


def test_each_policy_checks_the_collections_that_it_names(catalogue: Catalogue) -> None:
    alerts = ["missed_call_alert", "has_recipient", "sane_thresholds", "live_account", "has_owner"]
    reports = ["has_recipient", "live_account", "has_owner"]
    expected = {
        "reports": reports,
        "email_alerts": alerts,
        "sms_alerts": alerts,
        "accounts": [],
        "calls": [],
    }
    assert {
        name: [policy.name for policy in catalogue.policies_of(catalogue[name])]
        for name in expected
    } == expected


def test_an_overlay_disables_changes_and_adds_policies(
    overlay: Overlay, catalogue: Catalogue
) -> None:
    changed = load_catalogue(
        overlay("""
policies:
  sane_thresholds: {enabled: false}
  missed_call_alert:
    severity: error
    types: [LOST_CALLS]
    ignore: [acc-1]
    collections: [email_alerts]
  allowed_domains: {enabled: true, domains: [Exemple.fr, "*.exemple.com"]}
  has_owner:
  trackers_forward:
    kind: has_recipient
    collections: [email_trackers]
    description: Tracked addresses are forwarded.
""")
    ).policies
    missed, domains, added = (
        changed["missed_call_alert"],
        changed["allowed_domains"],
        changed["trackers_forward"],
    )
    assert isinstance(missed, MissedCallAlert)
    assert isinstance(domains, AllowedDomains)
    assert isinstance(added, HasRecipient)
    assert not changed["sane_thresholds"].enabled
    assert (missed.severity, missed.types, missed.ignore, missed.collections) == (
        Severity.ERROR,
        ("lost_calls",),
        ("acc-1",),
        ("email_alerts",),
    )
    assert missed.description == catalogue.policies["missed_call_alert"].description, (
        "values that the overlay omits remain"
    )
    assert domains.domains == ("exemple.fr", "*.exemple.com")
    assert (added.severity, added.enabled) == (Severity.WARN, True)
    assert changed["has_owner"] == catalogue.policies["has_owner"]
    assert load_catalogue() == catalogue, "the default policies are unchanged"


NEW = "policies: {ours: {kind: has_recipient, collections: [reports], description: Ours., %s}}"
INVALID = {
    "policies: [has_owner]": "policies: expected a mapping, got ['has_owner']",
    "policies: {has_owner: off}": "policies.has_owner: expected a mapping, got False",
    "policies: {has_owner: {severty: warn}}": (
        "policies.has_owner.severty: unknown name. Did you mean 'severity'? Allowed here: c"
    ),
    "policies: {has_owner: {domains: [exemple.fr]}}": (
        "policies.has_owner.domains: unknown name. Allowed here: collections, descr"
    ),
    "policies: {has_owner: {severity: fatal}}": (
        "policies.has_owner.severity: Input should be 'warn' or 'error'; got 'fatal'"
    ),
    "policies: {has_owner: {enabled: maybe}}": (
        "policies.has_owner.enabled: Input should be a valid boolean"
    ),
    "policies: {has_owner: {collections: []}}": (
        "policies.has_owner.collections: Tuple should have at least 1 item"
    ),
    "policies: {has_owner: {collections: reports}}": (
        "policies.has_owner.collections: expected a list; got 'reports'"
    ),
    "policies: {has_owner: {collections: [calls]}}": (
        "policies.has_owner.collections: expected snapshot collections; got 'calls'"
    ),
    "policies: {has_owner: {collections: [faxes]}}": (
        "expected snapshot collections; got 'faxes'. Snapshot collections: entities"
    ),
    "policies: {has_owner: {kind: has_recipient}}": (
        "policies.has_owner.kind: this policy has the kind has_owner; declare"
    ),
    "policies: {has_owner: {ignore: acc-1}}": (
        "policies.has_owner.ignore: expected a list; got 'acc-1'"
    ),
    "policies: {has_ovner: {enabled: false}}": (
        "policies.has_ovner.kind: expected one of missed_call_alert, has_recipient, allowed"
    ),
    "policies: {ours: {kind: [x]}}": "policies.ours.kind: expected one of missed_call_alert",
    "policies: {ours: {kind: has_owner, collections: [reports]}}": (
        "policies.ours.description: Field required"
    ),
    "policies: {ours: {kind: has_owner, description: x}}": (
        "policies.ours.collections: Field required"
    ),
    "policies: {Our Own: {kind: has_owner, description: x, collections: [reports]}}": (
        "policies.Our Own.name: String should match"
    ),
    "policies: {allowed_domains: {enabled: true}}": (
        "policies.allowed_domains: this policy is enabled but has no domains"
    ),
    "policies: {allowed_domains: {domains: [jean@exemple.fr]}}": (
        "policies.allowed_domains.domains.0: expected a domain such as"
    ),
    "policies: {allowed_domains: {domains: [localhost]}}": (
        "policies.allowed_domains.domains.0: expected a domain such as"
    ),
    "policies: {allowed_domains: {domains: ['*.*.fr']}}": (
        "expected a domain such as exemple.fr, or *.exemple.fr for all below it"
    ),
    "policies: {missed_call_alert: {types: []}}": (
        "policies.missed_call_alert.types: Tuple should have at least 1 item"
    ),
}


@pytest.mark.parametrize(("text", "expected"), INVALID.items(), ids=INVALID)
def test_an_error_names_the_file_the_key_and_the_allowed_values(
    overlay: Overlay, text: str, expected: str
) -> None:
    path = overlay(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 600


def examples() -> list[str]:
    return re.findall(r"```yaml\n(policies:\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def test_every_policy_example_of_the_documentation_is_valid_and_has_an_effect(
    overlay: Overlay, catalogue: Catalogue
) -> None:
    assert len(examples()) >= 2
    for text in examples():
        changed = load_catalogue(overlay(text)).policies
        assert [
            name
            for name in yaml.safe_load(text)["policies"]
            if changed[name] == catalogue.policies.get(name)
        ] == []


def test_the_documentation_lists_every_default_policy(catalogue: Catalogue) -> None:
    listed = dict(
        re.findall(r"^\| `(\w+)` \| (.+?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {
        name: policy.description for name, policy in catalogue.policies.items()
    }.items() <= listed.items()


def test_addresses_and_numbers_in_free_text_are_masked() -> None:
    shown = {
        "Alerte sur appel manqué": "Alerte sur appel manqué",
        "Bilan 44000 - Mois de 01/2023": "Bilan 44000 - Mois de 01/2023",
        "Alerte jean.dupont@exemple.fr (Nantes)": f"Alerte {MASK} (Nantes)",
        "Appelez le +33 6 12 34 56 78 ou 06.12.34.56.78": f"Appelez le {MASK} ou {MASK}",
        "Appelez 0033612345678\nvite\x1b[31m": f"Appelez {MASK} vite [31m",
    }
    assert {text: mask_text(text) for text in shown} == shown
    assert len(mask_text("é" * 5000)) == 120
    uuid = "ale-b0981234-5678-4b2b-bf5c-70348741ed91"
    assert (mask_id(uuid), mask_id("jean@exemple.fr")) == (uuid, MASK)


def test_members_are_masked_by_the_personal_data_class_of_their_column(
    catalogue: Catalogue,
) -> None:
    alerts, trackers = Masking(catalogue["email_alerts"]), Masking(catalogue["email_trackers"])
    shown = {
        ("title", "Alerte 0612345678"): f"Alerte {MASK}",
        ("account.id", "acc-12345678"): "acc-12345678",
        ("account.name", "Nantes"): "Nantes",
        ("created_at", "2024-03-04 09:06:09"): "2024-03-04 09:06:09",
        ("created_at", "0612345678 sur demande"): MASK,
        ("created_at", "0712345678"): MASK,  # a Unix time of 1992 too
        ("created_at", 712345678): MASK,
        ("created_at", 1764322800): "2025-11-28 09:40:00+00:00",
        ("created_at", "2024-03-04 09:06:09.639980012345"): "2024-03-04 09:06:09+00:00",
        ("created_at", "2024-03-04T09:06:09+01:00"): "2024-03-04T09:06:09+01:00",
        ("account.id", "acc 06 12 34 56 78"): f"acc {MASK}",
        ("enabled", 1): "1",
        ("less_than", None): "null",
        ("recipients.email", "jean@exemple.fr"): MASK,
        ("undeclared", "anything"): MASK,
    }
    assert alerts.member("title", {"by": "Jean"}) == MASK
    assert {case: alerts.member(*case) for case in shown} == shown
    assert alerts.member("recipients", ["a@exemple.fr", "b@exemple.fr"]) == f"{MASK} (2)"
    assert trackers.column("recipients", "a@exemple.fr") == MASK
    assert trackers.column("name", "Portail Nantes") == "Portail Nantes"
    assert trackers.column("no_such_column", "x") is None
