"""WHERE rows rest: tables from the catalogue, staging, merging, history, migrations. No HTTP, no Dagster."""

from magnetis_dagster.warehouse.changes import Change, ChangeKind, Changes, FieldChange
from magnetis_dagster.warehouse.merge import (
    Doubt,
    DoubtReason,
    Emptied,
    Incomplete,
    Merged,
    MergedDay,
    MovedRows,
    Rules,
    WindowFacts,
    age_days,
)
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.pages import KeptPages, KeptWindow
from magnetis_dagster.warehouse.source import ForeignSource
from magnetis_dagster.warehouse.staging import Staging, Tally
from magnetis_dagster.warehouse.warehouse import Warehouse, WindowLimits

__all__ = [
    "Change",
    "ChangeKind",
    "Changes",
    "Doubt",
    "DoubtReason",
    "Emptied",
    "FieldChange",
    "ForeignSource",
    "Incomplete",
    "KeptPages",
    "KeptWindow",
    "Merged",
    "MergedDay",
    "MovedRows",
    "Rules",
    "Staging",
    "Tally",
    "Warehouse",
    "WindowFacts",
    "WindowLimits",
    "age_days",
    "migrate",
]
