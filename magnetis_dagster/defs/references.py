"""Lineage edges from the references in the catalogue, such as from `numbers` to `calls`.

An edge must not make assets wait for each other (docs/decisions/0023-lineage-without-waiting.md).
So it is added to the spec only: `@asset(deps=…)` would add an input to the step. A backfill
derives days from the partition mappings, and drops an asset for which it finds none. So the
mappings reach every day. Assets of one kind have the same days. Events of a day depend on the
snapshot of the next day, the first that is taken after them.

https://docs.dagster.io/guides/build/assets/passing-data-between-assets
"""

import dagster as dg

from magnetis_dagster.defs.connection_assets import ConnectionAssets


def with_lineage(
    definition: dg.AssetsDefinition, spec: dg.AssetSpec, assets: ConnectionAssets
) -> dg.AssetsDefinition:
    """Return the definition with the edges of `spec`, and one from each collection it refers to."""
    collection = next(each for each in assets.collections if assets.specs[each.name] is spec)
    deps = {dep.asset_key: dep for dep in spec.deps}
    for each in assets.catalogue.references_of(collection):
        offset = 1 if collection.is_events and not each.is_events else 0
        mapping = dg.TimeWindowPartitionMapping(
            start_offset=offset, end_offset=offset, allow_nonexistent_upstream_partitions=True
        )
        key = assets.key(each)
        deps.setdefault(key, dg.AssetDep(key, partition_mapping=mapping))
    # dagster.map_asset_specs would add an input to the step for each edge
    specs = [each.replace_attributes(deps=[*deps.values()]) for each in definition.specs]
    with_edges: dg.AssetsDefinition = dg.AssetsDefinition.dagster_internal_init(
        **{**definition.get_attributes_dict(), "specs": specs}
    )
    return with_edges
