"""The command line of every peer, and its result as JSON.

    python PEER.py API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY HOW

prints the number of rows and the seconds.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

PARIS = ZoneInfo("Europe/Paris")


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    url: str
    key: str
    database: str
    first: date
    last: date
    how: str

    def bounds(
        self, first: date | None = None, last: date | None = None
    ) -> tuple[datetime, datetime]:
        """Return the first and last second of these local days (default: all) in UTC."""
        begin = datetime.combine(first or self.first, clock.min, PARIS)
        end = datetime.combine((last or self.last) + timedelta(days=1), clock.min, PARIS)
        return begin.astimezone(UTC), end.astimezone(UTC) - timedelta(seconds=1)

    def days(self) -> list[date]:
        """Return every day from `first` to `last`."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    def server(self, scheme: str) -> str:
        """Return the database's address with a host and a password.

        The drivers require both, and the socket in the query overrides them.
        """
        parts = urlsplit(self.database)
        socket = parse_qs(parts.query)["host"][0]
        return f"{scheme}://{parts.username}:none@localhost{parts.path}?host={socket}"


def run(main: Callable[[Arguments], int]) -> None:
    """Call `main` and print the rows that it returns and its seconds as JSON."""
    url, key, database, first, last, how = sys.argv[1:]
    days = (date.fromisoformat(first), date.fromisoformat(last))
    started = time.perf_counter()
    rows = main(Arguments(url, key, database, *days, how))
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started}), flush=True)
