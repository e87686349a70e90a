"""Measure how long a code location takes to start, and how large it is, by number of connections.

    .venv/bin/python benchmarks/startup.py [--connections 1 10 50]

Imports nothing, Dagster alone, and the code location with one connection and with several, each in
fresh processes, alternating. Prints the median seconds of five runs of each, and the ratio to
Dagster alone. For each number of connections it also prints the seconds to build the definitions
after the imports, the bytes of the snapshot that the code server sends to webserver and daemon, and
the resident memory of the process.

Aims: 50 connections (900 assets) are built in 3 s, with a snapshot of 6 MB.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 5
MEASURE = """
import json, time
import dagster, psutil
import magnetis_dagster.definitions as module
started = time.perf_counter()
repository = module._defs_here().get_repository_def()
seconds = time.perf_counter() - started
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import serialize_value
snapshot = serialize_value(RepositorySnap.from_def(repository, defer_snapshots=True))
print(json.dumps({
    "seconds": seconds,
    "bytes": len(snapshot),
    "memory": psutil.Process().memory_info().rss,
    "assets": len(repository.asset_graph.get_all_asset_keys()),
}))
"""
ALONE = {"nothing": "pass", "dagster": "import dagster"}


def run(statement: str, environment: dict[str, str]) -> tuple[float, str]:
    """Return the seconds of a process that executes the statement, and its output."""
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-c", statement],
        check=True,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - started, process.stdout


def declared(folder: Path, number: int) -> dict[str, str]:
    """Return the variables of a project with this number of connections, the unnamed one first."""
    names = [f"network_{n:02}" for n in range(1, number)]
    path = folder / f"{number}.yaml"
    connections = {name: {"api_key_env": f"KEY_{name.upper()}"} for name in names}
    path.write_text(json.dumps({"connections": connections | {"magnetis": {}}}))
    return {"MAGNETIS_CONFIG": str(path), **{f"KEY_{name.upper()}": "key" for name in names}}


def show(name: str, times: list[float], dagster: float) -> None:
    median = statistics.median(times)
    ratio = f"{median / dagster:.2f} of Dagster alone"
    print(f"{name:<16} {median:.2f} s (from {min(times):.2f} to {max(times):.2f}), {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 10, 50])
    numbers = parser.parse_args().connections
    times: dict[str, list[float]] = {}
    facts: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    with tempfile.TemporaryDirectory(prefix="magnetis-bench-") as folder:
        projects = {number: declared(Path(folder), number) for number in numbers}
        for _ in range(RUNS):
            for name, statement in ALONE.items():
                times.setdefault(name, []).append(run(statement, {})[0])
            for number, variables in projects.items():
                code = "import magnetis_dagster.definitions"
                times.setdefault(f"{number} connections", []).append(run(code, variables)[0])
                facts[number].append(json.loads(run(MEASURE, variables)[1]))
    dagster = statistics.median(times["dagster"])
    for name, found in times.items():
        show(name, found, dagster)
    for number, found_facts in facts.items():
        seconds = statistics.median(each["seconds"] for each in found_facts)
        last = found_facts[-1]
        print(
            f"{number} connections: {last['assets']} assets built in {seconds:.2f} s, snapshot "
            f"{last['bytes'] / 1e6:.2f} MB, process {last['memory'] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
