"""MagnetisComponent in a host project: fields, names, hooks, and nothing else that changes."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from traceback import format_exception
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.test_cases import TestTranslation
from dagster.components.testing.utils import component_defs
from small_api import KEY, SmallApi
from sqlalchemy import Engine, text

from magnetis_dagster import MagnetisComponent
from magnetis_dagster.components.scaffolder import MagnetisScaffolder, MagnetisScaffoldParams
from magnetis_dagster.definitions import build_defs

pytestmark = [
    # Dagster marks the code references that it adds to each component as beta
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    # Dagster parses defs.yaml by a function that pydantic deprecates
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
]
TYPE = "magnetis_dagster.MagnetisComponent"
DAY = date.today() - timedelta(days=3)  # noqa: DTZ011 - any closed day
SECRET = "k-0dd5ecre7"


@contextmanager
def project(*documents: Mapping[str, Any]) -> Iterator[dg.Definitions]:
    """Load a defs.yaml with these attributes, one document for each component."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(MagnetisComponent, defs_path="magnetis")
        contents = [{"type": TYPE, "attributes": dict(each)} for each in documents]
        (path / "defs.yaml").write_text(yaml.safe_dump_all(contents))
        with sandbox.build_all_defs() as defs:
            yield defs


def asset_keys(defs: dg.Definitions) -> set[str]:
    graph = defs.resolve_asset_graph()
    return {key.to_user_string() for key in graph.get_all_asset_keys()}


def materialize(defs: dg.Definitions, *key: str) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([*key])],
            partition_key=str(DAY),
            raise_on_error=False,
        )


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(
        str(event.step_failure_data.user_failure_data or event.step_failure_data.error)
        for event in result.all_events
        if event.is_step_failure
    )


def test_an_instance_without_fields_is_the_unnamed_connection(api: SmallApi) -> None:
    with project({}) as defs:
        keys = asset_keys(defs)
        names = {schedule.name for schedule in defs.schedules or ()}
    assert {"magnetis/calls", "magnetis/quota", "magnetis/retention", "magnetis/storage"} <= keys
    assert names == {"daily_events", "daily_retention", "daily_snapshots", "nightly_prune"}
    assert not api.requests, "definitions need no request"


def test_an_instance_loads_a_day(api: SmallApi, engine: Engine) -> None:
    moment = f"{DAY}T10:00:00"
    api.rows["/calls"] = [{"id": "1", "start_at": moment}, {"id": "2", "start_at": moment}]
    with project({"connection": "nord", "start_date": str(DAY)}) as defs:
        result = materialize(defs, "magnetis", "nord", "calls")
    assert result.success, failure_text(result)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT connection, id FROM magnetis.calls ORDER BY id"))
        assert [tuple(row) for row in rows] == [("nord", "1"), ("nord", "2")]


def test_two_instances_in_one_file_share_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_SUD", SECRET)
    fields = [{"connection": "nord"}, {"connection": "sud", "api_key": "{{ env.KEY_SUD }}"}]
    with project(*fields) as defs:
        repository = defs.get_repository_def()
        keys = asset_keys(defs)
    assert {"magnetis/nord/calls", "magnetis/sud/calls"} <= keys
    for definitions in (repository.schedule_defs, repository.sensor_defs):
        names = [each.name for each in definitions]
        assert len(names) == len({*names})
        assert {name.partition("_")[0] for name in names} == {"nord", "sud"}


def test_collections_key_prefix_schedules_and_sensors() -> None:
    fields = {
        "connection": "nord",
        "collections": {"include": ["calls", "accounts"]},
        "key_prefix": ["raw", "phone"],
        "schedules": False,
        "sensors": False,
    }
    with project(fields) as defs:
        assert asset_keys(defs) == {
            "raw/phone/calls",
            "raw/phone/accounts",
            "raw/phone/quota",
            "raw/phone/retention",
            "raw/phone/storage",
        }
        assert not list(defs.schedules or ())
        assert not list(defs.sensors or ())


def test_an_overlay_is_a_mapping_or_a_file_beside_the_component(tmp_path: Path) -> None:
    changes = {"collections": {"pools": {"enabled": False, "reason": "not ours"}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(changes))
    for overlay in (changes, str(tmp_path / "other.yaml")):
        with project({"overlay": overlay}) as defs:
            assert "magnetis/pools" not in asset_keys(defs)


BAD = {
    "daily_quota": (0, "MagnetisComponent magnetis.daily_quota: Input should be greater than 0"),
    "start_date": ("yesterday", "MagnetisComponent magnetis.start_date: expected a day such as"),
    "connection": ("Nord", "expected a name of at most 30 characters"),
    "collections": ({"include": ["cals"]}, "MagnetisComponent magnetis.collections: no collection"),
    "settings": ({"quota": 1}, "MagnetisComponent magnetis.quota: unknown name"),
    "api_key": (SECRET, 'magnetis.api_key: expected a template such as "{{ env.'),
    "database_url": (f"postgresql://u:{SECRET}@h/d", "a secret does not belong in this file"),
}


@pytest.mark.parametrize("field", BAD)
def test_a_bad_field_is_named(field: str) -> None:
    value, expected = BAD[field]
    with pytest.raises(Exception, match=r".") as caught, project({field: value}):
        pass
    chain, texts = caught.value, []
    while chain:
        texts.append(str(chain))
        chain = chain.__cause__ or chain.__context__
    assert expected in "\n".join(texts)
    assert SECRET not in "".join(format_exception(caught.value)), "Dagster logs and shows it"


def test_a_missing_key_fails_the_runs_of_its_connection_by_name(
    monkeypatch: pytest.MonkeyPatch, api: SmallApi
) -> None:
    monkeypatch.delenv("MAGNETIS_API_KEY")
    monkeypatch.setenv("KEY_SUD", KEY)
    fields = [
        {"connection": "nord", "api_key": "{{ env.KEY_NORD }}", "start_date": str(DAY)},
        {"connection": "sud", "api_key": "{{ env('KEY_SUD') }}", "start_date": str(DAY)},
    ]
    with project(*fields) as defs:
        nord = materialize(defs, "magnetis", "nord", "calls")
        sud = materialize(defs, "magnetis", "sud", "calls")
    assert not nord.success
    assert "Connection nord: its key is missing. Set the variable KEY_NORD" in failure_text(nord)
    assert sud.success, failure_text(sud)


def test_a_missing_or_blank_variable_never_selects_another_database_or_key(
    monkeypatch: pytest.MonkeyPatch, api: SmallApi, database_url: str
) -> None:
    day = {"start_date": str(DAY)}
    fields = [
        {"connection": "nord", "database_url": "{{ env.DATABASE_NORD }}", **day},
        {"connection": "sud", "database_url": "{{ env('DATABASE_SUD', '') }}", **day},
        {"connection": "est", "api_key": "{{ env('KEY_EST', '') }}", **day},
    ]
    with project(*fields) as defs:
        failed = {
            name: failure_text(materialize(defs, "magnetis", name, "calls"))
            for name in ("nord", "sud", "est")
        }
        assert not api.requests
        Path(".env").write_text(f"DATABASE_NORD={database_url}\n")
        assert materialize(defs, "magnetis", "nord", "calls").success
    assert "nord.database_url: the variable DATABASE_NORD is not set" in failed["nord"]
    assert "MagnetisComponent sud.database_url: its value is empty" in failed["sud"]
    assert "Connection est: its key is empty" in failed["est"]


def test_results_for_other_collections_have_the_keys_of_a_translation(api: SmallApi) -> None:
    api.rows |= {"/accounts": [{"id": "1"}], "/alerts/sms": [], "/alerts/email": []}
    chosen = ["accounts", "email_alerts", "sms_alerts"]
    translation = {"key": "our_{{ collection.name }}"}
    fields = {"collections": {"include": chosen}, "translation": translation}
    with project(fields) as defs, dg.DagsterInstance.ephemeral() as instance:
        for name in chosen:
            result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey(f"our_{name}")],
                partition_key=str(date.today()),  # noqa: DTZ011 - only an open day can be taken
                raise_on_error=False,
            )
            assert result.success, failure_text(result)
        checks = [
            dg.AssetCheckKey(dg.AssetKey(name), "policy_missed_call_alert")
            for name in ("email_alerts", "our_email_alerts")
        ]
        storage = instance.event_log_storage
        stray, found = (storage.get_asset_check_execution_history(each, 5) for each in checks)
    assert found[0].run_id == "", "the newest result is that of the load of sms_alerts"
    assert not stray, "no asset has this key"


def test_hooks_of_a_subclass() -> None:
    days: list[tuple[str, list[date]]] = []

    class Ours(MagnetisComponent):
        def get_asset_spec(self, collection: Any, spec: dg.AssetSpec) -> dg.AssetSpec:
            return super().get_asset_spec(collection, spec).merge_attributes(tags={"ours": "yes"})

        def execute(self, context: Any, assets: Any, collection: Any, requested: Any) -> Any:
            yield from super().execute(context, assets, collection, requested)
            days.append((collection.name, requested))

        def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
            own = dg.Definitions(assets=[dg.AssetSpec("ours")])
            return dg.Definitions.merge(super().build_defs(context), own)

    component = Ours(start_date=str(DAY), api_key=dg.EnvVar("MAGNETIS_API_KEY"))
    defs = component_defs(component=component)
    assert "ours" in asset_keys(defs)
    spec = next(
        each for each in defs.resolve_all_asset_specs() if each.key.path == ["magnetis", "calls"]
    )
    assert spec.tags["ours"] == "yes"
    result = materialize(defs, "magnetis", "calls")
    assert result.success, failure_text(result)
    assert days == [("calls", [DAY])]


def test_a_host_keeps_its_executor_and_its_resources() -> None:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def host_job() -> None:
        nothing()

    host = dg.Definitions(jobs=[host_job], resources={"host": "own"})
    with project({"connection": "nord"}, {"connection": "sud"}) as ours:
        merged = dg.Definitions.merge(host, ours, build_defs())
        jobs = {
            name: merged.resolve_job_def(name).executor_def.name
            for name in ("host_job", "nord_daily_events", "daily_snapshots", "nord_load_latest")
        }
    assert jobs == {
        "host_job": "multi_or_in_process_executor",
        "nord_daily_events": "in_process",
        "daily_snapshots": "in_process",
        "nord_load_latest": "in_process",
    }


def test_post_processing_applies() -> None:
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(MagnetisComponent, defs_path="magnetis")
        content = {
            "type": TYPE,
            "attributes": {"collections": {"include": ["calls"]}},
            "post_processing": {
                "assets": [{"target": "key:magnetis/calls", "attributes": {"tags": {"pii": "yes"}}}]
            },
            "requirements": {"env": ["MAGNETIS_API_KEY"]},
        }
        (path / "defs.yaml").write_text(yaml.safe_dump(content))
        with sandbox.build_all_defs() as defs:
            specs = {each.key.path[-1]: each for each in defs.resolve_all_asset_specs()}
    assert specs["calls"].tags["pii"] == "yes"
    assert "pii" not in specs["quota"].tags


class TestAttributes(TestTranslation):
    """Dagster's own cases: each attribute of an asset, by `translation`."""

    def test_translation(
        self,
        attributes: Mapping[str, Any],
        assertion: Callable[[dg.AssetSpec], bool],
        key_modifier: Callable[[dg.AssetKey], dg.AssetKey] | None,
    ) -> None:
        fields = {"collections": {"include": ["calls"]}, "translation": dict(attributes)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with project(fields) as defs:
                key = dg.AssetKey(["magnetis", "calls"])
                key = key_modifier(key) if key_modifier else key
                specs = {each.key: each for each in defs.resolve_all_asset_specs()}
        assert assertion(specs[key])


def test_the_scaffolder_writes_no_secret(tmp_path: Path) -> None:
    params = MagnetisScaffoldParams(key_env="KEY_NORD", connection="nord", start_date="2025-01-31")
    request = dg.ScaffoldRequest(
        type_name=TYPE,
        target_path=tmp_path,
        scaffold_format="yaml",
        project_root=None,
        params=params,
    )
    MagnetisScaffolder().scaffold(request)
    assert yaml.safe_load((tmp_path / "defs.yaml").read_text()) == {
        "type": TYPE,
        "attributes": {
            "connection": "nord",
            "api_key": "{{ env.KEY_NORD }}",
            "start_date": "2025-01-31",
        },
        "requirements": {"env": ["KEY_NORD"]},
    }
    params.connection = "1nord"
    with pytest.raises(ValueError, match="not a digit first"):
        MagnetisScaffolder().scaffold(request)
    params.connection = None
    params.key_env = f"{SECRET}!"
    with pytest.raises(ValueError, match="expected the name of a variable") as caught:
        MagnetisScaffolder().scaffold(request)
    assert SECRET not in str(caught.value)
