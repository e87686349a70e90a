"""Masks rows where they are: in the tables, their histories, quarantine and staging.

The caller holds the lock of the rows' writers (merge_lock.py): ctid identifies a row until its
transaction updates it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, text

from magnetis_dagster.catalog import Collection, ColumnType, PersonalData
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.database import driver_of
from magnetis_dagster.exact_json import dump_json
from magnetis_dagster.privacy.masking import MaskedRow, Row, RowMasker
from magnetis_dagster.privacy.value_masking import Classes
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.copying import copy_rows
from magnetis_dagster.warehouse.masking import Masking, State
from magnetis_dagster.warehouse.schema import (
    DATA_SCHEMA,
    OPS_SCHEMA,
    declared_types,
    history_name,
    privacy_types,
    staged_types,
)

BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Target:
    """A table whose rows belong to one collection."""

    table: str
    """Its name with schema."""
    collection: Collection
    columns: Mapping[str, str]
    """Names in the table of the collection's columns and of those about personal data. Empty: the
    table contains only the payload."""
    day: str
    """SQL for the local day of a row `t`, or NULL; `:zone` is the time zone."""
    scope: str = "t.connection = :connection"
    is_present: str = "true"
    """SQL condition that a row `t` is what the API returned last."""
    key: str = "id"
    """Column by which the table is read in parts."""
    joined: str = ""
    """Another table that conditions may use, as an SQL join with `t`."""


def table_of(collection: Collection) -> Target:
    """Return the table of a collection."""
    # the present state of an object has no age
    day = "t.day" if collection.is_events else "CAST(NULL AS date)"
    return Target(f"{DATA_SCHEMA}.{collection.name}", collection, _own_names(collection), day)


def history_of(collection: Collection) -> Target:
    """Return the history of a snapshot collection; a version has the age of its end."""
    day = "CAST(t.valid_to AT TIME ZONE :zone AS date)"
    table = f"{DATA_SCHEMA}.{history_name(collection)}"
    return Target(table, collection, _own_names(collection), day, is_present="t.valid_to IS NULL")


def tables_with_rows(collection: Collection) -> list[Target]:
    """Return the table of a collection, and its history if it has one."""
    table = table_of(collection)
    return [table] if collection.is_events else [table, history_of(collection)]


def staging_of(collection: Collection) -> Target:
    """Return the staging table of a window."""
    names = zip(_own_names(collection), staged_types(collection), strict=True)
    day = "t.day" if collection.is_events else "CAST(NULL AS date)"
    return Target("incoming", collection, dict(names), day, scope="true")


def quarantine_of(collection: Collection) -> Target:
    """Return the quarantined rows of a collection; a row has the age of its last read."""
    day = "CAST(t.last_seen_at AT TIME ZONE :zone AS date)"
    scope = f"t.connection = :connection AND t.collection = '{collection.name}'"
    return Target(f"{OPS_SCHEMA}.quarantine", collection, {}, day, scope, key="key")


def places_of(collection: Collection) -> list[Target]:
    """Return every table that contains rows of a collection."""
    return [*tables_with_rows(collection), quarantine_of(collection)]


def person_condition(target: Target) -> str:
    """Return the SQL condition that a row `t` is about a person with one of the keys `:keys`.

    The quarantine has no caller keys: the condition is true for all of its rows.
    """
    if not target.columns:
        return "true"
    keys = "CAST(:keys AS text[])"
    own = [f"t.{key} = ANY({keys})" for key in target.collection.key_columns.values()]
    return " OR ".join([*own, f"t.mentioned_keys && {keys}"])


def _own_names(collection: Collection) -> dict[str, str]:
    return {name: name for name in (*declared_types(collection), *privacy_types(collection))}


@dataclass(slots=True)
class Masked:
    """Counts of masked rows."""

    read: int = 0
    """Rows that were examined."""
    changed: int = 0
    """Rows with any change, caller keys included."""
    classes: Counter[PersonalData] = field(default_factory=Counter)
    """Class to the number of rows with a value that was masked."""

    def add(self, other: "Masked") -> None:
        """Add the counts of `other`."""
        self.read += other.read
        self.changed += other.changed
        self.classes += other.classes


class RowReader:
    """Reads rows of one table and composes the records to write."""

    def __init__(
        self,
        target: Target,
        zone: ZoneInfo,
        undeclared: Sequence[str] = (),
        inherited: Classes = frozenset(),
    ) -> None:
        """`undeclared` and `inherited`: see `RowRewriter.mask`."""
        collection = self.collection = target.collection
        self._inherited = inherited
        self._clears = bool(undeclared)
        self._parser = RowParser(collection, response_zone=zone, partition_zone=zone)
        self._names = list(collection.columns) if target.columns else []
        self._blank = dict.fromkeys(collection.columns)
        self._json = {
            name for name, each in collection.columns.items() if each.type is ColumnType.JSON
        }
        self._keys = dict(collection.key_columns) if target.columns else {}
        own = declared_types(collection) | privacy_types(collection) if target.columns else {}
        written = {target.columns[name]: type_ for name, type_ in own.items()}
        self._own = list(own)
        self.types = {"_at": "text", "payload": "jsonb"} | written
        if undeclared:
            self.types["_masked"] = "boolean"
        declarations = ", ".join(f'"{name}" {type_}' for name, type_ in self.types.items())
        self.create_table = f"CREATE TEMPORARY TABLE masked_rows ({declarations})"
        # JSON as text, as the row parser returns it
        selected = "".join(
            f', CAST(t."{target.columns[name]}" AS text)'
            if name in self._json
            else f', t."{target.columns[name]}"'
            for name in self._own
        )
        self._selected = (
            f"SELECT CAST(t.ctid AS text) AS at, t.payload AS payload, {target.day} AS row_day"
            f"{selected}"
        )
        self._from = f" FROM {target.table} AS t {target.joined} WHERE {target.scope}"
        cleared = "".join(
            f', "{name}" = CASE WHEN NOT m._masked THEN t."{name}" END' for name in undeclared
        )
        names = [name for name in self.types if name not in {"_at", "_masked"}]
        assignments = ", ".join(f'"{name}" = m."{name}"' for name in names)
        self.update = (
            f"UPDATE {target.table} AS t SET {assignments}{cleared} FROM masked_rows AS m "
            "WHERE t.ctid = CAST(m._at AS tid)"
        )
        self._first_key = len(self._names)

    @property
    def select(self) -> str:
        """The statement that selects the rows; a condition may follow."""
        return self._selected + self._from

    def select_with(self, *more: str) -> str:
        """Return the statement with more columns, which follow the others."""
        return "".join([self._selected, *(f', t."{name}"' for name in more), self._from])

    def row(self, stored: Sequence[Any]) -> Row:
        """Return a selected row as a Row."""
        payload, own = stored[1], stored[3 : 3 + len(self._own)]
        if not own:
            return self.parse(payload)
        columns = dict(zip(self._names, own, strict=False))
        privacy = dict(zip(self._own[self._first_key :], own[self._first_key :], strict=True))
        return Row(
            columns,
            payload,
            {name: privacy[key] for name, key in self._keys.items()},
            _classes(privacy["masked"]) | self._inherited,
            _classes(privacy["payload_masked"]),
        )

    def parse(self, payload: Any) -> Row:
        """Return a quarantined payload as a Row: its columns identify the person."""
        if not isinstance(payload, dict):
            return Row(self._blank, payload)
        columns = self._parser.read_all([payload]).columns
        return Row(
            {name: each[0] for name, each in zip(self._blank, columns, strict=True)}, payload
        )

    def record(
        self, stored: Sequence[Any], before: Row, masked: MaskedRow
    ) -> tuple[Any, ...] | None:
        """Return the record to write, or None if nothing changed."""
        after = masked.row
        if not self._own:
            same = after.payload is before.payload
            return None if same else self.values(stored, masked)
        new = privacy_values(self.collection, masked)
        if (
            after.payload is before.payload
            and all(after.columns[name] is before.columns[name] for name in self._names)
            and new == list(stored[3 + self._first_key : 3 + len(self._own)])
        ):
            return None
        return self.values(stored, masked)

    def values(self, stored: Sequence[Any], masked: MaskedRow) -> tuple[Any, ...]:
        """Return the values of the columns in `types`."""
        after = masked.row
        columns = (after.columns[name] for name in self._names)
        new = privacy_values(self.collection, masked) if self._own else []
        marks = [bool(masked.changed)] if self._clears else []
        return (stored[0], dump_json(after.payload), *columns, *new, *marks)


class RowRewriter:
    """Masks rows of one connection in place, in the caller's transaction.

    `state`: today, and the erased persons.
    """

    def __init__(
        self,
        connection: Connection,
        masking: Masking,
        state: State,
        progress: Callable[[int], None] = lambda _read: None,
        *,
        staged: Collection | None = None,
        keys_only: bool = False,
    ) -> None:
        """`progress` receives the number of rows examined so far in one call.

        `staged`: the collection of the rows in `incoming`, which count as contacts too.
        `keys_only`: compute caller keys, and mask nothing.
        """
        self._staged = staged
        self._keys_only = keys_only
        self._progress = progress
        self.connection = connection
        self._masking = masking
        self._state = state

    def mask(
        self,
        target: Target,
        condition: str,
        parameters: Mapping[str, object] = MappingProxyType({}),
        *,
        inherited: Classes = frozenset(),
        clears_undeclared: bool = False,
    ) -> Masked:
        """Mask the rows that meet an SQL condition on `t`; return the counts.

        `parameters`: those of the condition.

        `inherited`: classes that are masked in each row, whatever the plan. `clears_undeclared`:
        set columns of earlier declarations to NULL in rows of which a value is masked.
        """
        undeclared: list[str] = []
        if clears_undeclared and target.columns:
            _, _, table = target.table.rpartition(".")
            compared = compare_columns(self.connection, target.collection).undeclared
            undeclared = [column.name for column in compared if column.table == table]
        reader = RowReader(target, self._masking.zone, undeclared, inherited)
        result = Masked()
        self.connection.execute(text(reader.create_table))
        statement = text(f"{reader.select} AND ({condition})")
        used = self.parameters(statement.text)
        streaming = {"stream_results": True, "yield_per": BATCH}
        with self.connection.execute(
            statement, {**used, **parameters}, execution_options=streaming
        ) as found:
            for batch in found.partitions(BATCH):
                result.add(self._mask_batch(reader, batch))
                self._progress(result.read)
        self.connection.execute(text("DROP TABLE pg_temp.masked_rows"))
        return result

    def parameters(self, statement: str) -> dict[str, str]:
        """Return the values of `:connection` and `:zone`, if a statement contains them."""
        known = {"connection": self._masking.connection_name, "zone": self._masking.zone.key}
        return {name: value for name, value in known.items() if f":{name}" in statement}

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of days."""
        return self._masking.zone

    def masker(self, collection: Collection) -> RowMasker:
        """Return the masker of a collection's rows."""
        if self._keys_only:
            return self._masking.key_masker(collection)
        return self._masking.masker(collection)

    def _mask_batch(self, reader: RowReader, batch: Sequence[Any]) -> Masked:
        rows = [reader.row(each) for each in batch]
        days = [each.row_day for each in batch]
        result = Masked(read=len(batch))
        records = []
        for stored, row, masked in zip(
            batch, rows, self.mask_parsed(reader.collection, rows, days), strict=True
        ):
            record = reader.record(stored, row, masked)
            if record is not None:
                records.append(record)
                result.classes.update(masked.changed - {PersonalData.NONE})
        if records:
            with driver_of(self.connection).cursor() as cursor:
                copy_rows(cursor, "masked_rows", reader.types, records)
            # otherwise the planner reads the whole table for each batch
            self.connection.execute(text("ANALYZE pg_temp.masked_rows"))
            self.connection.execute(text(reader.update))
            self.connection.execute(text("TRUNCATE pg_temp.masked_rows"))
        result.changed = len(records)
        return result

    def mask_parsed(
        self, collection: Collection, rows: Sequence[Row], days: Sequence[date | None]
    ) -> Iterator[MaskedRow]:
        """Yield the masked rows; `days` are their local days."""
        masker = self.masker(collection)
        contacts = self._last_contacts(collection, rows, days)
        for row, day in zip(rows, days, strict=True):
            last = None
            if contacts and day is not None:
                last = max(
                    (contacts[k] for k in masker.contact_keys(row) & contacts.keys()), default=None
                )
            yield masker.mask(
                row,
                today=self._state.today,
                row_day=day,
                last_contact=last,
                suppressed=frozenset() if self._keys_only else self._state.suppressed,
            )

    def _last_contacts(
        self, collection: Collection, rows: Sequence[Row], days: Sequence[date | None]
    ) -> dict[str, date]:
        """Return by caller key the last day with an event, for rows that a rule counts it for."""
        masker = self.masker(collection)
        cutoff = masker.contact_cutoff(self._state.today)
        if cutoff is None:
            return {}
        keys: set[str] = set()
        for row, day in zip(rows, days, strict=True):
            if day is not None and day <= cutoff:
                keys |= masker.contact_keys(row)
        return self.last_contacts(keys)

    def last_contacts(self, keys: Iterable[str]) -> dict[str, date]:
        """Return the last day with an event by caller key; of any secret, equal for a person."""
        wanted = list(keys)
        statement = last_contact_sql(self._masking, self._staged)
        if not wanted or not statement:
            return {}
        found = self.connection.execute(
            text(statement), {"connection": self._masking.connection_name, "keys": wanted}
        )
        return dict(map(tuple, found))


def contact_columns(masking: Masking) -> list[tuple[Collection, str]]:
    """Return the columns of events for caller keys of callers and contacts."""
    return [
        (collection, key)
        for collection in masking.catalogue.collections.values()
        if collection.is_events
        for name, key in collection.key_columns.items()
        if collection.columns[name].personal_data is not PersonalData.STAFF_RECIPIENT
    ]


def last_contact_sql(masking: Masking, staged: Collection | None = None) -> str:
    """Return SQL that selects caller key and last day for `:keys`; of staged rows too."""
    parts = [
        f"SELECT {key} AS person, day FROM {DATA_SCHEMA}.{collection.name} "
        f"WHERE connection = :connection AND {key} = ANY(CAST(:keys AS text[]))"
        for collection, key in contact_columns(masking)
    ]
    if staged is not None:
        parts += [
            f"SELECT p_{key} AS person, day FROM incoming "
            f"WHERE reason IS NULL AND p_{key} = ANY(CAST(:keys AS text[]))"
            for collection, key in contact_columns(masking)
            if collection.name == staged.name
        ]
    if not parts:
        return ""
    return f"SELECT person, max(day) FROM ({' UNION ALL '.join(parts)}) AS c GROUP BY person"


def privacy_values(collection: Collection, masked: MaskedRow) -> list[Any]:
    """Return the values of the columns in `schema.privacy_types`; NULL for an empty list."""
    row = masked.row
    return [
        *(row.keys.get(name) for name in collection.key_columns),
        sorted(row.masked) or None,
        sorted(row.payload_masked) or None,
        list(masked.mentions) or None,
    ]


def _classes(stored: list[str] | None) -> frozenset[PersonalData]:
    return frozenset(map(PersonalData, stored or ()))
