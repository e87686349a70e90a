"""Dagster's run queue, with a tag that limits backfill runs per connection.

`tag_concurrency_limits` in dagster.yaml allows one run at a time for each value of BACKFILL_TAG.
Dagster's own tag, dagster/backfill, would limit all connections together, or each backfill alone.

https://docs.dagster.io/deployment/execution/customizing-run-queue-priority
"""

from dagster import DagsterRun
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from typing_extensions import override

from magnetis_dagster.dagster_support.run_identity import BACKFILL_TAG as DAGSTER_BACKFILL_TAG
from magnetis_dagster.dagster_support.run_identity import CONNECTION_TAG

BACKFILL_TAG = "magnetis/backfill"
"""On each backfill run: the names of the connections that it loads, separated by commas."""


class MagnetisRunCoordinator(QueuedRunCoordinator):
    """QueuedRunCoordinator that tags each backfill run with its connections."""

    @override
    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Tag the run if it belongs to a backfill of our assets, then queue it."""
        run = context.dagster_run
        if DAGSTER_BACKFILL_TAG in run.tags and (names := connections_of(context)):
            self._instance.add_run_tags(run.run_id, {BACKFILL_TAG: ",".join(names)})
        return super().submit_run(context)


def connections_of(context: SubmitRunContext) -> list[str]:
    """Return the names of the connections whose assets the run loads, sorted."""
    graph, run = context.workspace.asset_graph, context.dagster_run
    # a backfill of a job selects no assets
    keys = run.asset_selection or graph.asset_keys_for_job(run.job_name)
    tags = (graph.get(key).tags for key in keys if graph.has(key))
    return sorted({own[CONNECTION_TAG] for own in tags if CONNECTION_TAG in own})
