"""Asset checks on the rows of a load. https://docs.dagster.io/guides/test/asset-checks

The step that loads evaluates them from the rows that it has just committed, without an API call and
without a second step.
"""

from collections import Counter
from datetime import date
from typing import TYPE_CHECKING

import dagster as dg

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
"""If the quarantined rows reach both, the check is an error instead of a warning."""
WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
DAYS_SHOWN = 10


_MISSING_ADVICE = (
    "The rows stay in the table, and the days are not complete. Either Magnetis keeps rows for a "
    "limited time, or the scope of the key was reduced, or the rows were deleted. Compare with the "
    "Magnetis interface, then set MAGNETIS_EMPTIED_DAYS to keep (Magnetis removed old rows) or "
    "delete (the rows were deleted)."
)
_UNREADABLE_ADVICE = (
    "The rows stay in the table unchanged, and the days are not complete. magnetis_ops.quarantine "
    "contains the received rows with the reasons. Correct the declaration in MAGNETIS_CONFIG "
    "(`magnetis probe` shows the members of the rows), then load the days again. "
    "MAGNETIS_UNREADABLE_SHARE sets the accepted share of such rows."
)
_SUSPECT_DAYS = {
    "emptied": (
        "The API returned no row for {days}, but the table contains {held} rows.",
        _MISSING_ADVICE,
    ),
    "deletions": (
        "The API no longer returns {rows} of the {held} rows of {days}.",
        _MISSING_ADVICE,
    ),
    "unreadable": (
        "{rows} of the {held} rows of {days} were readable before and are not any more.",
        _UNREADABLE_ADVICE,
    ),
}
"""By reason: what happened, and what to do."""


def _listed(days: list[date]) -> str:
    more = len(days) - DAYS_SHOWN
    return ", ".join(map(str, days[:DAYS_SHOWN])) + (f" and {more} more days" if more > 0 else "")


def as_evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """Return the result as an event, for code outside a step of the asset."""
    assert result.asset_key is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=str(result.check_name),
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the checks of one asset."""
    return [
        dg.AssetCheckSpec(
            COMPLETE,
            asset=key,
            blocking=True,
            description="The table contains every row that the API announced (meta.total).",
        ),
        dg.AssetCheckSpec(
            QUARANTINED_ROWS,
            asset=key,
            description="Every row has an id and, for events, a usable time.",
        ),
        dg.AssetCheckSpec(
            UNKNOWN_FIELDS,
            asset=key,
            description="Every member of the rows is declared in the catalogue.",
        ),
        dg.AssetCheckSpec(
            MISFIT_VALUES, asset=key, description="Every value fits the type of its column."
        ),
        dg.AssetCheckSpec(
            COUNTS_AGREE,
            asset=key,
            description="The recorded row count of each day equals the rows in the table. Each "
            "load checks its days, and the nightly load checks all days.",
        ),
    ]


class LoadChecks:
    """The checks of one load: adds up its windows and returns the results."""

    def __init__(self, key: dg.AssetKey) -> None:
        self._key = key
        self.forecast: ForecastLine | None = None
        """Of the backfill that contains this step."""
        self._announced = self._received = self._quarantined = self._replaced = self._late = 0
        self._windows = self._days = self._api_calls = self._witness_calls = 0
        self._doubted: dict[date, Doubt] = {}
        self._unknown: set[str] = set()
        self._misfits: Counter[str] = Counter()

    def add(self, window: "WindowResult") -> None:
        """Add a committed window."""
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

    def results(self) -> list[dg.AssetCheckResult]:
        """Return one result per check, after all windows are committed."""
        return [
            self._complete(),
            self._quarantined_rows(),
            self._unknown_fields(),
            self._misfit_values(),
        ]

    def _complete(self) -> dg.AssetCheckResult:
        unreadable = sum(doubt.reason == "unreadable" for doubt in self._doubted.values())
        return dg.AssetCheckResult(
            asset_key=self._key,
            check_name=COMPLETE,
            # The commit has compared both already; this comparison does not rely on it.
            passed=self._announced == self._received and not self._doubted,
            description=self._suspect_days() if self._doubted else None,
            metadata={
                "announced rows": self._announced,
                "received rows": self._received,
                "API calls": self._api_calls,
                "API calls that only verified": self._witness_calls,
                "late rows": self._late,
                "emptied days": len(self._doubted) - unreadable,
                "unreadable days": unreadable,
                **self._forecast(),
                "windows": self._windows,
                "days": self._days,
            },
        )

    def _quarantined_rows(self) -> dg.AssetCheckResult:
        # A day whose rows are nearly all quarantined is green: only this check reports a first
        # load.
        many = self._quarantined >= max(FEWEST_UNREADABLE, UNREADABLE_SHARE * self._received)
        return self._result(
            QUARANTINED_ROWS,
            passed=not self._quarantined,
            severity=ERROR if many else WARN,
            description=f"{self._quarantined} of {self._received} received rows are not in the "
            "table. magnetis_ops.quarantine contains them with the reasons.",
            metadata={"quarantined rows": self._quarantined},
        )

    def _unknown_fields(self) -> dg.AssetCheckResult:
        names = ", ".join(map(literal, sorted(self._unknown)[:40]))
        return self._result(
            UNKNOWN_FIELDS,
            passed=not self._unknown,
            description=f"Not declared, kept in payload: {names}.",
            metadata={"unknown fields": len(self._unknown)},
        )

    def _misfit_values(self) -> dg.AssetCheckResult:
        misfits = self._misfits.most_common(40)
        columns = ", ".join(f"{literal(name)} ({number})" for name, number in misfits)
        return self._result(
            MISFIT_VALUES,
            passed=not self._misfits and not self._replaced,
            description=f"Set to NULL, kept in payload: {columns}. "
            f"Characters that PostgreSQL cannot store, replaced: {self._replaced}.",
            metadata={
                "misfit values": self._misfits.total(),
                "replaced characters": self._replaced,
            },
        )

    def _forecast(self) -> dict[str, int]:
        if self.forecast is None:
            return {}
        return {
            "forecast API calls": self.forecast.calls,
            "API calls of the backfill": self.forecast.spent,
        }

    def _suspect_days(self) -> str:
        sentences = []
        for reason, (problem, advice) in _SUSPECT_DAYS.items():
            days = {day: doubt for day, doubt in self._doubted.items() if doubt.reason == reason}
            if days:
                rows = sum(doubt.rows for doubt in days.values())
                held = sum(doubt.held for doubt in days.values())
                text = problem.format(days=_listed(sorted(days)), rows=rows, held=held)
                sentences.append(f"{text} {advice}")
        return " ".join(sentences)

    def counts(
        self, collection: Collection, differences: "list[DayDifference]"
    ) -> dg.AssetCheckResult:
        """Return the result of `counts_agree`."""
        shown = ", ".join(
            f"{each.day}: {each.recorded} recorded, {each.rows} rows"
            for each in differences[:DAYS_SHOWN]
        )
        more = f" and {len(differences) - DAYS_SHOWN} more" if len(differences) > DAYS_SHOWN else ""
        repair = (
            f"`magnetis reparse {collection.name}` records the counts again. Loading these days "
            "again repairs their rows."
            if collection.is_events
            else "Load the collection again."
        )
        words = f"Recorded counts differ from the table {collection.name}. {shown}{more}. {repair}"
        return dg.AssetCheckResult(
            asset_key=self._key,
            check_name=COUNTS_AGREE,
            passed=not differences,
            description=words if differences else None,
            metadata={"days that differ": len(differences)},
        )

    def incomplete(self, error: MagnetisError) -> dg.AssetCheckResult:
        """Return the failed `complete` for a window that could not be read completely."""
        return dg.AssetCheckResult(
            asset_key=self._key,
            check_name=COMPLETE,
            passed=False,
            description=literal(str(error)),
            metadata={
                "announced rows": getattr(error, "announced", 0),
                "received rows": getattr(error, "received", 0),
            },
        )

    def _result(
        self,
        name: str,
        *,
        passed: bool,
        description: str,
        metadata: dict[str, int],
        severity: dg.AssetCheckSeverity = WARN,
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=self._key,
            check_name=name,
            passed=passed,
            severity=severity,
            description=None if passed else description,
            metadata=metadata,
        )
