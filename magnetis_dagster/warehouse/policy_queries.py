"""Evaluates a policy by one query over the current rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.database import guarded
from magnetis_dagster.warehouse.columns import compare_columns
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, column_or_null

MOST_ROWS = 50
ACCOUNTS = "accounts"
_QUERIES = Queries("policies")
_NUMBERS = {ColumnType.INTEGER, ColumnType.DECIMAL}
_TYPES = {
    "enabled": {ColumnType.BOOLEAN},
    "type": {ColumnType.TEXT},
    "less_than": _NUMBERS,
    "more_than": _NUMBERS,
}
"""Types that the queries need. An overlay may change the types of other columns."""
_REASONS: dict[type[Policy], str] = {
    HasRecipient: "reason_has_recipient",
    AllowedDomains: "reason_allowed_domains",
    SaneThresholds: "reason_sane_thresholds",
    LiveAccount: "reason_live_account",
    HasOwner: "reason_has_owner",
}

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
    """All violations, also those beyond MOST_ROWS."""
    violations: Sequence[Violation] = ()
    """The first MOST_ROWS of them, by account and id."""
    evaluated: int = 0
    not_evaluated: str | None = None
    """Why the policy cannot be evaluated, or None if it was."""


class _Unknown(Exception):
    """The policy cannot be evaluated; the text says why."""


def evaluate_policy(
    engine: Engine,
    catalogue: Catalogue,
    policy: Policy,
    collection: Collection,
    *,
    connection_name: str = UNNAMED,
) -> PolicyResult:
    """Evaluate the policy on the connection's current rows of the collection."""
    names = [collection.name]
    if policy.across_collections:
        names = [name for name in policy.collections if catalogue[name].enabled]
    with guarded(engine, f"evaluate the policy {policy.name}"), engine.connect() as connection:
        try:
            rows = _count_rows(connection, catalogue, policy, names, connection_name)
        except _Unknown as reason:
            return PolicyResult(not_evaluated=str(reason))
        violations, parameters = _violations(policy, collection, names, catalogue)
        statement = _QUERIES.fill(violations=violations)["violations"]
        parameters |= {
            "connection": connection_name,
            "ignore": list(policy.ignore),
            "most": MOST_ROWS,
        }
        found = connection.execute(statement, parameters).all()
    of_accounts = isinstance(policy, MissedCallAlert)
    return PolicyResult(
        number=found[0].number if found else 0,
        violations=[Violation(row.id, row.account_id, row.title, row.reason) for row in found],
        evaluated=rows[ACCOUNTS if of_accounts else collection.name],
    )


def _count_rows(
    connection: Connection,
    catalogue: Catalogue,
    policy: Policy,
    names: Sequence[str],
    connection_name: str,
) -> dict[str, int]:
    """Count the rows that are not deleted, of each collection that is needed. Raises: _Unknown."""
    needed = [*([ACCOUNTS] if policy.needs_accounts else []), *names]
    if disabled := [name for name in needed if not catalogue[name].enabled]:
        raise _Unknown(f"{disabled[0]} is switched off in the catalogue.")
    counts = {
        name: _state(
            connection,
            catalogue[name],
            policy.columns if name in names else (),
            connection_name,
        )
        for name in needed
    }
    if policy.needs_accounts and not counts[ACCOUNTS][0]:
        raise _Unknown("No account is known: the key may not have access to accounts.")
    return {name: rows for name, (_, rows) in counts.items()}


def _state(
    connection: Connection,
    collection: Collection,
    columns: Sequence[Sequence[str]],
    connection_name: str,
) -> tuple[int, int]:
    """Count the rows of one collection: with deleted ones, and without.

    Most member names are assumptions. If no row has a member under any of its declared names, the
    name is probably wrong, and the member's absence means nothing.

    Raises: _Unknown.
    """
    declared = collection.columns
    for group in columns:
        usable = [name for name in group if name in declared]
        wrong = [name for name in usable if declared[name].type not in _TYPES.get(name, ColumnType)]
        if not usable or wrong:
            raise _Unknown(
                f"{collection.name} has no column {' or '.join(wrong or group)} of the type that "
                "is needed, because of MAGNETIS_CONFIG."
            )
    if disagreements := compare_columns(connection, collection).disagreements:
        raise _Unknown(disagreements[0])
    parameters: Parameters = {"connection": connection_name, "collection": collection.name}
    counts = [_rows_with_member(collection, group, parameters) for group in columns]
    queries = _QUERIES.fill(
        table=f"{DATA_SCHEMA}.{collection.name}", members="".join(f", {each}" for each in counts)
    )
    read, known, rows, *with_member = connection.execute(queries["state"], parameters).one()
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
    return known, rows


def _rows_with_member(collection: Collection, group: Sequence[str], parameters: Parameters) -> str:
    conditions = []
    for name in group:
        if name not in collection.columns:
            continue
        conditions.append(f't."{name}" IS NOT NULL')
        for path in collection.columns[name].paths:
            parameter = f"path_{len(parameters)}"
            parameters[parameter] = path.split(".")
            conditions.append(f"t.payload #> CAST(:{parameter} AS text[]) IS NOT NULL")
    return f"count(*) FILTER (WHERE t.deleted_at IS NULL AND ({' OR '.join(conditions)}))"


def _violations(
    policy: Policy, collection: Collection, names: Sequence[str], catalogue: Catalogue
) -> tuple[str, Parameters]:
    """Return the query for the rows that violate the policy, and its parameters."""
    if isinstance(policy, MissedCallAlert):
        alerts = " UNION ALL ".join(
            _QUERIES.fill(table=f"{DATA_SCHEMA}.{name}").sql("alerts") for name in names
        )
        queries = _QUERIES.fill(
            name=column_or_null(catalogue[ACCOUNTS], "a", "name"), alerts=alerts
        )
        return queries.sql("accounts_without_alert"), {"types": list(policy.types)}
    queries, parameters = _QUERIES, Parameters()
    if isinstance(policy, AllowedDomains):
        below = [each.removeprefix("*") for each in policy.domains if each.startswith("*.")]
        parameters = {"domains": list(policy.domains), "below": below}
    elif isinstance(policy, SaneThresholds):
        queries = _QUERIES.fill(
            less=column_or_null(collection, "t", "less_than", "numeric"),
            more=column_or_null(collection, "t", "more_than", "numeric"),
        )
    filled = _QUERIES.fill(
        table=f"{DATA_SCHEMA}.{collection.name}",
        title=column_or_null(collection, "t", "title"),
        reason=queries.sql(_REASONS[type(policy)]),
    )
    return filled.sql("rows_with_reason"), parameters
