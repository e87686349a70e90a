"""The resource `magnetis`: the API and the warehouse of a run.

Anybody can read and change resource fields in the launchpad, which has no authentication. So the
key, the API's origin (which receives the key), the quota and the database address are not fields.

https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, RunIdentity


class MagnetisResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The API and the warehouse that the environment of the run names."""

    concurrency: int = Field(default=8, ge=1, le=64, description="Pages of one window in flight.")
    quota_recheck_seconds: float = Field(
        default=900.0,
        gt=0,
        le=86_400,
        description="Seconds between two checks of the quota while a step waits for API calls.",
    )

    @contextmanager
    def ingestion(
        self, run: "RunIdentity", progress: Callable[[str], None], on_progress: Callable[[], None]
    ) -> Iterator["Ingestion"]:
        """Open the API client and the warehouse for one step.

        `progress` logs a line; `on_progress` is called when a retry would have less work.

        Raises: SettingsError; CatalogueError; DatabaseUnavailable; DatabaseRefused.
        """
        from magnetis_dagster.dagster_support.heartbeat_storage import heartbeat_of
        from magnetis_dagster.wiring import open_ingestion

        settings = Settings.load(concurrency=self.concurrency)
        catalogue = load_catalogue(settings.config)
        heartbeat = heartbeat_of(run.run_id)
        with open_ingestion(
            settings, catalogue, run, progress, on_progress, heartbeat
        ) as ingestion:
            yield ingestion
