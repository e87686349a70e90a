"""The straight line from the API to a merged table of calls: no framework, no quota, no checks. benchmarks/backfill.py runs it.

python _straight_line.py API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY     magnetis.calls exists

Prints rows and seconds as JSON. It knows that the rows of the sandbox are complete, and that a closed range does not move.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import httpcore  # noqa: F401 - seconds count from behind the imports: this one comes late otherwise
import httpx
import orjson
import psycopg

PARIS = ZoneInfo("Europe/Paris")
COLUMNS = """id account_id payload occurred_at day account_name caller_number caller_name duration_seconds waiting_seconds status
    channel number_id number recipient_id recipient_number visit_id ended_at analysis utm_source utm_medium utm_campaign utm_term
    utm_content gclid""".split()  # noqa: SIM905 - a list literal has a line for each
MERGE = f"""INSERT INTO magnetis.calls ({", ".join(COLUMNS)}, first_seen_at, last_seen_at, changed_at)
    SELECT *, now(), now(), now() FROM incoming
    ON CONFLICT (id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])}, last_seen_at = now()"""


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=PARIS)


def record(row):
    account, number, recipient, started = (
        row["account"],
        row["number"],
        row["recipient"],
        moment(row["start_at"]),
    )
    told = [
        row[name]
        for name in (
            "caller_number",
            "caller_name",
            "duration",
            "waiting_time",
            "status",
            "channel_name",
        )
    ]
    links = [
        number["id"],
        number["number"],
        recipient["id"],
        recipient["number"],
        row["visit"] and row["visit"]["id"],
    ]
    utm = [
        row[name]
        for name in ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "gclid")
    ]
    kept = [
        row["id"],
        account["id"],
        orjson.dumps(row).decode(),
        started,
        started.date(),
        account["name"],
    ]
    return [
        *kept,
        *told,
        *links,
        moment(row["end_at"]),
        orjson.dumps(row["analysis"]).decode(),
        *utm,
    ]


def main(url, key, database, first, last):
    begin, end = moment(first), moment(last) + timedelta(days=1, seconds=-1)
    window = {
        name: f"{at.astimezone(UTC):%Y%m%d%H%M%S}" for name, at in (("from", begin), ("to", end))
    }
    writing, api = threading.Lock(), httpx.Client(base_url=url, headers={"x-api-key": key})

    def page(number):
        query = window | {"limit": 250, "analysis": 1, "page": number}
        return orjson.loads(api.get("/calls", params=query).raise_for_status().content)

    def load(number):
        records = [record(row) for row in page(number)["data"]]
        with writing:
            for one in records:
                copy.write_row(one)

    with (
        api,
        ThreadPoolExecutor(8) as pool,
        psycopg.connect(database) as connection,
        connection.cursor() as cursor,
    ):
        merged, pages = 0, page(1)["meta"]["last_page"]
        for start in range(1, pages + 1, 250):
            cursor.execute(
                f"CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS SELECT {', '.join(COLUMNS)} FROM magnetis.calls LIMIT 0"
            )
            with cursor.copy("COPY incoming FROM STDIN") as copy:
                list(pool.map(load, range(start, min(start + 250, pages + 1))))
            merged += cursor.execute(MERGE).rowcount
            connection.commit()
    return merged


if __name__ == "__main__":
    started = time.perf_counter()
    print(json.dumps({"rows": main(*sys.argv[1:]), "seconds": time.perf_counter() - started}))
