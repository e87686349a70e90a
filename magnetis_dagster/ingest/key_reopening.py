"""Reopen a closed key with one trial request."""

import asyncio

from magnetis_dagster.api import ApiCall, ClientLimits, KeyRefused, MagnetisClient
from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity
from magnetis_dagster.quota.ledger import Ledger

LIMITS = ClientLimits(attempts=1, read=30.0, total=60.0)
COMMAND = RunIdentity(run_id="magnetis quota --reopen", lane="manual")


def reopen(
    ledger: Ledger, collection: Collection, *, origin: str, key: str, limits: ClientLimits = LIMITS
) -> str:
    """Send one charged request if the key is closed; return the result in words.

    Raises: the errors of `MagnetisClient.page` if the key stays closed; QuotaExhausted if no API
        call is left for a trial.
    """
    if ledger.usage().closed_until is None:
        return "The key is open: nothing was sent."
    detail = asyncio.run(_try(ledger, collection, origin, key, limits))
    return f"The key is open again: the API answered the trial request{detail}."


async def _try(
    ledger: Ledger, collection: Collection, origin: str, key: str, limits: ClientLimits
) -> str:
    guard = LedgerGuard(ledger, COMMAND, trial=True)
    call = ApiCall(collection.name, collection.route, dict(collection.parameters), limit=1)
    async with MagnetisClient(origin, key, guard, concurrency=1, limits=limits) as client:
        try:
            await client.page(call)
        except KeyRefused:
            raise
        except PermanentError as error:
            # an error about the route says nothing about the key; the ledger has reopened it
            if await asyncio.to_thread(_is_closed, ledger):
                raise
            return f" with an error about the route: {error}".rstrip(".")
    return ""


def _is_closed(ledger: Ledger) -> bool:
    return ledger.usage().closed_until is not None
