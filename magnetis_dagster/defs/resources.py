"""The resource `magnetis`: the API and the warehouse of a run. Each connection has its own.

Anybody can read and change resource fields in the launchpad, which has no authentication. So the
key, the API's origin (which receives the key), the quota and the database address are not fields.

https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from magnetis_dagster.connections import Connection

if TYPE_CHECKING:
    from magnetis_dagster.ingest import Ingestion, RunIdentity


RESOURCE = "magnetis"
"""Key of the resource of the unnamed connection."""


class MagnetisResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Limits of a run, which people may change in the launchpad."""

    concurrency: int = Field(default=8, ge=1, le=64, description="Pages of one window in flight.")
    quota_recheck_seconds: float = Field(
        default=900.0,
        gt=0,
        le=86_400,
        description="Seconds between two checks of the quota while a step waits for API calls.",
    )

    @contextmanager
    def ingestion(
        self,
        connection: Connection,
        run: "RunIdentity",
        progress: Callable[[str], None],
        on_progress: Callable[[], None],
    ) -> Iterator["Ingestion"]:
        """Open the API client and the warehouse of a connection for one step.

        `progress` logs a line; `on_progress` is called when a retry would have less work.

        Raises: SettingsError; CatalogueError; DatabaseUnavailable; DatabaseRefused.
        """
        from magnetis_dagster.dagster_support.heartbeat_storage import heartbeat_of
        from magnetis_dagster.wiring import open_ingestion

        present = connection.reload()
        settings = present.settings.model_copy(update={"concurrency": self.concurrency})
        present, heartbeat = replace(present, settings=settings), heartbeat_of(run.run_id)
        with open_ingestion(present, run, progress, on_progress, heartbeat) as ingestion:
            yield ingestion
