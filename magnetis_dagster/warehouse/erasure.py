"""Find and erase a person in every table.

An erasure masks rows and deletes none, so counts and completed days stay correct. It is recorded,
and the person suppressed, before the first change. Each place is masked and recorded in one
transaction, so an interrupted erasure resumes with the next place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import TYPE_CHECKING

import zstandard
from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import fetch, guarded
from magnetis_dagster.exact_json import BrokenJson, load_json
from magnetis_dagster.warehouse.masking import Masking, compare_keys
from magnetis_dagster.warehouse.merge_lock import LONGEST_WAIT, wait_for_turn
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.retention import require_keyed
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, OPS_SCHEMA, data_metadata
from magnetis_dagster.warehouse.stored_rows import (
    RowReader,
    RowRewriter,
    Target,
    person_condition,
    places_of,
    tables_with_rows,
)

if TYPE_CHECKING:
    from magnetis_dagster.warehouse.warehouse import Warehouse

_QUERIES = Queries("erasures")
_LOCK = 0x6D61676E_65726173
"""Advisory lock: one process at a time completes erasures."""
PAGES = f"{OPS_SCHEMA}.pages"
Persons = Mapping[str, frozenset[str]]
"""Connection to the caller keys of a person, of all secrets."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Rows about a person in one table."""

    connection: str
    table: str
    """With its schema."""
    column: str
    """The column with the number or address; `text` for any other text of the row."""
    rows: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """A recorded erasure."""

    id: int
    requested_at: datetime
    reason: str
    expires_on: date | None
    completed_at: datetime | None
    places: list[tuple[str, str, int]] = field(default_factory=list)
    """Connection, table and number of rows that were masked."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One suppression, as exported for a database that is restored from an older backup."""

    requested_at: datetime
    reason: str
    connection: str
    person_key: str
    expires_on: date | None


def connections_with_rows(engine: Engine) -> dict[str, bool]:
    """Return whether each connection with rows belongs to a component, which knows its tables."""
    found = fetch(engine, "read the connections", _QUERIES["connections"])
    return {row.name: row.of_component for row in found}


def find(
    engine: Engine,
    warehouses: Mapping[str, Warehouse],
    persons: Persons,
    progress: Progress = lambda _line: None,
) -> list[Place]:
    """Return the places with rows about a person, and their number of rows.

    First computes missing caller keys, and masks those rows by the plan.
    """
    for name in persons:
        compare_keys(engine, warehouses[name].masking.protection.require_keys(), only_used=True)
        require_keyed(warehouses[name], progress)
    found: list[Place] = []
    with guarded(engine, "search for a person"), engine.connect() as connection:
        for name, keys in persons.items():
            masking = warehouses[name].masking
            for collection in masking.catalogue.collections.values():
                for target in places_of(collection):
                    found += _find_in(connection, masking, target, keys)
            pages = len(_pages_about(connection, masking, keys))
            found.append(Place(name, PAGES, "text", pages))
    return [place for place in found if place.rows]


def unknown_tables(engine: Engine, catalogues: Iterable[Catalogue]) -> list[str]:
    """Return the tables of the schema magnetis that no catalogue declares."""
    known = {
        table.name for catalogue in catalogues for table in data_metadata(catalogue).tables.values()
    }
    found = fetch(engine, "read the tables", _QUERIES["data_tables"])
    return [f"{DATA_SCHEMA}.{name}" for (name,) in found if name not in known]


def _find_in(
    connection: Connection, masking: Masking, target: Target, keys: frozenset[str]
) -> Iterator[Place]:
    collection, name = target.collection, masking.connection_name
    parameters = {"connection": name, "keys": list(keys)}
    if not target.columns:
        rows = connection.execute(
            text(f"SELECT t.payload FROM {target.table} AS t WHERE {target.scope}"),
            {"connection": name},
            execution_options={"stream_results": True, "yield_per": 1_000},
        )
        masker, reader = masking.masker(collection), RowReader(target, masking.zone)
        found = sum(
            not keys.isdisjoint(masker.persons_in(reader.parse(payload))) for (payload,) in rows
        )
        yield Place(name, target.table, "payload", found)
        return
    counts = {
        column: f"count(*) FILTER (WHERE t.{key} = ANY(CAST(:keys AS text[])))"
        for column, key in collection.key_columns.items()
    }
    counts["text"] = "count(*) FILTER (WHERE t.mentioned_keys && CAST(:keys AS text[]))"
    statement = (
        f"SELECT {', '.join(counts.values())} FROM {target.table} AS t "
        f"WHERE {target.scope} AND ({person_condition(target)})"
    )
    numbers = connection.execute(text(statement), parameters).one()
    for column, rows in zip(counts, tuple(numbers), strict=True):
        yield Place(name, target.table, column, rows)


def record(
    engine: Engine,
    persons: Persons,
    reason: str,
    expires_on: date | None = None,
    requested_at: datetime | None = None,
) -> int:
    """Record an erasure and suppress the person, in one transaction; return the erasure's id."""
    with guarded(engine, "record an erasure"), engine.begin() as connection:
        erasure = connection.execute(
            _QUERIES["insert_erasure"],
            {"reason": reason, "expires_on": expires_on, "requested_at": requested_at},
        ).scalar_one()
        connection.execute(
            _QUERIES["suppress"],
            [
                {
                    "connection": name,
                    "person_key": key,
                    "erasure": erasure,
                    "expires_on": expires_on,
                }
                for name, keys in persons.items()
                for key in sorted(keys)
            ],
        )
    return int(erasure)


def complete_erasures(
    engine: Engine,
    warehouses: Mapping[str, Warehouse],
    progress: Progress = lambda _line: None,
    *,
    wait: bool = True,
) -> list[int]:
    """Mask every place of the erasures that are not complete; return the ids of those.

    `warehouses`: of connections, each with its own catalogue, by name. An erasure that concerns
    further connections stays incomplete. `wait`: wait for another process that does the same;
    otherwise return nothing.

    Raises: MissingPrivacyKey, WrongPrivacyKey, DatabaseUnavailable, DatabaseRefused.
    """
    with guarded(engine, "complete an erasure"), engine.connect() as session:
        if not session.execute(_QUERIES["unfinished"]).first():
            return []
        lock = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
        session.execute(text(f"SET lock_timeout = '{LONGEST_WAIT}'"))
        if session.execute(text(f"SELECT {lock}(:lock)"), {"lock": _LOCK}).scalar() is False:
            return []
        session.commit()
        try:
            erasures = list(session.execute(_QUERIES["unfinished"]).scalars())
            session.commit()
            for erasure in erasures:
                _complete(engine, erasure, warehouses, progress)
        finally:
            # ends the session, its lock and its limit
            session.invalidate()
    return erasures


def _complete(
    engine: Engine, erasure: int, warehouses: Mapping[str, Warehouse], progress: Progress
) -> None:
    parameters = {"erasure": erasure}
    with engine.connect() as connection:
        persons: dict[str, set[str]] = {}
        for name, key in connection.execute(_QUERIES["persons_of"], parameters):
            persons.setdefault(name, set()).add(key)
        done = {tuple(row) for row in connection.execute(_QUERIES["done_places"], parameters)}
    is_complete = True
    for name, keys in persons.items():
        if name not in warehouses:
            is_complete = False
            continue
        warehouse = warehouses[name]
        require_keyed(warehouse, progress)
        masking = warehouse.masking
        for collection in masking.catalogue.collections.values():
            for target in tables_with_rows(collection):
                if (name, target.table) not in done:
                    rows = _erase_in(engine, masking, [target], keys, erasure, target.table)
                    if rows:
                        progress(f"{target.table}: {rows} rows masked")
        quarantine = [
            places_of(collection)[-1] for collection in masking.catalogue.collections.values()
        ]
        place = quarantine[0].table if quarantine else ""
        if place and (name, place) not in done:
            _erase_in(engine, masking, quarantine, keys, erasure, place)
        if (name, PAGES) not in done:
            with engine.begin() as connection:
                rows = _delete_pages(connection, masking, frozenset(keys))
                _record_step(connection, erasure, name, PAGES, rows)
    if is_complete:
        with engine.begin() as connection:
            connection.execute(_QUERIES["complete"], parameters)


def _erase_in(
    engine: Engine,
    masking: Masking,
    targets: list[Target],
    keys: set[str],
    erasure: int,
    place: str,
) -> int:
    """Mask the rows about a person in one table, and record the step.

    One transaction per collection: two transactions that wait for the locks of several collections
    could wait for each other.
    """
    rows = 0
    for number, target in enumerate(targets, start=1):
        with engine.begin() as connection:
            wait_for_turn(connection, target.collection, masking.connection_name)
            state = masking.state(connection)
            # whatever its end: the erasure was requested
            state = replace(state, suppressed=state.suppressed | keys)
            rewriter = RowRewriter(connection, masking, state)
            condition = person_condition(target)
            parameters = {"keys": list(keys)} if ":keys" in condition else {}
            rows += rewriter.mask(target, condition, parameters, clears_undeclared=True).changed
            if number == len(targets):
                _record_step(connection, erasure, masking.connection_name, place, rows)
    return rows


def _record_step(connection: Connection, erasure: int, name: str, place: str, rows: int) -> None:
    connection.execute(
        _QUERIES["record_step"],
        {"erasure": erasure, "connection": name, "place": place, "rows": rows},
    )


def _pages_about(connection: Connection, masking: Masking, keys: frozenset[str]) -> list[str]:
    """Return the places of the cached pages that mention a person."""
    found = connection.execute(
        _QUERIES["pages"],
        {"connection": masking.connection_name},
        execution_options={"stream_results": True, "yield_per": 50},
    )
    return [at for at, body in found if not keys.isdisjoint(_persons_in_page(body, masking))]


def _persons_in_page(body: bytes, masking: Masking) -> frozenset[str]:
    page = zstandard.decompress(body)
    try:
        content, _ = load_json(page)
    except BrokenJson:
        return masking.persons.persons_in(page.decode(errors="replace"))
    found: set[str] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif value is not None and not isinstance(value, bool):
            found |= masking.persons.persons_in(str(value))
    return frozenset(found)


def _delete_pages(connection: Connection, masking: Masking, keys: frozenset[str]) -> int:
    places = _pages_about(connection, masking, keys)
    if places:
        connection.execute(_QUERIES["delete_pages"], {"places": places})
    return len(places)


def delete_pages_of_suppressed(warehouse: Warehouse) -> int:
    """Delete the cached pages that mention an erased person; return their number."""
    engine, masking = warehouse.engine, warehouse.masking
    with guarded(engine, "delete cached pages"), engine.begin() as connection:
        suppressed = masking.state(connection).suppressed
        return _delete_pages(connection, masking, suppressed) if suppressed else 0


def read_erasure(engine: Engine, erasure: int) -> Erasure:
    """Return a recorded erasure."""
    rows = fetch(engine, "read an erasure", _QUERIES["report"], {"erasure": erasure})
    first = rows[0]
    places = [(row.connection, row.place, row.rows) for row in rows if row.place]
    return Erasure(
        erasure, first.requested_at, first.reason, first.expires_on, first.completed_at, places
    )


def suppressed_rows(warehouse: Warehouse) -> dict[str, int]:
    """Return the number of rows by table that are about an erased person."""
    engine, masking = warehouse.engine, warehouse.masking
    found: dict[str, int] = {}
    with guarded(engine, "search for erased persons"), engine.connect() as connection:
        suppressed = masking.state(connection).suppressed
        connection.commit()
        if not suppressed:
            return {}
    name = masking.connection_name
    for place in find(engine, {name: warehouse}, {name: suppressed}):
        found[place.table] = found.get(place.table, 0) + place.rows
    return found


def journal(engine: Engine) -> list[JournalEntry]:
    """Return all suppressions, to be replayed after a restore of an older backup."""
    rows = fetch(engine, "read the erasures", _QUERIES["journal"])
    return [JournalEntry(*row) for row in rows]


def _ends_later(one: date | None, other: date | None) -> bool:
    """Return whether a suppression ends when another one does, or later."""
    return one is None or (other is not None and one >= other)


def replay(engine: Engine, entries: list[JournalEntry]) -> list[int]:
    """Record the erasures of a journal that the database lacks; return their ids.

    Call `complete_erasures` afterwards.
    """
    known = {(each.connection, each.person_key): each.expires_on for each in journal(engine)}
    missing: dict[tuple[datetime, str, date | None], dict[str, set[str]]] = {}
    for each in entries:
        person = each.connection, each.person_key
        if person in known and _ends_later(known[person], each.expires_on):
            continue
        erasure = (each.requested_at, each.reason, each.expires_on)
        missing.setdefault(erasure, {}).setdefault(each.connection, set()).add(each.person_key)
    return [
        record(
            engine,
            {name: frozenset(keys) for name, keys in persons.items()},
            reason,
            expires_on,
            requested_at,
        )
        for (requested_at, reason, expires_on), persons in missing.items()
    ]
