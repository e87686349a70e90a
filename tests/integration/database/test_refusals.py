"""Errors are translated by SQLSTATE, independent of the server's language."""

import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server

import psycopg
import pytest
from sqlalchemy import text

from magnetis_dagster.database import (
    BadAddress,
    DatabaseRefused,
    DatabaseUnavailable,
    connect,
    guarded,
)
from magnetis_dagster.database.connection import without_password

Sudo = Callable[[str], None]


@pytest.fixture
def sudo(postgres_url: str) -> Iterator[Sudo]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield lambda statement: connection.execute(statement) and None


@pytest.fixture
def role(sudo: Sudo) -> Iterator[str]:
    name = f"role_{uuid.uuid4().hex[:12]}"
    sudo(f"CREATE ROLE {name} LOGIN")
    yield name
    sudo(f"DROP ROLE {name}")


def refusal(url: str, statement: str = "SELECT 1") -> DatabaseRefused | DatabaseUnavailable:
    engine = connect(url)
    try:
        with guarded(engine, "ask"), engine.begin() as connection:
            connection.execute(text(statement))
    except (DatabaseRefused, DatabaseUnavailable) as error:
        return error
    finally:
        engine.dispose()
    raise AssertionError("the server refused nothing")


def as_role(url: str, role: str) -> str:
    return url.replace("//postgres:@", f"//{role}@").replace("//postgres@", f"//{role}@")


def test_the_connection_limit_of_the_role(empty_database_url: str, role: str, sudo: Sudo) -> None:
    sudo(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    error = refusal(as_role(empty_database_url, role))
    assert isinstance(error, DatabaseUnavailable)
    assert "no connection is free" in str(error)
    assert f'too many connections for role "{role}"' in str(error)


def test_the_connection_limit_of_the_database(
    empty_database_url: str, role: str, sudo: Sudo
) -> None:
    name = empty_database_url.partition("/test_")[2].partition("?")[0]
    sudo(f"ALTER DATABASE test_{name} CONNECTION LIMIT 0")
    assert "too many connections for database" in str(refusal(as_role(empty_database_url, role)))


def test_a_role_without_login(empty_database_url: str, role: str, sudo: Sudo) -> None:
    sudo(f"ALTER ROLE {role} NOLOGIN")
    error = refusal(as_role(empty_database_url, role))
    assert isinstance(error, DatabaseRefused)
    assert "allow it to log in (LOGIN)" in str(error)
    assert "is not permitted to log in" in str(error)


def test_a_role_without_the_connect_privilege(
    empty_database_url: str, role: str, sudo: Sudo
) -> None:
    name = empty_database_url.partition("/test_")[2].partition("?")[0]
    sudo(f"REVOKE CONNECT ON DATABASE test_{name} FROM PUBLIC")
    error = refusal(as_role(empty_database_url, role))
    assert isinstance(error, DatabaseRefused)
    assert "GRANT CONNECT ON DATABASE" in str(error)


def test_a_database_that_does_not_exist(postgres_url: str) -> None:
    error = refusal(postgres_url.replace("/postgres?", "/none?"))
    assert isinstance(error, DatabaseRefused)
    assert "does not exist: create it" in str(error)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", DatabaseRefused, "disk of the database server is full"),
        ("53200", DatabaseUnavailable, "out of memory"),
        ("53400", DatabaseRefused, "temp_file_limit"),
        ("57014", DatabaseUnavailable, "statement_timeout"),
        ("57P01", DatabaseUnavailable, "administrator ended the session"),
        ("57P02", DatabaseUnavailable, "crashed"),
        ("57P03", DatabaseUnavailable, "starting, stopping or in recovery"),
        ("57P05", DatabaseUnavailable, "idle_session_timeout"),
        ("25P03", DatabaseUnavailable, "idle_in_transaction_session_timeout"),
        ("25P04", DatabaseUnavailable, "transaction_timeout"),
        ("25006", DatabaseRefused, "target_session_attrs=read-write"),
        ("40P01", DatabaseUnavailable, "deadlock"),
        ("P0001", DatabaseRefused, "event trigger"),
        ("58030", DatabaseUnavailable, "SQLSTATE 58030"),
    ],
)
def test_errors_of_a_session_name_the_cause_and_hide_the_text(
    empty_database_url: str, state: str, kind: type[Exception], words: str
) -> None:
    error = refusal(
        empty_database_url,
        "DO $$BEGIN RAISE EXCEPTION '0033199' "
        f"USING ERRCODE = '{state}', DETAIL = '0033199'; END$$",
    )
    assert type(error) is kind
    assert words in str(error)
    assert "0033199" not in str(error)


def test_the_error_for_a_missing_privilege_names_the_table(
    empty_database_url: str, role: str
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.kept (id int)")
    error = refusal(as_role(empty_database_url, role), "SELECT * FROM public.kept")
    assert isinstance(error, DatabaseRefused)
    assert "permission denied for table kept" in str(error)


@contextmanager
def answering(state: str, words: str) -> Iterator[int]:
    """Run a fake server that refuses every session; yield its port."""
    fields = {"S": "FATAL", "V": "FATAL", "C": state, "M": words, "F": "x.c", "L": "1", "R": "x"}
    content = (
        b"".join(name.encode() + value.encode() + b"\0" for name, value in fields.items()) + b"\0"
    )
    with create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(10)
                    if client.recv(8)[4:] == struct.pack("!i", 80877103):  # SSLRequest
                        client.sendall(b"N")
                        client.recv(4096)
                    client.sendall(b"E" + struct.pack("!i", len(content) + 4) + content)

        threading.Thread(target=serve, daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(2)


@pytest.mark.parametrize(
    ("state", "words", "kind", "meaning"),
    [
        (
            "53300",
            "désolé, trop de clients sont déjà connectés",
            DatabaseUnavailable,
            "no connection is free",
        ),
        (
            "28P01",
            "authentification par mot de passe échouée",
            DatabaseRefused,
            "rejects the password",
        ),
        ("28000", "aucune entrée dans pg_hba.conf", DatabaseRefused, "pg_hba.conf"),
        (
            "57P03",
            "le système de bases de données se lance",
            DatabaseUnavailable,
            "starting, stopping or in recovery",
        ),
        ("3D000", "la base de données n'existe pas", DatabaseRefused, "does not exist"),
    ],
)
def test_a_server_with_french_messages(
    state: str, words: str, kind: type[Exception], meaning: str
) -> None:
    with answering(state, words) as port:
        error = refusal(f"postgresql://me:hush@127.0.0.1:{port}/none")
    assert type(error) is kind
    assert meaning in str(error)
    assert words in str(error)
    assert "hush" not in str(error)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://me:hush@db/x?schema=public", "has no parameter schema"),
        ("postgresql://me:hush@db/x?host=a&host=b", "more than once"),
        ("postgresql://me:hush%zz@db/x", "cannot be parsed"),
    ],
)
def test_urls_that_libpq_rejects(url: str, words: str) -> None:
    with pytest.raises(BadAddress, match=words) as raised:
        connect(url)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgres://me:hush@a:5432,b:5433/x?target_session_attrs=read-write",
            "postgresql://me:***@a:5432,b:5433/x?target_session_attrs=read-write",
        ),
        ("postgresql+psycopg2://me@a,b/x", "postgresql://me@a,b/x"),
        (
            "postgresql:///x?host=/run/postgresql&password=hush",
            "postgresql:///x?host=/run/postgresql",
        ),
        (
            "postgresql://me@[::1]:5432/x?sslpassword=hush",
            "postgresql://me@[::1]:5432/x?sslpassword=***",
        ),
        ("postgresql:///?service=main", "postgresql:///?service=main"),
    ],
)
def test_addresses_in_messages_contain_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_the_second_of_several_hosts_is_used_if_the_first_does_not_answer(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(empty_database_url) as connection:
        info = connection.info
        lines = (
            f"[main]\nhost=127.0.0.1,{info.host}\nport=1,{info.port}\n"
            f"dbname={info.dbname}\nuser={info.user}\n"
        )
        database, password = info.dbname, info.password
        several = (
            f"postgresql:///{database}?host=127.0.0.1,{info.host}&port=1,{info.port}"
            f"&user={info.user}&target_session_attrs=primary"
        )
    (tmp_path / "service.conf").write_text(lines)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "service.conf"))
    if password:
        monkeypatch.setenv("PGPASSWORD", password)
    for url in (several, "postgresql:///?service=main"):
        engine = connect(url)
        with engine.connect() as connected:
            assert connected.execute(text("SELECT current_database()")).scalar_one() == database
        engine.dispose()
