"""Dagster's processes of `magnetis dev`: code servers, the guarded webserver and the daemon.

`dagster dev` has no guard. Options: `--workspace`, `--host`, `--port`; DAGSTER_HOME names the
instance.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._cli.utils import get_instance_for_cli
from dagster._core.workspace.load_target import WorkspaceFileTarget

STOP_SECONDS = 60
CHECK_SECONDS = 1


def main() -> None:
    """Serve until a signal, or until one process ends; the message then contains its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--workspace", "--host", "--port"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"  # as `dagster dev` does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            # reads .env, and creates Dagster's tables before the other processes need them
            get_instance_for_cli() as instance,
            tempfile.TemporaryDirectory() as folder,
        ):
            workspace = Path(folder) / "workspace.yaml"
            shared = ["--workspace", str(workspace)]
            address = ["--host", options.host, "--port", options.port]
            commands = {
                "webserver": ["magnetis_dagster.dagster_support.webserver", *shared, *address],
                "daemon": ["dagster._daemon.cli", "run", *shared],
            }
            with _running(commands, workspace) as processes:
                target = WorkspaceFileTarget([options.workspace])
                with ProxyServerManager(
                    instance, target, code_server_log_level="warning"
                ) as servers:
                    ready = workspace.with_suffix(".new")
                    ready.write_text(
                        yaml.safe_dump({"load_from": servers.get_code_server_specs()}),
                        encoding="utf-8",
                    )
                    ready.rename(workspace)
                    _watch(processes)
    except KeyboardInterrupt:
        print("Dagster's processes have ended.")  # noqa: T201 - a program's log


@contextmanager
def _running(
    commands: dict[str, list[str]], workspace: Path
) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Start the programs, which wait for the workspace file, and stop them after the block."""
    after = [sys.executable, "-m", "magnetis_dagster.dagster_support.start_after", str(workspace)]
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            processes[name] = subprocess.Popen([*after, *command])  # noqa: S603 - ours
        yield processes
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # `magnetis dev` sends them repeatedly
            signal.signal(number, signal.SIG_IGN)
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _watch(processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
    """Wait until a program ends. Raises: SystemExit with the name of that program."""
    while True:
        for name, process in processes.items():
            if (code := process.poll()) is not None:
                sys.exit(f"Dagster's {name} ended unexpectedly (exit code {code}).")
        time.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    main()
