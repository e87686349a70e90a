"""Changes in the materialization of notification settings: counted, readable, not personal."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_api import PARIS, SmallApi

from magnetis_dagster.catalog import Collection, load_catalogue
from magnetis_dagster.defs.metadata import changes_metadata
from magnetis_dagster.errors import TransientError
from magnetis_dagster.ingest import Ingestion
from magnetis_dagster.warehouse import Change, ChangeKind, Changes, FieldChange

Materialize = Callable[..., dg.ExecuteInProcessResult]
ALERTS = "magnetis__email_alerts"
ADDRESSES = ["jeanne.personne@example.fr", "paul.autre@example.fr", "0033199000001"]
PERSONAL = ("jeanne", "paul", "example.fr", "0033199", "Personne")


def alert(number: int, **members: Any) -> dict[str, Any]:
    return {
        "id": f"ale-{number}",
        "account": {"id": "acc-1", "name": "Agence de Lyon", "owner": "Jeanne Personne"},
        "created_at": "2024-03-04 09:06:09",
        "enabled": 1,
        "less_than": None,
        "recipients": ADDRESSES[:2],
        "title": "Alerte sur appel manqué",
        "type": "lost_calls",
        **members,
    }


def numbers(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = result.asset_materializations_for_node(ALERTS)
    return {name: entry.value for name, entry in event.metadata.items()}


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(record.data) for record in getattr(found["changes"], "records", found["changes"])]


def today() -> Any:
    return datetime.now(PARIS).date()


def test_the_first_snapshot_is_counted_and_not_listed(
    api: SmallApi, materialize: Materialize
) -> None:
    api.rows["/alerts/email"] = [alert(1), alert(2)]
    found = numbers(materialize("email_alerts", today()))
    assert (found["settings first seen"], found["settings changed"], found["new rows"]) == (2, 0, 2)
    assert not {"changes", "changes not shown"} & found.keys()
    again = numbers(materialize("email_alerts", today()))
    assert (
        again["settings changed"],
        again["new rows"],
        again["changed rows"],
        again["deleted rows"],
    ) == (0, 0, 0, 0)
    assert not {"changes", "settings first seen"} & again.keys()


def test_changes_are_a_table_without_personal_values(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance, query: Any
) -> None:
    api.rows["/alerts/email"] = [alert(1), alert(2), alert(3), alert(4)]
    materialize("email_alerts", today())
    api.rows["/alerts/email"] = [
        alert(1, enabled=0, recipients=[ADDRESSES[0], ADDRESSES[2]]),
        alert(
            2,
            less_than=23,
            title="Alerte de jeanne.personne@example.fr",
            phone_of_boss="0033199000002",
        ),
        alert(
            4,
            account={"id": "acc-1", "name": "Agence de Lyon", "owner": "Paul Autre"},
            recipients=ADDRESSES[1::-1],
        ),
        alert(5, recipients=ADDRESSES[:1], type={"of": "Jeanne"}),
    ]
    result = materialize("email_alerts", today())
    found = numbers(result)
    assert (
        found["settings changed"],
        found["new rows"],
        found["changed rows"],
        found["deleted rows"],
    ) == (5, 1, 3, 1)
    assert found["changes not shown"] == 0
    table = {(row["change"], row["setting id"]): row for row in rows(found)}
    members = {f"{kind} {identifier}": row["what"] for (kind, identifier), row in table.items()}
    assert members == {
        "removed ale-3": "account.owner: ***; created_at: 2024-03-04 09:06:09; enabled: 1; "
        "recipients: 2 recipients; type: lost_calls",
        "changed ale-1": "enabled: 1 → 0; recipients: 2 recipients → 2 recipients "
        "(1 added, 1 removed)",
        "changed ale-2": "less_than: null → 23; phone_of_boss: null → ***; "
        "title: Alerte sur appel manqué → Alerte de ***",
        "changed ale-4": "account.owner: *** → ***; recipients: 2 recipients → 2 recipients "
        "(in another order)",
        "added ale-5": "account.owner: ***; created_at: 2024-03-04 09:06:09; enabled: 1; "
        "recipients: 1 recipient; type.of: ***",
    }
    assert {(row["account"], row["account id"]) for row in table.values()} == {
        ("Agence de Lyon", "acc-1")
    }
    assert table["removed", "ale-3"]["title"] == "Alerte sur appel manqué"
    logged = "\n".join(
        str(record.event_log_entry)
        for record in instance.get_records_for_run(result.run_id).records
    )
    assert not [word for word in PERSONAL if word in logged or word.capitalize() in logged]
    statement = found["query of the changes"].removeprefix("```sql\n").removesuffix("\n```")
    assert len(query(statement)) == 5


def test_other_snapshots_are_counted(api: SmallApi, materialize: Materialize) -> None:
    def recipient(number: int, name: str) -> dict[str, Any]:
        return {"id": f"rec-{number}", "name": name}

    states = [
        ([recipient(1, "a"), recipient(2, "b")], (2, 0, 0)),
        ([recipient(1, "c"), recipient(3, "d")], (1, 1, 1)),
        ([recipient(1, "c"), recipient(2, "b")], (1, 0, 1)),
    ]
    for state, counts in states:
        api.rows["/recipients"] = state
        result = materialize("recipients", today())
        [event] = result.asset_materializations_for_node("magnetis__recipients")
        assert (
            tuple(
                event.metadata[name].value for name in ("new rows", "changed rows", "deleted rows")
            )
            == counts
        )
        assert not {"changes", "settings changed"} & event.metadata.keys()
        assert (
            event.description
            == f"{today()}: 2 rows, {counts[0]} new, {counts[1]} changed, {counts[2]} deleted"
        )


def test_a_step_that_fails_after_its_commit_reports_the_changes_in_its_retry(
    api: SmallApi, materialize: Materialize, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.rows["/alerts/email"] = [alert(1), alert(2)]
    materialize("email_alerts", today())
    api.rows["/alerts/email"] = [alert(1, enabled=0), alert(3)]
    calls = len(api.requests)
    read = Ingestion.read_snapshot

    def fails(self: Ingestion, collection: Collection, day: Any) -> Any:
        monkeypatch.setattr(Ingestion, "read_snapshot", read)
        read(self, collection, day)
        raise TransientError("the connection to Dagster's storage was lost")

    monkeypatch.setattr(Ingestion, "read_snapshot", fails)
    found = numbers(materialize("email_alerts", today()))
    assert len(api.requests) == calls + 1
    assert (
        found["new rows"],
        found["changed rows"],
        found["deleted rows"],
        found["settings changed"],
    ) == (1, 1, 1, 3)
    assert [row["change"] for row in rows(found)] == ["removed", "changed", "added"]


def shown(collection: Collection, **fields: tuple[Any, Any]) -> dict[str, Any]:
    change = Change(
        ChangeKind.CHANGED,
        "acc-1",
        "Agence",
        "ale-1",
        "Titre",
        {name: FieldChange(*values) for name, values in fields.items()},
    )
    metadata = changes_metadata(
        collection, Changes(datetime(2025, 5, 1, tzinfo=UTC), {ChangeKind.CHANGED: 1}, [change])
    )
    [row] = rows({name: getattr(entry, "value", entry) for name, entry in metadata.items()})
    return row


def test_changes_beyond_the_limit_are_counted(api: SmallApi, materialize: Materialize) -> None:
    api.rows["/alerts/email"] = [alert(0)]
    materialize("email_alerts", today())
    api.rows["/alerts/email"] = [alert(number) for number in range(61)]
    found = numbers(materialize("email_alerts", today()))
    assert (len(rows(found)), found["changes not shown"], found["settings changed"]) == (50, 10, 60)


def test_members_that_an_overlay_declares_personal_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "overlay.yaml"
    path.write_text(
        "collections: {email_alerts: {columns: {title: {personal_data: personal}, "
        "account_name: {personal_data: pseudonym}, days: {type: json}, plan: {type: json}, "
        "boss: {paths: [plan.boss], personal_data: personal}}}}"
    )
    collection = load_catalogue(path)["email_alerts"]
    row = shown(
        collection,
        title=("Jeanne", "Paul"),
        account=({"name": "Jeanne"}, {"name": "Paul"}),
        days=([1, 2], [1, 3]),
        plan=({"boss": "Jeanne", "size": "S"}, {"boss": {"name": "Paul"}, "size": "L"}),
    )
    assert (row["account"], row["title"]) == ("***", "***")
    assert row["what"] == (
        "title: *** → ***; account.name: *** → ***; days: [1,2] → [1,3] (1 added, 1 removed); "
        "plan.boss: *** → null; plan.boss.name: null → ***; plan.size: S → L"
    )


def test_values_of_another_shape_than_declared_are_masked() -> None:
    row = shown(
        load_catalogue()["email_alerts"],
        type=(["Jeanne"], {"a": {"b": {"c": {"d": "Jeanne"}}}}),
        recipients=("jeanne@example.fr", None),
        **{
            "account.name": (None, "Jeanne"),
            "jeanne@example.fr": (None, 1),
            "0612345678": ([1, 2, 3], []),
        },
    )
    assert row["what"] == (
        "type: 1 type → null; type.a.b.c: null → ***; recipients: *** → null; *: null → ***; *: "
        "null → ***; *: 3 entries → 0 entries (3 removed)"
    )


def test_null_instead_of_absent_is_a_change() -> None:
    assert (
        shown(load_catalogue()["email_alerts"], less_than=(None, None))["what"]
        == "null instead of absent, or the reverse: less_than"
    )
