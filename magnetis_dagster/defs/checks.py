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
DAYS_SHOWN = 10

_SUMS = (
    "announced rows",
    "received rows",
    "API calls",
    "API calls that only verified",
    "late rows",
)
_DESCRIPTIONS = {
    COMPLETE: "The table contains every row that the API announced (meta.total).",
    QUARANTINED_ROWS: "Every row has an id and, for events, a usable time.",
    UNKNOWN_FIELDS: "Every member of the rows is declared in the catalogue.",
    MISFIT_VALUES: "Every value fits the type of its column.",
    COUNTS_AGREE: "The recorded row count of each day equals the rows in the table. Each load "
    "checks its days, and the nightly load checks all days.",
}
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


def as_evaluation(
    result: dg.AssetCheckResult, key: dg.AssetKey | None = None
) -> dg.AssetCheckEvaluation:
    """Return the result as an event of its asset or of `key`, for code outside the asset's step."""
    key = key or result.asset_key
    assert key is not None
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=str(result.check_name),
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
    )


def check_specs(key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Return the checks of one asset."""
    return [
        dg.AssetCheckSpec(name, asset=key, blocking=name == COMPLETE, description=description)
        for name, description in _DESCRIPTIONS.items()
    ]


class LoadChecks:
    """The checks of one load: adds up its windows and returns the results."""

    def __init__(self, key: dg.AssetKey) -> None:
        self._key = key
        self.forecast: ForecastLine | None = None
        """Of the backfill that contains this step."""
        self._sums: Counter[str] = Counter()
        self._doubted: dict[date, Doubt] = {}
        self._unknown: set[str] = set()
        self._misfits: Counter[str] = Counter()

    def add(self, window: "WindowResult") -> None:
        """Add a committed window."""
        self._sums.update(
            {
                "announced rows": window.announced,
                "received rows": window.received,
                "API calls": window.api_calls,
                "API calls that only verified": window.witness_calls,
                "late rows": sum(day.late_rows for day in window.days),
                "windows": 1,
                "days": len(window.days),
                "quarantined rows": window.quarantined,
                "replaced characters": window.replaced_characters,
            }
        )
        self._doubted.update(window.doubted)
        self._unknown.update(window.unknown)
        self._misfits.update(window.misfits)

    def results(self) -> list[dg.AssetCheckResult]:
        """Return one result per check, after all windows are committed."""
        received, quarantined = self._sums["received rows"], self._sums["quarantined rows"]
        # A day whose rows are nearly all quarantined is green: only this check reports a first
        # load.
        many = quarantined >= max(FEWEST_UNREADABLE, UNREADABLE_SHARE * received)
        unknown = ", ".join(map(literal, sorted(self._unknown)[:40]))
        replaced = self._sums["replaced characters"]
        misfits = self._misfits.most_common(40)
        columns = ", ".join(f"{literal(name)} ({number})" for name, number in misfits)
        return [
            self._complete(),
            self._result(
                QUARANTINED_ROWS,
                passed=not quarantined,
                severity=dg.AssetCheckSeverity.ERROR if many else dg.AssetCheckSeverity.WARN,
                description=f"{quarantined} of {received} received rows are not in the table. "
                "magnetis_ops.quarantine contains them with the reasons.",
                metadata={"quarantined rows": quarantined},
            ),
            self._result(
                UNKNOWN_FIELDS,
                passed=not self._unknown,
                description=f"Not declared, kept in payload: {unknown}.",
                metadata={"unknown fields": len(self._unknown)},
            ),
            self._result(
                MISFIT_VALUES,
                passed=not misfits and not replaced,
                description=f"Set to NULL, kept in payload: {columns}. "
                f"Characters that PostgreSQL cannot store, replaced: {replaced}.",
                metadata={"misfit values": self._misfits.total(), "replaced characters": replaced},
            ),
        ]

    def _complete(self) -> dg.AssetCheckResult:
        sums = self._sums
        unreadable = sum(doubt.reason == "unreadable" for doubt in self._doubted.values())
        forecast = self.forecast and {
            "forecast API calls": self.forecast.calls,
            "API calls of the backfill": self.forecast.spent,
        }
        return self._result(
            COMPLETE,
            # The commit has compared both already; this comparison does not rely on it.
            passed=sums["announced rows"] == sums["received rows"] and not self._doubted,
            severity=dg.AssetCheckSeverity.ERROR,
            description=self._suspect_days() or None,
            metadata={
                **{label: sums[label] for label in _SUMS},
                "emptied days": len(self._doubted) - unreadable,
                "unreadable days": unreadable,
                **(forecast or {}),
                "windows": sums["windows"],
                "days": sums["days"],
            },
        )

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
        return self._result(
            COUNTS_AGREE,
            passed=not differences,
            severity=dg.AssetCheckSeverity.ERROR,
            description=f"Recorded counts differ from the table {collection.name}. {shown}{more}. "
            f"{repair}",
            metadata={"days that differ": len(differences)},
        )

    def incomplete(self, error: MagnetisError) -> dg.AssetCheckResult:
        """Return the failed `complete` for a window that could not be read completely."""
        return self._result(
            COMPLETE,
            passed=False,
            severity=dg.AssetCheckSeverity.ERROR,
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
        description: str | None,
        metadata: dict[str, int],
        severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN,
    ) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=self._key,
            check_name=name,
            passed=passed,
            severity=severity,
            description=None if passed else description,
            metadata=metadata,
        )
