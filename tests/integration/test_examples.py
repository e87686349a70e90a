"""The asset of examples/ that depends on `magnetis/calls`. `make test-examples` runs the others."""

import importlib.util
from types import ModuleType

import calls_of_two_days
import dagster as dg
import psycopg
import pytest
from paths import ROOT

from magnetis_dagster.definitions import build_defs


@pytest.fixture
def example() -> ModuleType:
    path = ROOT / "examples" / "downstream_asset.py"
    spec = importlib.util.spec_from_file_location("downstream_asset", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_asset_counts_the_missed_calls_of_a_day(
    example: ModuleType, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls_of_two_days.insert(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute(calls_of_two_days.statements_of_the_readme())  # type: ignore[arg-type]
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", database_url)
    for _ in range(2):  # a second run of the day replaces its rows
        with dg.DagsterInstance.ephemeral() as instance:
            day = calls_of_two_days.FIRST
            dg.materialize([example.missed_calls], partition_key=day, instance=instance)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT account_id, calls FROM acme.missed_calls").fetchall()
    assert dict(rows) == calls_of_two_days.MISSED
    assert len(rows) == len(calls_of_two_days.MISSED)


def test_a_day_of_the_asset_depends_on_the_same_day_of_calls(example: ModuleType) -> None:
    merged = dg.Definitions.merge(build_defs(), dg.Definitions(assets=[example.missed_calls]))
    graph = merged.resolve_asset_graph()
    calls, missed = dg.AssetKey(["magnetis", "calls"]), example.missed_calls.key
    assert graph.get(missed).parent_keys == {calls}
    own, parent = graph.get(missed).partitions_def, graph.get(calls).partitions_def
    day = own.subset_with_partition_keys([calls_of_two_days.FIRST])
    mapping = graph.get_partition_mapping(missed, calls)
    mapped = mapping.get_upstream_mapped_partitions_result_for_partitions(day, own, parent)
    assert list(mapped.partitions_subset.get_partition_keys()) == [calls_of_two_days.FIRST]
