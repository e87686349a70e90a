"""Judging a policy: one query over the present rows. What may be shown of the answer is for `defs`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.catalog import Catalogue, Collection, ColumnType, Policy
from magnetis_dagster.catalog.policies import (
    AllowedDomains,
    HasOwner,
    HasRecipient,
    LiveAccount,
    MissedCallAlert,
    SaneThresholds,
)
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

MOST_ROWS = 50
ACCOUNTS = "accounts"
_TYPES = {
    "enabled": {ColumnType.BOOLEAN},
    "type": {ColumnType.TEXT},
    "less_than": {ColumnType.INTEGER, ColumnType.DECIMAL},
    "more_than": {ColumnType.INTEGER, ColumnType.DECIMAL},
}
"""What an overlay must leave a column to be, for the queries below; any other may have any type."""
_STATE = (
    "EXISTS (SELECT FROM magnetis_ops.days WHERE collection = :collection) AS read, count(*) AS known, "
    "count(*) FILTER (WHERE t.deleted_at IS NULL) AS rows"
)
_LEAVES = "jsonb_path_query(to_jsonb(t.recipients), 'strict $.**') AS leaf"
"""Lax mode would give the members of a list twice."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that a policy does not allow; an account, where accounts are judged."""

    id: str
    account_id: str | None
    title: str | None
    """As received. May hold anything that a person has typed."""
    reason: str
    """Our words; no value of the row."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rows are by a policy."""

    number: int = 0
    """Of rows that it does not allow."""
    offences: Sequence[Violation] = field(default=())
    """The first MOST_ROWS of them, by account and id."""
    judged: int = 0
    """Rows that were looked at."""
    unjudged: str | None = None
    """Why nothing can be said; None: judged."""


def judge(
    engine: Engine, catalogue: Catalogue, policy: Policy, collection: Collection
) -> Judgement:
    """Return what the present rows of the collection are by the policy. Raises DatabaseUnavailable, DatabaseRefused."""
    names = (
        [name for name in policy.collections if catalogue[name].enabled]
        if policy.across_collections
        else [collection.name]
    )
    needed = [*([ACCOUNTS] if policy.needs_accounts else []), *names]
    if off := [name for name in needed if not catalogue[name].enabled]:
        return Judgement(unjudged=f"{off[0]} is switched off in the catalogue.")
    with guarded(engine, f"judge the policy {policy.name}"), engine.connect() as connection:
        rows = {}
        for name in needed:
            columns = policy.columns if name in names else ()
            found = _state(connection, catalogue[name], columns)
            if isinstance(found, str):
                return Judgement(unjudged=found)
            rows[name] = found
        if policy.needs_accounts and not rows[ACCOUNTS].known:
            return Judgement(
                unjudged="No account is known: the key may not have them in its scope."
            )
        statement, parameters = _offences(policy, collection.name, names, catalogue)
        judged = rows[ACCOUNTS if isinstance(policy, MissedCallAlert) else collection.name].present
        rule = f"""
            SELECT id, account_id, title, reason, count(*) OVER () AS number FROM ({statement}) AS o
            WHERE id <> ALL(CAST(:ignore AS text[])) AND (account_id IS NULL OR account_id <> ALL(CAST(:ignore AS text[])))
            ORDER BY account_id NULLS FIRST, id LIMIT {MOST_ROWS}
        """
        offences = connection.execute(
            text(rule), {**parameters, "ignore": list(policy.ignore)}
        ).all()
    return Judgement(
        number=offences[0].number if offences else 0,
        offences=[Violation(row.id, row.account_id, row.title, row.reason) for row in offences],
        judged=judged,
    )


class _Rows(NamedTuple):
    known: int
    """Deleted ones included."""
    present: int


def _state(
    connection: Connection, collection: Collection, columns: Sequence[Sequence[str]]
) -> _Rows | str:
    """Return how many rows there are, or why they cannot be judged.

    Most member names are assumptions: where no row holds a member under any of its declared names, its absence says nothing.
    """
    for group in columns:
        usable = [name for name in group if name in collection.columns]
        wrong = [
            name
            for name in usable
            if collection.columns[name].type not in _TYPES.get(name, set(ColumnType))
        ]
        if not usable or wrong:
            return f"{collection.name} has no column {' or '.join(wrong or group)} of the type that is needed, by MAGNETIS_CONFIG."
    if disagreements := compare_columns(connection, collection).disagreements:
        return disagreements[0]
    holds, parameters = [], dict[str, Any](collection=collection.name)
    for group in columns:
        places = []
        for name in group:
            column = collection.columns.get(name)
            if column is None:
                continue
            places.append(f't."{name}" IS NOT NULL')
            for path in column.paths:
                parameter = f"path_{len(parameters)}"
                parameters[parameter] = path.split(".")
                places.append(f"t.payload #> CAST(:{parameter} AS text[]) IS NOT NULL")
        holds.append(f", count(*) FILTER (WHERE t.deleted_at IS NULL AND ({' OR '.join(places)}))")
    statement = f"SELECT {_STATE}{''.join(holds)} FROM {DATA_SCHEMA}.{collection.name} AS t"
    read, known, rows, *held = connection.execute(text(statement), parameters).one()
    if not read:
        return (
            f"{collection.name} has never been read. Load it, or leave it out: `enabled: false` for the collection in "
            "MAGNETIS_CONFIG where the key does not have it."
        )
    for group, number in zip(columns, held, strict=True):
        if rows and not number:
            return (
                f"None of the {rows:,} rows of {collection.name} holds {' or '.join(group)} under a name that the catalogue knows. "
                "`magnetis probe` shows what they hold."
            )
    return _Rows(known, rows)


def _offences(
    policy: Policy, name: str, names: Sequence[str], catalogue: Catalogue
) -> tuple[str, dict[str, Any]]:
    """Return the query for the rows that the policy does not allow, and its parameters. Names come from the validated catalogue."""
    accounts = f"{DATA_SCHEMA}.{ACCOUNTS}"
    match policy:
        case MissedCallAlert():
            alerts = " UNION ALL ".join(
                f"SELECT t.account_id, t.enabled FROM {DATA_SCHEMA}.{each} AS t "
                "WHERE t.deleted_at IS NULL AND lower(t.type) = ANY(:types)"
                for each in names
            )
            statement = f"""
                SELECT a.id, a.id AS account_id, {_column(catalogue[ACCOUNTS], "a", "name")} AS title,
                       CASE WHEN bool_or(t.account_id IS NOT NULL) THEN 'its alert on missed calls is switched off'
                            ELSE 'no alert on missed calls' END AS reason
                FROM {accounts} AS a LEFT JOIN ({alerts}) AS t ON t.account_id = a.id
                WHERE a.deleted_at IS NULL GROUP BY a.id HAVING NOT coalesce(bool_or(t.enabled), false)
            """
            return statement, {"types": list(policy.types)}
        case HasRecipient():
            condition = f"""
                CASE WHEN NOT EXISTS (SELECT FROM {_LEAVES} WHERE jsonb_typeof(leaf) = 'number'
                    OR jsonb_typeof(leaf) = 'string' AND leaf #>> '{{}}' ~ '\\S') THEN 'no recipient' END
            """
            return _rows(catalogue[name], condition), {}
        case AllowedDomains():
            domain = "rtrim(lower(regexp_replace(word, '^.*@', '')), '.>)]''\"')"
            outside = f"""
                (SELECT count(*) FROM {_LEAVES}, regexp_split_to_table(leaf #>> '{{}}', '[\\s,;:|/<>?&=()]+') AS word,
                        LATERAL (SELECT {domain} AS domain) AS d
                 WHERE jsonb_typeof(leaf) = 'string' AND word LIKE '%@%' AND domain <> ALL(:domains) AND NOT EXISTS (
                    SELECT FROM unnest(CAST(:below AS text[])) AS suffix WHERE right(domain, length(suffix)) = suffix))
            """
            below = [
                domain.removeprefix("*") for domain in policy.domains if domain.startswith("*.")
            ]
            # of the row's recipients, the number and no more
            condition = f"(SELECT 'recipients outside the allowed domains: ' || number FROM {outside} AS f(number) WHERE number > 0)"
            return _rows(catalogue[name], condition), {
                "domains": list(policy.domains),
                "below": below,
            }
        case SaneThresholds():
            less, more = (
                _column(catalogue[name], "t", column, "numeric")
                for column in ("less_than", "more_than")
            )
            condition = f"""
                CASE WHEN {less} < 0 THEN 'less_than is negative' WHEN {more} < 0 THEN 'more_than is negative'
                     WHEN {less} <= {more} THEN 'less_than is not above more_than' END
            """
            return _rows(catalogue[name], condition), {}
        case LiveAccount():
            condition = f"""
                CASE WHEN EXISTS (SELECT FROM {accounts} AS a WHERE a.id = t.account_id AND a.deleted_at IS NOT NULL)
                     THEN 'its account is deleted' END
            """
            return _rows(catalogue[name], condition), {}
        case HasOwner():
            condition = f"""
                CASE WHEN t.account_id IS NULL THEN 'no account'
                     WHEN NOT EXISTS (SELECT FROM {accounts} AS a WHERE a.id = t.account_id) THEN 'unknown account' END
            """
            return _rows(catalogue[name], condition), {}
    raise AssertionError(f"no query for policies of kind {policy.kind}")


def _rows(collection: Collection, reason: str) -> str:
    """Return the query for rows of which `reason`, an expression over the row `t`, is not NULL."""
    return f"""
        SELECT t.id, t.account_id, {_column(collection, "t", "title")} AS title, r.reason
        FROM {DATA_SCHEMA}.{collection.name} AS t, LATERAL (SELECT {reason} AS reason) AS r
        WHERE t.deleted_at IS NULL AND r.reason IS NOT NULL
    """


def _column(collection: Collection, alias: str, name: str, kind: str = "text") -> str:
    return (
        f'CAST({alias}."{name}" AS {kind})'
        if name in collection.columns
        else f"CAST(NULL AS {kind})"
    )
