"""What one `magnetis dev` claims: the folder, the port, the project's files."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from magnetis_dagster.dev import home as claims
from magnetis_dagster.private_files import ForeignFolder, private_folder
from magnetis_dagster.running_dev import RunningDev, announced, running_dev

HOLDER = """
import sys, time
from pathlib import Path
from magnetis_dagster.dev.home import claimed
with claimed(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(300)
"""


def test_a_second_instance_is_told_who_holds_the_folder_and_what_helps(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert claims.is_claimed(tmp_path)
        with (
            pytest.raises(claims.AlreadyRunning, match=rf"pid {holder.pid}\b.*MAGNETIS_HOME"),
            claims.claimed(tmp_path),
        ):
            pytest.fail("claimed twice")
        holder.send_signal(signal.SIGKILL)
    assert not claims.is_claimed(tmp_path), "the kernel lets go of what a killed process held"
    with claims.claimed(tmp_path):
        assert (tmp_path / claims.LOCK).read_text() == str(os.getpid())


def test_a_folder_that_nobody_ever_used_is_not_claimed(tmp_path: Path) -> None:
    assert not claims.is_claimed(tmp_path / "none")


def test_a_taken_port_names_the_option_that_changes_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(claims.PortTaken, match=rf"127\.0\.0\.1:{port}.*--port {port + 1}"):
            claims.check_port("127.0.0.1", port, option="--port")
    claims.check_port("127.0.0.1", port, option="--port")


def test_a_busy_port_is_reported_with_the_form_that_works_with_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MAKELEVEL", "1")
        with pytest.raises(claims.PortTaken, match=rf'make run ARGS="--port {port + 1}"'):
            claims.check_port("127.0.0.1", port, option="--port")


def test_the_port_that_is_suggested_is_free() -> None:
    """Another user of the machine may have the next one."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # somebody has it: as good
                second.bind(("127.0.0.1", port + 1))
                second.listen()
            with pytest.raises(claims.PortTaken, match=r"--port \d+") as told:
                claims.check_port("127.0.0.1", port, option="--port")
            suggested = int(str(told.value).rpartition("--port ")[2].strip('."'))
            assert suggested > port + 1
            claims.check_port("127.0.0.1", suggested, option="--port")


def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(claims.PortTaken, match=r"192\.0\.2\.1:3000"):
        claims.check_port("192.0.2.1", 3000, option="--port")


def test_a_free_port_can_be_listened_on() -> None:
    claims.check_port("127.0.0.1", claims.free_port(), option="--port")


def test_the_working_directory_comes_before_the_package(tmp_path: Path) -> None:
    beside_the_package = claims.project_files()
    assert beside_the_package[0].parent != tmp_path
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).write_text("{}")
    assert claims.project_files() == (tmp_path / "dagster.yaml", tmp_path / "workspace.yaml")


def test_without_project_files_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "__file__", str(tmp_path / "a" / "b" / "home.py"))
    with pytest.raises(claims.ProjectNotFound, match=str(tmp_path)):
        claims.project_files()


def test_dagsters_home_gets_the_newest_dagster_yaml(tmp_path: Path) -> None:
    source = tmp_path / "dagster.yaml"
    for text in ("telemetry: {enabled: false}", "{}"):
        source.write_text(text)
        assert (claims.dagster_home(tmp_path / "home", source) / "dagster.yaml").read_text() == text


def test_the_state_of_another_users_dev_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = RunningDev(
        "http://127.0.0.1:8250", "sandbox-key", "postgresql://their.example/magnetis"
    )
    with claims.claimed(tmp_path), announced(tmp_path, running):
        assert running_dev(tmp_path) == running
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        assert running_dev(tmp_path) is None
        monkeypatch.undo()


def test_a_folder_that_all_users_share_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(ForeignFolder, match=f"{shared} is shared by all users"):
        private_folder(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
