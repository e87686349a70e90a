"""WHO may ask now: the ledger of API calls that every process of every machine shares. No HTTP, no Dagster."""

from magnetis_dagster.quota.ledger import Charge, Ledger, QuotaExhausted, QuotaState

__all__ = ["Charge", "Ledger", "QuotaExhausted", "QuotaState"]
