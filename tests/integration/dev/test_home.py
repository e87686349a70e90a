"""The resources of one `magnetis dev`: the folder, the port, the project's files."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT

from magnetis_dagster.dev import home as dev_home
from magnetis_dagster.private_files import ForeignFolder, private_folder
from magnetis_dagster.running_dev import LOCK, RunningDev, is_claimed, publish, running_dev

HOLDER = """
import sys, time
from pathlib import Path
from magnetis_dagster.dev.home import claim_home
with claim_home(Path(sys.argv[1])):
    print("claimed", flush=True)
    time.sleep(300)
"""


def test_a_second_instance_fails_with_the_pid_of_the_first_and_a_remedy(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_claimed(tmp_path)
        with (
            pytest.raises(dev_home.AlreadyRunning, match=rf"pid {holder.pid}\b.*MAGNETIS_HOME"),
            dev_home.claim_home(tmp_path),
        ):
            pytest.fail("claimed twice")
        holder.send_signal(signal.SIGKILL)
    assert not is_claimed(tmp_path), "the kernel releases a killed process's lock"
    with dev_home.claim_home(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


def test_a_folder_that_does_not_exist_is_not_claimed(tmp_path: Path) -> None:
    assert not is_claimed(tmp_path / "none")


def test_the_error_for_a_port_in_use_names_the_option_to_change_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(dev_home.PortTaken, match=rf"127\.0\.0\.1:{port}.*--port {port + 1}"):
            dev_home.check_port("127.0.0.1", port)
    dev_home.check_port("127.0.0.1", port)


def test_the_error_for_a_port_in_use_shows_the_syntax_for_make(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MAKELEVEL", "1")
        with pytest.raises(dev_home.PortTaken, match=rf'make run ARGS="--port {port + 1}"'):
            dev_home.check_port("127.0.0.1", port)


def test_the_suggested_port_is_free() -> None:
    """Another program may use the next port."""
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # another program uses the port already
                second.bind(("127.0.0.1", port + 1))
                second.listen()
            with pytest.raises(dev_home.PortTaken, match=r"--port \d+") as error:
                dev_home.check_port("127.0.0.1", port)
            suggested = int(str(error.value).rpartition("--port ")[2].strip('."'))
            assert suggested > port + 1
            dev_home.check_port("127.0.0.1", suggested)


def test_the_address_of_another_host_is_refused() -> None:
    with pytest.raises(dev_home.PortTaken, match=r"192\.0\.2\.1:3000"):
        dev_home.check_port("192.0.2.1", 3000)


def test_a_free_port_is_available() -> None:
    dev_home.check_port("127.0.0.1", dev_home.free_port())


def test_each_project_file_in_the_working_directory_replaces_the_one_of_the_package(
    tmp_path: Path,
) -> None:
    package = Path(dev_home.__file__).parent
    assert dev_home.project_files() == (package / "dagster.yaml", package / "workspace.yaml")
    (tmp_path / "dagster.yaml").write_text("{}")
    assert dev_home.project_files() == (tmp_path / "dagster.yaml", package / "workspace.yaml")
    (tmp_path / "workspace.yaml").write_text("{}")
    assert dev_home.project_files() == (tmp_path / "dagster.yaml", tmp_path / "workspace.yaml")


def test_the_package_contains_the_project_files_of_the_repository() -> None:
    for path in dev_home.project_files():
        assert path.read_bytes() == (ROOT / path.name).read_bytes(), f"copy {path.name} to {path}"


def test_one_process_reserves_the_port_of_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = dev_home.claim_sandbox_port(8250)
    assert first is not None
    assert dev_home.claim_sandbox_port(8250) is None
    other = dev_home.claim_sandbox_port(8251)
    assert other is not None
    os.close(other)
    os.close(first)
    again = dev_home.claim_sandbox_port(8250)
    assert again is not None
    os.close(again)


def test_dagsters_home_gets_the_current_dagster_yaml(tmp_path: Path) -> None:
    source = tmp_path / "dagster.yaml"
    for text in ("telemetry: {enabled: false}", "{}"):
        source.write_text(text)
        assert (
            dev_home.dagster_home(tmp_path / "home", source) / "dagster.yaml"
        ).read_text() == text


def test_the_state_of_another_users_dev_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = RunningDev(
        "http://127.0.0.1:8250", "sandbox-key", "postgresql://their.example/magnetis"
    )
    with dev_home.claim_home(tmp_path), publish(tmp_path, running):
        assert running_dev(tmp_path) == running
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        assert running_dev(tmp_path) is None
        monkeypatch.undo()


def test_a_folder_shared_by_all_users_is_refused_and_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(ForeignFolder, match=f"{shared} is shared by all users"):
        private_folder(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
