"""Measure normalising phone numbers, computing caller keys, and masking rows, on one core.

    .venv/bin/python benchmarks/caller_key.py [--numbers 50000] [--rows 5000]

Numbers are all different and spelled in ten ways, as in calls of one day. The peer in the same run
is phonenumberslite alone: it parses and formats, without a key. Rows are calls of the sandbox,
against the same parser without masking.
"""

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterable
from datetime import date, datetime
from zoneinfo import ZoneInfo

import phonenumbers
import yaml

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.catalog.row_parser import RowParser
from magnetis_dagster.exact_json import dump_rows
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.key_file import generate_key
from magnetis_dagster.privacy.masking import Row, RowMasker
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.phone import PhoneReader
from magnetis_dagster.privacy.plan import CollectionPlan, build_plan

PARIS = ZoneInfo("Europe/Paris")
DAY = date(2025, 6, 30)
SPELLINGS: list[Callable[[str], str]] = [
    lambda n: f"0{n}",
    lambda n: f"+33{n}",
    lambda n: f"0033{n}",
    lambda n: f"0{n[0]} {n[1:3]} {n[3:5]} {n[5:7]} {n[7:]}",
    lambda n: f"0{n[0]}.{n[1:3]}.{n[3:5]}.{n[5:7]}.{n[7:]}",
    lambda n: f"+33 {n[0]} {n[1:3]} {n[3:5]} {n[5:7]} {n[7:]}",
    lambda n: f"+33 (0){n[0]} {n[1:3]} {n[3:5]} {n[5:7]} {n[7:]}",
    lambda n: f"0{n[0]}\u00a0{n[1:3]}\u00a0{n[3:5]}\u00a0{n[5:7]}\u00a0{n[7:]}",
    lambda n: f"33{n}",
    lambda n: f"tel:+33-{n[0]}-{n[1:3]}-{n[3:5]}-{n[5:7]}-{n[7:]}",
]


def rate(function: Callable[[str], object], values: list[str]) -> float:
    """Return values per second of processor time, the best of three runs."""
    best = 0.0
    for _ in range(3):
        gc.collect()
        start = time.process_time()
        for value in values:
            function(value)
        best = max(best, len(values) / (time.process_time() - start))
    return best


def library(number: str) -> str:
    parsed = phonenumbers.parse(number, "FR")
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


def calls(count: int) -> list[dict[str, object]]:
    """Return rows with the members of the sandbox's calls."""
    pick = random.Random(7)
    digits = [f"{pick.randrange(10**8):08}" for _ in range(count)]
    return [
        {
            "id": f"call-{pick.getrandbits(128):032x}",
            "account": {"id": f"acc-{pick.getrandbits(64):016x}", "name": "Agence Lyon Centre"},
            "start_at": datetime(2025, 6, 30, 8 + number % 12, number % 60).isoformat(" "),  # noqa: DTZ001
            "end_at": datetime(2025, 6, 30, 8 + number % 12, number % 60, 59).isoformat(" "),  # noqa: DTZ001
            "caller": {"number": f"+336{each}", "name": None},
            "duration": number % 600,
            "waiting_time": number % 30,
            "status": "completed",
            "channel": {"name": "Tout le SEO"},
            "number": {"id": f"num-{pick.getrandbits(64):016x}", "number": "+33188112233"},
            "recipient": {"id": f"rec-{pick.getrandbits(64):016x}", "number": "+33478112233"},
            "visit": {"id": f"vis-{pick.getrandbits(64):016x}"},
            "recording_url": f"https://example.com/{pick.getrandbits(64):016x}?signature=abc",
            "analysis": {"channel": "SEO", "duration": number % 600},
            "utm_source": "google",
            "utm_medium": "cpc",
            "utm_campaign": "printemps",
            "gclid": f"{pick.getrandbits(128):032x}",
        }
        for number, each in enumerate(digits)
    ]


def pages(rows: list[dict[str, object]]) -> Iterable[list[dict[str, object]]]:
    return (rows[start : start + 250] for start in range(0, len(rows), 250))


def measure_rows(count: int, keys: PrivacyKeys) -> None:
    catalogue = load_catalogue()
    collection = catalogue["calls"]
    parser = RowParser(collection, response_zone=PARIS, partition_zone=PARIS)
    received = calls(count)
    erased = frozenset(
        key for number in range(100_000) for key in keys.of_phone("magnetis", f"+337{number:08}")
    )

    def load(plan: CollectionPlan | None, suppressed: frozenset[str]) -> float:
        best = 0.0
        for _ in range(3):
            # each run has empty caches: most callers of a day call once
            persons = PersonKeys(keys, "magnetis")
            masker = RowMasker(collection, plan, persons) if plan else None
            gc.collect()
            start = time.process_time()
            for page in pages(received):
                parsed = parser.read_all(page)
                payloads: list[object] = list(page)
                if masker:
                    names = list(collection.columns)
                    for number, values in enumerate(zip(*parsed.columns, strict=True)):
                        row = Row(dict(zip(names, values, strict=True)), page[number])
                        payloads[number] = masker.mask(
                            row, today=DAY, row_day=DAY, suppressed=suppressed
                        ).row.payload
                dump_rows(payloads)
            best = max(best, len(received) / (time.process_time() - start))
        return best

    plans = {
        "clear (default plan)": "{}",
        "callers hashed, contacts dropped": (
            "classes: {caller_number: {on_arrival: hash}, contact: {on_arrival: drop}}"
        ),
    }
    without = load(None, frozenset())
    print(f"rows/s, parsed and written as JSON, no masking:     {without:9,.0f}")
    for name, text in plans.items():
        plan = build_plan(yaml.safe_load(text), "benchmark", catalogue).of("calls")
        for persons, suppressed in (("nobody", frozenset()), ("100,000", erased)):
            found = load(plan, suppressed)
            print(f"  {name}, {persons} suppressed: {found:9,.0f} ({found / without:.2f})")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--numbers", type=int, default=50_000)
    arguments.add_argument("--rows", type=int, default=5_000)
    given = arguments.parse_args()
    pick = random.Random(7)
    numbers = [
        SPELLINGS[index % len(SPELLINGS)](f"{pick.choice('1234679')}{pick.randrange(10**8):08}")
        for index in range(given.numbers)
    ]
    keys = PrivacyKeys.parse(generate_key())
    uncached = PersonKeys(keys, "magnetis", cached=0)
    cached = PersonKeys(keys, "magnetis", cached=2 * given.numbers)
    for number in numbers:
        cached.phone(number)
    figures = {
        "phonenumberslite alone, to E.164": rate(library, numbers),
        "E.164, uncached": rate(PhoneReader(cached=0).read, numbers),
        "E.164 and key, uncached": rate(uncached.phone, numbers),
        "E.164 and key, cached": rate(cached.phone, numbers),
    }
    for name, figure in figures.items():
        print(f"{name:34} {figure:11,.0f} numbers/s")
    measure_rows(given.rows, keys)


if __name__ == "__main__":
    main()
