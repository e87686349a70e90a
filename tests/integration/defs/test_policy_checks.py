"""Policies and the baseline as checks of a load; no personal data in their metadata."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_api import PARIS, SmallApi
from sqlalchemy import Engine

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.catalog.policies import KINDS
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection
from magnetis_dagster.defs.policies import PolicyChecks
from magnetis_dagster.notification_settings.baseline import write_baseline
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.current_settings import current_rows

Materialize = Callable[..., dg.ExecuteInProcessResult]
Check = Callable[..., dict[str, dg.AssetCheckEvaluation]]
PERSONAL = ("@", "jean", "ailleurs", "612345678", "06 12")


def alert(identifier: str, account: str | None = "acc-1", **more: Any) -> dict[str, Any]:
    row = {
        "id": identifier,
        "account": {"id": account, "name": "Agence"} if account else None,
        "created_at": "2024-03-04 09:06:09",
        "enabled": 1,
        "less_than": None,
        "more_than": None,
        "recipients": ["jean@exemple.fr"],
        "title": "Alerte jean@exemple.fr 06 12 34 56 78",
        "type": "lost_calls",
    }
    return row | more


@pytest.fixture
def load(materialize: Materialize, instance: dg.DagsterInstance) -> Check:
    """Load one collection and return its policy checks; no event may name a person."""

    def load(collection: str) -> dict[str, dg.AssetCheckEvaluation]:
        result = materialize(collection, datetime.now(PARIS).date())
        assert result.success
        logged = "\n".join(
            str(record.event_log_entry)
            for record in instance.get_records_for_run(result.run_id).records
        )
        logged += "\n".join(map(str, latest(instance).values()))
        assert [word for word in PERSONAL if word in logged.lower()] == []
        return {
            check.check_name.removeprefix("policy_"): check
            for check in result.get_asset_check_evaluations()
            if check.check_name.startswith("policy_") or check.check_name == "baseline"
        }

    return load


def latest(instance: dg.DagsterInstance) -> dict[str, dg.AssetCheckEvaluation]:
    keys = [
        dg.AssetCheckKey(dg.AssetKey(["magnetis", collection]), name)
        for collection in ("reports", "email_alerts", "sms_alerts")
        for name in ("baseline", *(f"policy_{name}" for name in KINDS))
    ]
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    found = {
        f"{key.asset_key.path[-1]}:{key.name}": record.event
        for key, record in records.items()
        if record.event
    }
    return {
        name: event.dagster_event.asset_check_evaluation_data
        for name, event in found.items()
        if event.dagster_event
    }  # type: ignore[misc]


def table(check: dg.AssetCheckEvaluation, name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in check.metadata[name].value.records]  # type: ignore[union-attr]


def test_violations_are_in_the_metadata_and_do_not_block(
    api: SmallApi, load: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = tmp_path / "magnetis.yaml"
    overlay.write_text(
        "policies: {allowed_domains: {enabled: true, severity: error, domains: [exemple.fr]}}"
    )
    monkeypatch.setenv("MAGNETIS_CONFIG", str(overlay))
    accounts = [
        {"id": f"acc-{number}", "name": "Agence, tél. 06 12 34 56 78"} for number in (1, 2, 3)
    ]
    api.rows["/accounts"] = accounts
    api.rows["/alerts/sms"] = []
    api.rows["/alerts/email"] = [
        alert("ale-1"),
        alert("ale-2", "acc-2", recipients=["jean@ailleurs.fr", "jean@exemple.fr"]),
        alert("ale-3", "acc-3", recipients=[], enabled=0),
        alert("ale-4", None, less_than=5, more_than=23),
        alert("ale-5", "acc-jean@exemple.fr"),
    ]
    assert load("accounts") == {}
    checks = load("sms_alerts")
    assert "email_alerts has never been read" in str(checks["missed_call_alert"].description)
    checks = load("email_alerts")
    assert {name: (check.passed, check.severity.value) for name, check in checks.items()} == {
        "missed_call_alert": (False, "WARN"),
        "has_recipient": (False, "WARN"),
        "allowed_domains": (False, "ERROR"),
        "sane_thresholds": (False, "WARN"),
        "live_account": (True, "WARN"),
        "has_owner": (False, "WARN"),
    }
    assert not any(check.blocking for check in checks.values())
    assert table(checks["has_recipient"], "rows") == [
        {"id": "ale-3", "account": "acc-3", "title": "Alerte *** ***", "reason": "no recipient"}
    ]
    assert table(checks["missed_call_alert"], "rows") == [
        {
            "id": "acc-3",
            "account": "acc-3",
            "title": "Agence, tél. ***",
            "reason": "its alert on missed calls is switched off",
        }
    ]
    assert (
        table(checks["allowed_domains"], "rows")[0]["reason"]
        == "recipients outside the allowed domains: 1"
    )
    assert [(row["id"], row["account"]) for row in table(checks["has_owner"], "rows")] == [
        ("ale-4", ""),
        ("ale-5", "***"),
    ]
    numbers = {
        name: value.value for name, value in checks["has_owner"].metadata.items() if name != "rows"
    }
    assert numbers == {"offending rows": 2, "judged rows": 5, "rows not shown": 0}
    assert checks["has_owner"].description == "2 of 5 rows violate this policy."


def test_a_policy_over_both_kinds_of_alerts_is_reported_for_the_other_kind(
    api: SmallApi, load: Check, instance: dg.DagsterInstance
) -> None:
    api.rows["/accounts"] = [{"id": "acc-1", "name": "Agence"}]
    api.rows["/alerts/sms"] = []
    api.rows["/alerts/email"] = []
    for collection in ("accounts", "email_alerts", "sms_alerts"):
        load(collection)
    names = ["email_alerts:policy_missed_call_alert", "sms_alerts:policy_missed_call_alert"]
    assert [latest(instance)[name].passed for name in names] == [False, False]
    api.rows["/alerts/sms"] = [alert("als-1")]
    assert load("sms_alerts")["missed_call_alert"].passed
    assert [latest(instance)[name].passed for name in names] == [True, True]


def test_a_policy_that_cannot_be_checked_passes_with_the_reason(api: SmallApi, load: Check) -> None:
    api.rows["/alerts/email"] = [alert("ale-1")]
    checks = load("email_alerts")
    assert all(check.passed for check in checks.values())
    for name in ("missed_call_alert", "live_account", "has_owner"):
        assert str(checks[name].description).startswith(
            "Not checked: accounts has never been read."
        )
        assert checks[name].metadata == {}
    assert checks["has_recipient"].description is None
    assert checks["has_recipient"].metadata["offending rows"].value == 0


def test_at_most_fifty_rows_are_listed(api: SmallApi, load: Check) -> None:
    api.rows["/alerts/email"] = [alert(f"ale-{number:02}", recipients=[]) for number in range(60)]
    check = load("email_alerts")["has_recipient"]
    assert (check.metadata["offending rows"].value, check.metadata["rows not shown"].value) == (
        60,
        10,
    )
    assert len(table(check, "rows")) == 50


def test_differences_from_the_baseline_are_masked(
    api: SmallApi, load: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    api.rows["/alerts/email"] = [alert(f"ale-{number}") for number in (1, 2, 3)]
    assert "baseline" not in load("email_alerts"), "no baseline is configured"
    baseline = tmp_path / "settings.yaml"
    monkeypatch.setenv("MAGNETIS_SETTINGS_BASELINE", str(baseline))
    check = load("email_alerts")["baseline"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"The baseline {baseline} cannot be read" in str(check.description)

    rows = current_rows(engine, load_catalogue()["email_alerts"])
    assert rows is not None
    baseline.write_text(write_baseline({"email_alerts": rows}), encoding="utf-8")
    check = load("email_alerts")["baseline"]
    assert (check.passed, check.description, check.metadata["differences"].value) == (True, None, 0)
    assert "does not contain reports. Export the baseline again." in str(
        load("reports")["baseline"].description
    )

    changed = alert(
        "ale-2", recipients=["jean@ailleurs.fr", "jean@exemple.fr"], enabled=0, secret="jean"
    )
    api.rows["/alerts/email"] = [alert("ale-1"), changed, alert("ale-4")]
    check = load("email_alerts")["baseline"]
    assert not check.passed
    assert check.metadata["differences"].value == 3
    common = {"account": "acc-1"}
    assert table(check, "diff") == [
        {
            "id": "ale-2",
            **common,
            "change": "changed",
            "field": "enabled",
            "baseline": "1",
            "present": "0",
        },
        {
            "id": "ale-2",
            **common,
            "change": "changed",
            "field": "recipients",
            "baseline": "*** (1)",
            "present": "*** (2)",
        },
        {
            "id": "ale-2",
            **common,
            "change": "changed",
            "field": "secret",
            "baseline": "",
            "present": "***",
        },
        {
            "id": "ale-3",
            **common,
            "change": "removed",
            "field": "title",
            "baseline": "Alerte *** ***",
            "present": "",
        },
        {
            "id": "ale-4",
            **common,
            "change": "added",
            "field": "title",
            "baseline": "",
            "present": "Alerte *** ***",
        },
    ]


def test_each_settings_asset_has_a_check_for_each_of_its_policies(tmp_path: Path) -> None:
    settings, catalogue = (
        Settings.load(settings_baseline=tmp_path / "settings.yaml"),
        load_catalogue(),
    )
    connection = Connection(UNNAMED, settings, catalogue)
    key = dg.AssetKey(["magnetis", "reports"])
    specs = PolicyChecks(connection, catalogue["reports"]).specs(key)
    assert [spec.name for spec in specs] == [
        "policy_has_recipient",
        "policy_live_account",
        "policy_has_owner",
        "baseline",
    ]
    assert not any(spec.blocking for spec in specs)
    assert PolicyChecks(connection, catalogue["numbers"]).specs(key) == []
