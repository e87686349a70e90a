"""Names of the jobs. Does not import Dagster, since `magnetis dev` uses them too."""

from magnetis_dagster.catalog import Kind

JOB_NAMES = {Kind.EVENTS: "daily_events", Kind.SNAPSHOT: "daily_snapshots"}
LOAD_LATEST = "load_latest"
