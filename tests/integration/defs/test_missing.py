"""The check no_missing_days: correct after failures, in every run and alone, and cheap."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy.event
from dagster_daemon import Daemon, daemon
from small_api import PARIS, SmallApi, call
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.dates import days_between
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs.missing_days import FAILED, NEVER_LOADED, read_closed_days
from magnetis_dagster.defs.repair_attempts import Attempts
from magnetis_dagster.settings import Settings

Materialize = Callable[..., dg.ExecuteInProcessResult]
CALLS = dg.AssetKey(["magnetis", "calls"])
CHECK = dg.AssetCheckKey(CALLS, "no_missing_days")


def ago(days: int) -> date:
    return datetime.now(PARIS).date() - timedelta(days=days)


@pytest.fixture(autouse=True)
def _ten_closed_days(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(10)))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """Start the daemon with the real storage."""
    with daemon(tmp_path) as running:
        yield running


@pytest.fixture
def instance(running: Daemon) -> dg.DagsterInstance:
    return running.instance


def refuse(api: SmallApi) -> None:
    api.respond = lambda _request: (403, {}, b"{}")


def evaluated(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    [found] = [
        each
        for each in result.get_asset_check_evaluations()
        if each.check_name == "no_missing_days"
    ]
    return found


def shown(evaluation: dg.AssetCheckEvaluation) -> dict[str, Any]:
    return {
        name: value.value
        for name, value in evaluation.metadata.items()
        if not isinstance(value, dg.TableMetadataValue)
    }


def ranges(evaluation: dg.AssetCheckEvaluation) -> list[tuple[Any, ...]]:
    table = evaluation.metadata["ranges"]
    assert isinstance(table, dg.TableMetadataValue)
    return [
        tuple(record.data[name] for name in ("from", "to", "days", "why"))
        for record in table.records
    ]


def test_a_run_reports_the_days_that_are_still_missing(materialize: Materialize) -> None:
    result = materialize("calls", ago(6), 3)
    assert result.success
    found = evaluated(result)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert shown(found) == {
        "missing days": 3,
        "closed days": 6,
        "days not requested": 4,
        "first missing": str(ago(3)),
        "last missing": str(ago(1)),
        "days given up": 0,
        "ranges not shown": 0,
    }
    assert ranges(found) == [(str(ago(3)), str(ago(1)), 3, NEVER_LOADED)]
    assert f"3 of 6 closed days since {ago(6)}" in str(found.description)
    assert "4 earlier days" in str(found.description)
    assert "`magnetis plan calls --missing --launch`" in str(found.description)


def test_history_that_nobody_has_requested_is_not_missing(
    materialize: Materialize, instance: dg.DagsterInstance
) -> None:
    job = (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .get_subset(asset_check_selection={CHECK}, asset_selection=set())
    )
    found = evaluated(job.execute_in_process(instance=instance))
    assert found.passed
    assert shown(found) == {"missing days": 0, "closed days": 0, "days not requested": 10}
    assert str(found.description).startswith("No day was requested yet. 10 earlier days")
    found = evaluated(materialize("calls", ago(2), 2))
    assert found.passed
    assert shown(found) == {"missing days": 0, "closed days": 2, "days not requested": 8}


def test_it_passes_if_every_closed_day_is_green(materialize: Materialize) -> None:
    found = evaluated(materialize("calls", ago(10), 10))
    assert found.passed
    assert shown(found) == {"missing days": 0, "closed days": 10, "days not requested": 0}
    assert found.description == f"All 10 closed days since {ago(10)} are green."


def test_a_failed_load_of_a_green_day_makes_it_missing_in_this_run_and_later(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance
) -> None:
    assert evaluated(materialize("calls", ago(10), 10)).passed
    refuse(api)
    failed = materialize("calls", ago(4), 2)
    assert not failed.success
    assert ranges(evaluated(failed)) == [(str(ago(4)), str(ago(3)), 2, FAILED)], (
        "reported by the failing run, before it ends"
    )
    job = (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .get_subset(asset_check_selection={CHECK}, asset_selection=set())
    )
    requests = len(api.requests)
    later = job.execute_in_process(instance=instance)
    assert ranges(evaluated(later)) == [(str(ago(4)), str(ago(3)), 2, FAILED)]
    assert len(api.requests) == requests, "no API call"
    assert [step.step_key for step in later.all_events if step.is_step_success] == [
        "no_missing_days"
    ]
    api.respond = lambda _request: None
    assert evaluated(materialize("calls", ago(4), 2)).passed


def test_green_days_that_another_run_reloads_are_not_missing(
    materialize: Materialize, instance: dg.DagsterInstance
) -> None:
    materialize("calls", ago(10), 9)
    job = build_defs().resolve_implicit_global_asset_job_def().get_subset(asset_selection={CALLS})
    instance.create_run_for_job(
        job, tags=days_tags(ago(4), ago(1)), status=dg.DagsterRunStatus.STARTED
    )
    days = read_closed_days(instance, CALLS, Settings.load())
    assert days.missing == {ago(1): NEVER_LOADED}
    assert days.in_progress == {ago(4), ago(3), ago(2), ago(1)}


def test_the_check_waits_for_a_load_that_retries(
    api: SmallApi, materialize: Materialize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magnetis_dagster.defs.missing_days_check.WAIT_SECONDS", 0.05)
    answers = iter([(503, {"Retry-After": "0"}, b"down")] * 12)
    api.respond = lambda _request: next(answers, None)
    api.rows["/calls"] = [call(1, f"{ago(3)} 10:00:00")]
    result = materialize("calls", ago(10), 10)
    assert result.success
    assert {event.step_key for event in result.all_events if event.is_step_up_for_retry} >= {
        "magnetis__calls"
    }
    assert evaluated(result).passed
    ends = [event.step_key for event in result.all_events if event.is_step_success]
    assert ends == ["magnetis__calls", "no_missing_days"]


def test_the_daily_job_evaluates_it_for_every_events_collection_in_one_step(
    api: SmallApi, instance: dg.DagsterInstance
) -> None:
    api.respond = lambda request: (404, {}, b"{}") if request.path == "/leads" else None
    job = build_defs().resolve_job_def("daily_events")
    result = job.execute_in_process(
        instance=instance, tags=days_tags(ago(10), ago(1)), raise_on_error=False
    )
    found = {
        each.asset_key.path[-1]: (each.passed, each.metadata["missing days"].value)
        for each in result.get_asset_check_evaluations()
        if each.check_name == "no_missing_days"
    }
    assert found == {
        "calls": (True, 0),
        "conversions": (True, 0),
        "emails": (True, 0),
        "leads": (False, 10),
        "visits": (True, 0),
    }
    assert [event.step_key for event in result.all_events if event.is_step_start].count(
        "no_missing_days"
    ) == 1


def test_fifty_ranges_are_listed_and_the_rest_is_counted(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(121)))
    for number in range(2, 121, 2):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(CALLS, partition=str(ago(number)))
        )
    job = (
        build_defs()
        .resolve_implicit_global_asset_job_def()
        .get_subset(asset_check_selection={CHECK}, asset_selection=set())
    )
    found = evaluated(job.execute_in_process(instance=instance))
    assert (shown(found)["missing days"], shown(found)["ranges not shown"]) == (60, 10)
    assert len(ranges(found)) == 50
    assert ranges(found)[0][0] == str(ago(1))


def test_three_years_of_days_take_as_many_statements_as_a_week(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, engine: Engine
) -> None:
    monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(1096)))
    events = [collection for collection in load_catalogue().enabled if collection.is_events]
    for collection in events:
        key = dg.AssetKey(["magnetis", collection.name])
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=str(ago(3))))
        with engine.begin() as connection:  # single inserts take a minute
            connection.execute(
                text(
                    "INSERT INTO dagster.event_logs (run_id, event, dagster_event_type, timestamp, "
                    "step_key, asset_key, partition) SELECT run_id, event, dagster_event_type, "
                    "timestamp, step_key, asset_key, day FROM dagster.event_logs, "
                    "unnest(CAST(:days AS text[])) AS day WHERE asset_key = :key"
                ),
                {
                    "key": key.to_string(),
                    "days": [str(day) for day in days_between(ago(1096), ago(4))],
                },
            )
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=str(ago(2))))
    counts = []
    # the first round opens connections, and a new start date rebuilds the cache
    for days in (1096, 7, 1096):
        monkeypatch.setenv("MAGNETIS_START_DATE", str(ago(days)))
        with statements() as sent:
            for collection in events:
                key = dg.AssetKey(["magnetis", collection.name])
                found = read_closed_days(instance, key, Settings.load())
                assert len(found.missing) == 1
        counts.append(len(sent))
    assert counts[1] == counts[2] <= 15 * len(events)


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the statements that this thread sends in the block, through any engine."""
    sent: list[str] = []
    here = threading.get_ident()

    def collect(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.get_ident() == here:
            sent.append(statement)

    sqlalchemy.event.listen(Engine, "before_cursor_execute", collect)
    try:
        yield sent
    finally:
        sqlalchemy.event.remove(Engine, "before_cursor_execute", collect)


def test_attempts_are_stored_as_ranges_and_removed_when_green() -> None:
    attempts = Attempts({})
    attempts.add("calls", days_between(date(2025, 1, 1), date(2025, 1, 31)))
    attempts.add("calls", [date(2025, 1, 15)])
    text = attempts.cursor()
    assert text == (
        '{"calls":[["2025-01-01","2025-01-14",1],["2025-01-15","2025-01-15",2],["2025-01-16","2025-01-31",1]]}'
    )
    again = Attempts.parse(text)
    assert (
        again.count("calls", date(2025, 1, 15)),
        again.count("calls", date(2025, 2, 1)),
        again.count("leads", ago(0)),
    ) == (2, 0, 0)
    assert (
        again.keep_only({"calls": [date(2025, 1, 15)]}).cursor()
        == '{"calls":[["2025-01-15","2025-01-15",2]]}'
    )
    assert again.keep_only({"leads": [date(2025, 1, 15)]}).cursor() == "{}"


@pytest.mark.parametrize(
    "cursor",
    [
        None,
        "",
        "{}",
        "[]",
        "0",
        "{",
        '{"calls": 3}',
        '{"calls": [["soon", 1]]}',
        '{"calls": [[1, 2, 3]]}',
    ],
)
def test_an_invalid_cursor_contains_no_attempts(cursor: str | None) -> None:
    assert Attempts.parse(cursor).cursor() == "{}"
