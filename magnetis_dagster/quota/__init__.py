"""Decides who may send a request now. Uses neither HTTP nor Dagster.

Every function with an engine may raise DatabaseUnavailable or DatabaseRefused. `quota.ledger`
imports the database and is imported only if needed. The names here are cheap to import.
"""

from magnetis_dagster.quota.rules import (
    LANES,
    InvalidQuotaRules,
    QuotaPolicy,
    QuotaWindow,
    Usage,
    allowance,
)

__all__ = ["LANES", "InvalidQuotaRules", "QuotaPolicy", "QuotaWindow", "Usage", "allowance"]
