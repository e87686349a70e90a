"""The one transaction in which a window becomes visible: rows, deletions, history, quarantine, counts and the completion record.

Loads of one collection merge one after the other (advisory lock), and a read that began before a newer one that is already
committed gives way to it day by day, so that two loads of a day at once end like the newer of them alone.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum

from sqlalchemy import Connection, TextClause, func, text

from magnetis_dagster.catalog import Collection
from magnetis_dagster.catalog.volatile import column_sql, same_sql, volatile_columns
from magnetis_dagster.database.locks import MERGE_CLASS
from magnetis_dagster.database.session import LOCK_SECONDS
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.page_cache import forget_committed
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, history_name, windows
from magnetis_dagster.warehouse.staging import Tally

TURN = "10min"
"""How long a merge waits for others of its collection. A stopped one is ended by idle_in_transaction_session_timeout before."""


class Incomplete(TransientError):
    """What the API announced is not what was received or held; nothing was written."""


class MovedRows(PermanentError):
    """Many ids of a day are held by other days: ids are reused, or the times of the rows have changed. Nothing was written."""


class Emptied(StrEnum):
    """What to do if all or many rows of a day (of a snapshot: of the collection) are no longer returned."""

    DOUBT = "doubt"
    """It may be the vendor's retention, or a key with less scope: the rows stay, the day is reported and not done."""
    KEEP = "keep"
    """The vendor's retention: the rows stay, and so does the day's completion record."""
    DELETE = "delete"
    """They are gone: `deleted_at` is set."""


class DoubtReason(StrEnum):
    """Why the answer for a day is not believed."""

    EMPTIED = "emptied"
    """The API returned no row, and the table holds some."""
    DELETIONS = "deletions"
    """The API no longer returned many of the rows that the table holds."""
    UNREADABLE = "unreadable"
    """The API returned many rows that can no longer be placed, among them rows that the table holds."""


FEWEST_DOUBTED = 10
"""Fewer rows of a day are deleted or moved without doubt, whatever their share."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When the answer for a day is doubted. Shares are of the day's rows, 0 to 1."""

    emptied: Emptied = Emptied.DOUBT
    doubted_share: float = 0.20
    """More rows than this, and at least FEWEST_DOUBTED, are not deleted or moved in one read; 1: never doubted."""
    unreadable_share: float = 0.01
    """More rows than this, one of them held by the table, may not be unreadable."""

    def too_many(self, rows: int, of: int) -> bool:
        """Return whether deleting or moving `rows` rows `of` a day is doubted."""
        return rows >= FEWEST_DOUBTED and rows > self.doubted_share * of


@dataclass(frozen=True, slots=True)
class Doubt:
    """A day whose answer is not believed: nothing was done to its rows."""

    reason: DoubtReason
    held: int
    """Rows that the table holds for the day."""
    rows: int
    """Rows that would have been deleted, or that are unreadable."""


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
_MOVED = text("""
    UPDATE magnetis_ops.days SET held = held + :rows, announced = announced + :rows
    WHERE collection = :collection AND day = :day
""")
_STRAY = text("""
    INSERT INTO magnetis_ops.strays AS s (collection, day, held) VALUES (:collection, :day, :rows)
    ON CONFLICT (collection, day) DO UPDATE SET held = s.held + excluded.held
""")
_NO_STRAYS = text(
    "DELETE FROM magnetis_ops.strays WHERE collection = :collection AND (day = ANY(:days) OR held = 0)"
)
_COUNTS = ("held", "padding", "quarantined", "inserted", "changed", "deleted")
_KNOWN = text(
    "SELECT day FROM magnetis_ops.days WHERE collection = :collection AND day = ANY(:days)"
)
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
    rules: Rules = Rules()
    witness_calls: int = 0


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
    first_read: bool = False
    """No complete read of the day was recorded before, so none of its rows came late."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. Days already covered by a newer read are reported as that read left them."""

    days: list[MergedDay]
    padding: int
    quarantined: int
    superseded: list[date]
    """Asked days that a newer read had already committed."""
    doubted: dict[date, Doubt]
    """Asked days whose answer is not believed; nothing was done to their rows."""
    moved: int = 0
    """Rows that the table held on another day before."""


def merge(
    connection: Connection, collection: Collection, facts: WindowFacts, tally: Tally
) -> Merged:
    """Merge the staged rows, counted by `tally`, in the caller's transaction.

    Raises: Incomplete if the counts disagree; MovedRows if many ids are held by other days.
    """
    _analyze(connection)
    wait_for_turn(connection, collection)
    superseded = _superseded(connection, collection, facts)
    asked = [day for day in facts.days if day not in superseded]
    statements = _Statements(
        collection, compare_columns(connection, collection).undeclared_in(collection.name)
    )
    announced = tally.by_day
    if not collection.is_events:
        announced = Counter[date | None]({facts.days[0]: tally.by_day.total()})
    # a backfill's days hold nothing yet, and then nothing can have left them
    held_before = (
        bool(asked)
        and connection.execute(statements.held_before, {"days": asked}).first() is not None
    )
    days_before = _days_before(connection, statements, asked, tally) if held_before else []
    doubted, kept, undeleted = _doubt(facts.rules, announced, days_before)
    asked = [day for day in asked if day not in doubted]
    forget_committed(connection, collection, facts.run_id, facts.days)
    padding = announced.total() - sum(announced[day] for day in facts.days)
    quarantined = tally.unplaced.total()
    outcome = Merged([], padding, quarantined, sorted(superseded), doubted)
    if not asked:
        if tally.unplaced:
            window = _write_window(
                connection,
                collection,
                facts,
                dict.fromkeys(_COUNTS, 0) | {"quarantined": quarantined},
            )
            _quarantine(connection, collection, facts, window, tally)
        return outcome
    parameters = {
        "days": asked,
        "undeleted": undeleted,
        "read_at": facts.read_at,
        "collection": collection.name,
    }
    known = set(connection.execute(_KNOWN, parameters).scalars())

    touched: dict[date, tuple[int, int]] = {}
    moves: Counter[tuple[date | None, date]] = Counter()
    for day, was, inserted, changed, rows in connection.execute(statements.upsert, parameters):
        before = touched.get(day, (0, 0))
        touched[day] = before[0] + inserted, before[1] + changed
        if was != day and (was is not None or day not in asked):
            moves[was, day] += rows
    _refuse_mass_moves(collection, facts.rules, moves, {day: announced[day] for day in asked})
    deleted = _per_day(connection, statements.delete, parameters) if held_before else {}
    if not collection.is_events:
        connection.execute(statements.move_versions, parameters)
        connection.execute(statements.close_versions, parameters)
        opened, reopened = connection.execute(statements.open_versions, parameters).one()
        # by the versions and not by the rows: a row that comes back as it left is new again
        touched = {asked[0]: (opened - reopened, reopened)}

    held = _per_day(connection, statements.held, parameters)
    for day in asked:
        expected = announced[day] + kept.get(day, 0)
        if expected != held.get(day, 0):
            raise Incomplete(
                f"{collection.name}, {day}: the API returned {expected} rows, the table would contain {held.get(day, 0)}; "
                "another load changed the same rows meanwhile. Nothing was written: load the day again."
            )
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
    days = [
        MergedDay(
            day,
            announced[day],
            held.get(day, 0),
            *touched.get(day, (0, 0)),
            deleted.get(day, 0),
            first_read=day not in known,
        )
        for day in asked
    ]
    connection.execute(
        _DAYS,
        [
            parameters
            | {
                "day": day.day,
                "window": window,
                "announced": day.announced,
                "held": day.held,
                "run_id": facts.run_id,
            }
            for day in days
        ],
    )
    connection.execute(_NO_STRAYS, parameters)
    _record_moves(connection, collection, moves, asked)
    connection.execute(
        _READS,
        [
            {
                "window": window,
                "day": day.day,
                "age_days": age_days(day.day, facts.read_on),
                "first_read": day.first_read,
                "held": day.held,
                "inserted": day.inserted,
                "changed": day.changed,
                "deleted": day.deleted,
            }
            for day in days
        ],
    )
    return replace(outcome, days=days, moved=moves.total())


@dataclass(frozen=True, slots=True)
class _DayBefore:
    """An asked day of which the table holds rows."""

    day: date
    held: int
    leaving: int
    """Rows held that were not received."""
    unreadable: int
    """Rows held that were received and can no longer be placed."""
    nameless: int
    """Rows received for the day whose id cannot be read: each may be one of `leaving`."""


def _days_before(
    connection: Connection, statements: "_Statements", asked: list[date], tally: Tally
) -> list[_DayBefore]:
    nameless = _per_day(connection, statements.nameless, {"days": asked}) if tally.unplaced else {}
    return [
        _DayBefore(day, held, leaving, unreadable, nameless.get(day, 0))
        for day, held, leaving, unreadable in connection.execute(statements.before, {"days": asked})
    ]


def _doubt(
    rules: Rules, announced: Counter[date | None], days: Sequence[_DayBefore]
) -> tuple[dict[date, Doubt], dict[date, int], list[date]]:
    """Return the days whose answer is not believed, the rows that others keep beside those received, and days without deletion."""
    doubted: dict[date, Doubt] = {}
    kept: dict[date, int] = {}
    undeleted: list[date] = []
    for before in days:
        day, held, leaving = before.day, before.held, before.leaving
        lost = before.unreadable + min(leaving, before.nameless)
        gone = rules.too_many(leaving, held)
        if lost > rules.unreadable_share * (announced[day] + lost):
            doubted[day] = Doubt(DoubtReason.UNREADABLE, held, lost)
        elif before.nameless:
            # an id that the API returned is never marked deleted, and which these are is not known
            kept[day] = before.unreadable + leaving
            undeleted.append(day)
        elif rules.emptied is Emptied.DELETE or not leaving:
            kept[day] = before.unreadable
        elif not announced[day]:
            doubted[day] = Doubt(DoubtReason.EMPTIED, held, leaving)
        elif gone and rules.emptied is Emptied.KEEP:
            kept[day] = before.unreadable + leaving
            undeleted.append(day)
        elif gone:
            doubted[day] = Doubt(DoubtReason.DELETIONS, held, leaving)
        else:
            kept[day] = before.unreadable
    return doubted, kept, undeleted


def _refuse_mass_moves(
    collection: Collection,
    rules: Rules,
    moves: Counter[tuple[date | None, date]],
    announced: dict[date, int],
) -> None:
    """Raise MovedRows if many rows of an asked day come from another day or leave for one.

    `announced`: rows received for each asked day.
    """
    moved: Counter[date | None] = Counter()
    for (was, day), rows in moves.items():
        moved[was] += rows
        moved[day] += rows
    for day, received in announced.items():
        rows, of = moved[day], max(received, moved[day])
        if rules.too_many(rows, of):
            raise MovedRows(
                f"{collection.name}, {day}: {rows} of {of} rows have ids that the table holds on other days. Either the id does "
                f"not identify a row: set collections.{collection.name}.id_paths in MAGNETIS_CONFIG to the members that do; or "
                "the times of many rows have changed: set MAGNETIS_DOUBTED_SHARE=1 for one load to accept that. "
                "Nothing was written."
            )


def _record_moves(
    connection: Connection,
    collection: Collection,
    moves: Counter[tuple[date | None, date]],
    asked: Sequence[date],
) -> None:
    """Correct the records of days that were not asked and that rows left or reached."""
    changes: Counter[date | None] = Counter()
    for (was, day), rows in moves.items():
        changes[was] -= rows
        changes[day] += rows
    for changed, rows in changes.items():
        # None: a deleted row that comes back on another day
        if not rows or changed is None or changed in asked:
            continue
        parameters = {"collection": collection.name, "day": changed, "rows": rows}
        if not connection.execute(_MOVED, parameters).rowcount:
            connection.execute(_STRAY, parameters)


def age_days(day: date, read_on: date) -> int:
    """Return the days from the end of `day` to its reading: 0 is the first night, and a snapshot of the day that it is."""
    return max(0, (read_on - day).days - 1)


def _per_day(
    connection: Connection, statement: TextClause, parameters: dict[str, object]
) -> dict[date, int]:
    return {day: int(number) for day, number in connection.execute(statement, parameters)}


def _analyze(connection: Connection) -> None:
    # without statistics the planner takes a temporary table for 1,000 rows and joins 60,000 by nested loops; those of the other
    # columns, the payload above all, would cost more than they tell, and so would the usual sample of 30,000 rows
    connection.execute(text("SET LOCAL default_statistics_target = 10"))
    connection.execute(text("ANALYZE incoming (key, id, reason, day)"))


def wait_for_turn(connection: Connection, collection: Collection) -> None:
    """Wait as `lock` does, for TURN at most; all other locks keep the session's limit."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{TURN}'"))
    lock(connection, collection)
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))


def lock(connection: Connection, collection: Collection) -> None:
    """Wait until no other transaction writes the collection's tables; held until the transaction ends."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:class, :object)"),
        {"class": MERGE_CLASS, "object": zlib.crc32(collection.name.encode()) - 2**31},
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
    return (
        set(facts.days)
        if connection.execute(text(f"{newer} LIMIT 1"), parameters).first()
        else set()
    )


def _write_window(
    connection: Connection, collection: Collection, facts: WindowFacts, counts: dict[str, int]
) -> int:
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
        "witness_calls": facts.witness_calls,
        **counts,
    }
    statement = (
        windows.insert()
        .values(committed_at=func.clock_timestamp(), **values)
        .returning(windows.c.id)
    )
    return int(connection.execute(statement).scalar_one())


def _quarantine(
    connection: Connection, collection: Collection, facts: WindowFacts, window: int, tally: Tally
) -> None:
    names = {"collection": collection.name, "window": window, "read_at": facts.read_at}
    if tally.unplaced:
        connection.execute(_QUARANTINE, names)
    connection.execute(_RELEASE, names)


class _Statements:
    """The statements of one collection. Names come from the validated catalogue, values are bound."""

    def __init__(self, collection: Collection, undeclared: Sequence[str]) -> None:
        table = f"{DATA_SCHEMA}.{collection.name}"
        # read from a former payload; beside an equal one the values still hold, as for another overlay on the same database
        cleared = "".join(
            f'"{name}" = CASE WHEN t.payload = excluded.payload THEN t."{name}" END, '
            for name in undeclared
        )
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
        old, new = (_compared(collection, moments, row) for row in ("t", "excluded"))
        same = same_sql(collection, "t.payload", "excluded.payload")
        # events outside the asked days are padding, unless the table holds the row on an asked day: then it has moved
        asked = (
            f"(s.day = ANY(:days) OR EXISTS (SELECT 1 FROM {table} AS c WHERE c.id = s.id AND c.day = ANY(:days)))"
            if collection.is_events
            else "true"
        )
        day = "t.day" if collection.is_events else "CAST((:days)[1] AS date)"
        # a subquery in RETURNING sees the row as it was before the statement
        was = (
            f"CASE WHEN xmax <> 0 THEN (SELECT o.day FROM {table} AS o WHERE o.id = t.id AND o.deleted_at IS NULL) END"
            if collection.is_events
            else "CAST(NULL AS date)"
        )
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
                    changed_at = CASE WHEN {same} THEN t.changed_at ELSE excluded.changed_at END
                WHERE NOT {_newer("t.last_seen_at")}
                  AND (NOT {same} OR t.deleted_at IS NOT NULL OR ({old}) IS DISTINCT FROM ({new}))
                RETURNING {day} AS day, {was} AS was, xmax = 0 AS inserted, changed_at
            )
            SELECT day, was, count(*) FILTER (WHERE inserted),
                   count(*) FILTER (WHERE NOT inserted AND changed_at = :read_at), count(*)
            FROM merged GROUP BY day, was
        """)
        no_deletion = "CAST(:undeleted AS date[])"
        self.delete = text(f"""
            WITH gone AS (
                UPDATE {table} AS t
                SET deleted_at = :read_at, last_seen_at = coalesce(
                    (SELECT max(d.read_at) FROM magnetis_ops.days AS d
                      WHERE d.collection = :collection{" AND d.day = t.day" if collection.is_events else ""}), t.last_seen_at)
                WHERE t.deleted_at IS NULL AND NOT {_newer("t.last_seen_at")} AND {on_asked_day}
                  AND NOT EXISTS (SELECT 1 FROM incoming AS s WHERE s.key = t.id) AND NOT {day} = ANY({no_deletion})
                RETURNING {day} AS day
            )
            SELECT day, count(*) FROM gone GROUP BY day
        """)
        self.before = text(f"""
            SELECT {day} AS day, count(*), count(*) FILTER (WHERE s.key IS NULL), count(*) FILTER (WHERE s.reason IS NOT NULL)
            FROM {table} AS t LEFT JOIN incoming AS s ON s.key = t.id
            WHERE t.deleted_at IS NULL AND {on_asked_day} GROUP BY 1
        """)
        nameless_day = "s.day" if collection.is_events else "CAST((:days)[1] AS date)"
        self.nameless = text(f"""
            SELECT {nameless_day}, count(*) FROM incoming AS s
            WHERE s.reason IS NOT NULL AND s.id IS NULL AND {nameless_day} = ANY(:days) GROUP BY 1
        """)
        self.held = text(
            f"SELECT {day} AS day, count(*) FROM {table} AS t WHERE deleted_at IS NULL AND {is_asked_day} GROUP BY 1"
        )
        self.held_before = text(
            f"SELECT 1 FROM {table} WHERE deleted_at IS NULL AND {is_asked_day} LIMIT 1"
        )
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
                WHERE h.id = t.id AND h.valid_to IS NULL
                  AND (t.deleted_at IS NOT NULL OR NOT {same_sql(collection, "t.payload", "h.payload")})
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


def _compared(collection: Collection, moments: Sequence[str], row: str) -> str:
    """Return what of a row is compared beside its payload, as a list of SQL expressions over `row`."""
    columns = (name for name in collection.columns if name not in volatile_columns(collection))
    values = (column_sql(collection, name, f'{row}."{name}"') for name in columns)
    return ", ".join([*(f"{row}.{name}" for name in ["account_id", *moments]), *values])
