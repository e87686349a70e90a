"""One tick of a settings sensor: reads collections and compares them with the cursor."""

import asyncio
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from magnetis_dagster.catalog import Collection
from magnetis_dagster.dagster_support.partition_tags import PARTITION
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.settings_cursor import CollectionState
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.notification_settings.change_detection import Observation

SECONDS = 8.0
"""Time limit for all requests of a tick; Dagster ends a tick after 60 s."""
RUN_KEY_TAG = "dagster/run_key"


@dataclass(frozen=True, slots=True)
class SettingsTick:
    """One tick of a sensor: reads the collections and compares them with the cursor."""

    name: str
    instance: dg.DagsterInstance
    engine: "Engine"
    assets: ConnectionAssets
    settings: Settings
    """Present settings of the connection."""
    now: datetime

    @property
    def today(self) -> date:
        """The local day, which is the partition of a snapshot."""
        return self.now.astimezone(self.settings.timezone).date()

    def read(self, collections: list[Collection]) -> "dict[str, Observation | MagnetisError]":
        """Read the collections from the API; return content or error by collection."""
        from magnetis_dagster.api import ClientLimits, MagnetisClient
        from magnetis_dagster.ingest import LedgerGuard, RunIdentity
        from magnetis_dagster.notification_settings.change_detection import observe_each
        from magnetis_dagster.wiring import ledger_of

        settings = self.settings
        key = settings.require_key()
        guard = LedgerGuard(ledger_of(self.engine, settings), RunIdentity(self.name, "settings"))
        # a single attempt per request: the next tick is the retry
        limits = ClientLimits(attempts=1, connect=SECONDS / 2, read=SECONDS, total=SECONDS)

        async def read() -> "dict[str, Observation | MagnetisError]":
            async with MagnetisClient(
                settings.api_url, key, guard, concurrency=settings.concurrency, limits=limits
            ) as client:
                return await observe_each(client, collections, self.now, seconds=SECONDS)

        return asyncio.run(read())

    def compare(
        self,
        collection: Collection,
        state: CollectionState,
        observation: "Observation | MagnetisError | None",
    ) -> "tuple[CollectionState, str, Observation | None]":
        """Return the new state, a sentence for the skip reason, and the content to load.

        `observation` is None if this tick did not read the collection.
        """
        from magnetis_dagster.notification_settings.change_detection import Observation
        from magnetis_dagster.quota.ledger import QuotaExhausted

        name = collection.name
        if observation is None:
            state.pause -= 1
            return state, state.why_skipped(name), None
        if not isinstance(observation, Observation):
            state.reset_changes()
            # without quota, no request is sent: the next tick may try again at no cost
            if not isinstance(observation, QuotaExhausted):
                state.failures += 1
                state.back_off(state.failures)
            return state, str(observation), None
        if state.is_new and (loaded := self._loaded_by_others(collection, observation)):
            return *loaded, None
        state.failures = 0
        must_load = True
        if observation.digest != state.digest:
            state = state.changed(observation, self.now)
        else:
            state.members = observation.members
            state.reset_changes()
            must_load = _is_lost(self.instance, state)
        since = datetime.fromisoformat(state.since).astimezone(self.settings.timezone)
        sentence = f"{name}: {observation.rows} rows, unchanged since {since:%Y-%m-%d %H:%M %Z}."
        return state, sentence, observation if must_load else None

    def _loaded_by_others(
        self, collection: Collection, observation: "Observation"
    ) -> tuple[CollectionState, str] | None:
        """Return state and sentence if another run loads or has loaded this content."""
        from magnetis_dagster.notification_settings.change_detection import digest_of
        from magnetis_dagster.warehouse.current_settings import current_rows

        name = collection.name
        of_today = {PARTITION: self.today.isoformat()}
        runs = self.instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES, tags=of_today))
        if any(self.assets.key(collection) in (run.asset_selection or ()) for run in runs):
            return CollectionState(), f"{name}: a run is loading it; the next tick compares."
        rows = current_rows(self.engine, collection, connection_name=self.settings.connection)
        if rows is None or digest_of(rows.values()) != observation.digest:
            return None
        state = CollectionState(
            digest=observation.digest,
            since=observation.at.isoformat(),
            members=observation.members,
            landed=True,
        )
        return state, f"{name}: {observation.rows} rows, already loaded before the first tick."


def _is_lost(instance: dg.DagsterInstance, state: CollectionState) -> bool:
    """Return whether no run has loaded the content and none is queued or running."""
    if state.landed:
        return False
    runs = instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: state.run_key}))
    state.landed = any(run.status is dg.DagsterRunStatus.SUCCESS for run in runs)
    return not state.landed and all(run.is_finished for run in runs)
