"""Measure what each optimisation of the pipeline is worth, one left out at a time.

    .venv/bin/python benchmarks/ablation.py [--rounds 5] [--only NAME ...]

Each round runs the whole pipeline and every variant in turn, on fresh databases. The rate part uses
an API without latency. The latency part has 8 pages in flight, and its API responds after 0.2 s. A
figure is the variant's seconds / the whole pipeline's seconds in the same round: the median over
the rounds. 1.10 means that the variant takes a tenth longer. Run it while nothing else runs: under
load, the spread exceeds the differences. docs/decisions/0026-pipeline.md contains the results.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from statistics import median

from _without import WITHOUT
from backfill import CALLS_PER_DAY, FIRST, LATENCY, Bench, Contender, sandbox

from magnetis_dagster.database import embedded
from magnetis_dagster.sandbox import SandboxOptions

WHOLE = "nothing"
PARTS = (("rate", 0.0, 10), ("latency", LATENCY, 8))
"""Name, seconds per response, days to load."""


def measure(bench: Bench, names: list[str], rounds: int) -> None:
    for part, latency, days in PARTS:
        options = SandboxOptions(
            calls_per_day=CALLS_PER_DAY, daily_quota=None, cache_bytes=2**30, latency=latency
        )
        span = (FIRST, FIRST + timedelta(days=days - 1))
        seconds: dict[str, list[float]] = {name: [] for name in names}
        with sandbox(options) as api:
            api.make(*span)
            for number in range(rounds):
                # a drift within a round must not always hit the same variants
                for name in names if number % 2 else reversed(names):
                    command = (sys.executable, Path(__file__).with_name("_without.py"), name)
                    seconds[name].append(bench.run(api, Contender(name, command), span).seconds)
        print(f"{part}: {median(seconds[WHOLE]):.2f} s with all optimisations", flush=True)
        for name in names[1:]:
            ratios = sorted(
                one / whole for one, whole in zip(seconds[name], seconds[WHOLE], strict=True)
            )
            spread = f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
            print(f"  without {name:<22} {median(ratios):.3f} {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[name for name in WITHOUT if name != WHOLE])
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    home = Path(tempfile.mkdtemp(prefix="magnetis-bench-"))
    try:
        names = [WHOLE, *(options.only or [name for name in WITHOUT if name != WHOLE])]
        measure(Bench(home), names, options.rounds)
    finally:
        embedded.stop(home)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
