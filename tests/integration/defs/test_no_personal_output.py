"""No path that displays foreign text shows a phone number or an e-mail address.

100,000 numbers and addresses in all spellings pass the functions that mask. Some hundreds of them
are the content of a real API, and of rows in a real PostgreSQL. Everything that this program
returns, logs, prints or gives to Dagster is searched for them, by code of its own.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
import stamina
import yaml
from exchange import CALL, RecordingGuard
from rich.console import Console
from scripted_server import ScriptedServer, answer, raw
from small_api import KEY, PARIS, Request, SmallApi
from spellings import LOCAL_PART, persons_in, spelled_addresses, spelled_numbers
from sqlalchemy import Engine

from magnetis_dagster.api import ClientLimits, MagnetisClient
from magnetis_dagster.api.error_mapping import error_for_response
from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.catalog.masking import Masking, mask_id, mask_text
from magnetis_dagster.catalog.row_parser import mask_name
from magnetis_dagster.cli.plan_report import format_plan
from magnetis_dagster.cli.probe_report import format_probe
from magnetis_dagster.defs.alerting.message import (
    check_failure_reason,
    check_text,
    run_failure_reason,
)
from magnetis_dagster.defs.change_metadata import changes_metadata
from magnetis_dagster.defs.settings_cursor import CollectionState
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.ingest.windows import Window, Zones
from magnetis_dagster.notification_settings.baseline import (
    BaselineError,
    read_baseline,
    write_baseline,
)
from magnetis_dagster.notification_settings.change_detection import Observation, observe
from magnetis_dagster.planning.plan import choose_collections, make_plan
from magnetis_dagster.probe.overlay import write_overlay
from magnetis_dagster.probe.probe import run_probe
from magnetis_dagster.probe.rows import Sample
from magnetis_dagster.quota import QuotaPolicy
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.redaction import scrub
from magnetis_dagster.warehouse import Change, ChangeKind, Changes, FieldChange, Warehouse

Materialize = Callable[..., dg.ExecuteInProcessResult]
Search = Callable[..., None]

ZONES = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
LIMITS = ClientLimits(attempts=1, read=2.0, total=5.0, wait_initial=0.01, wait_max=0.05)
DAY = date(2026, 11, 1)
NOON = "2026-11-01 12:00:00"
TODAY = date(2025, 6, 20)
AT = datetime(2025, 6, 17, 10, tzinfo=UTC)


@dataclass(frozen=True)
class Persons:
    """Persons who occur in what the API returns."""

    nationals: frozenset[str]
    """Their numbers."""
    texts: list[str]
    """Spellings: four numbers, then an address, and so on."""

    @cached_property
    def ascii(self) -> list[str]:
        """The spellings in ASCII."""
        return [text for text in self.texts if text.isascii()]

    def beginning_at(self, start: int) -> Iterator[str]:
        """Return an iterator over all spellings that begins at one of them."""
        return chain(self.texts[start:], self.texts[:start])

    def shown_in(self, outputs: Iterable[str]) -> set[str]:
        """Return the numbers and addresses that are found in these texts."""
        return persons_in(" x ".join(outputs), self.nationals)


@pytest.fixture(scope="module")
def persons() -> Persons:
    numbers, addresses = spelled_numbers(80_000), spelled_addresses(20_000)
    texts = [text for _, text in numbers]
    for number, address in enumerate(addresses):
        texts.insert(5 * number + 4, address)
    return Persons(frozenset(national for national, _ in numbers), texts)


def test_the_search_finds_each_of_them(persons: Persons) -> None:
    assert persons.shown_in(persons.texts) == {*persons.nationals, LOCAL_PART}


@pytest.fixture
def search(
    persons: Persons, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Search:
    """Search outputs, log lines and printed text."""
    caplog.set_level(logging.DEBUG)

    def search(*outputs: object) -> None:
        shown = [str(each) for each in outputs]
        shown += [record.getMessage() for record in caplog.records]
        shown += capfd.readouterr()
        caplog.clear()
        assert persons.shown_in(shown) == set()

    return search


def test_functions_that_mask_text(persons: Persons) -> None:
    carriers = ("{}", "Alerte {} (Nantes)", "Rappeler {}, merci", "commande 12 {}", "tel_{}_x")
    masks = (mask_text, mask_id, scrub)
    shown = [
        masks[number % 3](carriers[number % 5].format(text))
        for number, text in enumerate(persons.texts)
    ]
    assert persons.shown_in(shown) == set()
    assert sum(text.startswith("Alerte ") for text in shown) == len(persons.texts) / 5


def test_names_of_members_in_one_row(persons: Persons, catalogue: Catalogue) -> None:
    row = {name: {f"tel_{name}"[:40]: 1} for name in persons.texts}
    sample = Sample(catalogue["calls"], [row], ZONES)
    shown = {*map(mask_name, row), *map(sample.shown, sample.members)}
    assert persons.shown_in(shown) == set()
    assert sample.nameable == {}


def test_errors_of_the_api_by_status(search: Search, persons: Persons) -> None:
    errors = []
    for number, start in enumerate(range(0, 20_000, 10)):
        message = persons.texts[start : start + 6]
        names = persons.texts[start + 6 : start + 10]
        body = {"message": ", ".join(message), "errors": {name: ["x"] for name in names}}
        status = (400, 401, 403, 404, 422, 429, 500)[number % 7]
        encoded = json.dumps(body, ensure_ascii=number % 2 == 0).encode()
        errors.append(error_for_response(CALL, status, None, encoded, KEY))
    search(*errors)


def test_changes_of_settings(search: Search, persons: Persons, catalogue: Catalogue) -> None:
    texts = persons.beginning_at(20_000)
    shown: list[object] = []
    nationals = sorted(persons.nationals)[:20]
    for name in ("reports", "email_alerts", "sms_alerts"):
        collection = catalogue[name]
        paths = [path for column in collection.columns.values() for path in column.paths]
        changes = []
        for start in range(0, 20 * len(paths), 6):
            fields = {}
            for path in (paths[(start + number) % len(paths)] for number in range(6)):
                top, _, below = path.partition(".")
                old, new = (
                    {below: next(texts), next(texts): next(texts)} if below else next(texts)
                    for _ in range(2)
                )
                fields[top] = FieldChange(old, new)
            fields[next(texts)] = FieldChange([next(texts)], [next(texts), 1])
            changes.append(
                Change(
                    ChangeKind.CHANGED,
                    next(texts),
                    next(texts),
                    next(texts),
                    next(texts),
                    fields,
                )
            )
        found = changes_metadata(collection, Changes(AT, {ChangeKind.CHANGED: 500}, changes))
        shown += found.values()
        masking = Masking(collection)
        for path in paths:
            top = path.partition(".")[0]
            shown += [masking.column(top, next(texts)), masking.member(path, next(texts))]
            shown += [masking.member(path, [next(texts), {next(texts): 1}])]
            shown += [masking.member(path, {next(texts): next(texts)})]
            # a number that lost its sign, in place of a time or a count
            shown += [masking.member(path, int(f"33{national}")) for national in ("639980012",)]
            shown += [masking.member(path, f"0{national}") for national in nationals]
            shown += [masking.member(path, int(national)) for national in nationals]
        shown += [masking.member(path, next(texts)) for path in collection.key_paths]
    search(*shown)


def refusals(persons: Persons) -> Iterator[bytes]:
    """Yield responses that contain persons wherever a server can write."""
    texts, plain = persons.beginning_at(60_000), iter(persons.ascii)
    for status in (400, 401, 403, 404, 409, 422, 429, 500, 503):
        for body in (
            {"message": f"Appel de {next(texts)} : {next(texts)}"},
            {"error": {"message": next(texts), "code": next(texts)}},
            {"message": "x", "errors": {next(texts): [next(texts)], "from": [next(texts)]}},
            {"errors": [{"detail": f"{next(texts)}, {next(texts)}", "title": next(texts)}]},
            [next(texts)],
        ):
            yield answer(status, body)
            if status < 500:
                yield answer(
                    200,
                    {"success": False, "code": status, "message": next(texts)},
                )
        reason = raw(status, b"{}").replace(b"Scripted", f"Appel {next(plain)}".encode())
        yield reason
    for prefix in ("https://", "https://a.", "//", "tel:", "mailto:", "/"):
        for _ in range(5):
            yield raw(302, location=f"{prefix}{next(plain)}".replace(" ", ""))
            yield raw(302, location=f"https://{next(plain)}.example/x".replace(" ", "-"))
    for _ in range(10):
        yield raw(200, next(texts).encode())
        yield raw(
            200,
            f'{{"data": "{next(plain)}"}}'.encode(),
            content_encoding=next(plain).replace(" ", ""),
        )
        yield answer(
            200,
            {"data": [], "meta": {"total": 1, next(texts): next(texts)}, "message": next(texts)},
        )
        yield raw(500, b"<h1>" + next(texts).encode(), retry_after=next(plain).replace(" ", ""))


def test_responses_of_a_server(search: Search, persons: Persons) -> None:
    script = list(refusals(persons))
    found: list[object] = []

    async def request() -> None:
        async with ScriptedServer(script) as server:
            for _ in script:
                async with MagnetisClient(
                    server.origin, KEY, RecordingGuard(), limits=LIMITS
                ) as client:
                    try:
                        found.append(await client.page(CALL))
                    except MagnetisError as error:
                        found.extend((error, repr(error)))

    with stamina.set_testing(True, attempts=1):
        asyncio.run(request())
    assert len(found) > 2 * len(script) - 40
    search(*[each for each in found if not hasattr(each, "rows")])


NAME = "tel_0_63_99_80_01_2"
"""A number that looks like the name of a member; the same in all rows."""


def hostile_row(texts: Iterator[str], **members: Any) -> dict[str, Any]:
    """Return a row with persons in every place that is not declared as personal."""
    return {
        "id": f"x {next(texts)}",
        "account": {"id": next(texts), "name": next(texts)},
        "created_at": "2025-06-17 11:30:00",
        "title": f"Alerte {next(texts)}",
        "name": next(texts),
        "type": next(texts),
        "enabled": next(texts),
        "less_than": next(texts),
        "recipients": [next(texts)],
        next(texts): next(texts),
        f"tel_{next(texts)}"[:40]: next(texts),
        NAME: next(texts),
        "by": {next(texts): {next(texts): 1}},
        **members,
    }


def hostile_api(api: SmallApi, catalogue: Catalogue, texts: Iterator[str]) -> None:
    """Make every route serve hostile rows."""
    for collection in catalogue.enabled:
        api.rows[collection.route] = [
            hostile_row(texts, start_at=f"2025-06-17 12:0{number}:00", duration=next(texts))
            for number in range(4)
        ]


def refuse(api: SmallApi, texts: Iterator[str], *routes: str) -> None:
    """Make these routes, or all if none is named, reject requests with a hostile message."""
    statuses = iter([403, 404, 422, 500] * 1000)

    def respond(request: Request) -> Any:
        if routes and request.path not in routes:
            return None
        body = {"message": f"Appel de {next(texts)}", "errors": {next(texts): [next(texts)]}}
        return next(statuses), {"Content-Type": "application/json"}, json.dumps(body).encode()

    api.respond = respond


def test_the_report_of_a_probe(
    api: SmallApi, catalogue: Catalogue, search: Search, persons: Persons, tmp_path: Path
) -> None:
    texts = persons.beginning_at(70_000)
    hostile_api(api, catalogue, texts)
    refuse(api, texts, *[each.route for each in catalogue.enabled][::4])
    with stamina.set_testing(True, attempts=1):
        report = run_probe(
            catalogue,
            ZONES,
            RecordingGuard(),
            origin=api.url,
            key=KEY,
            today=date(2025, 6, 20),
            limits=LIMITS,
        )
    assert sum(finding.rows > 0 for finding in report.findings) > 8
    console = Console(width=200)
    write_overlay(tmp_path / "magnetis.yaml", report.overlay(), report.reasons())
    search(
        report, json.dumps(report.as_dict()), yaml.safe_dump(report.overlay(), allow_unicode=True)
    )
    with console.capture() as shown:
        console.print(format_probe(report))
    search(shown.get(), (tmp_path / "magnetis.yaml").read_text(encoding="utf-8"))
    assert "/calls" in shown.get()


def test_the_report_of_a_plan(
    api: SmallApi, catalogue: Catalogue, search: Search, persons: Persons, engine: Engine
) -> None:
    refuse(api, persons.beginning_at(80_000))
    ledger = Ledger(
        engine, key_fingerprint="0123456789ab", policy=QuotaPolicy(limit=5000, zone=PARIS)
    )
    warehouse = Warehouse(engine, catalogue, response_zone=PARIS, partition_zone=PARIS)
    with stamina.set_testing(True, attempts=1):
        plan = make_plan(
            choose_collections(catalogue, [], every=True),
            Window(date(2025, 6, 1), date(2025, 6, 10)),
            warehouse,
            ledger,
            zones=ZONES,
            origin=api.url,
            key=KEY,
            limits=LIMITS,
        )
    assert plan.problems
    console = Console(width=200)
    with console.capture() as shown:
        console.print(format_plan(plan))
    search(plan, shown.get())


def events_of(instance: dg.DagsterInstance, run_id: str) -> Iterator[object]:
    """Yield what Dagster stores of a run, and the alerts for it, without Dagster's own times."""
    for entry in instance.all_logs(run_id):
        yield entry.user_message
        yield entry.error_info
        event = entry.dagster_event
        if event is None:
            continue
        yield event.message
        yield _DURATION.sub("", str(event.event_specific_data))
        if event.event_type is dg.DagsterEventType.RUN_FAILURE:
            yield run_failure_reason(event)
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            yield check_text(evaluation, None, check_failure_reason(evaluation), "")


_DURATION = re.compile(r"duration_ms=[0-9.]+")


def test_loads_of_events(
    api: SmallApi,
    search: Search,
    persons: Persons,
    materialize: Materialize,
    instance: dg.DagsterInstance,
    query: Callable[..., list[Any]],
) -> None:
    texts = persons.beginning_at(82_000)
    good = [
        hostile_row(texts, id=f"call-{number}", start_at=NOON, duration=next(texts))
        for number in range(20)
    ]
    api.rows["/calls"] = good
    assert materialize("calls", DAY).success
    api.respond = lambda request: api.envelope(
        [
            *good,
            *(hostile_row(texts, start_at=next(texts)) for _ in range(20)),
            *(hostile_row(texts, id=None, start_at=NOON) for _ in range(20)),
            *(next(texts) for _ in range(20)),
            *(["x", {next(texts): next(texts)}] for _ in range(20)),
        ],
        request,
    )
    materialize("calls", DAY)
    assert query("SELECT count(*) FROM magnetis_ops.quarantine")[0][0] > 60
    api.respond = lambda request: api.envelope(
        [{next(texts): next(texts), "start_at": NOON} for _ in range(20)], request
    )
    assert not materialize("calls", DAY + timedelta(days=1)).success
    refuse(api, texts)
    for number in range(2, 6):
        assert not materialize("calls", DAY + timedelta(days=number)).success
    shown = [event for run in instance.get_runs() for event in events_of(instance, run.run_id)]
    assert "Appel de " in str(shown)
    assert "none of the 20 rows received can be placed" in str(shown)
    search(*shown, *query("SELECT DISTINCT reason FROM magnetis_ops.quarantine"))


def alerts(texts: Iterator[str], number: int) -> list[dict[str, Any]]:
    """Return alerts with other values at each call; the ids of some are persons."""
    return [
        hostile_row(
            texts,
            id=f"ale-{each}" if each % 2 else f"a{each}a 06 39 98 {each:04}",
            recipients=[next(texts)] if each % 3 else [],
        )
        for each in range(number)
    ]


def test_notification_settings(
    api: SmallApi,
    search: Search,
    persons: Persons,
    materialize: Materialize,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = persons.beginning_at(85_000)
    overlay, baseline = tmp_path / "magnetis.yaml", tmp_path / "settings.yaml"
    overlay.write_text("policies: {allowed_domains: {enabled: true, domains: [example.org]}}")
    monkeypatch.setenv("MAGNETIS_CONFIG", str(overlay))
    monkeypatch.setenv("MAGNETIS_SETTINGS_BASELINE", str(baseline))
    api.rows["/accounts"] = [hostile_row(texts) for _ in range(20)]
    api.rows["/alerts/sms"] = []
    rows = {row["id"]: row for row in alerts(texts, 44)}
    baseline.write_text(write_baseline({"email_alerts": rows}), encoding="utf-8")
    today = datetime.now(PARIS).date()
    for collection in ("accounts", "sms_alerts", "email_alerts", "email_alerts"):
        api.rows["/alerts/email"] = alerts(texts, 40 - len(instance.get_runs()))
        assert materialize(collection, today).success
    shown = [event for run in instance.get_runs() for event in events_of(instance, run.run_id)]
    for label in ("offending rows", "settings changed", "diff"):
        assert label in str(shown)
    search(*shown)


def test_changes_that_a_sensor_finds(
    api: SmallApi, search: Search, persons: Persons, catalogue: Catalogue
) -> None:
    texts = persons.beginning_at(96_000)
    collection, state = catalogue["email_alerts"], CollectionState(digest="x")

    async def read() -> Observation:
        async with MagnetisClient(api.url, KEY, RecordingGuard(), limits=LIMITS) as client:
            return await observe(client, collection, AT)

    for _ in range(7):
        api.rows[collection.route] = alerts(texts, 40)
        state = state.changed(asyncio.run(read()), AT)
    search(*state.members, *state.changing, state.why_slow("email_alerts"))


def test_a_baseline_that_cannot_be_read(search: Search, persons: Persons, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    errors = []
    for national, text in zip(sorted(persons.nationals)[:100], persons.texts, strict=False):
        name, tag = json.dumps(text), f"0{national[:5]}-{national[5:]}"
        for content in (
            f"version: 1\nsettings: {{{name}: {{}}}}",
            f"version: 1\nsettings: {{reports: {{{name}: 1}}}}",
            f"version: 1\nsettings: {{reports: !{tag}!x 1}}",
            f"version: 1\nsettings: {{a: !{tag} 1, {name}: *{tag}}}",
            f"{name}: {{",
        ):
            path.write_text(content, encoding="utf-8")
            with pytest.raises(BaselineError) as caught:
                read_baseline(path, ["reports"])
            errors.append(str(caught.value))
    search(*errors)
