"""WHO may ask now: the ledger of API calls that every process of every machine shares, and the policy it decides by.

No HTTP, no Dagster. `quota.ledger` speaks SQL and is imported where it is used; the names here are light enough for every start.
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
