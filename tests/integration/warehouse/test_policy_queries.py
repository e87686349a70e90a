"""Each kind of policy: the violations that it finds, and when it cannot be evaluated."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.warehouse.policy_queries import PolicyResult, evaluate_policy

Load = Callable[..., Any]
Evaluate = Callable[..., PolicyResult]
DAY = [date(2025, 1, 1)]


def account(identifier: str, **more: Any) -> dict[str, Any]:
    return {"id": identifier, "name": f"Agence {identifier}", **more}


def alert(identifier: str, owner: str | None = "acc-1", **more: Any) -> dict[str, Any]:
    common = {
        "enabled": 1,
        "less_than": None,
        "more_than": None,
        "recipients": ["a@exemple.fr"],
        "type": "lost_calls",
    }
    return (
        {
            "id": identifier,
            "account": {"id": owner} if owner else None,
            "title": f"Alerte {identifier}",
        }
        | common
        | more
    )


def rows_of(cases: Sequence[tuple[Any, ...]], *members: str) -> list[dict[str, Any]]:
    return [
        alert(f"ale-{number:02}", **dict(zip(members, case, strict=False)))
        for number, case in enumerate(cases)
    ]


@pytest.fixture
def evaluate(engine: Engine, tmp_path: Path) -> Evaluate:
    """Evaluate a shipped policy, with `changes`, on the rows of a collection."""

    def evaluate(
        name: str, collection: str = "email_alerts", changes: str = "{}", more: str = "{}"
    ) -> PolicyResult:
        overlay = tmp_path / "magnetis.yaml"
        overlay.write_text(f"policies: {{{name}: {changes}}}\ncollections: {more}\n")
        catalogue: Catalogue = load_catalogue(overlay)
        return evaluate_policy(engine, catalogue, catalogue.policies[name], catalogue[collection])

    return evaluate


def found(result: PolicyResult) -> list[tuple[str, str]]:
    assert result.not_evaluated is None
    assert result.number == len(result.violations)
    return [(offence.id, offence.reason) for offence in result.violations]


def test_an_account_needs_an_enabled_alert_on_missed_calls_of_either_kind(
    load: Load, evaluate: Evaluate
) -> None:
    load("accounts", DAY, [account(f"acc-{number}") for number in range(1, 8)])
    load(
        "email_alerts",
        DAY,
        [
            alert("ale-1", "acc-1"),
            alert("ale-2", "acc-2", type="all_calls"),
            alert("ale-3", "acc-3", type="custom_calls"),
            alert("ale-4", "acc-4", enabled=0),
            alert("ale-6", "acc-6", enabled=0),
        ],
    )
    load("sms_alerts", DAY, [alert("als-5", "acc-5"), alert("als-6", "acc-6")])
    switched_off = "its alert on missed calls is switched off"
    for collection in ("email_alerts", "sms_alerts"):
        result = evaluate("missed_call_alert", collection)
        assert found(result) == [
            ("acc-3", "no alert on missed calls"),
            ("acc-4", switched_off),
            ("acc-7", "no alert on missed calls"),
        ]
        assert (result.evaluated, result.violations[0].title) == (7, "Agence acc-3")
    assert [
        row[0] for row in found(evaluate("missed_call_alert", changes="{types: [custom_calls]}"))
    ] == [f"acc-{number}" for number in (1, 2, 4, 5, 6, 7)]
    assert [
        row[0] for row in found(evaluate("missed_call_alert", changes="{ignore: [acc-3, acc-7]}"))
    ] == ["acc-4"]


def test_deleted_accounts_and_deleted_alerts_are_ignored(load: Load, evaluate: Evaluate) -> None:
    load("accounts", DAY, [account("acc-1"), account("acc-2")])
    load("email_alerts", DAY, [alert("ale-1", "acc-1"), alert("ale-2", "acc-2")])
    load("sms_alerts", DAY, [])
    load("accounts", DAY, [account("acc-1")])
    assert found(evaluate("missed_call_alert")) == []
    load("email_alerts", DAY, [alert("ale-2", "acc-2")])
    assert found(evaluate("missed_call_alert")) == [("acc-1", "no alert on missed calls")]
    assert found(evaluate("live_account")) == [("ale-2", "its account is deleted")]


RECIPIENTS: list[tuple[Any, bool]] = [
    (["a@exemple.fr"], True),
    ("a@exemple.fr", True),
    (["+33612345678"], True),
    ([33612345678], True),
    ([{"email": "a@exemple.fr"}], True),
    ([], False),
    ([""], False),
    ([" ", None], False),
    ("", False),
    (None, False),
    ({}, False),
    ([{"email": None}], False),
]


def test_a_recipient_is_any_text_or_number(load: Load, evaluate: Evaluate) -> None:
    load("email_alerts", DAY, rows_of(RECIPIENTS, "recipients"))
    assert dict(found(evaluate("has_recipient"))) == {
        f"ale-{number:02}": "no recipient"
        for number, (_, has_one) in enumerate(RECIPIENTS)
        if not has_one
    }


ADDRESSES: list[tuple[Any, int]] = [
    (["a@exemple.fr", "B@EXEMPLE.FR"], 0),
    (["a@below.exemple.com", "a@far.below.exemple.com"], 0),
    (["a@exemple.com"], 1),
    (["a@notexemple.com", "a@exemple.fr.evil.com", "a@below.exemple.fr"], 3),
    (["Jean <jean@exemple.fr>, paul@elsewhere.fr; marie@exemple.fr."], 1),
    ("a@elsewhere.fr", 1),
    ([{"name": "Jean", "email": "jean@elsewhere.fr"}], 1),
    (
        [
            "jean@elsewhere.fr/paul@exemple.fr",
            "jean@elsewhere.fr|paul@exemple.fr",
            "<jean@elsewhere.fr><paul@exemple.fr>",
        ],
        3,
    ),
    (["mailto:jean@elsewhere.fr?cc=paul@exemple.fr", "Jean (jean@exemple.fr)"], 1),
    (["jean@"], 1),
    (["jean@elsewhere.fr@exemple.fr"], 0),
    (["+33612345678", 33612345678, None], 0),
    ([], 0),
]


def test_addresses_outside_the_allowed_domains_are_counted(load: Load, evaluate: Evaluate) -> None:
    load("email_alerts", DAY, rows_of(ADDRESSES, "recipients"))
    result = evaluate(
        "allowed_domains", changes="{enabled: true, domains: [Exemple.fr, '*.exemple.com']}"
    )
    assert dict(found(result)) == {
        f"ale-{number:02}": f"recipients outside the allowed domains: {outside}"
        for number, (_, outside) in enumerate(ADDRESSES)
        if outside
    }


THRESHOLDS: list[tuple[Any, Any, str | None]] = [
    (23, 5, None),
    (23, None, None),
    (None, 5, None),
    (None, None, None),
    (0, None, None),
    (-1, None, "less_than is negative"),
    (None, -1, "more_than is negative"),
    (5, 23, "less_than is not above more_than"),
    (5, 5, "less_than is not above more_than"),
    ("5", "23", "less_than is not above more_than"),
]


def test_thresholds_must_be_positive_and_consistent(load: Load, evaluate: Evaluate) -> None:
    load("email_alerts", DAY, rows_of(THRESHOLDS, "less_than", "more_than"))
    assert dict(found(evaluate("sane_thresholds"))) == {
        f"ale-{number:02}": reason for number, (*_, reason) in enumerate(THRESHOLDS) if reason
    }


def test_a_setting_needs_a_known_account_and_a_deleted_one_is_known(
    load: Load, evaluate: Evaluate
) -> None:
    load("accounts", DAY, [account("acc-1"), account("acc-2")])
    load("accounts", DAY, [account("acc-1")])
    load(
        "reports",
        DAY,
        [alert("rep-1"), alert("rep-2", "acc-2"), alert("rep-3", "acc-3"), alert("rep-4", None)],
    )
    assert found(evaluate("has_owner", "reports")) == [
        ("rep-4", "no account"),
        ("rep-3", "unknown account"),
    ]
    assert found(evaluate("has_owner", "reports", "{ignore: [acc-3, rep-4]}")) == []


def test_all_violations_are_counted_but_only_the_first_are_listed(
    load: Load, evaluate: Evaluate
) -> None:
    load("email_alerts", DAY, [alert(f"ale-{number:03}", recipients=[]) for number in range(120)])
    result = evaluate("has_recipient")
    assert (result.number, result.evaluated, len(result.violations)) == (120, 120, 50)
    assert result.violations[-1].id == "ale-049"


def test_a_policy_cannot_be_evaluated_without_the_rows_that_it_needs(
    load: Load, evaluate: Evaluate
) -> None:
    assert "email_alerts has never been read" in str(evaluate("has_recipient").not_evaluated)
    load("email_alerts", DAY, [alert("ale-1")])
    for policy in ("has_owner", "live_account", "missed_call_alert"):
        assert "accounts has never been read" in str(evaluate(policy).not_evaluated)
    load("accounts", DAY, [])
    assert "No account is known" in str(evaluate("has_owner").not_evaluated)
    load("accounts", DAY, [account("acc-1"), account("acc-2")])
    assert "sms_alerts has never been read" in str(evaluate("missed_call_alert").not_evaluated)
    off = "{sms_alerts: {enabled: false}}"
    assert found(evaluate("missed_call_alert", more=off)) == [("acc-2", "no alert on missed calls")]
    assert "accounts is switched off" in str(
        evaluate("has_owner", more="{accounts: {enabled: false}}").not_evaluated
    )


def test_a_policy_cannot_be_evaluated_if_no_row_has_the_member(
    load: Load, evaluate: Evaluate
) -> None:
    nameless = [
        {name: value for name, value in alert(f"rep-{number}").items() if name != "recipients"}
        for number in range(3)
    ]
    load("reports", DAY, [row | {"sent_to": ["a@exemple.fr"]} for row in nameless])
    assert "None of the 3 rows of reports has recipients" in str(
        evaluate("has_recipient", "reports").not_evaluated
    )
    load("reports", DAY, [*nameless, alert("rep-9", recipients=None)])
    assert evaluate("has_recipient", "reports").number == 4, (
        "one row has the member, so the others lack it"
    )
    load("reports", DAY, [])
    assert found(evaluate("has_recipient", "reports")) == [], "no row, nothing to find"


@pytest.mark.parametrize("column", ["{enabled: null}", "{enabled: {type: text}}"])
def test_a_policy_cannot_be_evaluated_without_its_columns(
    load: Load, evaluate: Evaluate, column: str
) -> None:
    for name in ("accounts", "sms_alerts", "email_alerts"):
        load(name, DAY, [])
    load("accounts", DAY, [account("acc-1")])
    not_evaluated = evaluate(
        "missed_call_alert", more=f"{{email_alerts: {{columns: {column}}}}}"
    ).not_evaluated
    assert "email_alerts has no column enabled of the type that is needed" in str(not_evaluated)


def test_columns_that_an_overlay_removed_are_not_queried(load: Load, evaluate: Evaluate) -> None:
    load("email_alerts", DAY, [alert("ale-1", more_than=-1, recipients=[])])
    result = evaluate(
        "sane_thresholds", more="{email_alerts: {columns: {less_than: null, title: null}}}"
    )
    assert found(result) == [("ale-1", "more_than is negative")]
    assert result.violations[0].title is None
