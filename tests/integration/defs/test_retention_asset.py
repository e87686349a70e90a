"""The asset `retention`: masks, completes erasures, and its checks fail when they should."""

from collections.abc import Callable
from datetime import date, datetime, timedelta

import dagster as dg
import pytest
from small_api import PARIS, SmallApi, call
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.privacy.identifiers import keys_of
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.erasure import record
from magnetis_dagster.wiring import warehouse_of

DAY = datetime.now(PARIS).date() - timedelta(days=5)
# a little older than 13 months
OLD = datetime.now(PARIS).date() - timedelta(days=405)
RETENTION = dg.AssetKey(["magnetis", "retention"])
Materialize = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def retain(instance: dg.DagsterInstance) -> Callable[[], dg.ExecuteInProcessResult]:
    def retain() -> dg.ExecuteInProcessResult:
        job = build_defs().resolve_job_def("retention")
        return job.execute_in_process(instance=instance, raise_on_error=False)

    return retain


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def load(api: SmallApi, materialize: Materialize, day: date) -> None:
    api.rows["/calls"] = [call(1, f"{day} 10:00:00"), call(2, f"{day} 11:00:00")]
    assert materialize("calls", day).success


def test_it_masks_what_is_old_and_reports_it(
    api: SmallApi,
    materialize: Materialize,
    retain: Callable[[], dg.ExecuteInProcessResult],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAGNETIS_START_DATE", str(OLD - timedelta(days=1)))
    load(api, materialize, OLD)
    first = retain()
    assert first.success
    assert checks(first) == {"retention_kept": True, "suppressed_absent": True}
    old_value = (
        "UPDATE magnetis.calls SET gclid = 'x', masked = NULL WHERE id = "
        "(SELECT min(id) FROM magnetis.calls)"
    )
    with engine.begin() as connection:
        assert connection.execute(text(old_value)).rowcount == 1
    assert checks(retain()) == {"retention_kept": False, "suppressed_absent": True}
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM magnetis_ops.retention"))
    repaired = retain()
    assert checks(repaired) == {"retention_kept": True, "suppressed_absent": True}
    [event] = repaired.asset_materializations_for_node("magnetis__retention")
    assert event.metadata["masked calls: visitor"].value == 1
    assert event.metadata["masked values"].value == 1


def test_it_completes_an_erasure_and_finds_erased_persons(
    api: SmallApi,
    materialize: Materialize,
    retain: Callable[[], dg.ExecuteInProcessResult],
    engine: Engine,
) -> None:
    load(api, materialize, DAY)
    warehouse = warehouse_of(engine, Settings.load(), load_catalogue())
    with engine.connect() as connection:
        number = connection.execute(
            text("SELECT caller_number FROM magnetis.calls WHERE caller_number IS NOT NULL LIMIT 1")
        ).scalar_one()
        caller_key = connection.execute(
            text("SELECT caller_key FROM magnetis.calls WHERE caller_number = :number"),
            {"number": number},
        ).scalar()
    record(engine, {"magnetis": keys_of([number], warehouse.masking.persons)}, "interrupted")
    done = retain()
    assert checks(done) == {"retention_kept": True, "suppressed_absent": True}
    with engine.begin() as connection:
        left = connection.execute(
            text("SELECT count(*) FROM magnetis.calls WHERE caller_number = :number"),
            {"number": number},
        )
        assert left.scalar_one() == 0
        connection.execute(
            text("UPDATE magnetis.calls SET caller_key = :key WHERE caller_key IS NULL"),
            {"key": caller_key},
        )
    failed = retain()
    assert checks(failed)["suppressed_absent"] is False
    assert number[-6:] not in str(failed.all_events)
