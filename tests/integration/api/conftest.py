"""Import the fixtures of exchange.py.

Several folders have a `conftest`, so none can be imported by name.
"""

from exchange import _no_waiting, request_page

__all__ = ["_no_waiting", "request_page"]
