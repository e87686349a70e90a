"""Only the owner can connect to the embedded server and read its files."""

import os
import pwd
import shutil
import socket
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from magnetis_dagster.database import embedded, postmaster
from magnetis_dagster.database.postmaster import Cluster
from magnetis_dagster.database.server_access import SOCKET, ServerRefused

OTHER = "magnetis-other"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can create a second user of the machine and act as it"
)


@pytest.fixture(scope="module")
def other() -> Iterator[pwd.struct_passwd]:
    """Create another user without a group in common with the first."""
    subprocess.run(["useradd", "--system", "--user-group", "--no-create-home", OTHER], check=True)
    yield pwd.getpwnam(OTHER)
    subprocess.run(["userdel", OTHER], check=True)


def as_user(user: pwd.struct_passwd, act: Callable[[], object]) -> str:
    """Run `act` as that user; return its exception, or "SUCCESS" and its result."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            result = f"SUCCESS {act()}"
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            result = "".join(traceback.format_exception_only(error))
        os.write(write, result.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.fixture(params=[0, 100], ids=["short home", "long home"])
def home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return a home in a folder that other users can list."""
    yield from _home("h" * request.param or "home")


@pytest.fixture
def long_home() -> Iterator[Path]:
    """Return a home with a path that is too long for a socket."""
    yield from _home("h" * 100)


def _home(name: str) -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="magnetis-private-"))
    parent.chmod(0o755)
    yield parent / name
    embedded.stop(parent / name)
    shutil.rmtree(parent)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def query(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload,no-any-return]


@needs_root
def test_another_user_can_neither_connect_nor_read_files(
    home: Path, other: pwd.struct_passwd
) -> None:
    url = embedded.start(home)
    access = embedded.allow_tcp(home, "postgres")
    folder = Path(url.split("host=")[1])
    tcp = f"postgresql://postgres@127.0.0.1:{access.port}/magnetis"
    assert query(url, "SELECT 1") == [(1,)]
    assert query(f"{tcp}?password={access.password}", "SELECT 1") == [(1,)]

    refused = as_user(other, lambda: psycopg.connect(url))
    assert "OperationalError" in refused
    assert "Permission denied" in refused
    assert "no password supplied" in as_user(other, lambda: psycopg.connect(tcp))
    assert "password authentication failed" in as_user(
        other, lambda: psycopg.connect(f"{tcp}?password=guess")
    )
    for read_files in (
        lambda: list(home.iterdir()),
        lambda: list(folder.iterdir()),
        (home / "postgres" / "PG_VERSION").read_text,
        (home / "postgres" / "log").read_text,
        (home / "postgres-passwords.json").read_text,
        (home / "postgres.lock").read_text,
    ):
        assert "PermissionError" in as_user(other, read_files), read_files

    # even with open folders, the operating system authenticates the user
    for path in (home, home / "postgres", folder):
        path.chmod(mode(path) | stat.S_IXOTH)
    (folder / SOCKET).resolve().chmod(0o777)
    assert "Peer authentication failed" in as_user(other, lambda: psycopg.connect(url))


@needs_root
def test_another_users_home_is_refused_with_the_users_name(
    long_home: Path, other: pwd.struct_passwd
) -> None:
    home = long_home
    embedded.start(home)
    embedded.stop(home)
    assert "ServerRefused" in as_user(other, lambda: embedded.address(home))
    home.chmod(0o755)
    assert "belongs to the user root, but you are magnetis-other" in as_user(
        other, lambda: embedded.start(home)
    )


@needs_root
def test_two_users_can_run_their_servers_at_the_same_time(
    long_home: Path, other: pwd.struct_passwd
) -> None:
    home = long_home
    url = embedded.start(home)
    theirs = home.parent / "theirs" / home.name
    theirs.parent.mkdir()
    os.chown(theirs.parent, other.pw_uid, other.pw_gid)

    def start() -> list[Any]:
        own = embedded.start(theirs)
        answer = query(own, "SELECT current_user, version() IS NOT NULL")
        embedded.stop(theirs)
        return answer

    assert as_user(other, start) == "SUCCESS [('postgres', True)]"
    assert query(url, "SELECT 1") == [(1,)]
    assert (theirs.stat().st_uid, mode(theirs)) == (other.pw_uid, 0o700)
    # root may use their home, and creates no file there that the owner cannot read
    embedded.start(theirs)
    embedded.stop(theirs)
    assert {path.stat().st_uid for path in theirs.rglob("*")} == {other.pw_uid}
    assert as_user(other, start).startswith("SUCCESS")


def test_files_are_private_with_any_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        url = embedded.start(home)
        embedded.allow_tcp(home, "postgres")
    finally:
        os.umask(before)
    # if root starts the server, the server's user must enter the home
    assert mode(home) == (0o710 if os.geteuid() == 0 else 0o700)
    assert mode(home / "postgres") == mode(Path(url.split("host=")[1])) == 0o700
    assert {
        path.name: mode(path) for path in home.iterdir() if path.is_file() and mode(path) & 0o077
    } == {}
    assert mode(home / "postgres" / "log") == 0o600
    assert mode((Path(url.split("host=")[1]) / SOCKET).resolve()) == 0o700


def test_an_open_home_of_an_earlier_version_becomes_private(long_home: Path) -> None:
    home = long_home
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    embedded.start(home)
    assert mode(home) & 0o067 == 0


def test_a_server_of_an_earlier_version_starts_to_authenticate_users(long_home: Path) -> None:
    """Both a stopped and a running server, with that version's login rules."""
    home = long_home
    url = embedded.start(home)
    rules = "SELECT type, auth_method FROM pg_hba_file_rules ORDER BY rule_number"
    assert query(url, rules) == [("local", "peer")]
    for stopped in (True, False):
        (home / "postgres" / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 trust\n"
        )
        if stopped:
            embedded.stop(home)
        else:
            query(url, "SELECT pg_reload_conf()")
        assert query(embedded.start(home), rules) == [("local", "peer")]


def test_other_roles_log_in_on_the_same_socket(long_home: Path) -> None:
    home = long_home
    url = embedded.start(home)
    query(url, "SELECT 1")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE etl LOGIN")
    assert query(url.replace("postgres:@", "etl@"), "SELECT current_user") == [("etl",)]


@needs_root
@pytest.mark.parametrize("kind", ["open", "symlink", "file", "foreign"])
def test_a_socket_folder_that_another_user_created_is_refused(
    kind: str, tmp_path: Path, other: pwd.struct_passwd
) -> None:
    parent = Path(tempfile.mkdtemp(prefix="magnetis-private-"))
    home = parent / ("h" * 100)
    folder = Cluster(home.resolve() / "postgres").socket_folder()
    assert folder.parent == Path("/tmp")
    if kind == "symlink":
        folder.symlink_to(tmp_path)
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
        folder.chmod(0o777 if kind == "open" else 0o700)
        if kind == "foreign":
            os.chown(folder, other.pw_uid, other.pw_gid)
    try:
        with pytest.raises(ServerRefused, match=f"{folder}.*was not created by this program.*0700"):
            embedded.start(home)
        assert postmaster.Postmaster.of(home.resolve() / "postgres") is None
    finally:
        folder.unlink() if kind in {"symlink", "file"} else folder.rmdir()
        shutil.rmtree(parent)


def test_the_port_is_saved_and_reused_unless_another_program_uses_it(long_home: Path) -> None:
    home = long_home
    embedded.start(home)
    port = embedded.allow_tcp(home, "postgres").port
    embedded.stop(home)
    embedded.start(home)
    assert embedded.allow_tcp(home, "postgres").port == port
    embedded.stop(home)

    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(
            ServerRefused, match=f"--database-port: another program uses port {port}"
        ):
            embedded.start(home, port=port)
        embedded.start(home)
        another = embedded.allow_tcp(home, "postgres")
    assert another.port != port
    with pytest.raises(ServerRefused, match="is already running with another port"):
        embedded.start(home, port=port)
    url = embedded.start(home)
    assert query(url, "SHOW listen_addresses") == [("127.0.0.1",)]
    embedded.stop(home)

    url = embedded.start(home, port=0)
    assert query(url, "SHOW listen_addresses") == [("",)]
    with pytest.raises(embedded.NoTcp, match="--database-port"):
        embedded.allow_tcp(home, "postgres")
    embedded.stop(home)
    assert not Path(url.split("host=")[1]).joinpath(SOCKET).exists()
    with pytest.raises(embedded.NotRunning):
        embedded.allow_tcp(home, "postgres")


def test_tcp_logins_are_refused_until_a_role_is_allowed(long_home: Path) -> None:
    home = long_home
    url = embedded.start(home)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE etl LOGIN PASSWORD 'known'")
    port = query(url, "SHOW port")[0][0]
    tcp = f"postgresql://etl:known@127.0.0.1:{port}/magnetis"
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(tcp)
    embedded.allow_tcp(home, "postgres")
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(tcp)


def test_the_server_inherits_no_secret(long_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = long_home
    monkeypatch.setenv("MAGNETIS_API_KEY", "key-0f-somebody")
    monkeypatch.setenv("PGPASSWORD", "somebodys")
    embedded.start(home)
    running = postmaster.Postmaster.of(home.resolve() / "postgres")
    assert running
    environment = psutil.Process(running.pid).environ()
    assert environment.keys() & {"MAGNETIS_API_KEY", "PGPASSWORD"} == set()
