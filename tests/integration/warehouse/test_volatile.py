"""Volatile members: Python and PostgreSQL omit the same ones, and they cause no changes."""

import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Catalogue, Collection, load_catalogue
from magnetis_dagster.catalog.names import fold
from magnetis_dagster.catalog.volatile import (
    column_sql,
    same_sql,
    stable,
    stable_sql,
    volatile_columns,
)
from magnetis_dagster.database import connect
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.current_settings import current_rows

AUDIO = load_catalogue()["audio_files"]
NAMES = [
    "url",
    "URL",
    "link",
    "files",
    "last_sent_at",
    "lastSentAt",
    "a",
    "b",
    "a.b",
    "aB",
    "it's",
    "é",
    "É",
    "",
    "_",
]


def declaring(
    *volatile: str, collection: Collection = AUDIO, **columns: dict[str, Any]
) -> Collection:
    content = collection.model_dump() | {"volatile": volatile}
    return Collection.model_validate(content | {"columns": content["columns"] | columns})


names = st.sampled_from(NAMES) | st.text("abé_. -'\"\\?#", max_size=4)
texts = st.sampled_from(
    ["", "https://files.invalid/1.mp3?sig=1#x", "/a#b?c", "?", "#", "caf\u00e9?\u2028", "a\\?b"]
)
scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.just(12345678901234567890) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)
rows = st.dictionaries(names, values, max_size=6)
parts = st.sampled_from(["*", "url", "link", "files", "last_sent_at", "a", "b", "É"])
paths = st.tuples(st.lists(parts, min_size=1, max_size=3), st.sampled_from(["", "?"])).map(
    lambda path: ".".join(path[0]) + path[1]
)


@pytest.fixture(scope="module")
def connection(postgres_url: str) -> Iterator[Connection]:
    engine = connect(postgres_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def in_sql(connection: Connection, collection: Collection, row: object) -> Any:
    statement = text(
        f"SELECT {stable_sql(collection, 't.payload')} "
        "FROM (SELECT CAST(:row AS jsonb) AS payload) AS t"
    )
    return connection.execute(statement, {"row": json.dumps(row)}).scalar_one()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(row=rows, volatile=st.lists(paths, max_size=4))
def test_python_and_postgresql_omit_the_same_members(
    connection: Connection, row: dict[str, Any], volatile: list[str]
) -> None:
    collection = declaring(*volatile)
    before = json.dumps(row)
    left = stable(collection, row)
    assert json.dumps(row) == before
    assert in_sql(connection, collection, row) == left
    # omitting volatile members twice changes nothing
    assert stable(collection, left) == left
    if not volatile:
        assert left is row


@pytest.mark.parametrize(
    ("volatile", "row", "left"),
    [
        (
            "last_sent_at",
            {"id": 1, "lastSentAt": 1, "Last-Sent-At": 2, "last": 3},
            {"id": 1, "last": 3},
        ),
        ("url?", {"url": "https://x/1.mp3?sig=1#t"}, {"url": "https://x/1.mp3"}),
        ("url?", {"url": {"href": "https://x/1?sig=1"}}, {"url": {"href": "https://x/1?sig=1"}}),
        (
            "files.*.url?",
            {"files": [{"url": "x?1", "n": 1}, {"URL": "y?2"}, None]},
            {"files": [{"url": "x", "n": 1}, {"URL": "y"}, None]},
        ),
        ("files.*.url?", {"files": {"wav": {"url": "x?1"}}}, {"files": {"wav": {"url": "x"}}}),
        ("*.seen", {"a": {"seen": 1, "b": 2}, "c": [1]}, {"a": {"b": 2}, "c": [1]}),
        ("stats.sent", {"stats": {"sent": 5, "kept": 1}, "stats_sent": 5}, {"stats": {"kept": 1}}),
        ("stats", {"stats": {"sent": 5}}, {}),
        ("lists.*", {"lists": [1, 2]}, {"lists": []}),
    ],
)
def test_volatile_members_are_omitted(
    connection: Connection, volatile: str, row: dict[str, Any], left: dict[str, Any]
) -> None:
    collection = declaring(volatile)
    assert stable(collection, row) == in_sql(connection, collection, row) == left


def test_a_collection_without_volatile_members_has_no_extra_cost(catalogue: Catalogue) -> None:
    assert stable_sql(catalogue["visits"], "t.payload") == "t.payload"
    assert same_sql(catalogue["visits"], "a", "b") == "(a IS NOT DISTINCT FROM b)"
    row = {"id": 1}
    assert stable(catalogue["visits"], row) is row


def test_the_expression_is_valid_in_a_merge(engine: Engine, catalogue: Catalogue) -> None:
    same = same_sql(catalogue["calls"], "t.payload", "excluded.payload")
    with engine.connect() as connection:
        connection.execute(
            text(
                "CREATE TEMPORARY TABLE merged "
                "(id text PRIMARY KEY, payload jsonb, changed int DEFAULT 0)"
            )
        )
        merge = text(
            "INSERT INTO merged AS t (id, payload) VALUES ('1', CAST(:row AS jsonb)) "
            "ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, "
            f"changed = CASE WHEN {same} THEN t.changed ELSE t.changed + 1 END"
        )
        for link, status in (("x?1", "a"), ("x?2", "a"), ("x?3", "b"), ("y?3", "b")):
            connection.execute(merge, {"row": json.dumps({"recording": link, "status": status})})
        assert connection.execute(text("SELECT changed FROM merged")).scalar_one() == 2


def test_columns_filled_by_volatile_members_are_not_compared(connection: Connection) -> None:
    collection = declaring(
        "url?",
        "sent_at",
        "statistics.opened",
        "files.*.url?",
        sent={"type": "timestamp", "paths": ["created_at", "sentAt"]},
        opened={"type": "integer", "paths": ["statistics_opened"]},
        files={"type": "json", "paths": ["files"]},
        statistics={"type": "json", "paths": ["statistics"]},
    )
    assert volatile_columns(collection) == {"sent", "opened"}
    assert column_sql(collection, "name", "t.name") == "t.name"

    def compared(name: str, value: str, kind: str) -> Any:
        compared_value = column_sql(collection, name, "t.v")
        statement = text(f"SELECT {compared_value} FROM (SELECT CAST(:value AS {kind}) AS v) AS t")
        return connection.execute(statement, {"value": value}).scalar_one()

    assert compared("url", "https://x/1.mp3?sig=2", "text") == "https://x/1.mp3"
    assert compared("files", '[{"url": "x?1"}]', "jsonb") == [{"url": "x"}]
    assert compared("statistics", '{"opened": 4, "bounced": 1}', "jsonb") == {"bounced": 1}


def test_shipped_declarations_cover_links_files_and_counters(catalogue: Catalogue) -> None:
    call = {
        "id": 1,
        "recordingUrl": "https://x/1?s=1",
        "recordings": [{"url": "https://x/2?s=1"}],
        "duration": 3,
    }
    assert stable(catalogue["calls"], call) == call | {
        "recordingUrl": "https://x/1",
        "recordings": [{"url": "https://x/2"}],
    }
    assert stable(catalogue["audio_files"], {"url": "https://x/1?sig=1", "name": "A"}) == {
        "url": "https://x/1",
        "name": "A",
    }
    for name in ("reports", "email_alerts", "sms_alerts"):
        row = {"id": 1, "enabled": 1, "recipients": []}
        assert (
            stable(
                catalogue[name],
                row | {"last_sent_at": "x", "lastTriggeredAt": "y", "sent_count": 4},
            )
            == row
        )
    for collection in catalogue.collections.values():
        # a column may lose the signature of a link, but never its value
        assert not volatile_columns(collection), collection.name
        assert not {fold(path) for path in collection.key_paths} & {
            fold(path.removesuffix("?")) for path in collection.volatile
        }


def test_volatile_members_cause_no_changes_of_settings(
    warehouse: Warehouse, load: Any, query: Any
) -> None:
    def alert(sent: str, title: str = "Alerte") -> dict[str, Any]:
        return {
            "id": "ale-1",
            "account": {"id": "acc-1"},
            "title": title,
            "enabled": 1,
            "lastSentAt": sent,
        }

    for row in (alert("10:00"), alert("10:15"), alert("10:30", "Autre")):
        load("email_alerts", [date(2025, 3, 28)], [row])
    changes = query("SELECT kind, changes FROM magnetis.settings_changes ORDER BY changed_at")
    assert [kind for kind, _ in changes] == ["first_seen", "changed"]
    assert changes[1][1] == {"title": {"old": "Alerte", "new": "Autre"}}
    assert "lastSentAt" not in changes[0][1]
    current = current_rows(warehouse.engine, warehouse.catalogue["email_alerts"])
    assert current == {
        "ale-1": {name: value for name, value in alert("", "Autre").items() if name != "lastSentAt"}
    }
