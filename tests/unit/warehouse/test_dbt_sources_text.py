"""The sources of a dbt project, generated from the catalogue."""

from typing import Any

import yaml

from magnetis_dagster.catalog import Catalogue, PersonalData
from magnetis_dagster.warehouse.dbt_sources import dbt_sources, to_yaml


def tables(catalogue: Catalogue) -> dict[str, Any]:
    [source] = dbt_sources(catalogue)["sources"]
    return {table["name"]: table for table in source["tables"]}


def columns(table: Any) -> dict[str, Any]:
    return {column["name"]: column for column in table["columns"]}


def personal_data(column: Any) -> str:
    return str(column.get("config", {}).get("meta", {}).get("personal_data", "none"))


def test_each_enabled_collection_has_its_table_its_views_and_the_history_of_snapshots(
    catalogue: Catalogue,
) -> None:
    expected = set()
    for each in catalogue.enabled:
        expected |= {each.name, f"{each.name}_current", f"{each.name}_distinct"}
        expected |= set() if each.is_events else {f"{each.name}_history"}
    assert tables(catalogue).keys() == expected


def test_names_of_source_and_schema_can_be_changed(catalogue: Catalogue) -> None:
    [source] = dbt_sources(catalogue, source="telephony", schema="raw")["sources"]
    assert (source["name"], source["schema"]) == ("telephony", "raw")


def test_the_text_is_yaml_with_the_same_content(catalogue: Catalogue) -> None:
    text = to_yaml(dbt_sources(catalogue))
    assert yaml.safe_load(text) == dbt_sources(catalogue)
    assert "&" not in text, "anchors are hard to read"


def test_no_class_of_personal_data_is_lost(catalogue: Catalogue) -> None:
    found = tables(catalogue)
    classes = set()
    for each in catalogue.enabled:
        for name, column in each.columns.items():
            for table in (each.name, f"{each.name}_current", f"{each.name}_distinct"):
                declared = columns(found[table])[name]
                assert personal_data(declared) == column.personal_data.degree
                if local := columns(found[table]).get(f"{name}_local"):
                    assert personal_data(local) == column.personal_data.degree
            classes.add(column.personal_data.degree)
    assert classes == {each.degree for each in PersonalData}, (
        "the catalogue contains an example of each class"
    )
    assert personal_data(columns(found["calls"])["payload"]) == "personal"
    assert "payload" not in columns(found["calls_current"])


def test_keys_are_named_and_only_events_have_freshness(catalogue: Catalogue) -> None:
    found = tables(catalogue)
    for each in catalogue.enabled:
        for name in (each.name, f"{each.name}_current"):
            config = found[name]["config"]
            assert config["meta"]["primary_key"] == ["connection", "id"]
            assert ("freshness" in config) == each.is_events
            assert ("loaded_at_field" in config) == each.is_events
        assert found[f"{each.name}_distinct"]["config"]["meta"]["primary_key"] == ["id"]
    history = found["accounts_history"]["config"]["meta"]["primary_key"]
    assert history == ["connection", "id", "valid_from"]


def test_every_table_and_column_has_a_type_and_a_description(catalogue: Catalogue) -> None:
    for table in tables(catalogue).values():
        assert table["description"].endswith(".")
        for column in table["columns"]:
            assert column["data_type"], (table["name"], column["name"])
            assert column["description"], (table["name"], column["name"])
