"""What every peer is told on its command line, and what it tells: API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY HOW."""

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
class Told:
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
        """Return the first and the last second of these local days, of all by default, in UTC."""
        begin = datetime.combine(first or self.first, clock.min, PARIS)
        end = datetime.combine((last or self.last) + timedelta(days=1), clock.min, PARIS)
        return begin.astimezone(UTC), end.astimezone(UTC) - timedelta(seconds=1)

    def days(self) -> list[date]:
        """Return the days."""
        return [self.first + timedelta(days=n) for n in range((self.last - self.first).days + 1)]

    def server(self, scheme: str) -> str:
        """Return the address with a host and a password, which drivers' settings want; its socket overrides them."""
        parts = urlsplit(self.database)
        return f"{scheme}://{parts.username}:none@localhost{parts.path}?host={parse_qs(parts.query)['host'][0]}"


def run(main: Callable[[Told], int]) -> None:
    """Call `main`, which returns the number of rows, and print rows and seconds as JSON."""
    url, key, database, first, last, how = sys.argv[1:]
    started = time.perf_counter()
    rows = main(Told(url, key, database, date.fromisoformat(first), date.fromisoformat(last), how))
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started}), flush=True)
