"""The specs and keys of the assets of one connection.

Other definitions find an asset by its collection, because a host project may change its key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Self

import dagster as dg

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.connections import Connection
from magnetis_dagster.dagster_support.run_identity import CONNECTION_TAG
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.defs.metadata import asset_metadata
from magnetis_dagster.defs.partitions import daily_partitions
from magnetis_dagster.settings import Settings

OWNER = "team:call-tracking"
KIND_TAG = "magnetis/kind"
"""`events` or `snapshot`: commands select assets with the same partitions by it."""


@dataclass(frozen=True, slots=True)
class ConnectionAssets:
    """The connection and the specs of its assets, by name of the enabled collection."""

    connection: Connection
    specs: Mapping[str, dg.AssetSpec]

    @classmethod
    def of(
        cls,
        connection: Connection,
        taken: Sequence[date] | None = None,
        change: Callable[[Collection, dg.AssetSpec], dg.AssetSpec] = lambda _collection, spec: spec,
    ) -> Self:
        """Return the assets; `taken` as in `daily_partitions`; `change` replaces specs."""
        return cls(
            connection,
            {
                each.name: change(each, default_spec(connection, each, taken))
                for each in connection.catalogue.enabled
            },
        )

    @property
    def settings(self) -> Settings:
        """Settings of the connection, read when the code location loaded."""
        return self.connection.settings

    @property
    def catalogue(self) -> Catalogue:
        """Catalogue of the connection."""
        return self.connection.catalogue

    @property
    def collections(self) -> list[Collection]:
        """The enabled collections."""
        return [self.catalogue[name] for name in self.specs]

    @property
    def events(self) -> list[Collection]:
        """The enabled events collections."""
        return [each for each in self.collections if each.is_events]

    def key(self, collection: Collection) -> dg.AssetKey:
        """Return the key of the collection's asset."""
        return self.specs[collection.name].key

    def operation(self, name: str) -> dg.AssetKey:
        """Return the key of an asset that is not a collection, such as `quota`."""
        return dg.AssetKey(self.connection.path(name))


def default_spec(
    connection: Connection, collection: Collection, taken: Sequence[date] | None = None
) -> dg.AssetSpec:
    """Return the spec of one collection's asset; `taken` as in `daily_partitions`."""
    settings = connection.settings
    return dg.AssetSpec(
        dg.AssetKey(connection.path(collection.name)),
        group_name=collection.family,
        description=literal(collection.description),
        owners=[OWNER],
        kinds={"magnetis", "postgres"},
        tags={KIND_TAG: collection.kind.value, CONNECTION_TAG: connection.name},
        metadata=asset_metadata(collection),
        partitions_def=daily_partitions(collection.kind, settings, taken),
        freshness_policy=_freshness(settings.timezone.key),
    )


@cache
def _freshness(zone: str) -> dg.FreshnessPolicy:
    # Cached, because Dagster evaluates 1,000 ticks of each policy: two thirds of `build_defs`.
    # The schedules start between midnight and 02:00, so the tables are fresh by 06:00.
    return dg.FreshnessPolicy.cron(
        deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=6), timezone=zone
    )
