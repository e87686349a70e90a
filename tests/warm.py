"""Processes forked from one that has imported everything: imports take 2 s of CPU."""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    [
        "pytest",
        "psycopg",
        "sqlalchemy.dialects.postgresql.psycopg",
        "httpcore._backends.auto",
        "anyio._backends._asyncio",
        "alembic.command",
        "magnetis_dagster.api",
        "magnetis_dagster.quota.guard",
        "magnetis_dagster.quota.ledger",
        "magnetis_dagster.sandbox",
        "magnetis_dagster.wiring",
        "magnetis_dagster.cli.app",
    ]
)


def run_cli(
    *arguments: str, environment: Mapping[str, str], cwd: Path | None = None, seconds: float = 120
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m magnetis_dagster.cli` with exactly this environment; return its output."""
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder) / "stdout", Path(folder) / "stderr"
        process = FORKSERVER.Process(
            target=_main, args=(arguments, dict(environment), cwd or Path.cwd(), streams)
        )
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(arguments, seconds)
        code, texts = process.exitcode, [stream.read_text() for stream in streams]
        process.close()
    return subprocess.CompletedProcess(list(arguments), code or 0, *texts)


def _main(
    arguments: Sequence[str], environment: dict[str, str], cwd: Path, streams: Sequence[Path]
) -> None:
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["magnetis", *arguments]
    if encoding := environment.get("PYTHONIOENCODING"):
        for written in sys.stdout, sys.stderr:
            written.reconfigure(encoding=encoding)  # Python reads the variable when it starts
    try:
        runpy.run_module("magnetis_dagster.cli", run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a forked process skips its exit functions
