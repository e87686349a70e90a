"""Asset checks, made from the same declaration as the asset. https://docs.dagster.io/guides/test/asset-checks

They are evaluated by the step that loads, from what it has just committed: no API call and no second step.
"""

from collections import Counter
from datetime import date
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
)

from magnetis_dagster.catalog import Collection
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.errors import MagnetisError

if TYPE_CHECKING:
    from magnetis_dagster.ingest import WindowResult
    from magnetis_dagster.warehouse import DayDifference, Doubt
    from magnetis_dagster.warehouse.forecasts import ForecastLine

COMPLETE = "complete"
QUARANTINED_ROWS = "quarantined_rows"
UNKNOWN_FIELDS = "unknown_fields"
MISFIT_VALUES = "misfit_values"
COUNTS_AGREE = "counts_agree"
UNREADABLE_SHARE, FEWEST_UNREADABLE = 0.01, 10
"""Quarantined rows from both on are an error, not a warning."""
WARN, ERROR = AssetCheckSeverity.WARN, AssetCheckSeverity.ERROR
DAYS_SHOWN = 10


_GONE = (
    "They stay in the table, and the days are not marked as read. Either Magnetis keeps rows for a limited time, or the key "
    "has less scope than before, or the rows are deleted: compare with the Magnetis interface, then set "
    "MAGNETIS_EMPTIED_DAYS to keep (they aged out) or delete (they are gone)."
)
_UNREADABLE = (
    "They stay in the table as they were, and the days are not marked as read. magnetis_ops.quarantine contains the rows as "
    "received, with the reason: correct the declaration in MAGNETIS_CONFIG (`magnetis probe` shows the members), then load the "
    "days again. MAGNETIS_UNREADABLE_SHARE sets how many are accepted."
)
_DOUBTS = {
    "emptied": ("The API returned no row for {days}, where the table holds {held} rows.", _GONE),
    "deletions": ("The API no longer returned {rows} of the {held} rows of {days}.", _GONE),
    "unreadable": (
        "{rows} of the {held} rows of {days} were readable before and no longer are.",
        _UNREADABLE,
    ),
}
"""Reason of a doubt to what happened and what to do."""


def _shown(days: list[date]) -> str:
    return ", ".join(map(str, days[:10])) + (
        f" and {len(days) - 10} more days" if len(days) > 10 else ""
    )


def _sums(doubts: "list[Doubt]") -> tuple[int, int]:
    return sum(doubt.rows for doubt in doubts), sum(doubt.held for doubt in doubts)


def as_evaluation(result: AssetCheckResult) -> AssetCheckEvaluation:
    """Return a result that names asset and check as an event, which is logged outside a step of that asset."""
    assert result.asset_key is not None
    return AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=str(result.check_name),
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def check_specs(key: AssetKey) -> list[AssetCheckSpec]:
    """Return the checks of one asset."""
    return [
        AssetCheckSpec(
            COMPLETE,
            asset=key,
            blocking=True,
            description="The table contains every row that the API announced (meta.total).",
        ),
        AssetCheckSpec(
            QUARANTINED_ROWS,
            asset=key,
            description="Every row has an id and, for events, a usable time.",
        ),
        AssetCheckSpec(
            UNKNOWN_FIELDS,
            asset=key,
            description="Every member of the rows is declared in the catalogue.",
        ),
        AssetCheckSpec(
            MISFIT_VALUES, asset=key, description="Every value fits the type of its column."
        ),
        AssetCheckSpec(
            COUNTS_AGREE,
            asset=key,
            description="The recorded counts of days equal the rows in the table: for loaded days, and nightly for all days.",
        ),
    ]


class CheckTally:
    """Adds up the windows of one step, and says what the checks are then."""

    def __init__(self, key: AssetKey) -> None:
        self._key = key
        self.forecast: ForecastLine | None = None
        """Of the backfill that the step belongs to."""
        self._announced = self._received = self._windows = self._days = self._quarantined = (
            self._replaced
        ) = 0
        self._api_calls = self._witness_calls = self._late = 0
        self._doubted: dict[date, Doubt] = {}
        self._unknown: set[str] = set()
        self._misfits: Counter[str] = Counter()

    def add(self, window: "WindowResult") -> None:
        """Count a committed window in."""
        self._windows += 1
        self._days += len(window.days)
        self._announced += window.announced
        self._received += window.received
        self._quarantined += window.quarantined
        self._replaced += window.replaced_characters
        self._api_calls += window.api_calls
        self._witness_calls += window.witness_calls
        self._late += sum(day.late_rows for day in window.days)
        self._doubted.update(window.doubted)
        self._unknown.update(window.unknown)
        self._misfits.update(window.misfits)

    def results(self) -> list[AssetCheckResult]:
        """Return one result per check, all windows being committed."""
        return [
            AssetCheckResult(
                asset_key=self._key,
                check_name=COMPLETE,
                # a window is committed only when both are equal; comparing again here costs nothing and trusts nobody
                passed=self._announced == self._received and not self._doubted,
                description=self._doubt() if self._doubted else None,
                metadata={
                    "announced rows": self._announced,
                    "received rows": self._received,
                    "API calls": self._api_calls,
                    "API calls that only verified": self._witness_calls,
                    "late rows": self._late,
                    "emptied days": sum(
                        doubt.reason != "unreadable" for doubt in self._doubted.values()
                    ),
                    "unreadable days": sum(
                        doubt.reason == "unreadable" for doubt in self._doubted.values()
                    ),
                    **self._forecast(),
                    "windows": self._windows,
                    "days": self._days,
                },
            ),
            self._warning(
                QUARANTINED_ROWS,
                passed=not self._quarantined,
                # on a first load nothing else tells that most rows of a green day are missing
                severity=ERROR
                if self._quarantined >= max(FEWEST_UNREADABLE, UNREADABLE_SHARE * self._received)
                else WARN,
                description=f"{self._quarantined} rows could not be placed, of {self._received} received: the table does not "
                "contain them. magnetis_ops.quarantine does, with the reason.",
                metadata={"quarantined rows": self._quarantined},
            ),
            self._warning(
                UNKNOWN_FIELDS,
                passed=not self._unknown,
                description=f"Not declared, kept in payload: {', '.join(map(literal, sorted(self._unknown)[:40]))}.",
                metadata={"unknown fields": len(self._unknown)},
            ),
            self._warning(
                MISFIT_VALUES,
                passed=not self._misfits and not self._replaced,
                description="Set to NULL, kept in payload: "
                f"{', '.join(f'{literal(name)} ({number})' for name, number in self._misfits.most_common(40))}. "
                f"Characters that PostgreSQL cannot store, replaced: {self._replaced}.",
                metadata={
                    "misfit values": self._misfits.total(),
                    "replaced characters": self._replaced,
                },
            ),
        ]

    def _forecast(self) -> dict[str, int]:
        if self.forecast is None:
            return {}
        return {
            "forecast API calls": self.forecast.calls,
            "API calls of the backfill": self.forecast.spent,
        }

    def _doubt(self) -> str:
        return " ".join(
            f"{what.format(days=_shown(days), rows=rows, held=held)} {advice}"
            for reason, (what, advice) in _DOUBTS.items()
            if (
                days := sorted(
                    day for day, doubt in self._doubted.items() if doubt.reason == reason
                )
            )
            for rows, held in [_sums([self._doubted[day] for day in days])]
        )

    def counts(
        self, collection: Collection, differences: "list[DayDifference]"
    ) -> AssetCheckResult:
        """Return the result of `counts_agree`."""
        shown = ", ".join(
            f"{each.day}: {each.recorded} recorded, {each.rows} rows"
            for each in differences[:DAYS_SHOWN]
        )
        more = f" and {len(differences) - DAYS_SHOWN} more" if len(differences) > DAYS_SHOWN else ""
        repair = (
            f"`magnetis reparse {collection.name}` records the counts again; loading these days again repairs their rows."
            if collection.is_events
            else "Load the collection again."
        )
        return AssetCheckResult(
            asset_key=self._key,
            check_name=COUNTS_AGREE,
            passed=not differences,
            description=f"Recorded counts are not those of the table {collection.name}. {shown}{more}. {repair}"
            if differences
            else None,
            metadata={"days that differ": len(differences)},
        )

    def incomplete(self, error: MagnetisError) -> AssetCheckResult:
        """Return the failed `complete` for a window that could not be read whole."""
        return AssetCheckResult(
            asset_key=self._key,
            check_name=COMPLETE,
            passed=False,
            description=literal(str(error)),
            metadata={
                "announced rows": getattr(error, "announced", 0),
                "received rows": getattr(error, "received", 0),
            },
        )

    def _warning(
        self,
        name: str,
        *,
        passed: bool,
        description: str,
        metadata: dict[str, int],
        severity: AssetCheckSeverity = WARN,
    ) -> AssetCheckResult:
        return AssetCheckResult(
            asset_key=self._key,
            check_name=name,
            passed=passed,
            severity=severity,
            description=None if passed else description,
            metadata=metadata,
        )
