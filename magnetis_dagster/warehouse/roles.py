"""Create the roles of people and BI tools. They read data, within limits, and write nothing.

| role | reads |
| --- | --- |
| `magnetis_reader` | the schema `magnetis` with personal data, masked views, marts |
| `magnetis_analyst` | masked views, marts |
| a customer's role, a member of `magnetis_customer` | its own rows of the masked views |

No role reads magnetis_ops, which caches raw pages of the API, or Dagster's schema. Customers do not
read marts, which may contain the rows of several connections.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection, Engine, text

from magnetis_dagster.database import guarded, has_table
from magnetis_dagster.database.address import mask_passwords, parameters_of
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.warehouse.queries import Queries
from magnetis_dagster.warehouse.schema import (
    ALL_ACCOUNTS,
    DATA_SCHEMA,
    MASKED_SCHEMA,
    OPS_SCHEMA,
)
from magnetis_dagster.warehouse.views import masked_comment
from magnetis_dagster.warehouse.visibility import ANALYST, READER

MARTS_SCHEMA = "magnetis_marts"
CUSTOMERS = "magnetis_customer"
"""Group of all customers' roles. Nobody can log in as the group."""
_QUERIES = Queries("roles")
_CUSTOMER_NAME = re.compile(r"(?!pg_|magnetis|(?:public|none)$)[a-z][a-z0-9_]{0,62}")
_PLAIN_NAME = re.compile("[a-z_][a-z0-9_]*")
_SESSIONS, _CUSTOMER_SESSIONS = 20, 5
"""Sessions of a role at a time. The server accepts 100, and loads need most of them."""
_LOCK = 0x6D61_6772_6561_6431
"""Advisory lock: one process at a time creates roles."""


class RoleUnknown(PermanentError):
    """Only the server's administrator can create the role; the text contains the SQL."""


class RoleRefused(PermanentError):
    """The name or the access of a customer's role is not valid. Nothing was changed."""


class LoginRole(Protocol):
    """A role that `magnetis db-url` creates."""

    @property
    def name(self) -> str:
        """Name of the role."""

    def create(self, engine: Engine) -> None:
        """Create the role if it is missing, and grant it its tables or views.

        Raises: RoleRefused; DatabaseRefused if this user may not create roles.
        """

    @property
    def grantee(self) -> str:
        """The role that receives the rights: this one, or its group."""

    def statements(self, owner: str) -> list[str]:
        """Return the SQL by which an administrator creates the role; `owner` owns the tables."""


@dataclass(frozen=True, slots=True)
class DataRole:
    """A role that reads all rows of some schemas, including tables that are created later."""

    name: str
    schemas: Sequence[str]
    search_path: str

    @property
    def grantee(self) -> str:
        """See LoginRole."""
        return self.name

    def create(self, engine: Engine) -> None:
        """See LoginRole."""
        with guarded(engine, f"create the role {self.name}"), engine.begin() as connection:
            _lock(connection)
            if not _exists(connection, self.name):
                connection.execute(text(self._creation))
            _execute(connection, _limits(self.name, self.search_path))
            self.grant(connection)

    def grant(self, connection: Connection) -> None:
        """Grant this user's present and future tables in existing schemas, if the role exists.

        Skips schemas and tables of other owners: only an owner may grant.
        """
        if not _exists(connection, self.name):
            return
        for schema in self.schemas:
            if not connection.execute(_QUERIES["is_owned"], {"schema": schema}).scalar():
                continue
            tables = connection.scalars(
                _QUERIES["unreadable"], {"schema": schema, "role": self.name}
            ).all()
            _execute(
                connection,
                [
                    f"GRANT USAGE ON SCHEMA {schema} TO {self.name}",
                    f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} {self._future_tables}",
                    *(f"GRANT SELECT ON {table} TO {self.name}" for table in tables),
                ],
            )

    def statements(self, owner: str) -> list[str]:
        """See LoginRole."""
        found = [self._creation, *_limits(self.name, self.search_path)]
        for schema in self.schemas:
            if schema != MARTS_SCHEMA:  # it may not exist; the owner grants it later
                defaults = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema}"
                found += [
                    f"GRANT USAGE ON SCHEMA {schema} TO {self.name}",
                    f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {self.name}",
                    f"{defaults} {self._future_tables}",
                ]
        return found

    @property
    def _future_tables(self) -> str:
        return f"GRANT SELECT ON TABLES TO {self.name}"

    @property
    def _creation(self) -> str:
        return f"CREATE ROLE {self.name} LOGIN CONNECTION LIMIT {_SESSIONS}"


READER_ROLE = DataRole(
    READER, (DATA_SCHEMA, MARTS_SCHEMA, MASKED_SCHEMA), f"{DATA_SCHEMA}, {MARTS_SCHEMA}"
)
ANALYST_ROLE = DataRole(ANALYST, (MASKED_SCHEMA, MARTS_SCHEMA), f"{MASKED_SCHEMA}, {MARTS_SCHEMA}")


@dataclass(frozen=True, slots=True)
class CustomerRole:
    """A role that reads its own rows of the masked views.

    Raises: RoleRefused if the name is not valid.
    """

    name: str
    access: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Ids of accounts by connection; none: all accounts. It replaces the access to these
    connections; that to others stays."""

    def __post_init__(self) -> None:
        """Verify the name."""
        if not _CUSTOMER_NAME.fullmatch(self.name):
            raise RoleRefused(
                f"{self.name!r} cannot be the name of a customer's role: expected a lower-case "
                "letter, then letters, digits and underscores. Names that begin with magnetis or "
                "pg_ are reserved."
            )

    def create(self, engine: Engine) -> None:
        """See LoginRole. Raises RoleRefused if the role would have no rows, or is no customer's."""
        with guarded(engine, f"create the role {self.name}"), engine.begin() as connection:
            _lock(connection)
            if not has_table(connection, f"{OPS_SCHEMA}.row_access"):
                raise RoleRefused(
                    "The database has no masked views yet. Run `magnetis migrate`, then this "
                    "command again."
                )
            self._require_connections(connection)
            _execute(connection, _group())
            grant_customers(connection)
            if not _exists(connection, self.name):
                connection.execute(text(self._creation))
            elif not connection.execute(
                _QUERIES["is_customer"], {"role": self.name, "group": CUSTOMERS}
            ).scalar():
                raise RoleRefused(
                    f"The role {self.name} exists and is no customer's. Choose another name, or "
                    f"make it one as an administrator: GRANT {CUSTOMERS} TO {_quoted(self.name)}."
                )
            _execute(connection, _limits(_quoted(self.name), MASKED_SCHEMA))
            for name, accounts in self.access.items():
                row = {
                    "role": self.name,
                    "connection": name,
                    "accounts": list(accounts or [ALL_ACCOUNTS]),
                }
                connection.execute(_QUERIES["revoke_access"], row)
                connection.execute(_QUERIES["grant_access"], row)
            if not connection.execute(_QUERIES["has_access"], {"role": self.name}).scalar():
                raise RoleRefused(
                    f"The role {self.name} has no access to rows in this database. Name the "
                    "connection: --connection NAME, and possibly --account ID."
                )

    @property
    def grantee(self) -> str:
        """See LoginRole."""
        return CUSTOMERS

    def _require_connections(self, connection: Connection) -> None:
        known = connection.scalars(_QUERIES["connections"]).all()
        if unknown := sorted(self.access.keys() - set(known)):
            raise RoleRefused(
                f"The database has no rows of a connection {', '.join(unknown)}. There are: "
                f"{', '.join(known) or 'none'}."
            )

    def statements(self, owner: str) -> list[str]:  # noqa: ARG002 - the group owns no defaults
        """See LoginRole."""
        return [
            *_group(),
            f"GRANT USAGE ON SCHEMA {MASKED_SCHEMA} TO {CUSTOMERS}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {MASKED_SCHEMA} TO {CUSTOMERS}",
            self._creation,
            *_limits(_quoted(self.name), MASKED_SCHEMA),
            *self._insertions(),
        ]

    @property
    def _creation(self) -> str:
        limit = f"CONNECTION LIMIT {_CUSTOMER_SESSIONS}"
        return f"CREATE ROLE {_quoted(self.name)} LOGIN {limit} IN ROLE {CUSTOMERS}"

    def _insertions(self) -> list[str]:
        return [
            f"INSERT INTO {OPS_SCHEMA}.row_access (role_name, connection, account_id) "
            f"VALUES ({_literal(self.name)}, {_literal(name)}, {_literal(account)})"
            for name, accounts in self.access.items()
            for account in accounts or [ALL_ACCOUNTS]
        ]


def grant_all(connection: Connection) -> None:
    """Grant existing roles the tables and views that were created since they were."""
    READER_ROLE.grant(connection)
    ANALYST_ROLE.grant(connection)
    grant_customers(connection)


def grant_customers(connection: Connection) -> None:
    """Grant the customers' group the masked views, and no other table of that schema."""
    is_owned = connection.execute(_QUERIES["is_owned"], {"schema": MASKED_SCHEMA}).scalar()
    if not is_owned or not _exists(connection, CUSTOMERS):
        return
    parameters = {"schema": MASKED_SCHEMA, "role": CUSTOMERS, "comment": masked_comment("%s")}
    views = connection.scalars(_QUERIES["unreadable_views"], parameters)
    grants = [f"GRANT SELECT ON {view} TO {CUSTOMERS}" for view in views]
    _execute(connection, [f"GRANT USAGE ON SCHEMA {MASKED_SCHEMA} TO {CUSTOMERS}", *grants])


def instructions(url: str, role: LoginRole) -> str:
    """Return the SQL, without a password, by which the administrator of `url` creates the role."""
    parameters = parameters_of(url)
    address = mask_passwords(parameters | {"user": role.name, "password": "given"})
    owner = parameters.get("user", "magnetis")
    statements = role.statements(owner if _PLAIN_NAME.fullmatch(owner) else _quoted(owner))
    if database := parameters.get("dbname"):
        statements.append(f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {role.grantee}")
    lines = "".join(f"  {statement};\n" for statement in statements)
    return (
        "MAGNETIS_DATABASE_URL names a server of your own: its administrator must create the role "
        f"{role.name}. Run this in psql, in that database:\n{lines}  \\password {role.name}\n"
        f"Then connect as the role, with its password instead of ***: {address}"
    )


def _group() -> list[str]:
    return [
        f"DO $$ BEGIN CREATE ROLE {CUSTOMERS}; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    ]


def _limits(role: str, search_path: str) -> list[str]:
    return [
        f"ALTER ROLE {role} SET {limit}"
        for limit in (
            "default_transaction_read_only = 'on'",
            "statement_timeout = '5min'",
            "lock_timeout = '10s'",
            # an open transaction of a BI tool blocks migrations
            "idle_in_transaction_session_timeout = '5min'",
            f"search_path = {search_path}",
        )
    ]


def _lock(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})


def _exists(connection: Connection, role: str) -> bool:
    return bool(connection.execute(_QUERIES["exists"], {"role": role}).scalar())


def _execute(connection: Connection, statements: Sequence[str]) -> None:
    for statement in statements:
        connection.execute(text(statement))


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _literal(value: str) -> str:
    return "'{}'".format(value.replace("'", "''"))
