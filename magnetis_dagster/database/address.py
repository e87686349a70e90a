"""Parse and display database addresses: libpq URLs, with several hosts if needed."""

import re
from collections import Counter
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo
from sqlalchemy.engine import URL

from magnetis_dagster.database.refusals import DatabaseRefused

_SECRETS = {"password", "sslpassword"}
_OURS = {"client_encoding", "application_name", "connect_timeout"}
"""Parameters that `connect` adds; they are not part of the address."""


class BadAddress(DatabaseRefused):
    """libpq rejects MAGNETIS_DATABASE_URL; the text never contains the password."""


def parameters_of(url: str) -> dict[str, str]:
    """Return libpq's parameters (host, port, user, dbname …). Raises BadAddress."""
    bare = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    names = Counter(name for name, _ in parse_qsl(urlsplit(bare).query, keep_blank_values=True))
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"}
    if unknown := sorted(names.keys() - known):
        raise BadAddress(
            "MAGNETIS_DATABASE_URL: PostgreSQL's client library has no parameter "
            f"{', '.join(unknown)}. Remove it; parameters of Prisma, JDBC and others are not "
            "supported."
        )
    if repeated := sorted(name for name, times in names.items() if times > 1):
        raise BadAddress(
            f"MAGNETIS_DATABASE_URL: the parameter {', '.join(repeated)} is given more than once. "
            "Write several hosts as postgresql://user@a:5432,b:5432/database."
        )
    try:
        return {name: str(value) for name, value in conninfo_to_dict(bare).items()}
    except psycopg.ProgrammingError:
        # libpq's message quotes the URL
        raise BadAddress(
            "MAGNETIS_DATABASE_URL cannot be parsed: expected "
            "postgresql://user:password@host:5432/database, with special characters escaped as "
            "%40 …"
        ) from None


def engine_url(driver: str, parameters: dict[str, str]) -> URL:
    """Return a SQLAlchemy URL; only user and password are in fields, which SQLAlchemy masks."""
    query = dict(parameters)
    user, password = query.pop("user", None), query.pop("password", None)
    return URL.create(driver, username=user, password=password, query=query)


def mask_passwords(parameters: Mapping[str, str]) -> str:
    """Return the address of these libpq parameters for messages, with passwords masked."""
    query = {name: value for name, value in parameters.items() if name not in _OURS}
    user, password = query.pop("user", None), query.pop("password", None)
    login = "" if user is None else f"{quote(user)}{':***' if password else ''}@"
    database, authority = quote(query.pop("dbname", "")), ""
    hosts = query.get("host", "").split(",")
    if not any("/" in host for host in hosts):  # the folder of a socket stays in the query
        ports = query.pop("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        bracketed = (f"[{host}]" if ":" in host else host for host in hosts)
        authority = ",".join(
            f"{host}:{port}" if port else host for host, port in zip(bracketed, ports, strict=False)
        )
        query.pop("host", None)
    rest = "&".join(
        f"{name}={'***' if name in _SECRETS else value}" for name, value in query.items()
    )
    return f"postgresql://{login}{authority}/{database}{'?' if rest else ''}{rest}"
