"""The one transaction in which a window becomes visible: rows, deletions, history, quarantine, counts and "this day is done".

Loads of one collection merge one after the other (advisory lock), and a read that began before a newer one that is already
committed gives way to it day by day, so that two loads of a day at once end like the newer of them alone.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import Connection, TextClause, func, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import TryAgain
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.pages import forget_committed
from magnetis_dagster.warehouse.staging import Tally
from magnetis_dagster.warehouse.tables import DATA_SCHEMA, history_name, windows

_LOCK_CLASS = 0x6D67
"""First half of the advisory locks of merges; the second is a checksum of the collection's name."""


class Incomplete(TryAgain):
    """What the API announced is not what was received or held; nothing was written."""


class Emptied(StrEnum):
    """What to make of a whole day (of a snapshot: the whole collection) that answers empty after having held rows."""

    DOUBT = "doubt"
    """Believe nothing: it may be the vendor's retention, or a key with less scope. The rows stay, the day is reported."""
    KEEP = "keep"
    """The vendor's retention: the rows stay, the day is done."""
    DELETE = "delete"
    """They are gone: `deleted_at` is set."""


_READS = text("""
    INSERT INTO magnetis_ops.day_reads (window_id, day, age_days, first_read, held, inserted, changed, deleted)
    VALUES (:window, :day, :age_days, :first_read, :held, :inserted, :changed, :deleted)
""")
_QUARANTINE = text("""
    INSERT INTO magnetis_ops.quarantine AS q (collection, key, reason, payload, window_id, first_seen_at, last_seen_at)
    SELECT :collection, key, reason, payload, :window, :read_at, :read_at FROM incoming WHERE reason IS NOT NULL
    ON CONFLICT (collection, key) DO UPDATE SET reason = excluded.reason, payload = excluded.payload,
        window_id = excluded.window_id, last_seen_at = excluded.last_seen_at
""")
_RELEASE = text("""
    DELETE FROM magnetis_ops.quarantine AS q USING incoming AS s
    WHERE q.collection = :collection AND q.key = s.key AND s.reason IS NULL
""")
_KNOWN = text("SELECT day FROM magnetis_ops.days WHERE collection = :collection AND day = ANY(:days)")
_DAYS = text("""
    INSERT INTO magnetis_ops.days AS d (collection, day, window_id, read_at, announced, held, run_id)
    VALUES (:collection, :day, :window, :read_at, :announced, :held, :run_id)
    ON CONFLICT (collection, day) DO UPDATE SET window_id = excluded.window_id, read_at = excluded.read_at,
        announced = excluded.announced, held = excluded.held, run_id = excluded.run_id
""")


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What the reading of a window found, written to `magnetis_ops.windows` as it is."""

    days: Sequence[date]
    """Asked days, ascending."""
    read_at: datetime
    announced: int
    received: int
    api_calls: int
    bytes: int
    milliseconds: int
    run_id: str | None
    read_on: date
    """Local day of `read_at`."""
    emptied: Emptied = Emptied.DOUBT


@dataclass(frozen=True, slots=True)
class MergedDay:
    """One day that is done."""

    day: date
    announced: int
    """Distinct rows received for this day."""
    held: int
    """Rows that the table holds for this day."""
    inserted: int
    changed: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Days already covered by a newer read are reported as that read left them."""

    days: list[MergedDay]
    padding: int
    quarantined: int
    superseded: list[date]
    """Asked days that a newer read had already committed."""
    emptied: dict[date, int]
    """Asked days that came empty although the table holds rows for them, and how many; nothing was done to them."""


def merge(connection: Connection, collection: Collection, facts: WindowFacts, tally: Tally) -> Merged:
    """Merge the staged rows, of which `tally` tells, in the caller's transaction. Raises Incomplete where the counts disagree."""
    _analyze(connection)
    lock(connection, collection)
    superseded = _superseded(connection, collection, facts)
    asked = [day for day in facts.days if day not in superseded]
    statements = _Statements(collection, compare_columns(connection, collection).undeclared_in(collection.name))
    announced = tally.by_day if collection.is_events else Counter({facts.days[0]: tally.by_day.total()})
    empty = [day for day in asked if not announced[day]]
    doubts = empty and facts.emptied is not Emptied.DELETE
    emptied = _per_day(connection, statements.leaving, {"days": empty}) if doubts else {}
    asked = [day for day in asked if day not in emptied]
    forget_committed(connection, collection, facts.run_id, facts.days)
    if not asked:
        return Merged(days=[], padding=0, quarantined=0, superseded=sorted(superseded), emptied=emptied)
    parameters = {"days": asked, "read_at": facts.read_at, "collection": collection.name}
    known = set(connection.execute(_KNOWN, parameters).scalars())

    # a backfill's days hold nothing yet, and then nothing can have left them
    held_before = connection.execute(statements.held_before, parameters).first() is not None
    touched = {day: (inserted, changed) for day, inserted, changed in connection.execute(statements.upsert, parameters)}
    deleted = _per_day(connection, statements.delete, parameters) if held_before else {}
    if not collection.is_events:
        connection.execute(statements.move_versions, parameters)
        connection.execute(statements.close_versions, parameters)
        opened, reopened = connection.execute(statements.open_versions, parameters).one()
        # by the versions and not by the rows: a row that comes back as it left is new again
        touched = {asked[0]: (opened - reopened, reopened)}

    held = _per_day(connection, statements.held, parameters)
    for day in asked:
        if announced[day] != held.get(day, 0):
            raise Incomplete(
                f"{collection.name}, {day}: the API returned {announced[day]} rows, the table would "
                f"hold {held.get(day, 0)}; another load changed the same rows meanwhile. Nothing was written: run the day again."
            )
    padding = announced.total() - sum(announced[day] for day in facts.days)
    quarantined = tally.unplaced.total()
    counts = {
        "held": sum(held.values()),
        "padding": padding,
        "quarantined": quarantined,
        "inserted": sum(inserted for inserted, _ in touched.values()),
        "changed": sum(changed for _, changed in touched.values()),
        "deleted": sum(deleted.values()),
    }
    window = _write_window(connection, collection, facts, counts)
    _quarantine(connection, collection, facts, window, tally)
    days = [MergedDay(day, announced[day], held.get(day, 0), *touched.get(day, (0, 0)), deleted.get(day, 0)) for day in asked]
    connection.execute(
        _DAYS,
        [
            parameters | {"day": day.day, "window": window, "announced": day.announced, "held": day.held, "run_id": facts.run_id}
            for day in days
        ],
    )
    connection.execute(
        _READS,
        [
            {
                "window": window,
                "day": day.day,
                "age_days": age_days(day.day, facts.read_on),
                "first_read": day.day not in known,
                "held": day.held,
                "inserted": day.inserted,
                "changed": day.changed,
                "deleted": day.deleted,
            }
            for day in days
        ],
    )
    return Merged(days=days, padding=padding, quarantined=quarantined, superseded=sorted(superseded), emptied=emptied)


def age_days(day: date, read_on: date) -> int:
    """Return the days from the end of `day` to its reading: 0 is the first night, and a snapshot of the day that it is."""
    return max(0, (read_on - day).days - 1)


def _per_day(connection: Connection, statement: TextClause, parameters: dict[str, object]) -> dict[date, int]:
    return {day: int(number) for day, number in connection.execute(statement, parameters)}


def _analyze(connection: Connection) -> None:
    # without statistics the planner takes a temporary table for 1,000 rows and joins 60,000 by nested loops; those of the other
    # columns, the payload above all, would cost more than they tell, and so would the usual sample of 30,000 rows
    connection.execute(text("SET LOCAL default_statistics_target = 10"))
    connection.execute(text("ANALYZE incoming (key, id, reason, day)"))


def lock(connection: Connection, collection: Collection) -> None:
    """Wait until no other transaction writes the collection's tables; held until the transaction ends."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :object)"),
        {"class": _LOCK_CLASS, "object": zlib.crc32(collection.name.encode()) - 2**31},
    )


def _newer(moment: str, than: str = ">") -> str:
    # a moment still to come was written while the clock was ahead: at its word, it would keep every reading out until then
    return f"({moment} {than} :read_at AND {moment} <= magnetis_ops.now())"


def _superseded(connection: Connection, collection: Collection, facts: WindowFacts) -> set[date]:
    newer = f"SELECT day FROM magnetis_ops.days AS d WHERE d.collection = :collection AND {_newer('d.read_at', '>=')}"
    parameters = {"collection": collection.name, "days": list(facts.days), "read_at": facts.read_at}
    if collection.is_events:
        return set(connection.execute(text(f"{newer} AND day = ANY(:days)"), parameters).scalars())
    # the present state has no days of its own: any newer reading supersedes this one whole
    return set(facts.days) if connection.execute(text(f"{newer} LIMIT 1"), parameters).first() else set()


def _write_window(connection: Connection, collection: Collection, facts: WindowFacts, counts: dict[str, int]) -> int:
    values: dict[str, object] = {
        "collection": collection.name,
        "first_day": facts.days[0],
        "last_day": facts.days[-1],
        "read_at": facts.read_at,
        "announced": facts.announced,
        "received": facts.received,
        "api_calls": facts.api_calls,
        "bytes": facts.bytes,
        "milliseconds": facts.milliseconds,
        "run_id": facts.run_id,
        **counts,
    }
    statement = windows.insert().values(committed_at=func.clock_timestamp(), **values).returning(windows.c.id)
    return int(connection.execute(statement).scalar_one())


def _quarantine(connection: Connection, collection: Collection, facts: WindowFacts, window: int, tally: Tally) -> None:
    names = {"collection": collection.name, "window": window, "read_at": facts.read_at}
    if tally.unplaced:
        connection.execute(_QUARANTINE, names)
    connection.execute(_RELEASE, names)


class _Statements:
    """The statements of one collection. Names come from the validated catalogue, values are bound."""

    def __init__(self, collection: Collection, undeclared: Sequence[str]) -> None:
        table = f"{DATA_SCHEMA}.{collection.name}"
        # read from a former payload; beside an equal one the values still hold, as for another overlay on the same database
        cleared = "".join(f'"{name}" = CASE WHEN t.payload = excluded.payload THEN t."{name}" END, ' for name in undeclared)
        typed = [f'"{name}"' for name in collection.columns]  # an overlay may call a column `order`
        moments = ["occurred_at", "day"] if collection.is_events else []
        received = ["id", "account_id", "payload", *moments, *typed]
        sources = [
            "s.id",
            "s.account_id",
            "s.payload",
            *(f"s.{name}" for name in moments),
            *(f"s.c_{name}" for name in collection.columns),
        ]
        differs = (
            f"({', '.join(f't.{name}' for name in ['account_id', *moments, *typed])}) IS DISTINCT FROM "
            f"({', '.join(f'excluded.{name}' for name in ['account_id', *moments, *typed])})"
        )
        # events outside the asked days are padding, unless the table holds the row on an asked day: then it has moved
        asked = (
            f"(s.day = ANY(:days) OR EXISTS (SELECT 1 FROM {table} AS c WHERE c.id = s.id AND c.day = ANY(:days)))"
            if collection.is_events
            else "true"
        )
        day = "day" if collection.is_events else "CAST((:days)[1] AS date)"
        on_asked_day = "t.day = ANY(:days)" if collection.is_events else "true"
        is_asked_day = "day = ANY(:days)" if collection.is_events else "true"
        self.upsert = text(f"""
            WITH merged AS (
                INSERT INTO {table} AS t ({", ".join(received)}, first_seen_at, last_seen_at, changed_at)
                SELECT {", ".join(sources)}, :read_at, :read_at, :read_at
                FROM incoming AS s WHERE s.reason IS NULL AND {asked}
                ON CONFLICT (id) DO UPDATE SET
                    {", ".join(f"{name} = excluded.{name}" for name in received[1:])},
                    {cleared}last_seen_at = excluded.last_seen_at, deleted_at = NULL,
                    changed_at = CASE WHEN t.payload = excluded.payload THEN t.changed_at ELSE excluded.changed_at END
                WHERE NOT {_newer("t.last_seen_at")}
                  AND (t.payload IS DISTINCT FROM excluded.payload OR t.deleted_at IS NOT NULL OR {differs})
                RETURNING {day} AS day, xmax = 0 AS inserted, changed_at
            )
            SELECT day, count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted AND changed_at = :read_at)
            FROM merged GROUP BY day
        """)
        self.delete = text(f"""
            WITH gone AS (
                UPDATE {table} AS t
                SET deleted_at = :read_at, last_seen_at = coalesce(
                    (SELECT max(d.read_at) FROM magnetis_ops.days AS d
                      WHERE d.collection = :collection{" AND d.day = t.day" if collection.is_events else ""}), t.last_seen_at)
                WHERE t.deleted_at IS NULL AND NOT {_newer("t.last_seen_at")} AND {on_asked_day}
                  AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id AND s.reason IS NULL)
                RETURNING {day} AS day
            )
            SELECT day, count(*) FROM gone GROUP BY day
        """)
        self.leaving = text(f"""
            SELECT {day} AS day, count(*) FROM {table} AS t
            WHERE t.deleted_at IS NULL AND {on_asked_day}
              AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id AND s.reason IS NULL)
            GROUP BY 1
        """)
        self.held = text(f"SELECT {day} AS day, count(*) FROM {table} WHERE deleted_at IS NULL AND {is_asked_day} GROUP BY 1")
        self.held_before = text(f"SELECT 1 FROM {table} WHERE deleted_at IS NULL AND {is_asked_day} LIMIT 1")
        if not collection.is_events:
            history = f"{DATA_SCHEMA}.{history_name(collection)}"
            columns = ", ".join(["id", "account_id", "payload", *typed])
            # Moments still to come were written while the clock was ahead. Left there, the versions that this reading closes would
            # end before they began, and those that it opens overlap older ones. They become the microseconds before this reading.
            self.move_versions = text(f"""
                WITH ahead AS (
                    SELECT moment, CAST(:read_at AS timestamptz)
                        - row_number() OVER (ORDER BY moment DESC) * interval '1 microsecond' AS moved
                    FROM (SELECT valid_from AS moment FROM {history} WHERE valid_from >= :read_at
                          UNION SELECT valid_to FROM {history} WHERE valid_to >= :read_at) AS moments
                )
                UPDATE {history} AS h
                SET valid_from = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_from), h.valid_from),
                    valid_to = coalesce((SELECT moved FROM ahead WHERE moment = h.valid_to), h.valid_to)
                WHERE h.valid_from >= :read_at OR h.valid_to >= :read_at
            """)
            self.close_versions = text(f"""
                UPDATE {history} AS h SET valid_to = :read_at FROM {table} AS t
                WHERE h.id = t.id AND h.valid_to IS NULL AND (t.deleted_at IS NOT NULL OR t.payload IS DISTINCT FROM h.payload)
            """)
            self.open_versions = text(f"""
                WITH opened AS (
                    INSERT INTO {history} ({columns}, valid_from)
                    SELECT {columns}, :read_at FROM {table} AS t
                    WHERE t.deleted_at IS NULL
                      AND NOT EXISTS (SELECT 1 FROM {history} AS h WHERE h.id = t.id AND h.valid_to IS NULL)
                    RETURNING id
                )
                SELECT count(*), count(*) FILTER (WHERE EXISTS (
                    SELECT 1 FROM {history} AS h WHERE h.id = opened.id AND h.valid_to = :read_at)) FROM opened
            """)
