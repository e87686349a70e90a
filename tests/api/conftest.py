"""Fixtures of trial.py for this folder; a `conftest` cannot be imported by name where several folders have one."""

from trial import _no_waiting, ask

__all__ = ["_no_waiting", "ask"]
