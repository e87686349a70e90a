"""How the processes of one sandbox share memory."""

import multiprocessing
import signal
from multiprocessing.context import BaseContext


def context() -> BaseContext:
    """Return the context whose locks and counters forked processes share."""
    return multiprocessing.get_context("fork" if hasattr(signal, "SIGHUP") else "spawn")
