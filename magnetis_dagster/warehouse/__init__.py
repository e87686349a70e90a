"""Stores rows: tables, staging, merge, history, migrations. Uses neither HTTP nor Dagster.

Every function with an engine may raise DatabaseUnavailable or DatabaseRefused.
"""

from magnetis_dagster.warehouse.merge import (
    CountMismatch,
    MergedDay,
    MergeResult,
    WindowFacts,
    age_days,
)
from magnetis_dagster.warehouse.migrate import migrate
from magnetis_dagster.warehouse.page_cache import CachedWindow, PageCache
from magnetis_dagster.warehouse.plausibility import (
    Doubt,
    DoubtReason,
    Emptied,
    MovedRows,
    Rules,
)
from magnetis_dagster.warehouse.reconcile import DayDifference
from magnetis_dagster.warehouse.settings_changes import Change, ChangeKind, Changes, FieldChange
from magnetis_dagster.warehouse.source import ForeignSource
from magnetis_dagster.warehouse.staging import RowCounts, Staging
from magnetis_dagster.warehouse.warehouse import Warehouse

__all__ = [
    "CachedWindow",
    "Change",
    "ChangeKind",
    "Changes",
    "CountMismatch",
    "DayDifference",
    "Doubt",
    "DoubtReason",
    "Emptied",
    "FieldChange",
    "ForeignSource",
    "MergeResult",
    "MergedDay",
    "MovedRows",
    "PageCache",
    "RowCounts",
    "Rules",
    "Staging",
    "Warehouse",
    "WindowFacts",
    "age_days",
    "migrate",
]
