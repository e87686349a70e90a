"""WHERE rows rest: tables from the catalogue, staging, merging, history, migrations. No HTTP, no Dagster."""

from magnetis_dagster.warehouse.changes import Change, ChangeKind, Changes, FieldChange
from magnetis_dagster.warehouse.merge import Emptied, Incomplete, Merged, MergedDay, WindowFacts, age_days
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.pages import KeptPages, KeptWindow
from magnetis_dagster.warehouse.reconcile import DayDifference
from magnetis_dagster.warehouse.staging import Staging, Tally
from magnetis_dagster.warehouse.warehouse import Warehouse

__all__ = [
    "Change",
    "ChangeKind",
    "Changes",
    "DayDifference",
    "Emptied",
    "FieldChange",
    "Incomplete",
    "KeptPages",
    "KeptWindow",
    "Merged",
    "MergedDay",
    "Staging",
    "Tally",
    "Warehouse",
    "WindowFacts",
    "age_days",
    "migrate",
]
