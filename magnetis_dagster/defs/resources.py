"""The resource `magnetis`: what a run needs to read the API into the warehouse. https://docs.dagster.io/guides/build/external-resources

Resource fields are shown in the UI, stored with every run and can be changed from the launchpad, which has no authentication.
So the key, the API's origin (where the key is sent), the quota and the database's address are no fields: they come from the
environment of the process that runs, each time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dagster import ConfigurableResource
from pydantic import Field

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, RunIdentity


class MagnetisResource(ConfigurableResource):  # type: ignore[type-arg]
    """The API and the warehouse, as the environment of the run names them."""

    concurrency: int = Field(default=8, ge=1, le=64, description="Pages of one window in flight.")
    quota_recheck_seconds: float = Field(
        default=900.0,
        gt=0,
        le=86_400,
        description="A step that waits for API calls looks again after so many seconds at the latest.",
    )

    @contextmanager
    def ingestion(
        self, run: "RunIdentity", progress: Callable[[str], None], advanced: Callable[[], None]
    ) -> Iterator["Ingestion"]:
        """Open what one step needs. Raises SettingsError, CatalogueError, DatabaseUnavailable, DatabaseRefused."""
        from magnetis_dagster.dagster_support.run_heartbeat import heartbeat_of
        from magnetis_dagster.wiring import open_ingestion

        settings = Settings.load(concurrency=self.concurrency)
        permit = heartbeat_of(run.run_id)
        with open_ingestion(
            settings, load_catalogue(settings.config), run, progress, advanced, permit
        ) as ingestion:
            yield ingestion
