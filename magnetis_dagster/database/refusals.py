"""What the server's errors mean to the person who reads the run, by SQLSTATE: texts are translated by the server's lc_messages.

PostgreSQL puts rows into the DETAIL and CONTEXT of its errors ("Failing row contains (…)", "COPY incoming, line 7: …"), and rows
are personal data. So no driver error leaves this package, and its first line is quoted only for states whose text holds no value.
"""

import os
import re
import select
import time

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, PollingStatus, Trace

from magnetis_dagster.errors import PermanentError, TransientError


class DatabaseUnavailable(TransientError):
    """PostgreSQL could not be reached, went away, or was busy. The transaction was rolled back."""


class DatabaseRefused(PermanentError):
    """PostgreSQL refused a request, and will refuse it again until somebody changes something."""


_Kind = type[DatabaseUnavailable] | type[DatabaseRefused]

_EXPIRED = (
    "the server rejects the password, or the password has expired (VALID UNTIL): correct MAGNETIS_DATABASE_URL or "
    "MAGNETIS_DATABASE_PASSWORD"
)
_CONNECTING: dict[str, tuple[_Kind, str]] = {
    "28P01": (DatabaseRefused, _EXPIRED),
    "28": (
        DatabaseRefused,
        (
            "the server does not admit this role: correct the role in MAGNETIS_DATABASE_URL, let it log in (LOGIN), or add a line "
            "for it, this database and this machine to pg_hba.conf"
        ),
    ),
    "42501": (
        DatabaseRefused,
        "the role may not connect to this database: GRANT CONNECT ON DATABASE … TO the role",
    ),
    "55000": (
        DatabaseRefused,
        "the database takes no connections: ALTER DATABASE … ALLOW_CONNECTIONS true",
    ),
    "08P01": (
        DatabaseUnavailable,
        "the server, or a connection pooler in front of it, ended the session",
    ),
}
"""Meanings that hold only until a session exists."""

_MEANINGS: dict[str, tuple[_Kind, str]] = {
    "3D": (
        DatabaseRefused,
        "the database named in MAGNETIS_DATABASE_URL does not exist: create it, or correct the URL",
    ),
    "57P04": (DatabaseRefused, "the database was dropped: correct MAGNETIS_DATABASE_URL"),
    "42501": (
        DatabaseRefused,
        (
            "the role lacks a privilege. docs/deployment.md lists what each role needs; tables are changed by `magnetis migrate` "
            "as their owner"
        ),
    ),
    "25006": (
        DatabaseRefused,
        (
            "the server is read-only, as a standby is: MAGNETIS_DATABASE_URL must name the primary server. Among several hosts, "
            "target_session_attrs=read-write finds it"
        ),
    ),
    "53100": (
        DatabaseRefused,
        "the disk of the database server is full: free space there, then run again",
    ),
    "53200": (DatabaseUnavailable, "the server is out of memory: run fewer loads in parallel"),
    "53300": (
        DatabaseUnavailable,
        (
            "no connection is free. The limit of the server (max_connections), of the database or of the role (CONNECTION LIMIT) "
            "is reached: raise it, or run fewer loads in parallel"
        ),
    ),
    "53400": (
        DatabaseRefused,
        "a limit of the server's configuration is reached, such as temp_file_limit: raise it",
    ),
    "53": (DatabaseUnavailable, "the server is short of resources"),
    "57014": (
        DatabaseUnavailable,
        "the statement was cancelled, by an administrator or by a time-out (statement_timeout)",
    ),
    "57P01": (
        DatabaseUnavailable,
        "an administrator ended the session, or the server is shutting down",
    ),
    "57P02": (
        DatabaseUnavailable,
        "a process of the server crashed, and the server ended every session",
    ),
    "57P03": (
        DatabaseUnavailable,
        "the server takes no connections now: it is starting, stopping or in recovery",
    ),
    "57P05": (DatabaseUnavailable, "the server ended the idle session (idle_session_timeout)"),
    "57": (DatabaseUnavailable, "the server is shutting down or restarting"),
    "25P03": (
        DatabaseUnavailable,
        "the server ended the session, idle in a transaction (idle_in_transaction_session_timeout)",
    ),
    "25P04": (
        DatabaseUnavailable,
        "the server ended the session, whose transaction took too long (transaction_timeout)",
    ),
    "40P01": (
        DatabaseUnavailable,
        "two transactions waited for each other's locks (a deadlock), and this one was ended",
    ),
    "40": (
        DatabaseUnavailable,
        "the transaction conflicts with another one, and this one was ended",
    ),
    "55P03": (DatabaseUnavailable, "timed out waiting for a lock"),
    "08": (DatabaseUnavailable, "the connection was lost"),
    "26": (
        DatabaseRefused,
        "a connection pooler does not keep sessions: set its mode to session (PgBouncer: pool_mode)",
    ),
    "42P05": (
        DatabaseRefused,
        "a connection pooler does not keep sessions: set its mode to session (PgBouncer: pool_mode)",
    ),
    "42P07": (
        DatabaseRefused,
        "an object that this program did not create has this name: rename or drop it",
    ),
    "42710": (
        DatabaseRefused,
        "an object that this program did not create has this name: rename or drop it",
    ),
    "42723": (
        DatabaseRefused,
        "a function that this program did not create has this name: rename or drop it",
    ),
    "42": (
        DatabaseRefused,
        "the tables differ from those that this version expects: run `magnetis migrate`",
    ),
    "22": (
        DatabaseRefused,
        "a value does not fit its column: please report which collection this was",
    ),
    "23": (
        DatabaseRefused,
        "a row breaks a rule of its table: please report which collection this was",
    ),
    "54": (
        DatabaseRefused,
        "a statement exceeds a limit of PostgreSQL: please report which collection this was",
    ),
    "P0": (
        DatabaseRefused,
        "a trigger or event trigger of the database rejects the statement: change or drop it",
    ),
    "XX001": (DatabaseRefused, "the server reports damaged data: its log names the file"),
    "XX002": (
        DatabaseRefused,
        "the server reports a damaged index: its log names it; REINDEX repairs it",
    ),
}
"""SQLSTATE, or its first two characters, to kind and advice. "The tables are …" and the like complete "Could not … at …:"."""

_QUOTED = ("08P01", "25", "28", "3D", "42501", "42P07", "42710", "42723", "53", "55000", "57")
"""States whose first line holds names of objects and limits only."""

_OWN_TEXTS = {"aclchk.c", "heap.c", "index.c", "pg_proc.c", "postgres.c", "typecmds.c", "utility.c"}
"""Files of PostgreSQL that word them; a trigger may raise any state, with any value in its text."""

_CLIENT = {
    "root certificate file": "PGSSLMODE requires a check of the server's certificate, and no authority is known: "
    "set PGSSLROOTCERT to a file of certificates (/etc/ssl/certs/ca-certificates.crt has the public authorities)",
    "certificate verify failed": "no authority in the file of PGSSLROOTCERT has signed the server's certificate: add it",
    "does not match host name": "the server's certificate is for another host: MAGNETIS_DATABASE_URL must name the one in it",
    "does not support ssl": "PGSSLMODE requires TLS, and the server does not offer it: enable it there, or lower PGSSLMODE",
    "no password supplied": _EXPIRED,
    "definition of service": "the service of the URL is in no service file: correct it, or set PGSERVICEFILE",
    "session is read-only": "the server is read-only, as a standby is, and target_session_attrs excludes it: correct either",
    "session is not read-only": "the server is no standby, and target_session_attrs requires one: correct either",
    "server is in hot standby": "the server is a standby, and target_session_attrs requires a primary server: correct either",
    "server is not in hot standby": "the server is no standby, and target_session_attrs requires one: correct either",
}
"""Texts of libpq itself in lower case, which have no SQLSTATE and are not translated; all need a change."""

_ANSWERED = re.compile(
    rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})" M "(.*?)"(?: [A-Za-z] "| \\x00)', re.DOTALL
)
_REFUSAL_SECONDS = 5.0


def named(
    error: BaseException, doing: str, where: str, parameters: dict[str, str]
) -> DatabaseUnavailable | DatabaseRefused:
    """Return our error for the driver's `error`, free of rows, statements and passwords.

    `where` is the address for messages, `parameters` are libpq's: if no session was opened, one more attempt reads the
    SQLSTATE of the refusal, which the drivers do not keep.
    """
    original = getattr(error, "orig", None) or error
    state: str | None = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is None and isinstance(original, psycopg.DataError):
        kind, advice = _MEANINGS["22"]
        return kind(
            f"Could not {doing} at {where}: {advice} ({type(original).__name__} of the driver)."
        )
    if state is not None:
        diagnosis = getattr(original, "diag", None)
        own = (
            diagnosis is not None and (diagnosis.source_file or "").rpartition("/")[2] in _OWN_TEXTS
        )
        return _meant(
            state, diagnosis.message_primary if diagnosis and own else None, doing, where, _MEANINGS
        )
    client = str(original).lower()
    if known := next((text for phrase, text in _CLIENT.items() if phrase in client), None):
        return DatabaseRefused(f"Could not {doing} at {where}: {known}.")
    if not isinstance(original, psycopg.errors.ConnectionTimeout) and (
        refusal := _refusal(parameters)
    ):
        return _meant(
            *refusal,
            doing,
            where,
            _CONNECTING | {k: v for k, v in _MEANINGS.items() if k not in _CONNECTING},
        )
    return DatabaseUnavailable(
        f"Could not {doing}: PostgreSQL at {where} cannot be reached ({type(original).__name__}). "
        "Check that the server runs and that MAGNETIS_DATABASE_URL names it. The transaction was rolled back."
    )


def _meant(
    state: str, text: str | None, doing: str, where: str, meanings: dict[str, tuple[_Kind, str]]
) -> DatabaseUnavailable | DatabaseRefused:
    kind, advice = (
        meanings.get(state)
        or meanings.get(state[:2])
        or (DatabaseUnavailable, "PostgreSQL reports an error")
    )
    said = f' The server said: "{text}".' if text and state.startswith(_QUOTED) else ""
    return kind(
        f"Could not {doing} at {where}: {advice} (SQLSTATE {state}).{said} The transaction was rolled back."
    )


def _refusal(parameters: dict[str, str]) -> tuple[str, str] | None:
    """Connect once more; return SQLSTATE and first line of the server's last refusal, None if it refused nothing."""
    end = time.monotonic() + _REFUSAL_SECONDS
    connection = PGconn.connect_start(make_conninfo(**parameters).encode())
    # libpq shows the SQLSTATE of a refused connection in its trace only; a pipe, since a password may be traced too
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    try:
        connection.trace(writing)
        connection.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        while (status := connection.connect_poll()) not in {PollingStatus.OK, PollingStatus.FAILED}:
            left = end - time.monotonic()
            sockets = [connection.socket]
            waited = (
                select.select(sockets, [], [], left)
                if status == PollingStatus.READING
                else select.select([], sockets, [], left)
            )
            if left <= 0 or not any(waited):
                return None
        connection.untrace()
        traced = os.read(reading, 1 << 16)
    except (OSError, psycopg.Error):
        return None  # libpq traces on Linux only
    finally:
        connection.finish()
        os.close(reading)
        os.close(writing)
    answers = _ANSWERED.findall(traced)
    return (answers[-1][0].decode(), answers[-1][1].decode(errors="replace")) if answers else None
