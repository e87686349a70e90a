"""The probe against a server with one lie at a time: its findings, price and overlay."""

import json
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import stamina
from hypothesis import given, settings
from hypothesis import strategies as st
from small_api import KEY, PARIS, Open, Request, SmallApi, serve

from magnetis_dagster.api import ApiCall, CallOutcome, ClientLimits
from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.catalog.model import Evidence
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.privacy.plan import load_plan
from magnetis_dagster.probe.comparison import examine
from magnetis_dagster.probe.events import event_members
from magnetis_dagster.probe.overlay import write_overlay
from magnetis_dagster.probe.probe import probe_window, run_probe
from magnetis_dagster.probe.proposals import Proposals, propose, with_proposals
from magnetis_dagster.probe.report import Availability, Finding, ProbeReport
from magnetis_dagster.probe.rows import Sample
from magnetis_dagster.sandbox import SandboxOptions, SandboxServer

TODAY = date(2025, 6, 20)
ZONES = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
LIMITS = ClientLimits(attempts=2, read=2.0, total=5.0)
ALL = ("from", "to", "limit", "page")
pick = random.Random(13)

Row = dict[str, Any]


class OpenGuard:
    async def charge(self, call: ApiCall) -> int:
        return 1

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallApi]:
    # headers and body are two packets: with Nagle's algorithm, each response waits 40 ms
    monkeypatch.setattr("socketserver.StreamRequestHandler.disable_nagle_algorithm", True)
    with serve() as small:
        yield small


@cache
def load_shipped() -> Catalogue:
    return load_catalogue()


def only(tmp_path: Path, name: str, **overlay: Any) -> Catalogue:
    """Return a catalogue with one collection."""
    path = tmp_path / "only.yaml"
    off = {other: {"enabled": False} for other in load_shipped().collections if other != name}
    path.write_text(json.dumps({"collections": off | {name: overlay}}))
    return load_catalogue(path)


@pytest.fixture
def probe(api: SmallApi, tmp_path: Path) -> Callable[..., Finding]:
    def probe(name: str = "calls", config: Path | None = None, **overlay: Any) -> Finding:
        api.requests.clear()
        catalogue = only(tmp_path, name, **overlay)
        report = run_probe(
            catalogue,
            ZONES,
            OpenGuard(),
            origin=api.url,
            key=KEY,
            today=TODAY,
            limits=LIMITS,
            plan=load_plan(config, catalogue),
        )
        assert report.calls == len(api.requests)
        assert report.stopped is None
        probe.report = report  # type: ignore[attr-defined]
        return report.findings[0]

    return probe


def calls(
    step: timedelta = timedelta(minutes=20),
    days: int = 60,
    **members: Callable[[int, datetime], Any],
) -> list[Row]:
    """Return rows, oldest first, of the days before TODAY."""
    start = datetime(2025, 6, 20, 9, tzinfo=PARIS) - timedelta(days=days)
    members = {
        "id": lambda n, _: f"call-{uuid.UUID(int=n + 7)}",
        "start_at": lambda _, at: at,
    } | members
    moments = [start + number * step for number in range(int(timedelta(days=days) / step))]
    rows = [
        {name: make(number, at) for name, make in members.items()}
        for number, at in enumerate(moments)
    ]
    return [{name: text(value) for name, value in row.items() if value is not ...} for row in rows]


def text(value: Any) -> Any:
    return (
        value.astimezone(PARIS).strftime("%Y-%m-%d %H:%M:%S")
        if isinstance(value, datetime)
        else value
    )


def play(
    api: SmallApi,
    rows: list[Row],
    *,
    time: str = "start_at",
    honours: tuple[str, ...] = ALL,
    newest_first: bool = False,
    **meta: Any,
) -> None:
    """Serve `rows` on every route, and honour only the parameters in `honours`."""
    rows = rows[::-1] if newest_first else rows

    def respond(request: Request):
        query = {"limit": "250", "page": "1"} | {
            name: value for name, value in request.query.items() if name in honours
        }
        bounds = {
            name: datetime.strptime(query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            for name in ("from", "to")
            if name in query
        }

        def inside(row: Row) -> bool:
            at = datetime.fromisoformat(row[time]).replace(tzinfo=PARIS)
            return bounds.get("from", at) <= at <= bounds.get("to", at)

        served = [row for row in rows if inside(row)] if bounds else rows
        return api.envelope(served, Request(request.number, request.path, query), **meta)

    api.respond = respond


def moved(minutes: int) -> Callable[[int, datetime], datetime]:
    return lambda _, at: at + timedelta(minutes=minutes)


def requested(api: SmallApi) -> list[tuple[str, str]]:
    return [(request.query["limit"], request.query["page"]) for request in api.requests]


# --- window parameters


def verdicts(found: Finding) -> dict[str, str]:
    return {name: verdict.value for name, verdict in found.parameters.items()}


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize(
    "total",
    [{}, {"total": None, "last_page": None}, {"total": 10_000}],
    ids=["totals", "no totals", "capped"],
)
@pytest.mark.parametrize(
    "ignored", [(), ("to",), ("from",), ("from", "to")], ids=lambda names: "-".join(names) or "none"
)
def test_ignored_bounds_are_named_within_four_requests(api, probe, ignored, total, newest_first):
    play(
        api,
        calls(),
        honours=tuple(name for name in ALL if name not in ignored),
        newest_first=newest_first,
        **total,
    )
    found = probe()
    assert {name: verdicts(found)[name] for name in ("from", "to")} == {
        name: "ignored" if name in ignored else "honoured" for name in ("from", "to")
    }
    assert len(api.requests) == 4
    overlay = probe.report.overlay().get("collections", {}).get("calls", {})
    assert ("window" in overlay) is (len(ignored) == 2)
    if ignored:
        assert f"The route ignores {' and '.join(ignored)}" in found.notes()
        assert "collections.calls.window" in found.notes()
    else:
        assert "The route ignores" not in found.notes()
        assert found.outside_seconds == 0
    assert json.loads(json.dumps(probe.report.as_dict()))["findings"][0]["notes"] == found.notes()


@pytest.mark.parametrize("exclusive", [False, True])
def test_bounds_may_be_exclusive(api, probe, exclusive):
    rows = calls(step=timedelta(hours=1))
    play(api, [row for row in rows if not (exclusive and row["start_at"].endswith("12:00:00"))])
    assert verdicts(probe()) | {"page": ""} == {
        "from": "honoured",
        "to": "honoured",
        "limit": "honoured",
        "page": "",
    }


def test_an_empty_collection_costs_two_requests_and_decides_nothing(api, probe):
    play(api, [])
    found = probe()
    assert set(verdicts(found).values()) == {"undecided"}
    assert requested(api) == [("1", "1"), ("50", "1")]
    assert (
        "No row was returned, so it is undecided whether the route honours from and to"
        in found.notes()
    )
    assert probe.report.overlay() == {}


def test_a_quiet_day_is_replaced_by_the_month_before_it(api, probe):
    rows = [row for row in calls() if row["start_at"] < "2025-06-10"]
    play(api, rows)
    found = probe()
    assert verdicts(found)["from"] == verdicts(found)["to"] == "honoured"
    assert api.requests[1].query["from"] == "20250518100000"
    assert found.rows == 50
    assert found.announced == 0


def test_a_future_row_does_not_mark_an_honoured_start_as_ignored(api, probe):
    play(api, [*calls(), {"id": "call-late", "start_at": "2025-06-22 12:30:00"}])
    assert verdicts(probe())["from"] == "honoured"


def test_one_row_inside_the_window_does_not_disable_it(api, probe):
    """Both bounds are ignored, and the only row, inside the window, does not prove it."""
    play(api, [{"id": "call-1", "start_at": "2025-06-17 10:00:00"}], honours=("limit", "page"))
    found = probe()
    assert found.ignores_window
    assert not found.window_is_useless
    assert probe.report.overlay() == {}
    assert "as --write does" not in found.notes()


def test_a_refused_hour_leaves_its_bound_undecided_with_the_reason(api, probe):
    play(api, calls())
    honest = api.respond
    api.respond = lambda request: (
        (
            422,
            {"Content-Type": "application/json"},
            b'{"message": "The to must be a date before now."}',
        )
        if request.query["to"] > "20250620"
        else honest(request)
    )
    found = probe()
    assert (verdicts(found)["from"], verdicts(found)["to"]) == ("undecided", "honoured")
    assert "A further request failed" in found.notes()
    assert "422" in found.notes()


def test_a_total_that_ignores_the_window_is_reported(api, probe):
    play(api, calls(), total=4320, last_page=4320)
    found = probe()
    assert found.total_ignores_window
    assert "its total ignores the window" in found.notes()
    assert verdicts(found)["from"] == verdicts(found)["to"] == "honoured"


@pytest.mark.parametrize("ignored", ["limit", "page"])
def test_an_ignored_limit_or_page_is_detected_without_extra_requests(api, probe, ignored):
    play(
        api,
        calls(step=timedelta(minutes=5)),
        honours=tuple(name for name in ALL if name != ignored),
    )
    found = probe()
    assert verdicts(found)[ignored] == "ignored"
    assert f"ignores {ignored}" in found.notes()
    assert requested(api) == [("1", "1"), ("50", "2"), ("1", "1"), ("1", "1")]


def test_a_page_with_signed_links_is_recognized_as_the_same_page(api, probe):
    """Each response contains newly signed links, so rows of two requests are never equal."""
    rows = calls(step=timedelta(minutes=5), recording=lambda n, _: f"https://x.fr/{n}.mp3")
    play(api, rows, honours=("from", "to", "limit"))
    plain = api.respond

    def signed(request: Request):
        status, headers, body = plain(request)
        return status, headers, body.replace(b".mp3", f".mp3?s={request.number}".encode())

    api.respond = signed
    found = probe()
    assert verdicts(found)["page"] == "ignored"
    assert found.proposals.id_path == []


def test_an_ignored_window_is_written_with_the_reason_as_a_comment_that_stays(api, probe, tmp_path):
    play(api, calls(), honours=("limit", "page"))
    found = probe()
    assert f"{-(-4320 // 250)} requests for every load" in found.notes()
    path = tmp_path / "magnetis.yaml"
    report: ProbeReport = probe.report
    assert write_overlay(path, report.overlay(), report.reasons())
    loaded = load_catalogue(path)["calls"]
    assert loaded.window is None
    assert loaded.window_evidence is Evidence.OBSERVED
    assert (
        "# magnetis probe: collections.calls.window is null: "
        "/calls ignored from and to on 2025-06-20." in path.read_text()
    )
    assert write_overlay(path, {"collections": {"leads": {"enabled": False}}})
    assert path.read_text().count("# magnetis probe: collections.calls.window is null") == 1


def test_a_misread_zone_shows_on_the_row_at_the_edge(api, probe):
    """Times are misread by two hours; on a long day, only the first row lies near an edge."""
    play(
        api,
        calls(step=timedelta(minutes=5), start_at=moved(120), hidden=lambda _, at: at),
        time="hidden",
        newest_first=True,
    )
    found = probe()
    assert 6900 <= found.outside_seconds <= 7200
    assert "MAGNETIS_RESPONSE_TIMEZONE" in found.notes()
    assert requested(api)[1] == ("50", "2")


# --- undeclared members


def accepted(probe, tmp_path: Path, name: str = "calls") -> Finding:
    """Write the proposals, and return the findings of a second probe."""
    overlay = probe.report.overlay()
    path = tmp_path / "magnetis.yaml"
    write_overlay(path, overlay)
    collection = load_catalogue(path)[name]
    assert Evidence.OBSERVED in {
        collection.time_evidence,
        collection.id_evidence,
        *(c.evidence for c in collection.columns.values()),
    }
    found = probe(name, path, **overlay["collections"][name])
    assert probe.report.overlay() == {}
    return found


def test_the_member_inside_the_window_is_proposed_as_the_time(api, probe, tmp_path):
    rows = calls(
        start_at=lambda *_: ...,
        imported_at=lambda n, _: datetime(2025, 6, 19, 3, n % 60, tzinfo=PARIS),
        contract_from=lambda *_: "2021-01-01 00:00:00",
        begun=lambda _, at: at,
        over=moved(3),
    )
    play(api, rows, time="begun")
    found = probe()
    assert found.proposals.time_field == "begun"
    assert (
        "time_fields: [begun] (50 of 50 rows lie inside the window by it; also inside: over)"
        in found.notes()
    )
    assert probe.report.overlay() == {
        "collections": {"calls": {"time_fields": ["begun"], "time_evidence": "observed"}},
        "privacy": {"collections": {"calls": {"members": {"imported_at": "none", "over": "none"}}}},
    }
    again = accepted(probe, tmp_path)
    assert again.time_field == "begun"
    assert again.outside_seconds == 0


@pytest.mark.parametrize(
    "form",
    [
        lambda at: at.isoformat(),
        lambda at: int(at.timestamp()),
        lambda at: int(at.timestamp() * 1000),
        lambda at: at.astimezone(PARIS).strftime("%d/%m/%Y %H:%M"),
        lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    ],
    ids=["iso", "unix", "milliseconds", "french", "utc"],
)
def test_a_time_in_any_form_is_proposed(api, probe, form):
    play(
        api,
        calls(begun=lambda _, at: form(at), filtered=lambda _, at: at, start_at=lambda *_: "soon"),
        time="filtered",
    )
    found = probe()
    assert found.proposals.time_field == "begun"
    assert "filtered" in found.notes()


def test_a_declared_time_outside_the_window_is_replaced_by_the_filtered_one(api, probe):
    """`date` is the day of a contract; the route filters by an undeclared member."""
    play(
        api,
        calls(start_at=lambda *_: "2019-04-01 10:00:00", happened=lambda _, at: at),
        time="happened",
    )
    found = probe()
    assert found.proposals.time_field == "happened"
    assert verdicts(found)["from"] == "honoured"


def test_a_member_that_is_equal_in_all_rows_is_not_proposed_as_time(api, probe):
    play(
        api,
        calls(
            start_at=lambda *_: ..., day=lambda *_: "2025-06-16 12:30:00", hidden=lambda _, at: at
        ),
        time="hidden",
    )
    assert probe().proposals.time_field == "hidden"


def test_no_time_is_proposed_if_the_window_is_ignored(api, probe):
    play(
        api,
        calls(start_at=lambda *_: ..., begun=lambda _, at: at),
        time="begun",
        honours=("limit", "page"),
    )
    found = probe()
    assert found.proposals.time_field is None
    assert "(members with a time: begun)" in found.notes()


@pytest.mark.parametrize(
    ("member", "make"),
    [
        ("call_ref", lambda n: f"call-{uuid.UUID(int=n + 7)}"),
        ("code", lambda n: str(uuid.UUID(int=n + 7))),
        ("idcall", lambda n: 1_234_567 + n),
        ("callNo", lambda n: 9_000 - n),
        ("reference", lambda n: f"C-2025-{n:05}"),
        ("call_key", lambda n: 1_718_000_000 + n),
    ],
)
def test_an_id_is_proposed_by_form_and_uniqueness(api, probe, tmp_path, member, make):
    rows = calls(
        id=lambda *_: ...,
        seconds=lambda *_: pick.randrange(10_000),
        agent_id=lambda n, _: f"agent-{uuid.UUID(int=n % 5)}",
        **{member: lambda n, _: make(n)},
        visit=lambda n, _: {"id": f"vst-{uuid.UUID(int=n)}"},
        page_id=lambda n, _: ... if n % 2 else n,
    )
    play(api, rows)
    found = probe()
    assert found.proposals.id_path == [member]
    assert probe.report.overlay() == {
        "collections": {"calls": {"id_paths": [member], "id_evidence": "observed"}},
        "privacy": {"collections": {"calls": {"members": {"seconds": "none"}}}},
    }
    again = accepted(probe, tmp_path)
    assert "id" not in again.missing


@pytest.mark.parametrize("base", ["id", "call_id"])
@pytest.mark.parametrize("leg", ["leg", "legNumber", "segment_ref"])
def test_an_id_that_repeats_is_proposed_with_the_member_that_makes_it_unique(
    api, probe, tmp_path, base, leg
):
    rows = calls(
        step=timedelta(minutes=10),
        **({} if base == "id" else {"id": lambda *_: ...}),
        **{base: lambda n, _: f"call-{uuid.UUID(int=n // 2)}"},
        status=lambda n, _: ("missed", "completed")[n % 2],
        duration=lambda n, _: n,
        picked_up=lambda n, _: n % 2,
        seconds=lambda n, _: pick.randrange(100_000),
        **{leg: lambda n, _: n % 2 + 1},
    )
    play(api, rows)
    found = probe()
    assert found.proposals.id_path == [base, leg]
    assert probe.report.overlay()["collections"]["calls"]["id_paths"] == [[base, leg]]
    accepted(probe, tmp_path)


def test_an_id_that_no_member_makes_unique_is_not_proposed(api, probe):
    """A duration or a status may change, and the id would change too."""
    status = ("missed", "completed")
    play(
        api,
        calls(
            id=lambda n, _: f"call-{n // 2}",
            status=lambda n, _: status[n % 2],
            duration=lambda n, _: n,
        ),
    )
    found = probe()
    assert found.proposals.id_path == []
    assert "The id repeats in 24 of 50 rows: set id_paths" in found.notes()


def test_the_rows_own_id_is_preferred_to_other_ids(api, probe):
    rows = calls(
        id=lambda *_: ...,
        task_id=lambda n, _: str(uuid.UUID(int=n)),
        call_ref=lambda n, _: f"C{n}",
    )
    play(api, rows)
    assert probe().proposals.id_path == ["call_ref"]


def test_times_and_phone_numbers_are_not_proposed_as_ids(api, probe):
    rows = calls(
        id=lambda *_: ...,
        stamp=lambda _, at: int(at.timestamp()),
        caller_id=lambda n, _: PHONES["00"](n),
    )
    play(api, rows)
    found = probe()
    assert found.proposals.id_path == []
    assert found.proposals.columns == {"caller_number": "caller_id"}


PHONES = {
    "E.164": lambda n: f"+3361234{n:04}",
    "00": lambda n: f"003361234{n:04}",
    "French": lambda n: f"06 12 34 {n // 100:02} {n % 100:02}",
    "dots": lambda n: f"06.12.34.{n // 100:02}.{n % 100:02}",
    "number": lambda n: 33_612_340_000 + n,
    "foreign": lambda n: f"+44 20 7946 {n:04}",
}


@pytest.mark.parametrize("form", PHONES)
@pytest.mark.parametrize("member", ["msisdn", "callerPhoneE164", "calling_party"])
def test_phone_numbers_are_proposed_by_form_for_the_column_that_has_none(
    api, probe, tmp_path, form, member
):
    rows = calls(
        **{member: lambda n, _: PHONES[form](n)},
        dialled=lambda n, _: f"+3318500000{n % 3}",
        called_at=moved(2),
        note=lambda n, _: f"{n:08}",
    )
    play(api, rows)
    found = probe()
    assert found.proposals.columns == {"caller_number": member, "number": "dialled"}
    assert "columns.caller_number.paths" in found.notes()
    assert "3361234" not in found.notes() + json.dumps(probe.report.as_dict())
    again = accepted(probe, tmp_path)
    assert again.columns["caller_number"] == member


def test_ambiguous_phone_numbers_are_named_and_not_saved(api, probe):
    play(api, calls(first=lambda n, _: PHONES["E.164"](n), second=lambda n, _: PHONES["00"](n)))
    found = probe()
    assert found.proposals.columns == {}
    assert "Phone numbers in first, second: choose their columns" in found.notes()
    assert probe.report.overlay() == {}


def test_a_shared_word_in_the_names_takes_precedence_over_variation(api, probe):
    rows = calls(
        recipientMobile=lambda n, _: PHONES["00"](n), caller_mobile=lambda n, _: PHONES["E.164"](n)
    )
    play(api, rows)
    assert probe().proposals.columns == {
        "caller_number": "caller_mobile",
        "recipient_number": "recipientMobile",
    }


def test_a_filled_declared_number_is_kept(api, probe):
    play(
        api,
        calls(
            caller_number=lambda n, _: PHONES["E.164"](n), mobile=lambda n, _: PHONES["French"](n)
        ),
    )
    assert probe().proposals.columns == {}


def test_names_that_may_be_values_are_never_shown_or_written(api, probe):
    rows = calls(
        id=lambda *_: ...,
        start_at=lambda *_: ...,
        hidden=lambda _, at: at,
        by_agent=lambda n, at: {
            f"Jeanne{chr(97 + n % 26)}": text(at),
            f"Paul{chr(97 + n % 23)}": f"+3361234{n:04}",
        },
        **{"0612345678": lambda n, _: f"call-{uuid.UUID(int=n)}"},
    )
    play(api, rows, time="hidden")
    found = probe()
    shown = found.notes() + json.dumps(probe.report.as_dict())
    assert "Jeanne" not in shown
    assert "Paul" not in shown
    assert "0612345678" not in shown
    assert "by_agent.*" in found.unknown
    assert found.proposals.id_path == []


def test_the_written_overlay_loads_a_complete_day(
    api, probe, tmp_path, open_ingestion: Open, query
):
    rows = calls(
        id=lambda *_: ...,
        start_at=lambda *_: ...,
        call_ref=lambda n, _: f"call-{uuid.UUID(int=n // 2)}",
        leg=lambda n, _: n % 2 + 1,
        begun=lambda _, at: at,
        msisdn=lambda n, _: PHONES["E.164"](n),
    )
    play(api, rows, time="begun")
    probe()
    path = tmp_path / "magnetis.yaml"
    write_overlay(path, probe.report.overlay())
    catalogue = load_catalogue(path)
    with open_ingestion(catalogue=catalogue) as ingestion:
        (result,) = ingestion.read_days(catalogue["calls"], [date(2025, 6, 17)])
    assert [day.rows for day in result.days] == [72]
    stored = query(
        "SELECT count(*), count(DISTINCT id), count(caller_number), min(day), max(day) "
        "FROM magnetis.calls"
    )
    assert stored == [(72, 72, 72, date(2025, 6, 17), date(2025, 6, 17))]


# --- snapshots that are events


def sent(**members: Callable[[int, datetime], Any]) -> list[Row]:
    members = {"id": lambda n, _: f"sms-{uuid.UUID(int=n)}"} | members
    return calls(step=timedelta(hours=3), days=80, start_at=lambda *_: ..., **members)


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"sent_at": lambda _, at: at}, ["sent_at"]),
        ({"created_at": lambda _, at: at, "booked_at": moved(50)}, ["booked_at"]),
        ({"created_at": lambda _, at: at, "appointment": moved(3000)}, ["appointment"]),
        (
            {"created_at": lambda _, at: at, "call": lambda n, _: {"id": f"call-{n}"}},
            ["created_at", "call.id"],
        ),
        (
            {"created_at": lambda _, at: at, "phone": lambda n, _: PHONES["E.164"](n)},
            ["created_at", "phone"],
        ),
    ],
)
def test_a_snapshot_whose_rows_look_like_events_is_reported(
    api, probe, members, named, newest_first
):
    play(api, sent(**members), newest_first=newest_first)
    found = probe("sms_messages")
    assert found.event_members == named
    assert (
        f"Rows look like events, not like a present state: {', '.join(named)} differ"
        in found.notes()
    )
    assert "magnetis.sms_messages" in found.notes()
    assert len(api.requests) == 2
    assert "collections" not in probe.report.overlay(), "the kind must not change"


def test_old_and_recent_events_are_recognized_at_the_recent_end(api, probe):
    """Sorted oldest first: the first page has rows that are years old."""
    rows = calls(
        step=timedelta(days=1), days=1500, start_at=lambda *_: ..., sent_at=lambda _, at: at
    )
    play(api, rows)
    assert probe("sms_messages").event_members == ["sent_at"]
    assert requested(api) == [("1", "1"), ("50", "30")]


@pytest.mark.parametrize(
    "members",
    [
        {"created_at": lambda _, at: at},
        {
            "created_at": lambda _, at: at,
            "updated_at": moved(60),
            "expires_at": moved(9000),
            "last_call_at": moved(5),
        },
        {"created_at": lambda _, at: at, "exported_at": lambda *_: "2025-06-20 03:00:00"},
        {
            "created_at": lambda _, at: at,
            "signed_at": lambda n, _: datetime(2019, 3, 1 + n % 28, 9, n % 60, tzinfo=PARIS),
        },
    ],
    ids=["created", "of state", "equal", "old"],
)
def test_a_snapshot_of_state_is_not_reported_as_events(api, probe, members):
    play(api, sent(**members))
    assert probe("sms_messages").event_members == []
    assert "collections" not in probe.report.overlay()


def test_a_snapshot_without_an_id_costs_one_request_more(api, probe, tmp_path):
    play(api, sent(id=lambda *_: ..., sms_key=lambda n, _: f"k{n}"))
    found = probe("sms_messages")
    assert found.proposals.id_path == ["sms_key"]
    assert len(api.requests) == 2
    accepted(probe, tmp_path, "sms_messages")
    assert len(api.requests) == 1


def test_the_probe_finds_no_fault_with_the_sandbox():
    """No declaration misses its rows, and its clock is the machine's."""
    with SandboxServer(SandboxOptions(keys=(KEY,), accounts=3, calls_per_day=120)) as sandbox:
        report = run_probe(load_shipped(), ZONES, OpenGuard(), origin=sandbox.url, key=KEY)
        assert report.calls == sandbox.received == 18 + 3 * 5
    assert report.complete
    assert report.overlay() == {}
    for found in report.findings:
        assert "ignored" not in verdicts(found).values()
        assert set(found.proposals.unclassified) <= set(found.unknown)
        assert replace(found.proposals, unclassified=[]) == Proposals()
        assert found.event_members == []
        assert found.unfinished == []
        assert (
            verdicts(found).get("from", "honoured")
            == verdicts(found).get("to", "honoured")
            == "honoured"
        )


# --- any rows at all

SECRET = "zq7secret"
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(10**4000),
        st.floats(),
        st.decimals(allow_nan=True),
        st.text(max_size=5),
        st.sampled_from(["2025-06-17 10:00:00", "+33612345678", "call-1"]),
        st.text(max_size=3).map(lambda text: SECRET + text),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "number", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
members = st.sampled_from(
    [
        "id",
        "call",
        "start_at",
        "caller",
        "caller_number",
        "ref",
        "sent_at",
        "created_at",
        "leg",
        "number",
    ]
)


@settings(deadline=None)
@given(
    rows=st.lists(st.dictionaries(members, values, max_size=6), max_size=6),
    name=st.sampled_from(["calls", "leads", "sms_messages", "numbers"]),
)
def test_any_rows_give_names_and_numbers_and_no_value(rows, name):
    collection = load_shipped()[name]
    sample = Sample(
        collection, rows, ZONES, probe_window(TODAY, ZONES) if collection.is_events else None
    )
    found = Finding(name, collection.route, Availability.YES, answered=collection.route)
    examine(sample, found)
    found.proposals, found.event_members = (
        propose(sample, load_plan(None, load_shipped()).of(name)),
        event_members(sample, TODAY),
    )
    report = ProbeReport([found], 1, ("", ""), str(TODAY))
    assert SECRET not in json.dumps(report.as_dict()) + found.notes()
    with_proposals(collection, found.proposals)


def test_a_row_of_a_thousand_levels_is_compared(catalogue: Catalogue):
    row: Row = {}
    for _ in range(1000):
        row = {"a": row, "id": 1}
    found = Finding("calls", "/calls", Availability.YES)
    examine(Sample(catalogue["calls"], [row], ZONES), found)
    assert "a.id" in found.unknown
