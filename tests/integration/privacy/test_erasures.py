"""An erased person is in no place of the database, and no load, replay or restart restores it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protected import PRIVACY_KEY
from sqlalchemy import Engine, text

from magnetis_dagster.privacy.identifiers import UnknownIdentifier, keys_of
from magnetis_dagster.privacy.protection import MissingPrivacyKey, Protection
from magnetis_dagster.warehouse import Warehouse, erasure
from magnetis_dagster.warehouse.erasure import (
    complete_erasures,
    find,
    journal,
    read_erasure,
    record,
    replay,
    suppressed_rows,
)
from magnetis_dagster.warehouse.masking import WrongPrivacyKey
from magnetis_dagster.warehouse.reparse import reparse
from magnetis_dagster.warehouse.retention import overdue, retain

Load = Callable[..., Any]
WarehouseOf = Callable[..., Warehouse]
TODAY = date.today()  # noqa: DTZ011 - any recent day
DAY = TODAY - timedelta(days=20)
NUMBER, EMAIL, NAME = "+33612345678", "zoe.quenneville@exemple.fr", "Zoé Quenneville"
DIGITS = "612345678"
OTHER = "+33698765432"
OTHER_SECRET = "t:anotherSecret0123456789ABCDEFGHIJKLMNOPQ"


@pytest.fixture
def first_read() -> datetime:
    return datetime.now(UTC) - timedelta(days=10)


def call(id_: str, number: str, day: date = DAY, **more: Any) -> dict[str, Any]:
    return {
        "id": id_,
        "account": {"id": "acc-1", "name": "Agence"},
        "start_at": f"{day} 10:00:00",
        "caller": {"number": number, "name": None},
        "duration": 60,
        "status": "completed",
        **more,
    }


def everything() -> dict[str, list[Any]]:
    """Return rows of several collections that contain the person in every place."""
    return {
        "calls": [
            call("c1", "06 12 34 56 78", caller={"number": "06 12 34 56 78", "name": NAME}),
            call("c2", OTHER, note=f"rappeler {NAME} au +33 6.12.34.56.78"),
            call("c3", "０６１２３４５６７８", unknown={"deep": [{"x": "0033612345678"}]}),
            call("c4", OTHER, **{"06_12_34_56_78": True}),
            call("c5", OTHER, recipient={"id": "r", "number": "06·12·34·56·78"}),
            call("c6", OTHER),
            # without an id: quarantined
            {"start_at": f"{DAY} 11:00:00", "caller": {"number": NUMBER, "name": NAME}},
            f"not an object: {NUMBER}",
        ],
        "leads": [
            {
                "id": "l1",
                "account": {"id": "acc-1"},
                "created_at": f"{DAY} 10:00:00",
                "contact": {"name": NAME, "phone": NUMBER, "email": EMAIL.upper()},
                "message": f"Bonjour, {NAME}",
            }
        ],
        "emails": [
            {
                "id": "e1",
                "account": {"id": "acc-1"},
                "created_at": f"{DAY} 10:00:00",
                "from": f"{NAME} <{EMAIL}>",
                "subject": f"de {EMAIL}",
            }
        ],
        "email_alerts": [
            {"id": "a1", "title": "Appels", "recipients": [EMAIL, "autre@exemple.fr"]},
            {"id": "a2", "title": "Appels", "recipients": [{"email": EMAIL, "phone": NUMBER}]},
        ],
    }


def load_all(warehouse: Warehouse, load: Load, rows: dict[str, list[Any]]) -> list[Any]:
    return [load(warehouse, name, [DAY], page) for name, page in rows.items()]


def erase(warehouse: Warehouse, *identifiers: str, expires_on: date | None = None) -> int:
    keys = keys_of(identifiers, warehouse.masking.persons)
    number = record(warehouse.engine, {warehouse.connection_name: keys}, "request 1", expires_on)
    complete_erasures(warehouse.engine, {warehouse.connection_name: warehouse})
    return number


def cache_page(warehouse: Warehouse, body: str) -> None:
    warehouse.page_cache(warehouse.catalogue["calls"], "work", "request").keep(
        [DAY], 1, body.encode(), datetime.now(UTC)
    )


def test_an_erased_person_is_nowhere_and_stays_so(
    warehouse_of: WarehouseOf,
    load: Load,
    hits: Callable[..., list[str]],
    snapshot: Callable[[], dict[str, int]],
    engine: Engine,
) -> None:
    warehouse = warehouse_of()
    year = [DAY - timedelta(days=number) for number in range(1, 365)]
    months = [sorted(year[start : start + 30]) for start in range(0, len(year), 30)]
    calls_of_month = [
        [call(f"{day}-{number}", (NUMBER, OTHER)[number], day) for day in days for number in (0, 1)]
        for days in months
    ]
    for days, page in zip(months, calls_of_month, strict=True):
        load(warehouse, "calls", days, page)
    load_all(warehouse, load, everything())
    changed = everything()
    changed["email_alerts"][0]["title"] = "Autres appels"  # a version in the history
    load_all(warehouse, load, changed)
    cache_page(warehouse, f'{{"data": [{{"caller": "{NUMBER}"}}]}}')
    cache_page_of_others = '{"data": [{"caller": "+33698765432"}]}'
    warehouse.page_cache(warehouse.catalogue["calls"], "other", "request").keep(
        [DAY], 1, cache_page_of_others.encode(), datetime.now(UTC)
    )
    before = snapshot()
    assert hits([DIGITS], [EMAIL, NAME])
    places = find(
        engine,
        {"magnetis": warehouse},
        {"magnetis": keys_of([NUMBER, EMAIL], warehouse.masking.persons)},
    )
    tables = {place.table for place in places}
    expected = ("calls", "leads", "emails", "email_alerts", "email_alerts_history")
    assert tables >= {f"magnetis.{name}" for name in expected}
    assert tables >= {"magnetis_ops.quarantine", "magnetis_ops.pages"}

    number = erase(warehouse, NUMBER, EMAIL)

    assert hits([DIGITS], [EMAIL, NAME]) == []
    assert snapshot() == before
    done = read_erasure(engine, number)
    assert done.completed_at is not None
    assert {place for _, place, rows in done.places if rows} >= tables - {"magnetis_ops.quarantine"}
    assert suppressed_rows(warehouse) == {}
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT count(*) FROM magnetis_ops.pages")).scalar_one()
        other = connection.execute(
            text("SELECT caller_number FROM magnetis.calls WHERE id = 'c6'")
        ).scalar_one()
    assert (kept, other) == (1, OTHER)

    # a look-back, a settings sync, a backfill and a reparse
    again = load_all(warehouse_of(), load, changed)
    for days, page in zip(months, calls_of_month, strict=True):
        again.append(load(warehouse_of(), "calls", days, page))
    for result in again:
        assert [(day.inserted, day.changed, day.deleted) for day in result.days] == [
            (0, 0, 0)
        ] * len(result.days)
    for name in everything():
        reparse(warehouse, warehouse.catalogue[name])
    retain(warehouse)
    assert hits([DIGITS], [EMAIL, NAME]) == []
    assert snapshot() == before


def test_an_interrupted_erasure_is_completed_later(
    warehouse_of: WarehouseOf,
    load: Load,
    hits: Callable[..., list[str]],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse = warehouse_of()
    load_all(warehouse, load, everything())
    retain(warehouse)  # otherwise, computing the keys masks the rows too
    original, calls = erasure._erase_in, []

    def fail(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(erasure, "_erase_in", fail)
    with pytest.raises(KeyboardInterrupt):
        erase(warehouse, NUMBER, EMAIL)
    monkeypatch.undo()
    assert hits([DIGITS])
    # a load before the completion already masks
    load(warehouse, "calls", [DAY], everything()["calls"])
    assert "magnetis.calls.payload" not in hits([DIGITS], [EMAIL])
    assert complete_erasures(engine, {"magnetis": warehouse_of()}) != []
    assert hits([DIGITS], [EMAIL, NAME]) == []
    assert complete_erasures(engine, {"magnetis": warehouse_of()}) == []


def test_a_restored_older_database_is_erased_again(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]], engine: Engine
) -> None:
    warehouse = warehouse_of()
    load_all(warehouse, load, everything())
    erase(warehouse, NUMBER, EMAIL)
    entries = journal(engine)
    with engine.begin() as connection:
        for table in ("suppressions", "erasure_steps", "erasures"):
            connection.execute(text(f"DELETE FROM magnetis_ops.{table}"))
    load_all(warehouse_of(), load, everything())
    assert hits([DIGITS])
    assert len(replay(engine, entries)) == 1
    complete_erasures(engine, {"magnetis": warehouse_of()})
    assert hits([DIGITS], [EMAIL, NAME]) == []
    assert replay(engine, entries) == []


def test_an_erasure_during_a_load_masks_its_rows(
    warehouse_of: WarehouseOf, hits: Callable[..., list[str]]
) -> None:
    from windows import PARIS

    from magnetis_dagster.warehouse import Rules, WindowFacts

    warehouse = warehouse_of()
    rows = everything()["calls"]
    calls = warehouse.catalogue["calls"]
    with warehouse.staging(calls) as staging:
        staging.add(rows)
        received = staging.deduplicate().received
        erase(warehouse_of(), NUMBER, EMAIL)
        read_at = datetime.now(UTC)
        facts = WindowFacts(
            days=[DAY],
            read_at=read_at,
            announced=received,
            received=received,
            api_calls=1,
            bytes=0,
            milliseconds=0,
            run_id="test",
            read_on=read_at.astimezone(PARIS).date(),
            rules=Rules(),
        )
        warehouse.commit(staging, facts)
    assert hits([DIGITS], [EMAIL, NAME]) == []


def test_a_page_with_an_erased_person_is_not_cached(
    warehouse_of: WarehouseOf, hits: Callable[..., list[str]]
) -> None:
    erase(warehouse_of(), NUMBER)
    warehouse = warehouse_of()
    calls = warehouse.catalogue["calls"]
    cache = warehouse.page_cache(calls, "work", "request")
    body = f'{{"data": ["{NUMBER}"]}}'.encode()
    with warehouse.staging(calls) as staging:
        keep = cache.keeping([DAY], 1, body, datetime.now(UTC))
        staging.add([call("c1", NUMBER)], keep)
        assert hits([DIGITS]) == []
        staging.add([call("c1", OTHER)], keep)
    assert hits([DIGITS]) == ["magnetis_ops.pages.body"]


def test_after_the_end_of_a_suppression_only_new_rows_are_stored(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "calls", [DAY], [call("c1", NUMBER)])
    erase(warehouse, NUMBER, expires_on=TODAY - timedelta(days=1))
    assert hits([DIGITS]) == []
    load(warehouse, "calls", [DAY], [call("c1", NUMBER)])
    assert hits([DIGITS]) == [], "an erased row stays erased"
    load(warehouse, "calls", [DAY], [call("c1", NUMBER), call("c2", NUMBER)])
    assert hits([DIGITS])
    erase(warehouse, NUMBER, expires_on=TODAY + timedelta(days=30))
    # a later request with an earlier end changes nothing
    erase(warehouse, NUMBER, expires_on=TODAY - timedelta(days=1))
    load(warehouse, "calls", [DAY], [call("c1", NUMBER), call("c2", NUMBER), call("c3", NUMBER)])
    assert hits([DIGITS]) == []


def test_a_connection_erases_its_own_rows_only_if_asked(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]], engine: Engine
) -> None:
    nord, sud = warehouse_of(name="nord"), warehouse_of(name="sud")
    for each in (nord, sud):
        load(each, "calls", [DAY], [call("c1", NUMBER)])
    with engine.connect() as connection:
        keys = connection.execute(text("SELECT caller_key FROM magnetis.calls")).scalars().all()
    assert len(set(keys)) == 2
    erase(nord, NUMBER)
    assert hits([DIGITS])
    erase(sud, NUMBER)
    assert hits([DIGITS]) == []


def test_a_new_secret_keeps_erased_persons_and_gives_rows_new_keys(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]], engine: Engine
) -> None:
    load(warehouse_of(), "calls", [DAY], [call("c1", NUMBER), call("c2", OTHER)])
    erase(warehouse_of(), NUMBER)
    both = f"2:newSecret0123456789ABCDEFGHIJKLMNOPQRS,{PRIVACY_KEY}"
    rotated = warehouse_of(key=both)
    result = load(rotated, "calls", [DAY], [call("c1", NUMBER), call("c2", OTHER)])
    assert [(day.inserted, day.changed) for day in result.days] == [(0, 0)]
    with engine.connect() as connection:
        [(first, second)] = connection.execute(
            text(
                "SELECT (SELECT caller_key FROM magnetis.calls WHERE id = 'c1'), "
                "(SELECT caller_key FROM magnetis.calls WHERE id = 'c2')"
            )
        )
    assert first is None
    assert second.startswith("k2:")
    assert hits([DIGITS]) == []
    with pytest.raises(WrongPrivacyKey, match="lacks the key t"):
        load(warehouse_of(key=both.partition(",")[0]), "calls", [DAY], [call("c3", NUMBER)])
    with pytest.raises(WrongPrivacyKey, match="Key t of"):
        load(
            warehouse_of(key=OTHER_SECRET),
            "calls",
            [DAY],
            [call("c3", NUMBER)],
        )
    assert hits([DIGITS]) == []


def test_without_a_key_nothing_is_loaded(
    engine: Engine, warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    warehouse.protection = Protection(warehouse.masking.protection.plan, None)
    warehouse._masking = None
    with pytest.raises(MissingPrivacyKey, match="openssl rand"):
        load(warehouse, "calls", [DAY], [call("c1", NUMBER)])
    assert hits([DIGITS]) == []


@pytest.mark.parametrize("given", ["", "Zoé", "3949", "zoe@", "12", "anonymous"])
def test_an_identifier_that_is_none_is_refused_without_quoting_it(
    warehouse_of: WarehouseOf, given: str
) -> None:
    with pytest.raises(UnknownIdentifier, match="Identifier 2") as raised:
        keys_of([NUMBER, given], warehouse_of().masking.persons)
    assert not given or given not in str(raised.value).replace("Identifier 2", "")


NEVER = {"visitor": {"mask_after": "never"}, "caller_number": {"mask_after": "never"}}
STEPS = st.lists(
    st.sampled_from(["load", "reload", "erase", "retain", "rotate", "reparse"]),
    min_size=2,
    max_size=6,
)
OLD = TODAY - timedelta(days=500)
"""Older than 13 months, younger than 3 years."""


def _final_state(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(
                text(
                    "SELECT id, payload, caller_number, caller_name, caller_key IS NULL, gclid, "
                    "masked, payload_masked FROM magnetis.calls ORDER BY id"
                )
            )
        ]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_order_reaches_the_same_state(
    warehouse_of: WarehouseOf, load: Load, engine: Engine, steps: list[str]
) -> None:
    rows = {
        DAY: [call("n1", NUMBER), call("n2", OTHER, note=NUMBER)],
        OLD: [call("o1", NUMBER, OLD, gclid="x"), call("o2", OTHER, OLD, gclid="y")],
    }

    def run(order: list[str]) -> list[Any]:
        with engine.begin() as connection:
            for table in ("magnetis.calls", "magnetis_ops.days", "magnetis_ops.day_reads"):
                connection.execute(text(f"DELETE FROM {table}"))
            for table in ("suppressions", "erasure_steps", "erasures", "retention"):
                connection.execute(text(f"DELETE FROM magnetis_ops.{table}"))
        key, loaded = PRIVACY_KEY, False
        for step in order:
            warehouse = warehouse_of(key=key)
            match step:
                case "load" | "reload":
                    for day, page in rows.items():
                        [merged] = load(warehouse, "calls", [day], page).days
                        if loaded:
                            assert (merged.inserted, merged.changed, merged.deleted) == (0, 0, 0)
                    loaded = True
                case "erase":
                    erase(warehouse, NUMBER)
                case "retain":
                    retain(warehouse)
                case "rotate":
                    key = f"2:newSecret0123456789ABCDEFGHIJKLMNOPQRS,{PRIVACY_KEY}"
                case "reparse":
                    reparse(warehouse, warehouse.catalogue["calls"])
        assert overdue(warehouse_of(key=key), warehouse.catalogue["calls"]) == {}
        return _final_state(engine)

    expected = run(["load", "erase", "retain"])
    assert run([*steps, "load", "erase"]) == expected
    assert run([*steps, "erase", "reload"]) == expected


def test_the_page_before_an_erased_person_is_staged_is_not_cached_either(
    warehouse_of: WarehouseOf,
) -> None:
    erase(warehouse_of(), NUMBER)
    clear, hashed = warehouse_of(), warehouse_of({"classes": {"visitor": {"on_arrival": "drop"}}})
    calls = clear.catalogue["calls"]
    with clear.staging(calls) as staging:
        assert staging.may_cache([call("c1", OTHER, gclid="x")])
        assert not staging.may_cache([call("c1", NUMBER)])
        assert not staging.may_cache([f"not an object: {NUMBER}"])
    with hashed.staging(calls) as staging:
        assert staging.may_cache([call("c1", OTHER)])
        assert not staging.may_cache([call("c1", OTHER, gclid="x")])


def test_an_erasure_waits_for_the_connection_that_knows_its_tables(
    warehouse_of: WarehouseOf, load: Load, engine: Engine, hits: Callable[..., list[str]]
) -> None:
    nord, sud = warehouse_of(name="nord"), warehouse_of(name="sud")
    for each in (nord, sud):
        load(each, "calls", [DAY], [call("c1", NUMBER)])
    persons = {
        each.connection_name: keys_of([NUMBER], each.masking.persons) for each in (nord, sud)
    }
    number = record(engine, persons, "request 3")
    complete_erasures(engine, {"nord": nord})
    assert read_erasure(engine, number).completed_at is None
    assert hits([DIGITS])
    complete_erasures(engine, {"sud": sud})
    assert hits([DIGITS]) == []
    complete_erasures(engine, {"nord": nord, "sud": sud})
    assert read_erasure(engine, number).completed_at is not None


def test_a_search_masks_nothing(
    warehouse_of: WarehouseOf, load: Load, engine: Engine, hits: Callable[..., list[str]]
) -> None:
    keep = warehouse_of({"payload": {"mask_after": "never"}, "classes": NEVER})
    load(keep, "calls", [OLD], [call("o1", OTHER, OLD, gclid="click-id")])
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis.calls SET caller_key = NULL"))
    strict = warehouse_of()
    persons = {"magnetis": keys_of([OTHER], strict.masking.persons)}
    places = find(engine, {"magnetis": strict}, persons)
    assert [(place.table, place.rows) for place in places] == [("magnetis.calls", 1)]
    assert hits(texts=["click-id"])


@pytest.mark.parametrize(
    "key", ["t:anotherSecret0123456789ABCDEFGHIJKLMNOPQ", f"9:{PRIVACY_KEY[2:]}"]
)
def test_a_search_with_another_secret_is_refused(
    warehouse_of: WarehouseOf, load: Load, engine: Engine, key: str
) -> None:
    load(warehouse_of(), "calls", [DAY], [call("c1", NUMBER)])
    other = warehouse_of(key=key)
    with pytest.raises(WrongPrivacyKey):
        find(engine, {"magnetis": other}, {"magnetis": keys_of([NUMBER], other.masking.persons)})


def test_an_erased_row_stays_erased_if_the_api_removes_the_number_only(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "calls", [DAY], [call("c1", NUMBER, caller={"number": NUMBER, "name": NAME})])
    erase(warehouse, NUMBER)
    for _ in range(2):
        anonymous = call("c1", "", caller={"number": None, "name": NAME}, note=f"de {NAME}")
        load(warehouse, "calls", [DAY], [anonymous])
        assert hits([DIGITS], [NAME]) == []


@pytest.mark.parametrize(
    "row",
    [
        {"caller": {"number": "06 12 34 56 78 / 06 98 76 54 32", "name": NAME}},
        {"note": f"[{EMAIL}]"},
        {"note": f"*{EMAIL}*, «{EMAIL}», {EMAIL}!, _{EMAIL}_"},
        {"channel": {"name": "tel=06+12+34+56+78"}},
        {"channel": {"name": "%2B33+6+12+34+56+78"}},
        {"note": "33 6 12 34 56 78, 2 fois"},
        {"note": "33-6-12-34-56-78_2026"},
        {
            "caller": {"number": NUMBER, "name": NAME},
            "channel": {"name": "appel de Zoe\u0301\u00a0 Quenneville"},
        },
        {"caller": {"number": NUMBER, "name": NAME}, "channel": {"name": "Zo%C3%A9 quenneville"}},
    ],
)
def test_unusual_spellings_are_erased(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]], row: dict[str, Any]
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "calls", [DAY], [call("c1", OTHER, **row)])
    erase(warehouse, NUMBER, EMAIL)
    assert hits([DIGITS], [EMAIL, "quenneville"]) == []


def test_an_erasure_clears_columns_that_are_no_longer_declared(
    warehouse_of: WarehouseOf, load: Load, engine: Engine, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "calls", [DAY], [call("c1", NUMBER), call("c2", OTHER)])
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE magnetis.calls ADD COLUMN former text"))
        connection.execute(text("UPDATE magnetis.calls SET former = caller_number"))
    erase(warehouse, NUMBER)
    assert hits([DIGITS]) == []
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT former FROM magnetis.calls WHERE id = 'c2'"))
        assert kept.scalar_one() == OTHER


def test_a_replay_extends_a_suppression(
    warehouse_of: WarehouseOf, load: Load, engine: Engine
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "calls", [DAY], [call("c1", NUMBER)])
    erase(warehouse, NUMBER, expires_on=TODAY + timedelta(days=1))
    [short] = journal(engine)
    forever = replace(short, expires_on=None)
    assert len(replay(engine, [short])) == 0
    assert len(replay(engine, [short, forever])) == 1
    assert [each.expires_on for each in journal(engine)] == [None]


def test_an_erased_recipient_loses_the_name(
    warehouse_of: WarehouseOf, load: Load, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    load(warehouse, "recipients", [DAY], [{"id": "r1", "name": NAME, "number": NUMBER}])
    erase(warehouse, NUMBER)
    assert hits([DIGITS], [NAME]) == []
    reparse(warehouse, warehouse.catalogue["recipients"])
    [day] = load(
        warehouse, "recipients", [DAY], [{"id": "r1", "name": NAME, "number": NUMBER}]
    ).days
    assert (day.inserted, day.changed) == (0, 0)
    assert hits([DIGITS], [NAME]) == []


def test_an_erasure_during_a_load_stops_the_cache_of_its_pages(
    warehouse_of: WarehouseOf, hits: Callable[..., list[str]]
) -> None:
    warehouse = warehouse_of()
    calls = warehouse.catalogue["calls"]
    cache = warehouse.page_cache(calls, "work", "request")
    with warehouse.staging(calls) as staging:
        erase(warehouse_of(), NUMBER)
        body = f'{{"data": ["{NUMBER}"]}}'.encode()
        keep = cache.keeping([DAY], 1, body, datetime.now(UTC))
        staging.add([call("c1", NUMBER)], keep)
    assert hits([DIGITS]) == []


def test_tables_that_nobody_declares_are_named(warehouse_of: WarehouseOf, engine: Engine) -> None:
    warehouse = warehouse_of()
    assert erasure.unknown_tables(engine, [warehouse.catalogue]) == []
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE magnetis.former (id text)"))
    assert erasure.unknown_tables(engine, [warehouse.catalogue]) == ["magnetis.former"]
