"""Assets in Dagster: green days, checks, failures and their retries, no personal data in events."""

import uuid
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from small_api import KEY, PARIS, SmallApi, call
from sqlalchemy import Engine, text

from magnetis_dagster.dagster_support.run_identity import identity_of
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.errors import PermanentError, TransientError

Materialize = Callable[..., dg.ExecuteInProcessResult]
DAY = date(2025, 3, 28)
CALLS = dg.AssetKey(["magnetis", "calls"])


def everything_logged(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(
        str(record.event_log_entry)
        for record in instance.get_records_for_run(result.run_id).records
    )


def test_each_day_turns_green_with_its_numbers(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance
) -> None:
    api.rows["/calls"] = [
        call(f"{day}{n}", f"2025-03-{day} 10:00:0{n}") for day in (28, 29, 31) for n in range(3)
    ]
    result = materialize("calls", DAY, 4)
    assert result.success
    events = result.asset_materializations_for_node("magnetis__calls")
    assert [event.partition for event in events] == [
        "2025-03-28",
        "2025-03-29",
        "2025-03-30",
        "2025-03-31",
    ]
    assert instance.get_materialized_partitions(CALLS) == {
        "2025-03-28",
        "2025-03-29",
        "2025-03-30",
        "2025-03-31",
    }
    numbers = {name: value.value for name, value in events[0].metadata.items()}
    assert numbers["dagster/table_name"] == "magnetis.calls"
    assert numbers["dagster/row_count"] == 9
    assert (
        numbers["rows"],
        numbers["announced rows"],
        numbers["new rows"],
        numbers["changed rows"],
    ) == (3, 3, 3, 0)
    assert numbers["quota left"] == 4999
    calls = [event.metadata["API calls"].value for event in events]
    assert (sum(calls), {type(number) for number in calls}) == (1, {int}), (
        "whole numbers that add up to those of the window"
    )
    assert "dagster/partition_row_count" not in numbers, "it would repeat `rows`"
    assert numbers["query"].endswith(
        "SELECT * FROM magnetis.calls WHERE day = DATE '2025-03-28' AND deleted_at IS NULL ORDER "
        "BY occurred_at;\n```"
    )
    plotted = {
        name
        for name, value in events[0].metadata.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue)
    }
    assert {
        "rows",
        "announced rows",
        "changed rows",
        "API calls",
        "bytes",
        "seconds",
        "quota left",
    } <= plotted


def test_only_new_rows_of_a_loaded_day_are_late(api: SmallApi, materialize: Materialize) -> None:
    def late(result: dg.ExecuteInProcessResult) -> object:
        [check] = [
            check
            for check in result.get_asset_check_evaluations()
            if check.check_name == "complete"
        ]
        return check.metadata["late rows"].value

    api.rows["/calls"] = [call(n, f"2025-03-28 10:00:0{n}") for n in range(3)]
    assert late(materialize("calls", DAY)) == 0
    api.rows["/calls"] += [call(4, "2025-03-28 10:00:04"), call(5, "2025-03-29 10:00:05")]
    assert late(materialize("calls", DAY, 2)) == 1, "the second day is loaded for the first time"


def test_checks_are_evaluated_by_the_load(api: SmallApi, materialize: Materialize) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00", duration="soon", invented=1)]
    api.respond = lambda request: api.envelope(
        [*api.rows["/calls"], {"start_at": "2025-03-28 11:00:00"}], request
    )
    result = materialize("calls", DAY)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert result.success
    assert {name: check.passed for name, check in checks.items()} == {
        "complete": True,
        "quarantined_rows": False,
        "unknown_fields": False,
        "misfit_values": False,
        "counts_agree": True,
        "no_missing_days": False,
    }
    assert {check.severity for check in checks.values() if not check.passed} == {
        dg.AssetCheckSeverity.WARN
    }
    assert checks["unknown_fields"].description == "Not declared, kept in payload: invented."
    assert "duration_seconds (1)" in str(checks["misfit_values"].description)


def test_counts_that_differ_are_listed_with_the_repair(
    api: SmallApi, materialize: Materialize, engine: Engine
) -> None:
    yesterday = datetime.now(PARIS).date() - timedelta(days=1)
    api.rows["/calls"] = [call(f"{day}", f"{day} 10:00:00") for day in (DAY, yesterday)]

    def check(day: date) -> tuple[bool, str]:
        found = materialize("calls", day).get_asset_check_evaluations()
        [counts] = [evaluation for evaluation in found if evaluation.check_name == "counts_agree"]
        return counts.passed, str(counts.description)

    assert check(DAY)[0]
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE magnetis_ops.days SET held = 3 WHERE day = :day"), {"day": DAY}
        )
    passed, words = check(yesterday)
    assert not passed, "the nightly load compares every day"
    assert f"{DAY}: 3 recorded, 1 rows. `magnetis reparse calls` records the counts again" in words
    assert check(DAY + timedelta(days=1))[0], "a backfill compares its own days"
    assert check(DAY)[0], "the load repaired the day"
    assert check(yesterday)[0]


def test_an_incomplete_window_fails_its_check_and_stays_red(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: api.envelope(api.rows["/calls"], request, total=2)
    job = materialize("calls", DAY)
    assert not job.success
    [check] = [
        check for check in job.get_asset_check_evaluations() if check.check_name == "complete"
    ][-1:]
    assert (
        check.passed,
        check.metadata["announced rows"].value,
        check.metadata["received rows"].value,
    ) == (False, 2, 1)
    assert instance.get_materialized_partitions(CALLS) == set()
    assert len(api.requests) == 6, "two pages were read three times; the step does not retry"


@pytest.mark.parametrize(
    ("raised", "tries"),
    [
        (TransientError("not well"), 2),
        (PermanentError("wrong"), 1),
        (DagsterExecutionInterruptedError(), 1),
    ],
)
def test_a_step_retries_after_transient_errors_and_not_after_termination(
    materialize: Materialize, monkeypatch: pytest.MonkeyPatch, raised: BaseException, tries: int
) -> None:
    read: list[object] = []

    def read_days(*_: object) -> None:
        read.append(None)
        raise raised

    monkeypatch.setattr("magnetis_dagster.ingest.Ingestion.read_days", read_days)
    result = materialize("calls", DAY)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    said = failed.step_failure_data.user_failure_data
    assert (said.description if said else "") == str(raised)
    assert len(read) == tries


@pytest.mark.parametrize(
    "tag", ["dagster/retry_number", "dagster/is_resume_retry", "dagster/is_asset_resume_retry"]
)
def test_a_run_retry_resumes_the_work_of_the_first_run(tag: str) -> None:
    root = str(uuid.uuid4())
    run = dg.DagsterRun(
        job_name="daily_events", tags={tag: "true"}, root_run_id=root, parent_run_id=root
    )
    identity = identity_of(run, step_retry=0)
    assert (identity.work_id, identity.resumes) == (root, True)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "unknown or expired"),
        (403, "scope"),
        (404, "magnetis probe"),
        (422, "from"),
    ],
)
def test_permanent_errors_fail_without_a_retry_and_say_what_to_do(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance, status: int, says: str
) -> None:
    body = (
        b'{"message": "The given data was invalid.", '
        b'"errors": {"from": ["The from does not match the format."]}}'
    )
    api.respond = lambda _request: (status, {"Content-Type": "application/json"}, body)
    result = materialize("calls", DAY)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert says in str(failed.step_failure_data.user_failure_data.description)
    assert len(api.requests) == 1
    assert "Traceback" not in str(failed.step_failure_data.user_failure_data.description)


def test_a_past_snapshot_fails_with_the_reason_and_without_a_request(
    api: SmallApi, instance: dg.DagsterInstance
) -> None:
    key = dg.AssetKey(["magnetis", "accounts"])
    for definitions in (
        build_defs(),
        build_defs(taken=[]),
    ):  # the day is a partition, or is not one any more
        job = definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[key],
            tags={"dagster/partition": str(DAY)},
            raise_on_error=False,
        )
        [failed] = [event for event in result.all_events if event.is_step_failure]
        assert "the API shows only the present" in str(
            failed.step_failure_data.user_failure_data.description
        )
    assert api.requests == []


def test_a_past_snapshot_that_was_taken_is_green_again_without_a_request(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance, engine: Engine
) -> None:
    today = datetime.now(PARIS).date()
    yesterday = today - timedelta(days=1)
    api.rows["/accounts"] = [{"id": "acc-1", "name": "Agence"}]
    assert materialize("accounts", today).success
    with engine.begin() as connection:  # the next day
        connection.execute(
            text("UPDATE magnetis_ops.days SET day = :day WHERE collection = 'accounts'"),
            {"day": yesterday},
        )
    asked = len(api.requests)
    assert materialize("accounts", yesterday).success
    assert str(yesterday) in instance.get_materialized_partitions(
        dg.AssetKey(["magnetis", "accounts"])
    )
    assert len(api.requests) == asked


def test_load_latest_loads_yesterday_and_todays_snapshots(
    api: SmallApi, instance: dg.DagsterInstance
) -> None:
    today = datetime.now(PARIS).date()
    api.rows["/calls"] = [call(1, f"{today - timedelta(days=1)} 10:00:00")]
    result = build_defs().resolve_job_def("load_latest").execute_in_process(instance=instance)
    assert result.success
    assert instance.get_materialized_partitions(CALLS) == {str(today - timedelta(days=1))}
    assert instance.get_materialized_partitions(dg.AssetKey(["magnetis", "accounts"])) == {
        str(today)
    }
    check = dg.AssetCheckKey(CALLS, "complete")
    found = instance.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
    assert found.event
    assert found.event.asset_check_evaluation.passed


def test_todays_snapshot_is_loaded(api: SmallApi, materialize: Materialize, query: Any) -> None:
    api.rows["/accounts"] = [{"id": "acc-1", "name": "Agence"}]
    assert materialize("accounts", datetime.now(PARIS).date()).success
    assert query("SELECT id, name FROM magnetis.accounts") == [("acc-1", "Agence")]


def test_a_missing_key_fails_the_step_with_its_variable(
    materialize: Materialize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAGNETIS_API_KEY")
    result = materialize("calls", DAY)
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "MAGNETIS_API_KEY is not set" in str(
        failed.step_failure_data.user_failure_data.description
    )


def test_an_unreachable_database_fails_the_step_with_its_address(
    api: SmallApi,
    materialize: Materialize,
    monkeypatch: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
) -> None:
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", "postgresql://someone:pass-w0rd@127.0.0.1:1/none")
    result = materialize("calls", DAY)
    logged = everything_logged(instance, result)
    assert "PostgreSQL at postgresql://someone:***@127.0.0.1:1/none cannot be reached" in logged
    assert "pass-w0rd" not in logged
    assert api.requests == []


def test_an_unavailable_collection_does_not_affect_the_others(
    api: SmallApi, instance: dg.DagsterInstance, query: Any
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00")]
    api.respond = lambda request: (404, {}, b"{}") if request.path == "/leads" else None
    result = (
        build_defs()
        .resolve_job_def("daily_events")
        .execute_in_process(instance=instance, partition_key="2025-03-28", raise_on_error=False)
    )
    assert not result.success
    assert {event.node_name for event in result.all_events if event.is_step_failure} == {
        "magnetis__leads"
    }
    assert query("SELECT collection FROM magnetis_ops.days ORDER BY 1") == [
        ("calls",),
        ("conversions",),
        ("emails",),
        ("visits",),
    ]


@pytest.mark.parametrize(
    ("tags", "lane"),
    [
        ({}, "manual"),
        ({"dagster/backfill": "abc"}, "backfill"),
        ({"dagster/schedule_name": "daily_events"}, "schedule"),
        ({"dagster/sensor_name": "alert_settings_sensor"}, "settings"),
        ({"dagster/backfill": "abc", "magnetis/lane": "manual"}, "manual"),
    ],
)
def test_the_tags_of_the_run_select_the_lane(
    api: SmallApi, materialize: Materialize, query: Any, tags: dict[str, str], lane: str
) -> None:
    assert materialize("calls", DAY, tags=tags).success
    assert query("SELECT DISTINCT lane FROM magnetis_ops.api_calls") == [(lane,)]


def test_an_unknown_lane_fails(api: SmallApi, materialize: Materialize) -> None:
    result = materialize("calls", DAY, tags={"magnetis/lane": "fast"})
    [failed] = [event for event in result.all_events if event.is_step_failure]
    assert "unknown lane 'fast'. Allowed: schedule, settings, manual, backfill" in str(
        failed.step_failure_data.user_failure_data.description
    )
    assert api.requests == []


def test_no_event_contains_the_key_or_a_caller(
    api: SmallApi, materialize: Materialize, instance: dg.DagsterInstance, query: Any
) -> None:
    api.rows["/calls"] = [
        call(n, "2025-03-28 10:00:00", caller_name="Jeanne Personne") for n in range(300)
    ]
    api.rows["/calls"].append(call(999, "not a time", caller_name="Jeanne Personne"))
    api.moment = lambda _row: datetime(2025, 3, 28, 12, tzinfo=PARIS)  # type: ignore[method-assign]
    result = materialize("calls", DAY)
    logged = everything_logged(instance, result)
    assert "calls 2025-03-28: 300 rows; 2 API calls" in logged
    assert query("SELECT count(*) FROM magnetis.calls WHERE caller_number LIKE '0033199%'") == [
        (300,)
    ]
    for secret in (KEY, "0033199", "Jeanne"):
        assert secret not in logged


def test_an_emptied_day_keeps_its_rows_and_fails_its_check(
    api: SmallApi, materialize: Materialize, query: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.rows["/calls"] = [call(1, f"{DAY} 10:00:00"), call(2, f"{DAY} 11:00:00")]
    assert materialize("calls", DAY).success
    api.rows["/calls"] = []

    def again(setting: str) -> tuple[bool, str, int]:
        monkeypatch.setenv("MAGNETIS_EMPTIED_DAYS", setting)
        result = materialize("calls", DAY)
        [check] = [
            check
            for check in result.get_asset_check_evaluations()
            if check.check_name == "complete"
        ]
        [(held,)] = query("SELECT count(*) FROM magnetis.calls WHERE deleted_at IS NULL")
        return check.passed, str(check.description), held

    passed, words, held = again("doubt")
    assert (passed, held) == (False, 2)
    assert f"no row for {DAY}, but the table contains 2 rows" in words
    assert "MAGNETIS_EMPTIED_DAYS" in words
    assert again("keep")[::2] == (True, 2)
    assert again("delete")[::2] == (True, 0)


def test_a_backfill_reports_its_forecast_and_the_calls_it_used(
    api: SmallApi, materialize: Materialize
) -> None:
    days = [DAY + timedelta(days=n) for n in range(3)]
    api.rows["/calls"] = [
        call(f"{day:%d}{n:03d}", f"{day} 10:00:00") for day in days for n in range(300)
    ]
    result = materialize("calls", DAY, 3, tags={"dagster/backfill": "abcdefgh"})
    [check] = [
        check for check in result.get_asset_check_evaluations() if check.check_name == "complete"
    ]
    numbers = {name: entry.value for name, entry in check.metadata.items()}
    assert (
        numbers["forecast API calls"],
        numbers["API calls of the backfill"],
        numbers["API calls"],
    ) == (5, 5, 5)
