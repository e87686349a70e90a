"""Measure how long a process of the code location takes to start.

    .venv/bin/python benchmarks/startup.py

Imports nothing, Dagster alone, and the code location, each in fresh processes, alternating. Prints
the median of seven runs of each, and the ratio of the code location to Dagster alone.
"""

import statistics
import subprocess
import sys
import time

RUNS = 7
STATEMENTS = {
    "nothing": "pass",
    "dagster": "import dagster",
    "definitions": "import magnetis_dagster.definitions",
}


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    seconds_by_name: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(RUNS):
        for name, statement in STATEMENTS.items():
            seconds_by_name[name].append(seconds(statement))
    medians = {name: statistics.median(times) for name, times in seconds_by_name.items()}
    for name, median in medians.items():
        fastest, slowest = min(seconds_by_name[name]), max(seconds_by_name[name])
        print(f"{name:<12} {median:.2f} s (from {fastest:.2f} to {slowest:.2f})")
    ratio = medians["definitions"] / medians["dagster"]
    print(f"the code location / Dagster alone: {ratio:.2f}")


if __name__ == "__main__":
    main()
