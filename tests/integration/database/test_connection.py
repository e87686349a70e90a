"""Errors of unusable databases name the cause and the remedy, never a password."""

import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_server

import psycopg
import pytest
import trustme
from sqlalchemy import text

from magnetis_dagster.database import DatabaseRefused, DatabaseUnavailable, connect, guarded

Server = Callable[[ssl.SSLContext | None], int]


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a function that starts a fake server and returns its port.

    Like PostgreSQL, it answers libpq's TLS request, up to the handshake.
    """
    with create_server(("127.0.0.1", 0)) as listening:

        def serve(context: ssl.SSLContext | None) -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(10)
                    client.recv(8)  # SSLRequest
                    client.sendall(b"S" if context else b"N")
                    if context:
                        try:
                            context.wrap_socket(client, server_side=True).close()
                        except (ssl.SSLError, OSError):
                            continue  # expected: the client disconnects

        def start(context: ssl.SSLContext | None) -> int:
            threading.Thread(target=serve, args=(context,), daemon=True).start()
            return int(listening.getsockname()[1])

        yield start
        listening.shutdown(2)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def refusal(url: str) -> DatabaseRefused:
    engine = connect(url)
    with (
        pytest.raises(DatabaseRefused) as raised,
        guarded(engine, "ask"),
        engine.connect() as connection,
    ):
        connection.execute(text("SELECT 1"))
    engine.dispose()
    assert "hush" not in str(raised.value)
    return raised.value


def context_for(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def test_the_error_for_an_unknown_certificate_authority_names_the_variable(
    server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    port = server(context_for(authority, "localhost"))
    url = f"postgresql://me:hush@localhost:{port}/none?hostaddr=127.0.0.1"

    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "missing.pem"))
    assert "set PGSSLROOTCERT to a file" in str(refusal(url))

    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "another.pem"))
    assert "no authority in the file" in str(refusal(url))


def test_the_error_for_a_certificate_of_another_host_names_the_cause(
    server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "authority.pem"))
    port = server(context_for(authority, "db.example.org"))
    assert "for another host" in str(
        refusal(f"postgresql://me:hush@localhost:{port}/none?hostaddr=127.0.0.1")
    )


def test_the_error_for_a_server_without_tls_names_the_cause(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert "the server does not offer it" in str(
        refusal(f"postgresql://me:hush@127.0.0.1:{server(None)}/none")
    )


def test_a_tls_session_that_ends_can_be_retried() -> None:
    # libpq's message for a server that disconnected: no change is needed
    engine = connect("postgresql://me:hush@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable), guarded(engine, "ask"):
        raise psycopg.OperationalError(
            "consuming input failed: SSL connection has been closed unexpectedly"
        )


def test_a_database_without_utf_8_is_refused(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        )
        message = str(refusal(postgres_url.replace("/postgres?", "/bytes?")))
        assert "has the encoding SQL_ASCII; expected UTF8" in message
        # fails if a session is still open
        connection.execute("DROP DATABASE bytes")
