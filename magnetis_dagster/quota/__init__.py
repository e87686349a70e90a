"""Decide who may send a request now: quota rules, ledger, guard, forecast and report.

This package contains no HTTP and no Dagster. `quota.ledger` imports the database and is imported
only if needed. The names here are cheap to import.
"""

from magnetis_dagster.quota.rules import (
    LANES,
    BadPolicy,
    QuotaPolicy,
    QuotaWindow,
    Usage,
    allowance,
)

__all__ = ["LANES", "BadPolicy", "QuotaPolicy", "QuotaWindow", "Usage", "allowance"]
