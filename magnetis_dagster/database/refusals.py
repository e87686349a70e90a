"""Translate driver errors to errors that name cause and remedy.

The server translates its messages (lc_messages), so the SQLSTATE decides. PostgreSQL includes rows
in the DETAIL and CONTEXT of errors ("Failing row contains (…)", "COPY incoming, line 7: …"), and
rows are personal data. So no driver error leaves this package. Its first line is quoted only for
states whose text contains no value.
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
    """PostgreSQL was unreachable, disconnected or busy. The transaction was rolled back."""


class DatabaseRefused(PermanentError):
    """PostgreSQL rejected a request, and a retry without a change fails too."""


_ErrorType = type[DatabaseUnavailable] | type[DatabaseRefused]

_EXPIRED = (
    "the server rejects the password, or the password has expired (VALID UNTIL): correct "
    "MAGNETIS_DATABASE_URL or MAGNETIS_DATABASE_PASSWORD"
)
_NO_SESSIONS = (
    "a connection pooler does not keep sessions: set its mode to session (PgBouncer: pool_mode)"
)
_FOREIGN_OBJECT = "an object that this program did not create has this name: rename or drop it"

_REFUSED = {
    "22": "a value does not fit its column: please report the name of the collection",
    "23": "a row violates a constraint of its table: please report the name of the collection",
    "25006": "the server is read-only, like a standby: MAGNETIS_DATABASE_URL must name the primary "
    "server. Among several hosts, target_session_attrs=read-write selects it",
    "26": _NO_SESSIONS,
    "3D": (
        "the database named in MAGNETIS_DATABASE_URL does not exist: create it, or correct the URL"
    ),
    "42": "the tables differ from those that this version expects: run `magnetis migrate`",
    "42501": "the role lacks a privilege. docs/deployment.md lists the privileges of each role; "
    "run `magnetis migrate` as the tables' owner to change them",
    "42710": _FOREIGN_OBJECT,
    "42723": "a function that this program did not create has this name: rename or drop it",
    "42P05": _NO_SESSIONS,
    "42P07": _FOREIGN_OBJECT,
    "53100": "the disk of the database server is full: free space there, then retry",
    "53400": "a limit of the server's configuration is reached, such as temp_file_limit: raise it",
    "54": "a statement exceeds a limit of PostgreSQL: please report the name of the collection",
    "57P04": "the database was dropped: correct MAGNETIS_DATABASE_URL",
    "P0": "a trigger or event trigger of the database rejects the statement: change or drop it",
    "XX001": "the server reports damaged data: its log names the file",
    "XX002": "the server reports a damaged index: its log names it; REINDEX repairs it",
}
_UNAVAILABLE = {
    "08": "the connection was lost",
    "25P03": "the server ended the session, which was idle in a transaction "
    "(idle_in_transaction_session_timeout)",
    "25P04": "the server ended the session, whose transaction took too long (transaction_timeout)",
    "40": "the transaction conflicts with another one and was aborted",
    "40P01": (
        "two transactions waited for each other's locks (a deadlock), and this one was aborted"
    ),
    "53": "the server is short of resources",
    "53200": "the server is out of memory: run fewer loads in parallel",
    "53300": "no connection is free. The limit of the server (max_connections), of the database "
    "or of the role (CONNECTION LIMIT) is reached: raise it, or run fewer loads in parallel",
    "55P03": "timed out waiting for a lock",
    "57": "the server is shutting down or restarting",
    "57014": (
        "the statement was cancelled, by an administrator or by a time-out (statement_timeout)"
    ),
    "57P01": "an administrator ended the session, or the server is shutting down",
    "57P02": "a process of the server crashed, and the server ended every session",
    "57P03": "the server accepts no connections now: it is starting, stopping or in recovery",
    "57P05": "the server ended the idle session (idle_session_timeout)",
}
_MEANINGS: dict[str, tuple[_ErrorType, str]] = {
    **{state: (DatabaseRefused, advice) for state, advice in _REFUSED.items()},
    **{state: (DatabaseUnavailable, advice) for state, advice in _UNAVAILABLE.items()},
}
"""SQLSTATE, or its first two characters: the error type, and text to follow "Could not … at …:"."""

_CONNECTING: dict[str, tuple[_ErrorType, str]] = {
    "28P01": (DatabaseRefused, _EXPIRED),
    "28": (
        DatabaseRefused,
        (
            "the server does not admit this role: correct the role in MAGNETIS_DATABASE_URL, "
            "allow it to log in (LOGIN), or add a line for this role, database and machine to "
            "pg_hba.conf"
        ),
    ),
    "42501": (
        DatabaseRefused,
        "the role may not connect to this database: GRANT CONNECT ON DATABASE … TO the role",
    ),
    "55000": (
        DatabaseRefused,
        "the database accepts no connections: ALTER DATABASE … ALLOW_CONNECTIONS true",
    ),
    "08P01": (
        DatabaseUnavailable,
        "the server, or a connection pooler in front of it, ended the session",
    ),
}
"""Meanings of states while no session exists yet; they override _MEANINGS."""

_QUOTED = ("08P01", "25", "28", "3D", "42501", "42P07", "42710", "42723", "53", "55000", "57")
"""States whose first line contains only names of objects, and limits."""

_OWN_SOURCES = {
    *("aclchk.c", "heap.c", "index.c", "pg_proc.c"),
    *("postgres.c", "typecmds.c", "utility.c"),
}
"""Source files whose messages may be quoted; a trigger may raise any state with any value."""

_LIBPQ_ERRORS = {
    "root certificate file": "PGSSLMODE requires verification of the server's certificate, and no "
    "certificate authority is configured: set PGSSLROOTCERT to a file of certificates "
    "(/etc/ssl/certs/ca-certificates.crt contains the public authorities)",
    "certificate verify failed": "no authority in the file of PGSSLROOTCERT has signed the "
    "server's certificate: add it",
    "does not match host name": "the server's certificate is for another host: "
    "MAGNETIS_DATABASE_URL must name the host in it",
    "does not support ssl": "PGSSLMODE requires TLS, and the server does not offer it: enable it "
    "on the server, or lower PGSSLMODE",
    "no password supplied": _EXPIRED,
    "definition of service": "the service of the URL is in no service file: correct it, or set "
    "PGSERVICEFILE",
    "session is read-only": "the server is read-only, like a standby, and target_session_attrs "
    "excludes it: correct either",
    "session is not read-only": "the server is not a standby, and target_session_attrs requires "
    "one: correct either",
    "server is in hot standby": "the server is a standby, and target_session_attrs requires a "
    "primary server: correct either",
    "server is not in hot standby": "the server is not a standby, and target_session_attrs "
    "requires one: correct either",
}
"""libpq's own messages, in lower case: without SQLSTATE, not translated, permanent."""

_ERROR_RESPONSE = re.compile(
    rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})" M "(.*?)"(?: [A-Za-z] "| \\x00)', re.DOTALL
)
_RECONNECT_SECONDS = 5.0


def translate_error(
    error: BaseException, action: str, address: str, parameters: dict[str, str]
) -> DatabaseUnavailable | DatabaseRefused:
    """Translate a driver error; exclude rows, statements and passwords.

    `action` completes the sentence "Could not …". `address` has masked passwords. `parameters` are
    libpq's. The driver does not keep the SQLSTATE of a refused connection. So if no session was
    opened, one more attempt reads it.
    """
    where = f"Could not {action} at {address}"
    original = getattr(error, "orig", None) or error
    name = type(original).__name__
    state: str | None = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is None and isinstance(original, psycopg.DataError):
        return DatabaseRefused(f"{where}: {_REFUSED['22']} ({name} of the driver).")
    if state is not None:
        diagnosis = getattr(original, "diag", None)
        source = (diagnosis.source_file if diagnosis else None) or ""
        quotable = diagnosis and source.rpartition("/")[2] in _OWN_SOURCES
        message = diagnosis.message_primary if diagnosis and quotable else None
        return _from_state(state, message, where, _MEANINGS)
    client = str(original).lower()
    if known := next((text for phrase, text in _LIBPQ_ERRORS.items() if phrase in client), None):
        return DatabaseRefused(f"{where}: {known}.")
    timed_out = isinstance(original, psycopg.errors.ConnectionTimeout)
    if not timed_out and (refusal := _last_refusal(parameters)):
        return _from_state(*refusal, where, _MEANINGS | _CONNECTING)
    return DatabaseUnavailable(
        f"Could not {action}: PostgreSQL at {address} cannot be reached "
        f"({name}). Check that the server runs and that MAGNETIS_DATABASE_URL names it. The "
        "transaction was rolled back."
    )


def _from_state(
    state: str, message: str | None, where: str, meanings: dict[str, tuple[_ErrorType, str]]
) -> DatabaseUnavailable | DatabaseRefused:
    unknown = (DatabaseUnavailable, "PostgreSQL reports an error")
    error_type, advice = meanings.get(state) or meanings.get(state[:2]) or unknown
    quote = f' Message: "{message}".' if message and state.startswith(_QUOTED) else ""
    return error_type(
        f"{where}: {advice} (SQLSTATE {state}).{quote} The transaction was rolled back."
    )


def _last_refusal(parameters: dict[str, str]) -> tuple[str, str] | None:
    """Connect once more; return SQLSTATE and first line of the last refusal, or None."""
    end = time.monotonic() + _RECONNECT_SECONDS
    connection = PGconn.connect_start(make_conninfo(**parameters).encode())
    # libpq reports the SQLSTATE of a refused connection in its trace only
    # a pipe, not a file, because the trace may contain a password
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    try:
        connection.trace(writing)
        connection.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        while (status := connection.connect_poll()) not in {PollingStatus.OK, PollingStatus.FAILED}:
            remaining = end - time.monotonic()
            sockets = [connection.socket]
            reads = status == PollingStatus.READING
            waits = (sockets, []) if reads else ([], sockets)
            if remaining <= 0 or not any(select.select(*waits, [], remaining)):
                return None
        connection.untrace()
        traced = os.read(reading, 1 << 16)
    except (OSError, psycopg.Error):
        return None  # libpq supports traces on Linux only
    finally:
        connection.finish()
        os.close(reading)
        os.close(writing)
    answers = _ERROR_RESPONSE.findall(traced)
    return (answers[-1][0].decode(), answers[-1][1].decode(errors="replace")) if answers else None
