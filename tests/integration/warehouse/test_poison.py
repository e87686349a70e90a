"""A value that PostgreSQL rejects quarantines its row, without loss; other rows are stored."""

from datetime import date
from typing import Any

import pytest
from sqlalchemy import text

from magnetis_dagster import exact_json
from magnetis_dagster.api import read_envelope
from magnetis_dagster.database import DatabaseRefused, driver_of, guarded
from magnetis_dagster.exact_json import TOO_DEEP, TOO_MANY_DIGITS, load_json
from magnetis_dagster.warehouse import Warehouse
from magnetis_dagster.warehouse.copying import copy_rows
from magnetis_dagster.warehouse.reparse import reparse

DAY = date(2025, 3, 28)
AT = "2025-03-28 10:00:00"


def row(identifier: str, more: str = "") -> str:
    start = f'{{"id":"{identifier}","account":{{"id":"acc-1"}},"start_at":"{AT}",'
    return f'{start}"caller_name":"Hélène"{more}}}'


def page(*rows: str) -> list[Any]:
    return read_envelope(f'{{"data":[{",".join(rows)}]}}'.encode(), 250).rows


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


POISON = {
    "300 levels": (f',"x":{deep(300)}', TOO_DEEP),
    "1,000 levels": (f',"x":{deep(1_000)}', TOO_DEEP),
    "100,000 levels": (f',"x":{deep(100_000)}', TOO_DEEP),
    "2,000 levels of objects": (',"x":' + '{"a":' * 2_000 + "1" + "}" * 2_000, TOO_DEEP),
    "20,000 places": (f',"x":0.{"1" * 20_000}', TOO_MANY_DIGITS),
    "200,000 digits": (f',"x":[{"1" * 200_000}]', TOO_MANY_DIGITS),
    "an exponent of 5,000": (',"x":1e5000', TOO_MANY_DIGITS),
    "an exponent of -5,000": (',"x":{"y":-1.5e-5000}', TOO_MANY_DIGITS),
    "an exponent beyond all": (',"x":1e99999999999999999999999999', TOO_MANY_DIGITS),
    "both": (f',"y":1e5000,"x":{deep(1_000)}', TOO_DEEP),
}


@pytest.mark.parametrize("name", POISON)
def test_only_the_poisoned_row_is_quarantined_and_without_loss(
    load: Any, query: Any, name: str
) -> None:
    more, reason = POISON[name]
    rows = [row("a"), row("p", more), row("b")]
    merged = load("calls", [DAY], page(*rows))
    assert (merged.days[0].held, merged.quarantined) == (2, 1)
    assert query("SELECT id, caller_name FROM magnetis.calls ORDER BY id") == [
        ("a", "Hélène"),
        ("b", "Hélène"),
    ]
    [(key, found, kind, received)] = query(
        "SELECT key, reason, jsonb_typeof(payload), payload #>> '{}' FROM magnetis_ops.quarantine"
    )
    assert (key, found, kind) == ("p", reason, "string")
    exponents = {"1E+5000": "1e5000", "-1.5E-5000": "-1.5e-5000"}
    for ours, theirs in exponents.items():
        received = received.replace(ours, theirs)
    assert received == rows[1]


@pytest.mark.parametrize("poison", [deep(1_000), "1e5000", f"[1e5000,{deep(400)}]", deep(50_000)])
def test_values_that_are_not_objects_are_quarantined_too(
    load: Any, query: Any, poison: str
) -> None:
    merged = load("calls", [DAY], page(row("a"), poison, "7", row("b")))
    assert (merged.days[0].held, merged.quarantined) == (2, 2)
    [(received,)] = query(
        "SELECT payload #>> '{}' FROM magnetis_ops.quarantine "
        "WHERE jsonb_typeof(payload) = 'string'"
    )
    assert received.replace("1E+5000", "1e5000") == poison


GOOD = {
    "254 levels": f',"x":{deep(253)}',
    "131,072 digits": f',"x":{"1" * 131_072}',
    "16,383 places": f',"x":0.{"1" * 16_383}',
    "exponents": ',"x":[1e400,1e-999,1E+5,-0.0,-1.5e-320]',
    "a text of 20 MB": f',"x":"{"y" * 20_000_000}"',
    "100,000 members": "".join(f',"m{number}":{number}' for number in range(100_000)),
    "a number of 39 digits": (
        ',"visit_id":340282366920938463463374607431768211455,"x":48.858370123456789012'
    ),
    "a surrogate and a NUL": r',"x\ud800":"\u0000\udc00"',
    "a member twice": ',"x":1,"x":2',
    "the end of the calendar": ',"end_at":"9999-12-31 23:59:59"',
}


@pytest.mark.parametrize("name", GOOD)
def test_large_but_valid_rows_are_stored_as_received(
    load: Any, query: Any, warehouse: Warehouse, name: str
) -> None:
    source = row("g", GOOD[name])
    merged = load("calls", [DAY], page(row("a"), source))
    assert (merged.days[0].held, merged.quarantined) == (2, 0)
    [(stored,)] = query("SELECT payload::text FROM magnetis.calls WHERE id = 'g'")
    expected = load_json(source.encode())[0]
    assert load_json(stored.encode())[0] == expected
    # a reparse can read the stored row
    assert query("SELECT payload FROM magnetis.calls WHERE id = 'g'") == [(expected,)]
    assert reparse(warehouse, warehouse.catalogue["calls"]).updated == 0


def test_a_reparse_fills_columns_with_every_digit(
    load: Any, query: Any, warehouse: Warehouse, engine: Any
) -> None:
    load("calls", [DAY], page(row("a", ',"visit_id":340282366920938463463374607431768211455')))
    [(visit,)] = query("SELECT visit_id FROM magnetis.calls")
    assert visit == "340282366920938463463374607431768211455"
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis.calls SET visit_id = NULL"))
    assert reparse(warehouse, warehouse.catalogue["calls"]).updated == 1
    assert query("SELECT visit_id FROM magnetis.calls") == [(visit,)]


@pytest.mark.parametrize(
    ("limit", "poison", "error"),
    [
        ("_MOST_DIGITS_AFTER_POINT", "0." + "1" * 20_000, "NumericValueOutOfRange"),
        ("_MOST_DIGITS", "1" * 140_000, "NumericValueOutOfRange"),
    ],
)
def test_rows_that_postgresql_rejects_are_found_and_quarantined(
    load: Any, query: Any, monkeypatch: pytest.MonkeyPatch, limit: str, poison: str, error: str
) -> None:
    monkeypatch.setattr(exact_json, limit, 10**6)
    poisoned = {0, 7, 8, 100, 249}
    merged = load(
        "calls",
        [DAY],
        page(*(row(f"c{n:03}", f',"x":{poison}' if n in poisoned else "") for n in range(250))),
    )
    assert (merged.days[0].held, merged.quarantined) == (245, 5)
    found = query("SELECT key, reason, payload #>> '{}' FROM magnetis_ops.quarantine ORDER BY key")
    assert [key for key, _, _ in found] == [f"c{n:03}" for n in sorted(poisoned)]
    assert {reason for _, reason, _ in found} == {f"PostgreSQL rejects a value: {error}"}
    assert found[0][2] == row("c000", f',"x":{poison}')


def test_depths_that_postgresql_rejects_are_quarantined(
    load: Any, query: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_json, "MOST_LEVELS", 10**6)
    load("calls", [DAY], page(row("a"), row("p", f',"x":{deep(900)}')))
    assert query("SELECT count(*) FROM magnetis.calls") == [(2,)], (
        "the limit is this program's, not PostgreSQL's"
    )
    depths: list[Any] = []
    for _ in range(30_000):
        depths = [depths]
    merged = load(
        "calls", [DAY], [*page(row("a"), row("p")), {"id": "q", "start_at": AT, "x": depths}]
    )
    assert (merged.days[0].held, merged.quarantined) == (2, 1)
    assert query("SELECT reason FROM magnetis_ops.quarantine") == [
        ("PostgreSQL rejects a value: StatementTooComplex",)
    ]


def test_a_page_is_cached_once_if_a_value_is_rejected(
    warehouse: Warehouse, query: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_json, "_MOST_DIGITS_AFTER_POINT", 10**6)
    with warehouse.staging(warehouse.catalogue["calls"]) as staging:
        staging.add(
            page(row("a"), row("p", f',"x":0.{"1" * 20_000}')),
            lambda cursor: cursor.execute(
                "INSERT INTO magnetis_ops.strays VALUES ('calls', '2025-03-28', 1)"
            ),
        )
        assert (staging.deduplicate().received, staging.row_counts.unplaced.total()) == (2, 1)
    assert query("SELECT held FROM magnetis_ops.strays") == [(1,)]


def test_a_value_that_the_driver_rejects_is_not_reported_as_an_unreachable_database(
    engine: Any,
) -> None:
    def load() -> None:
        with (
            guarded(engine, "load a page"),
            engine.connect() as connection,
            driver_of(connection).cursor() as cursor,
        ):
            copy_rows(cursor, "incoming", {"value": "text"}, [("Jeanne\0",)])

    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE incoming (value text)"))
    with pytest.raises(DatabaseRefused, match="a value does not fit its column") as caught:
        load()
    assert "reached" not in str(caught.value)
    assert "Jeanne" not in str(caught.value)
