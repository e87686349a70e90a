"""Load a range of calls with this program; benchmarks/backfill.py measures it.

    python _ours.py API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY

prints rows and seconds as JSON.
"""

import json
import sys
import time
from datetime import date

import _privacy_settings  # noqa: F401 - sets variables

# Both are imported late by the program, and the seconds must not include imports.
import httpcore  # noqa: F401

import magnetis_dagster.warehouse.migrate  # noqa: F401
from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.dates import days_between
from magnetis_dagster.ingest import RunIdentity
from magnetis_dagster.settings import Settings
from magnetis_dagster.wiring import open_ingestion


def main(url: str, key: str, database: str, first: date, last: date) -> int:
    settings = Settings.load(api_url=url, api_key=key, database_url=database, daily_quota=10**6)
    catalogue = load_catalogue()
    with open_ingestion(settings, catalogue, RunIdentity("benchmark", "manual")) as ingestion:
        return sum(
            day.rows
            for window in ingestion.read_days(catalogue["calls"], days_between(first, last))
            for day in window.days
        )


if __name__ == "__main__":
    started = time.perf_counter()
    url, key, database, first, last = sys.argv[1:]
    rows = main(url, key, database, date.fromisoformat(first), date.fromisoformat(last))
    print(json.dumps({"rows": rows, "seconds": time.perf_counter() - started}))
