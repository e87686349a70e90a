"""Lineage from the references that the catalogue declares: `calls` refers to `numbers`, so the graph shows an edge.

An edge must not make assets wait for each other. `@asset(deps=…)` would, in two ways:

- It gives the step an input, so a run skips `leads` after `calls` failed, and even after `calls` succeeded, because a load logs its
  days and returns no output. So the edge is added to the spec only, and the step keeps no input.
- A backfill starts from the assets without an upstream and finds the days of the others by the mapping of the edges. So the
  mapping must reach every day: an edge that maps to no day drops the asset from the backfill, which then ends in success. Assets
  of one kind have the same days and one run; a snapshot of the day after, the first that is taken after a day's events, leads to
  that day. A day without such a snapshot waits for nothing.

https://docs.dagster.io/guides/build/assets/passing-data-between-assets
"""

from collections.abc import Iterable

from dagster import AssetDep, AssetKey, AssetsDefinition, TimeWindowPartitionMapping

from magnetis_dagster.catalog import Collection


def with_references(
    definition: AssetsDefinition, collection: Collection, references: Iterable[Collection]
) -> AssetsDefinition:
    """Return the definition of `collection` with an edge from each of the collections that it refers to."""
    deps = []
    for each in references:
        later = 1 if collection.is_events and not each.is_events else 0
        mapping = TimeWindowPartitionMapping(
            start_offset=later, end_offset=later, allow_nonexistent_upstream_partitions=True
        )
        deps.append(AssetDep(AssetKey(["magnetis", each.name]), partition_mapping=mapping))
    # map_asset_specs, which is made for this, adds an input for each new edge
    specs = [spec.replace_attributes(deps=deps) for spec in definition.specs]
    made: AssetsDefinition = AssetsDefinition.dagster_internal_init(
        **{**definition.get_attributes_dict(), "specs": specs}
    )
    return made
