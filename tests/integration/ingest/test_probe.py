"""The probe over real HTTP: its requests, price, findings and overlay."""

import json
import logging
from datetime import date, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import stamina
import yaml
from rich.console import Console
from small_api import KEY, PARIS, SmallApi, serve

from magnetis_dagster.api import ApiCall, CallOutcome, ClientLimits
from magnetis_dagster.catalog import Catalogue, CatalogueError, load_catalogue
from magnetis_dagster.cli.probe_report import format_probe
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.ingest.windows import Zones
from magnetis_dagster.probe.overlay import write_overlay
from magnetis_dagster.probe.probe import probe_window, run_probe
from magnetis_dagster.probe.report import Availability, ProbeReport

TODAY = date(2025, 6, 20)
ZONES = Zones(partition=PARIS, query=ZoneInfo("UTC"), response=PARIS)
LIMITS = ClientLimits(attempts=2, read=1.0, total=3.0)
CALLER = "0033612345678"
CALL = {
    "id": "call-1",
    "account": {"id": "acc-1", "name": "Agence", "plan": {"tier": 2}},
    "caller_number": CALLER,
    "duration": "a while",
    "start_at": "2025-06-17 11:58:00",
    "answered_at": "2025-06-17 11:58:09",
    "gclid": None,
    "tags": [],
    "by_number": {CALLER: 3, "jeanne.martin@exemple.fr": {"x": 1}},
    "analysis": {"words": 12},
}


class CountingGuard:
    def __init__(self, calls: int = 1000) -> None:
        self.calls = calls
        self.charged: list[ApiCall] = []
        self.settled: list[CallOutcome] = []

    async def charge(self, call: ApiCall) -> int:
        if len(self.charged) >= self.calls:
            raise TransientError("No call is left until midnight.")
        self.charged.append(call)
        return len(self.charged)

    async def confirm(self, charge: int) -> int:
        return charge

    async def settle(self, charge: int, outcome: CallOutcome) -> None:
        self.settled.append(outcome)


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=100, cap=True):
        yield


@pytest.fixture
def api(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch):
    """An API that serves only the first route of every collection, with one row."""
    # headers and body are two packets: with Nagle's algorithm, each response waits 40 ms
    monkeypatch.setattr("socketserver.StreamRequestHandler.disable_nagle_algorithm", True)
    with serve() as small:
        small.rows = {
            one.route: [{"id": f"{one.name}-1", "name": "x", "created_at": "2025-06-17 11:30:00"}]
            for one in catalogue.enabled
        }
        small.rows["/calls"] = [CALL]
        small.respond = lambda request: None if request.path in small.rows else refusal(404)
        yield small


def refusal(status: int, message: str = "Nope."):
    return status, {"Content-Type": "application/json"}, json.dumps({"message": message}).encode()


@pytest.fixture
def probe(api: SmallApi, catalogue: Catalogue, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)

    def _probe(
        catalogue: Catalogue = catalogue, guard: CountingGuard | None = None, **changes
    ) -> ProbeReport:
        guard = guard or CountingGuard()
        report = run_probe(
            catalogue,
            ZONES,
            guard,
            origin=api.url,
            key=KEY,
            **{"today": TODAY, "limits": LIMITS, **changes},
        )
        assert report.calls == len(guard.charged) == len(guard.settled) == len(api.requests)
        shown = repr(report) + json.dumps(report.as_dict()) + table(report) + caplog.text
        for secret in (KEY, CALLER, "jeanne", "a while", "Agence"):
            assert secret not in shown
        return report

    return _probe


def table(report: ProbeReport, width: int = 300) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(format_probe(report))
    return console.export_text()


def test_the_report_fits_80_columns_without_broken_words(probe):
    lines = table(probe(), 80).splitlines()
    assert max(map(len, lines)) <= 80
    [calls] = [line.split() for line in lines if line.startswith("calls ") and "/calls" in line]
    assert calls[:4] == ["calls", "/calls", "observed", "200"]
    assert any("honoured: from, to" in line for line in lines)


def finding(report: ProbeReport, collection: str):
    return next(one for one in report.findings if one.collection == collection)


def reroute(catalogue: Catalogue, tmp_path: Path, **routes: str) -> Catalogue:
    path = tmp_path / "reroute.yaml"
    path.write_text(
        yaml.safe_dump({"collections": {name: {"route": route} for name, route in routes.items()}})
    )
    return load_catalogue(path)


def test_the_price_is_one_request_for_each_collection_and_three_more_for_events(
    probe, api: SmallApi, catalogue: Catalogue
):
    lines: list[str] = []
    report = probe(progress=lines.append)
    assert len(catalogue.enabled) == 18
    assert report.calls == len(lines) == 18 + 3 * 5
    assert [request.query["limit"] for request in api.requests[:18]] == ["1"] * 18
    for one in catalogue.enabled:
        limits = [request.query["limit"] for request in api.requests if request.path == one.route]
        assert limits == (["1", "50", "1", "1"] if one.is_events else ["1"])
    assert report.complete
    assert report.overlay() == {}
    assert report.stopped is None
    assert [one.collection for one in report.findings] == list(catalogue.collections)
    assert {one.found for one in report.findings} == {Availability.YES}
    assert "33 API calls spent" in table(report)


def test_events_are_requested_for_a_working_day_from_noon_to_noon(probe, api: SmallApi):
    report = probe()
    assert report.window == ("2025-06-16T10:00:00+00:00", "2025-06-17T10:00:00+00:00")
    requested = {request.path: request.query for request in reversed(api.requests)}
    assert (requested["/calls"]["from"], requested["/calls"]["to"]) == (
        "20250616100000",
        "20250617100000",
    )
    assert requested["/calls"]["analysis"] == "1"
    assert "from" not in requested["/accounts"]


@pytest.mark.parametrize("days", range(14))
def test_the_window_lies_in_a_past_working_week(days):
    today = TODAY + timedelta(days=days)
    start, end = (moment.astimezone(PARIS) for moment in probe_window(today, ZONES))
    assert start.hour == end.hour == 12
    assert end - start == timedelta(days=1)
    assert start.weekday() < end.weekday() < 5
    assert 3 <= (today - end.date()).days <= 6


def test_members_are_reported_as_found_unknown_or_missing(probe):
    calls = finding(probe(), "calls")
    assert (calls.answered, calls.evidence, calls.status, calls.announced) == (
        "/calls",
        "observed",
        200,
        1,
    )
    assert calls.columns["account_name"] == "account.name"
    assert calls.columns["caller_number"] == "caller_number"
    assert calls.columns["gclid"] == "gclid", "a null member counts as found"
    assert calls.columns["analysis"] == "analysis"
    assert calls.misfits == ["duration_seconds"]
    assert "status" in calls.missing
    assert "id" not in calls.missing
    assert calls.unknown == [
        "account.plan.tier",
        "answered_at",
        "by_number.*",
        "by_number.*.x",
        "tags",
    ]
    assert calls.time_field == "start_at"
    assert calls.times == ["answered_at", "start_at"]
    assert "Unknown: account.plan.tier" in calls.notes()
    assert "Do not fit their type: duration_seconds." in calls.notes()


def test_a_row_without_id_and_time_is_reported(probe, api: SmallApi):
    api.rows["/leads"] = []
    api.respond = lambda request: (
        (200, {}, b'{"data": [{"ref": 1, "when": "2025-06-17 11:30:00"}], "meta": {"total": 1}}')
        if request.path == "/leads"
        else None
    )
    leads = finding(probe(), "leads")
    assert leads.missing[:2] == ["id", "occurred_at"]
    assert "Rows without an id cannot be stored: set id_paths." in leads.notes()
    assert "(members with a time: when): set time_fields" in leads.notes()
    assert leads.proposals.time_field == "when"
    assert leads.proposals.id_path == [], "one row does not show that a member is unique"


def test_without_rows_no_members_are_reported(probe, api: SmallApi):
    api.rows["/calls"] = []
    calls = finding(probe(), "calls")
    assert (calls.found, calls.announced, calls.columns, calls.missing, calls.outside_seconds) == (
        Availability.YES,
        0,
        {},
        [],
        None,
    )


@pytest.mark.parametrize(
    ("start_at", "outside", "edge", "shown"),
    [
        ("2025-06-17 11:58:00", 0, 120, "start_at: inside, 0 h 02 min from an edge"),
        ("2025-06-17 13:57:00", 7020, 7020, "start_at: 1 h 57 min after the end"),
        ("2025-06-16 10:00:00", -7200, 7200, "start_at: 2 h 00 min before the start"),
    ],
)
def test_the_offset_of_rows_from_the_window_is_reported(
    probe, api: SmallApi, start_at, outside, edge, shown
):
    """The server honours the window, in another time zone than the settings."""
    inside = [CALL | {"start_at": start_at}]
    api.respond = lambda request: (
        api.envelope(inside if request.query["from"] == "20250616100000" else [], request)
        if request.path == "/calls"
        else None
    )
    report = probe()
    calls = finding(report, "calls")
    assert (calls.outside_seconds, calls.edge_seconds) == (outside, edge)
    assert shown in table(report)
    assert ("MAGNETIS_RESPONSE_TIMEZONE" in calls.notes()) is bool(outside)
    assert report.overlay() == {}


def test_alternative_routes_are_tried_if_the_first_is_missing(
    probe, api: SmallApi, catalogue: Catalogue, tmp_path
):
    api.rows["/audio-files"] = api.rows.pop("/audios")
    wrong = reroute(catalogue, tmp_path, calls="/v2/calls", numbers="/nummern")
    report = probe(wrong)
    assert finding(report, "audio_files").tried == {
        "/audios": 404,
        "/audio": 404,
        "/audio-files": 200,
    }
    assert finding(report, "audio_files").evidence == "assumed"
    assert finding(report, "calls").answered == "/calls"
    assert report.calls == 18 + 2 + 1 + 1 + 3 * 5
    assert report.complete
    assert report.overlay() == {
        "collections": {
            "numbers": {"route": "/numbers"},
            "calls": {"route": "/calls"},
            "audio_files": {"route": "/audio-files"},
        }
    }


def test_collections_outside_the_keys_scope_are_switched_off(probe, api: SmallApi, tmp_path):
    del api.rows["/sms"]
    api.respond = lambda request: (
        refusal(403, "Forbidden.")
        if request.path == "/leads"
        else None
        if request.path in api.rows
        else refusal(405)
    )
    report = probe()
    assert not report.complete
    assert finding(report, "leads").found is Availability.FORBIDDEN
    assert finding(report, "leads").status == 403
    assert "scope" in finding(report, "leads").notes()
    assert report.overlay()["collections"] == {
        "leads": {"enabled": False, "reason": "magnetis probe: outside the key's scope (HTTP 403)"},
        "sms_messages": {
            "enabled": False,
            "reason": "magnetis probe: no route answered: /sms (405), /contents/sms (405)",
        },
    }
    path = tmp_path / "new" / "magnetis.yaml"
    assert write_overlay(path, report.overlay())
    laid = load_catalogue(path)
    assert not laid["leads"].enabled
    assert (
        laid["sms_messages"].reason
        == "magnetis probe: no route answered: /sms (405), /contents/sms (405)"
    )


def test_an_alternative_route_of_another_collection_is_only_suggested(probe, api: SmallApi):
    del api.rows["/email-tracking"]
    report = probe()
    trackers = finding(report, "email_trackers")
    assert trackers.found is Availability.NOTHING
    assert trackers.shared == {"/emails": "emails"}
    assert "/emails serves emails" in trackers.notes()
    assert "/emails" not in trackers.tried
    assert finding(report, "emails").answered == "/emails"
    assert [request.path for request in api.requests].count("/emails") == 4
    assert "route" not in report.overlay()["collections"]["email_trackers"]


def test_a_missing_route_is_requested_once(probe, api: SmallApi):
    del api.rows["/emails"], api.rows["/email-tracking"]
    trackers = finding(probe(), "email_trackers")
    assert trackers.tried == {
        "/email-tracking": 404,
        "/emails/trackers": 404,
        "/email-trackers": 404,
        "/emails": 404,
    }
    assert [request.path for request in api.requests].count("/emails") == 1


def test_two_collections_on_one_route_are_reported(probe, catalogue: Catalogue, tmp_path):
    report = probe(reroute(catalogue, tmp_path, sms_alerts="/alerts/email"))
    assert finding(report, "sms_alerts").shared == {"/alerts/email": "email_alerts"}
    assert "/alerts/email serves email_alerts" in finding(report, "sms_alerts").notes()


@pytest.mark.parametrize(
    "answer",
    [
        refusal(422, "The from field is invalid."),
        refusal(500),
        (200, {}, b"<html>"),
        (302, {"Location": "/login"}, b""),
    ],
)
def test_an_unclear_response_switches_nothing_off(probe, api: SmallApi, answer):
    api.respond = lambda request: answer if request.path == "/visits" else None
    report = probe()
    visits = finding(report, "visits")
    assert (visits.found, visits.status) == (Availability.UNCLEAR, answer[0])
    assert visits.message in table(report) or visits.message[:60] in table(report)
    assert report.overlay() == {}
    assert not report.complete
    assert finding(report, "leads").found is Availability.YES, "the other collections are probed"


def test_a_refused_key_ends_the_probe(probe, api: SmallApi):
    api.respond = lambda request: refusal(401)
    report = probe()
    assert report.calls == 1
    assert "API & connecteurs > API" in report.stopped
    assert {one.found for one in report.findings} == {Availability.NOT_PROBED}
    assert report.overlay() == {}
    assert not report.complete


def test_an_exhausted_quota_ends_the_probe_with_partial_findings(probe, api: SmallApi):
    del api.rows["/pools"]
    report = probe(guard=CountingGuard(calls=18))
    assert report.stopped == "No call is left until midnight."
    assert finding(report, "pools").found is Availability.NOTHING
    assert report.overlay() == {}, "some alternative routes were not tried"


def test_an_unreachable_api_ends_the_probe(probe, api: SmallApi, catalogue: Catalogue):
    guard = CountingGuard()
    report = run_probe(
        catalogue, ZONES, guard, origin="http://127.0.0.1:9", key=KEY, today=TODAY, limits=LIMITS
    )
    assert "127.0.0.1:9: no connection" in report.stopped
    assert len(guard.charged) == report.calls == 1, (
        "nothing was sent, so each attempt uses the same charge"
    )


@pytest.mark.parametrize("status", [403, 404])
def test_if_no_route_answers_nothing_is_switched_off(probe, api: SmallApi, status):
    api.respond = lambda request: refusal(status)
    assert probe().overlay() == {}


def test_the_reports_are_complete_and_safe_to_print(probe, api: SmallApi):
    api.rows["/leads"] = [{"id": "1", "created_at": "2025-06-17 11:30:00", "[red]": 1}]
    report = probe()
    as_json = json.loads(json.dumps(report.as_dict()))
    assert as_json["calls"] == 33
    assert len(as_json["findings"]) == 18
    assert {
        "collection",
        "answered",
        "status",
        "announced",
        "columns",
        "unknown",
        "missing",
    } <= as_json["findings"][0].keys()
    shown = table(report)
    for one in report.findings:
        assert one.collection in shown


def test_writing_keeps_the_users_settings(tmp_path):
    path = tmp_path / "magnetis.yaml"
    mine = (
        "# mine\ncollections:\n  calls:\n    route: /wrong\n"
        "    columns: {our_ref: {paths: [réf]}}\n  pools: {enabled: false}\n"
    )
    path.write_text(mine, encoding="utf-8")
    path.chmod(0o640)
    assert write_overlay(
        path, {"collections": {"calls": {"route": "/calls"}, "leads": {"enabled": False}}}
    )
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {
        "collections": {
            "calls": {"route": "/calls", "columns": {"our_ref": {"paths": ["réf"]}}},
            "pools": {"enabled": False},
            "leads": {"enabled": False},
        }
    }
    assert (tmp_path / "magnetis.yaml.bak").read_text(encoding="utf-8") == mine
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(one.name for one in tmp_path.iterdir()) == ["magnetis.yaml", "magnetis.yaml.bak"]


def test_writing_known_findings_does_not_touch_the_file(tmp_path):
    path = tmp_path / "magnetis.yaml"
    path.write_text("# mine\ncollections: {calls: {route: /calls}}\n")
    assert not write_overlay(path, {"collections": {"calls": {"route": "/calls"}}})
    assert not write_overlay(path, {})
    assert path.read_text().startswith("# mine")
    assert not (tmp_path / "magnetis.yaml.bak").exists()


def test_a_missing_overlay_is_created_even_without_findings(tmp_path):
    path = tmp_path / "config" / "magnetis.yaml"
    assert write_overlay(path, {})
    assert load_catalogue(path) == load_catalogue()
    assert not write_overlay(path, {})


def test_a_symbolic_link_is_kept(tmp_path):
    target, link = tmp_path / "target.yaml", tmp_path / "link.yaml"
    target.write_text("collections: {}\n")
    link.symlink_to(target)
    assert write_overlay(link, {"collections": {"calls": {"route": "/x"}}})
    assert link.is_symlink()
    assert "/x" in target.read_text()


def test_an_invalid_yaml_file_is_not_changed(tmp_path):
    path = tmp_path / "magnetis.yaml"
    path.write_text("collections: [")
    with pytest.raises(CatalogueError, match="not valid YAML"):
        write_overlay(path, {"collections": {}})
    assert path.read_text() == "collections: ["


def test_an_unwritable_path_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match=r"magnetis\.yaml, which cannot be written"):
        write_overlay(
            tmp_path / "file" / "magnetis.yaml", {"collections": {"calls": {"route": "/x"}}}
        )
