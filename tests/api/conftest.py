"""Import the fixtures of exchange.py; several folders have a `conftest`, so none can be imported by
name.
"""

from trial import _no_waiting, ask

__all__ = ["_no_waiting", "ask"]
