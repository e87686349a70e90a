"""The errors of ingestion. Their base classes state whether a retry can help."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from magnetis_dagster.catalog import Collection
from magnetis_dagster.errors import PermanentError, TransientError
from magnetis_dagster.ingest.windows import Window
from magnetis_dagster.ingest.witnesses import ImplausibleResponse
from magnetis_dagster.warehouse import RowCounts

MOST_MEMBERS = 40
"""Names of members that an error lists."""


class PastSnapshot(PermanentError):
    """A snapshot of a day other than today was requested."""

    def __init__(self, collection: Collection, day: date, today: date, zone: str) -> None:
        super().__init__(
            f"{collection.name}: a snapshot of {day} cannot be taken on {today} ({zone}), because "
            f"the API shows only the present. Materialize the partition {today}; earlier snapshots "
            f"are in magnetis.{collection.name}_history."
        )


class OpenDay(PermanentError):
    """Events of a day that has not ended were requested; rows could still be added."""

    def __init__(self, collection: Collection, day: date, today: date, zone: str) -> None:
        super().__init__(
            f"{collection.name}: {day} has not ended in {zone} (today is {today}). Events of a day "
            "are loaded after its end: choose days up to yesterday."
        )


class IncompleteWindow(TransientError):
    """The pages of a window did not form one complete list in any attempt.

    Nothing was written.
    """

    def __init__(
        self,
        collection: Collection,
        window: Window,
        announced: int,
        received: int,
        cause: str,
        attempts: int,
    ) -> None:
        self.announced = announced
        self.received = received
        super().__init__(
            f"{collection.name} {window}: {cause}, {attempts} times in a row. Nothing was written "
            "for these days; load them again later."
        )


class IncompleteResponse(PermanentError):
    """The API provably omits rows of a single day.

    No shorter window can be requested.
    """

    def __init__(
        self, collection: Collection, window: Window, refusal: ImplausibleResponse
    ) -> None:
        super().__init__(
            f"{collection.name} {window}: {refusal} No shorter window can be requested, so these "
            "days cannot be read completely. Nothing was written. Ask Magnetis about the limit, or "
            "limit the key's scope to fewer accounts."
        )


class FilterIgnored(PermanentError):
    """A route returned rows far outside the window: it ignores a parameter."""

    def __init__(
        self, collection: Collection, window: Window, evidence: str, ignored: tuple[bool, bool]
    ) -> None:
        """`ignored`: whether the route ignores the start and the end of the window."""
        names = collection.window
        assert names is not None
        parameters = [
            name for name, flag in zip((names.start, names.end), ignored, strict=True) if flag
        ]
        super().__init__(
            f"{collection.name} {window}: {evidence}: the route {collection.route} seems to ignore "
            f"{' and '.join(parameters)}. `magnetis probe` shows which parameters it honours; in "
            f"MAGNETIS_CONFIG, set collections.{collection.name}.window to the right names, or to "
            "null to read the route whole. Nothing was written."
        )


class RepeatedIds(PermanentError):
    """One page contains an id twice: the declared id does not identify a row."""

    def __init__(self, collection: Collection, window: Window, rows: int) -> None:
        super().__init__(
            f"{collection.name} {window}: {rows} rows have the id of another row of the same page, "
            "so the id does not identify a row. In MAGNETIS_CONFIG, set "
            f"collections.{collection.name}.id_paths to the members that do, several of them as a "
            "list: [[id, leg]]. Nothing was written."
        )


class UnplaceableRows(PermanentError):
    """No row of the window has the declared members for id and time."""

    def __init__(
        self, collection: Collection, window: Window, tally: RowCounts, members: Iterable[Any]
    ) -> None:
        reasons = "; ".join(f"{why} ({rows} rows)" for why, rows in sorted(tally.unplaced.items()))
        options = {"time_fields" if " time in " in why else "id_paths" for why in tally.unplaced}
        names = " and ".join(f"collections.{collection.name}.{name}" for name in sorted(options))
        super().__init__(
            f"{collection.name} {window}: none of the {tally.received} rows received can be "
            f"placed: {reasons}. Members of the rows: {', '.join(sorted(members)[:MOST_MEMBERS])}. "
            f"Name the right ones in MAGNETIS_CONFIG ({names}); `magnetis probe` shows them too. "
            "Nothing was written."
        )
