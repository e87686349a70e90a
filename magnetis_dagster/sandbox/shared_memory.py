"""Share memory between the processes of one sandbox."""

import multiprocessing
import signal
from multiprocessing.context import BaseContext


def fork_context() -> BaseContext:
    """Return the context whose locks and counters forked processes share."""
    return multiprocessing.get_context("fork" if hasattr(signal, "SIGHUP") else "spawn")
