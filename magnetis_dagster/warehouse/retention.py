"""Mask the rows of one connection that have reached an age of the plan.

Received rows are masked on arrival, so a run masks only the days that have passed a limit since
the last run. After a change of the plan, of a declaration or of the active secret, a run masks all
rows again, in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Collection, PersonalData
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.masking import QUERIES, Masking
from magnetis_dagster.warehouse.merge_lock import wait_for_turn
from magnetis_dagster.warehouse.schema import DATA_SCHEMA
from magnetis_dagster.warehouse.stored_rows import (
    Masked,
    RowRewriter,
    Target,
    contact_columns,
    places_of,
    tables_with_rows,
)

if TYPE_CHECKING:
    from magnetis_dagster.warehouse.warehouse import Warehouse

PART = 20_000
"""Rows of one transaction, if all rows are masked again: loads wait for it."""
CHECKED_DAYS = 31
"""Days before each limit in which `overdue` searches for values."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class Retained:
    """The result of one run for one collection."""

    collection: str
    masked: Masked = field(default_factory=Masked)
    is_complete_pass: bool = False
    """Whether all rows were examined, because a rule or a secret has changed."""


def retain(warehouse: Warehouse, progress: Progress = lambda _line: None) -> list[Retained]:
    """Mask the rows that are old enough, in all collections; return the counts of each.

    Raises: MissingPrivacyKey, WrongPrivacyKey, DatabaseUnavailable, DatabaseRefused.
    """
    warehouse.prepare(progress)
    return [
        retain_collection(warehouse, collection, progress)
        for collection in warehouse.catalogue.collections.values()
    ]


def retain_collection(
    warehouse: Warehouse, collection: Collection, progress: Progress = lambda _line: None
) -> Retained:
    """Mask the rows of one collection that are old enough."""
    masking = warehouse.masking
    digest = masking.protection.rules_digest(collection)
    keyed = masking.protection.keys_digest(collection)
    names = {"connection": warehouse.connection_name, "collection": collection.name}
    result = Retained(collection.name)
    with guarded(warehouse.engine, f"mask rows of {collection.name}"):
        with warehouse.engine.begin() as connection:
            found = connection.execute(QUERIES["retained"], names).one_or_none()
            today = masking.state(connection).today
        if found is None or found.rules != digest or found.masked_on is None:
            result.is_complete_pass = True
            for target in places_of(collection):
                _mask_all(warehouse, target, result.masked, progress)
            after = None
        else:
            after = found.masked_on
        with warehouse.engine.begin() as connection:
            wait_for_turn(connection, collection, warehouse.connection_name)
            state = masking.state(connection)
            if after is not None and after < state.today:
                for target in places_of(collection):
                    result.masked.add(_mask_due(connection, masking, target, after))
                today = state.today
            # a clock that was ahead must not hide days that were not masked yet
            connection.execute(
                QUERIES["record_retention"],
                names | {"keyed": keyed, "rules": digest, "masked_on": today},
            )
    return result


def is_keyed(warehouse: Warehouse, collection: Collection) -> bool:
    """Return whether all rows of a collection have caller keys of the active secret."""
    names = {"connection": warehouse.connection_name, "collection": collection.name}
    digest = warehouse.masking.protection.keys_digest(collection)
    with guarded(warehouse.engine, "read the retention"), warehouse.engine.connect() as connection:
        found = connection.execute(QUERIES["retained"], names).one_or_none()
    return found is not None and found.keyed == digest


def require_keyed(warehouse: Warehouse, progress: Progress = lambda _line: None) -> None:
    """Compute the caller keys of rows that have none, in all collections; mask nothing."""
    for collection in warehouse.catalogue.collections.values():
        if is_keyed(warehouse, collection):
            continue
        names = {"connection": warehouse.connection_name, "collection": collection.name}
        digest = warehouse.masking.protection.keys_digest(collection)
        with guarded(warehouse.engine, f"compute the caller keys of {collection.name}"):
            for target in tables_with_rows(collection):
                _mask_all(warehouse, target, Masked(), progress, keys_only=True)
            with warehouse.engine.begin() as connection:
                connection.execute(QUERIES["record_keys"], names | {"keyed": digest})


def _mask_all(
    warehouse: Warehouse,
    target: Target,
    total: Masked,
    progress: Progress,
    *,
    keys_only: bool = False,
) -> None:
    """Mask all rows of a table, in transactions of PART rows."""
    masking, after = warehouse.masking, ""
    last_of_part = text(
        f"SELECT max({target.key}) FROM (SELECT t.{target.key} FROM {target.table} AS t "
        f"WHERE {target.scope} AND t.{target.key} > :after "
        f"ORDER BY t.{target.key} LIMIT {PART}) AS part"
    )
    names = {"connection": masking.connection_name}
    while True:
        with warehouse.engine.begin() as connection:
            wait_for_turn(connection, target.collection, masking.connection_name)
            last = connection.execute(last_of_part, names | {"after": after}).scalar()
            if last is None:
                return
            state = masking.state(connection)
            rewriter = RowRewriter(connection, masking, state, keys_only=keys_only)
            part = rewriter.mask(
                target,
                f"t.{target.key} > :after AND t.{target.key} <= :last",
                {"after": after, "last": last},
                clears_undeclared=not keys_only,
            )
        total.add(part)
        after = last
        progress(f"{target.table}: {total.read} rows examined, {total.changed} changed")


def _mask_due(connection: Connection, masking: Masking, target: Target, after: date) -> Masked:
    """Mask the rows that passed a limit since the run on the local day `after`."""
    state = masking.state(connection)
    if target.day.startswith("CAST(NULL"):
        return Masked()
    by_row, by_contact = masking.masker(target.collection).ages()
    rewriter = RowRewriter(connection, masking, state)
    conditions: list[str] = []
    parameters: dict[str, object] = {}
    for number, age in enumerate([*by_row, *by_contact]):
        conditions.append(f"({target.day} > :from{number} AND {target.day} <= :to{number})")
        parameters |= {f"from{number}": age.cutoff(after), f"to{number}": age.cutoff(state.today)}
    own = " OR ".join(
        f"t.{key} = ANY(CAST(:keys{{0}} AS text[]))"
        for collection, key in contact_columns(masking)
        if collection.name == target.collection.name
    )
    for number, age in enumerate(by_contact if own and target.columns else []):
        first, last = age.cutoff(after), age.cutoff(state.today)
        if keys := _lost_contacts(connection, masking, rewriter, first, last):
            conditions.append(f"({target.day} <= :contact{number} AND ({own.format(number)}))")
            parameters |= {f"keys{number}": keys, f"contact{number}": last}
    condition = " OR ".join(conditions) or "false"
    return rewriter.mask(target, condition, parameters, clears_undeclared=True)


def _lost_contacts(
    connection: Connection, masking: Masking, rewriter: RowRewriter, after: date, last: date
) -> list[str]:
    """Return the caller keys whose last event is after one day and not after another one."""
    parts = [
        f"SELECT {key} AS person FROM {DATA_SCHEMA}.{collection.name} "
        f"WHERE connection = :connection AND day > :after AND day <= :last AND {key} IS NOT NULL"
        for collection, key in contact_columns(masking)
    ]
    if not parts:
        return []
    found = connection.execute(
        text(f"SELECT DISTINCT person FROM ({' UNION ALL '.join(parts)}) AS p"),
        {"connection": masking.connection_name, "after": after, "last": last},
    )
    contacts = rewriter.last_contacts(found.scalars())
    return [key for key, day in contacts.items() if day <= last]


def overdue(warehouse: Warehouse, collection: Collection) -> dict[PersonalData, int]:
    """Return the number of rows by class with a value that retention should have masked.

    Searches the columns of rows whose day is at most CHECKED_DAYS before a limit.
    """
    masking = warehouse.masking
    masker = masking.masker(collection)
    if not collection.is_events:
        return {}
    counts = {}
    with guarded(warehouse.engine, "search for old values"), warehouse.engine.connect() as found:
        today = masking.state(found).today
        found.commit()
        for data_class, cutoff in masker.row_cutoffs(today).items():
            columns = masker.columns_of(data_class)
            if not columns:
                continue
            filled = " OR ".join(f'"{name}" IS NOT NULL' for name in columns)
            statement = (
                f"SELECT count(*) FROM {DATA_SCHEMA}.{collection.name} "
                "WHERE connection = :connection AND day > :after AND day <= :last "
                f"AND ({filled}) AND NOT coalesce(masked @> ARRAY[:class], false)"
            )
            number = found.execute(
                text(statement),
                {
                    "connection": warehouse.connection_name,
                    "after": cutoff - timedelta(days=CHECKED_DAYS),
                    "last": cutoff,
                    "class": str(data_class),
                },
            ).scalar_one()
            if number:
                counts[data_class] = int(number)
    return counts
