"""Evaluates a policy by one query over the current rows.

`defs/policies.py` decides how much of the result is displayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

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
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA

MOST_ROWS = 50
ACCOUNTS = "accounts"
_QUERIES = Queries("policies")
_TYPES = {
    "enabled": {ColumnType.BOOLEAN},
    "type": {ColumnType.TEXT},
    "less_than": {ColumnType.INTEGER, ColumnType.DECIMAL},
    "more_than": {ColumnType.INTEGER, ColumnType.DECIMAL},
}
"""Types that the queries need. An overlay may change the types of other columns."""

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that violates a policy, or one account if the policy concerns accounts."""

    id: str
    account_id: str | None
    title: str | None
    """As received, so it may contain personal data."""
    reason: str
    """Text of this program, without any value of the row."""


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """Result of a policy."""

    number: int = 0
    """Number of rows that violate the policy."""
    violations: Sequence[Violation] = field(default=())
    """The first MOST_ROWS of them, by account and id."""
    evaluated: int = 0
    """Number of rows that were evaluated."""
    not_evaluated: str | None = None
    """Why the policy cannot be evaluated, or None if it was."""


class _Unknown(Exception):
    """The policy cannot be evaluated; the text says why."""


class _Rows(NamedTuple):
    known: int
    """Includes deleted rows."""
    present: int


def evaluate_policy(
    engine: Engine, catalogue: Catalogue, policy: Policy, collection: Collection
) -> PolicyResult:
    """Evaluate the policy on the current rows of the collection.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    names = [collection.name]
    if policy.across_collections:
        names = [name for name in policy.collections if catalogue[name].enabled]
    with guarded(engine, f"evaluate the policy {policy.name}"), engine.connect() as connection:
        try:
            rows = _count_rows(connection, catalogue, policy, names)
        except _Unknown as reason:
            return PolicyResult(not_evaluated=str(reason))
        violations, parameters = _violations(policy, collection.name, names, catalogue)
        statement = _QUERIES.fill(violations=violations)["violations"]
        parameters |= {"ignore": list(policy.ignore), "most": MOST_ROWS}
        found = connection.execute(statement, parameters).all()
    of_accounts = isinstance(policy, MissedCallAlert)
    return PolicyResult(
        number=found[0].number if found else 0,
        violations=[Violation(row.id, row.account_id, row.title, row.reason) for row in found],
        evaluated=rows[ACCOUNTS if of_accounts else collection.name].present,
    )


def _count_rows(
    connection: Connection, catalogue: Catalogue, policy: Policy, names: Sequence[str]
) -> dict[str, _Rows]:
    """Count the rows of every collection that the policy needs. Raises: _Unknown."""
    needed = [*([ACCOUNTS] if policy.needs_accounts else []), *names]
    if disabled := [name for name in needed if not catalogue[name].enabled]:
        raise _Unknown(f"{disabled[0]} is switched off in the catalogue.")
    rows = {}
    for name in needed:
        columns = policy.columns if name in names else ()
        rows[name] = _state(connection, catalogue[name], columns)
    if policy.needs_accounts and not rows[ACCOUNTS].known:
        raise _Unknown("No account is known: the key may not have access to accounts.")
    return rows


def _state(
    connection: Connection, collection: Collection, columns: Sequence[Sequence[str]]
) -> _Rows:
    """Count the rows of one collection.

    Most member names are assumptions. If no row has a member under any of its declared names, the
    name is probably wrong, and the member's absence means nothing.

    Raises: _Unknown.
    """
    for group in columns:
        usable = [name for name in group if name in collection.columns]
        wrong = [
            name
            for name in usable
            if collection.columns[name].type not in _TYPES.get(name, set(ColumnType))
        ]
        if not usable or wrong:
            raise _Unknown(
                f"{collection.name} has no column {' or '.join(wrong or group)} of the type that "
                "is needed, because of MAGNETIS_CONFIG."
            )
    if disagreements := compare_columns(connection, collection).disagreements:
        raise _Unknown(disagreements[0])
    parameters: Parameters = {"collection": collection.name}
    counts = [_rows_with_member(collection, group, parameters) for group in columns]
    table = f"{DATA_SCHEMA}.{collection.name}"
    statement = _QUERIES.fill(table=table, members="".join(f", {each}" for each in counts))["state"]
    read, known, rows, *with_member = connection.execute(statement, parameters).one()
    if not read:
        raise _Unknown(
            f"{collection.name} has never been read. Load it. If the key has no access to it, set "
            "`enabled: false` for the collection in MAGNETIS_CONFIG."
        )
    for group, number in zip(columns, with_member, strict=True):
        if rows and not number:
            raise _Unknown(
                f"None of the {rows:,} rows of {collection.name} has {' or '.join(group)} under a "
                "name in the catalogue. `magnetis probe` lists the members that they have."
            )
    return _Rows(known, rows)


def _rows_with_member(collection: Collection, group: Sequence[str], parameters: Parameters) -> str:
    """Return SQL that counts the rows with one of the columns; add its paths to `parameters`."""
    conditions = []
    for name in group:
        column = collection.columns.get(name)
        if column is None:
            continue
        conditions.append(f't."{name}" IS NOT NULL')
        for path in column.paths:
            parameter = f"path_{len(parameters)}"
            parameters[parameter] = path.split(".")
            conditions.append(f"t.payload #> CAST(:{parameter} AS text[]) IS NOT NULL")
    return f"count(*) FILTER (WHERE t.deleted_at IS NULL AND ({' OR '.join(conditions)}))"


def _violations(
    policy: Policy, name: str, names: Sequence[str], catalogue: Catalogue
) -> tuple[str, Parameters]:
    """Return the query for the rows that violate the policy, and its parameters.

    Names come from the validated catalogue.
    """
    collection = catalogue[name]
    match policy:
        case MissedCallAlert():
            alerts = " UNION ALL ".join(
                _QUERIES.fill(table=f"{DATA_SCHEMA}.{each}").sql("alerts") for each in names
            )
            account_name = _column(catalogue[ACCOUNTS], "a", "name")
            query = _QUERIES.fill(name=account_name, alerts=alerts).sql("accounts_without_alert")
            return query, {"types": list(policy.types)}
        case HasRecipient():
            return _rows_with_reason(collection, _QUERIES.sql("reason_has_recipient")), {}
        case AllowedDomains():
            below = [each.removeprefix("*") for each in policy.domains if each.startswith("*.")]
            query = _rows_with_reason(collection, _QUERIES.sql("reason_allowed_domains"))
            return query, {"domains": list(policy.domains), "below": below}
        case SaneThresholds():
            reason = _QUERIES.fill(
                less=_column(collection, "t", "less_than", "numeric"),
                more=_column(collection, "t", "more_than", "numeric"),
            ).sql("reason_sane_thresholds")
            return _rows_with_reason(collection, reason), {}
        case LiveAccount():
            return _rows_with_reason(collection, _QUERIES.sql("reason_live_account")), {}
        case HasOwner():
            return _rows_with_reason(collection, _QUERIES.sql("reason_has_owner")), {}
    raise AssertionError(f"no query for policies of kind {policy.kind}")


def _rows_with_reason(collection: Collection, reason: str) -> str:
    return _QUERIES.fill(
        table=f"{DATA_SCHEMA}.{collection.name}",
        title=_column(collection, "t", "title"),
        reason=reason,
    ).sql("rows_with_reason")


def _column(collection: Collection, alias: str, name: str, kind: str = "text") -> str:
    if name not in collection.columns:
        return f"CAST(NULL AS {kind})"
    return f'CAST({alias}."{name}" AS {kind})'
