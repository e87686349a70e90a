"""Close a key without a charged call."""

from datetime import datetime

from magnetis_dagster.quota.ledger import SHORT_PAUSE, Ledger


def close_key(ledger: Ledger, retry_after: float | None) -> datetime:
    """Close the key as a 429 does, and return until when.

    Closes it for `retry_after` seconds; None: until the next calendar day.
    """
    about_the_day = retry_after is None or retry_after > SHORT_PAUSE
    with ledger._transaction("close the key") as cursor:
        closed_until = ledger._close(cursor, retry_after, None, None)
        if about_the_day:
            ledger._lower_remaining(cursor, 0, None)
        return closed_until
