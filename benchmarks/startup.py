"""How long every process of the code location takes to start: its import beside that of Dagster alone, each in fresh processes.

    .venv/bin/python benchmarks/startup.py

Prints the median of seven runs of each, alternating, and their ratio.
"""

import statistics
import subprocess
import sys
import time

RUNS = 7
WHAT = {
    "nothing": "pass",
    "dagster": "import dagster",
    "definitions": "import magnetis_dagster.definitions",
}


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    found: dict[str, list[float]] = {name: [] for name in WHAT}
    for _ in range(RUNS):
        for name, statement in WHAT.items():
            found[name].append(seconds(statement))
    medians = {name: statistics.median(times) for name, times in found.items()}
    for name, median in medians.items():
        print(f"{name:<12} {median:.2f} s (from {min(found[name]):.2f} to {max(found[name]):.2f})")
    print(
        f"the code location over Dagster alone: {medians['definitions'] / medians['dagster']:.2f}"
    )


if __name__ == "__main__":
    main()
