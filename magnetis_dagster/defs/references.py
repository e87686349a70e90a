"""Lineage from the references that the catalogue declares: `calls` refers to `numbers`, so the graph shows an edge.

An edge must not make assets wait for each other. `@asset(deps=…)` would, in two ways:

- It gives the step an input, so a run skips `leads` after `calls` failed, and even after `calls` succeeded, because a load logs its
  days and returns no output. So the edge is added to the spec only, and the step keeps no input.
- A backfill requests a day downstream after the same day upstream, and fails if that day has no partition there: calls of 2024,
  numbers since yesterday. So each edge maps every day to no day.

https://docs.dagster.io/guides/build/assets/passing-data-between-assets
"""

from collections.abc import Iterable

from dagster import AssetDep, AssetKey, AssetsDefinition, SpecificPartitionsPartitionMapping

from magnetis_dagster.catalog import Collection


def with_references(definition: AssetsDefinition, collections: Iterable[Collection]) -> AssetsDefinition:
    """Return the definition with an edge from each of the collections."""
    deps = [
        AssetDep(AssetKey(["magnetis", each.name]), partition_mapping=SpecificPartitionsPartitionMapping([]))
        for each in collections
    ]
    # map_asset_specs, which is made for this, adds an input for each new edge
    specs = [spec.replace_attributes(deps=deps) for spec in definition.specs]
    made: AssetsDefinition = AssetsDefinition.dagster_internal_init(**{**definition.get_attributes_dict(), "specs": specs})
    return made
