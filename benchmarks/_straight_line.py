"""Load calls without framework, quota or checks; benchmarks/backfill.py compares it.

    python _straight_line.py API_URL KEY DATABASE_URL FIRST_DAY LAST_DAY

prints rows and seconds as JSON. The table magnetis.calls must exist. The program relies on the
sandbox: its rows are complete, and rows of a past range do not move.
"""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

# httpx imports it late, and the seconds must not include imports.
import httpcore  # noqa: F401
import httpx
import orjson
import psycopg

PARIS = ZoneInfo("Europe/Paris")
UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content", "gclid")
PLAIN = (
    "caller_number",
    "caller_name",
    "duration",
    "waiting_time",
    "status",
    "channel_name",
)
"""Members whose values are copied, in the order of their columns."""
COLUMNS = [
    *("id", "account_id", "payload", "occurred_at", "day", "account_name"),
    *("caller_number", "caller_name", "duration_seconds", "waiting_seconds", "status", "channel"),
    *("number_id", "number", "recipient_id", "recipient_number", "visit_id"),
    *("ended_at", "analysis"),
    *UTM,
]
ASSIGNMENTS = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
MERGE = f"""
    INSERT INTO magnetis.calls ({", ".join(COLUMNS)}, first_seen_at, last_seen_at, changed_at)
    SELECT *, now(), now(), now() FROM incoming
    ON CONFLICT (connection, id) DO UPDATE SET {ASSIGNMENTS}, last_seen_at = now()"""
STAGE = f"""
    CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS
    SELECT {", ".join(COLUMNS)} FROM magnetis.calls LIMIT 0"""


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=PARIS)


def record(row):
    account, number, recipient = row["account"], row["number"], row["recipient"]
    started, payload = moment(row["start_at"]), orjson.dumps(row).decode()
    return [
        *(row["id"], account["id"], payload, started, started.date(), account["name"]),
        *(row[name] for name in PLAIN),
        *(number["id"], number["number"], recipient["id"], recipient["number"]),
        row["visit"] and row["visit"]["id"],
        *(moment(row["end_at"]), orjson.dumps(row["analysis"]).decode()),
        *(row[name] for name in UTM),
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
            cursor.execute(STAGE)
            with cursor.copy("COPY incoming FROM STDIN") as copy:
                list(pool.map(load, range(start, min(start + 250, pages + 1))))
            merged += cursor.execute(MERGE).rowcount
            connection.commit()
    return merged


if __name__ == "__main__":
    started = time.perf_counter()
    print(json.dumps({"rows": main(*sys.argv[1:]), "seconds": time.perf_counter() - started}))
