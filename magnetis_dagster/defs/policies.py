"""Policies and the baseline as asset checks, judged by the step that loads, right after its rows are committed.

Dagster skips a check of its own step when the asset's step logs its days without an output. None of these blocks or stops anything.
Their metadata names settings and accounts by id and title; personal values are masked.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckEvaluation,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetKey,
    MetadataValue,
    OpExecutionContext,
    TableRecord,
)
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Catalogue, Collection, Policy, Severity
from magnetis_dagster.catalog.masking import Masking, masked, masked_id
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.notification_settings.baseline import Difference
    from magnetis_dagster.warehouse.policy_queries import PolicyResult, Violation

BASELINE = "baseline"
_SEVERITIES = {Severity.WARN: AssetCheckSeverity.WARN, Severity.ERROR: AssetCheckSeverity.ERROR}
ROWS_SHOWN = 50


def check_name(policy: Policy) -> str:
    """Return the name of the policy's checks."""
    return f"policy_{policy.name}"


class Demands:
    """What is demanded of one collection: its policies, and the baseline where one is configured."""

    def __init__(self, catalogue: Catalogue, collection: Collection, settings: Settings) -> None:
        self._catalogue = catalogue
        self._collection = collection
        self._policies = catalogue.policies_of(collection)
        self._path = settings.settings_baseline if collection.is_setting else None

    def specs(self, key: AssetKey) -> list[AssetCheckSpec]:
        """Return a check for each demand."""
        specs = [
            AssetCheckSpec(
                check_name(policy),
                asset=key,
                description=literal(policy.description),
                metadata={"kind": policy.kind, "severity": policy.severity.value},
            )
            for policy in self._policies
        ]
        if self._path:
            specs.append(
                AssetCheckSpec(
                    BASELINE,
                    asset=key,
                    description=f"The settings are those of {literal(self._path.name)}.",
                )
            )
        return specs

    def results(self, context: OpExecutionContext, key: AssetKey) -> Iterator[AssetCheckResult]:
        """Judge the present rows. Raises DatabaseUnavailable, DatabaseRefused."""
        if not self._policies and not self._path:
            return
        from magnetis_dagster.warehouse.policy_queries import evaluate_policy
        from magnetis_dagster.wiring import open_engine

        with open_engine(Settings.load()) as engine:
            for policy in self._policies:
                judgement = evaluate_policy(engine, self._catalogue, policy, self._collection)
                result = self._judged(key, policy, judgement)
                yield result
                if policy.across_collections and judgement.not_evaluated is None:
                    self._tell_the_others(context, key, policy, result)
            if self._path:
                yield self._drift(engine, key)

    def _judged(self, key: AssetKey, policy: Policy, judgement: "PolicyResult") -> AssetCheckResult:
        metadata: dict[str, RawMetadataValue] = {}
        if judgement.not_evaluated:
            words: str | None = f"Could not be judged: {literal(judgement.not_evaluated)}"
        else:
            violate = "violates" if judgement.number == 1 else "violate"
            words = (
                f"{judgement.number:,} of {judgement.evaluated:,} rows {violate} this policy."
                if judgement.number
                else None
            )
            metadata = {"offending rows": judgement.number, "judged rows": judgement.evaluated}
        if judgement.number:
            masking = Masking(
                self._catalogue["accounts"] if policy.across_collections else self._collection
            )
            title = "name" if policy.across_collections else "title"
            metadata["rows"] = MetadataValue.table(
                [
                    _row(offence, masking.column(title, offence.title))
                    for offence in judgement.violations
                ]
            )
            metadata["rows not shown"] = judgement.number - len(judgement.violations)
        return AssetCheckResult(
            asset_key=key,
            check_name=check_name(policy),
            passed=not judgement.number,
            severity=_SEVERITIES[policy.severity],
            description=words,
            metadata=metadata,
        )

    def _tell_the_others(
        self, context: OpExecutionContext, key: AssetKey, policy: Policy, result: AssetCheckResult
    ) -> None:
        # an alert by e-mail that is new settles what the check on alerts by SMS has said, and those need not change for days
        for name in policy.collections:
            other = AssetKey([*key.path[:-1], name])
            if other != key and self._catalogue[name].enabled:
                context.instance.report_runless_asset_event(
                    AssetCheckEvaluation(
                        asset_key=other,
                        check_name=check_name(policy),
                        passed=result.passed,
                        severity=result.severity,
                        description=result.description,
                        metadata=result.metadata,
                    )
                )

    def _drift(self, engine: "Engine", key: AssetKey) -> AssetCheckResult:
        from magnetis_dagster.notification_settings.baseline import BaselineError, read_baseline
        from magnetis_dagster.warehouse.current_settings import current_rows, settings_collections

        assert self._path is not None
        words: str | None
        path = literal(str(self._path))
        found: list[Difference] = []
        metadata: dict[str, RawMetadataValue] = {}
        try:
            baseline = read_baseline(
                self._path,
                [collection.name for collection in settings_collections(self._catalogue)],
            )
            if self._collection.name in baseline.settings:
                found = baseline.differences(
                    self._collection.name,
                    current_rows(engine, self._collection) or {},
                    self._collection,
                )
                metadata = self._shown(found)
                differ = "setting differs" if len(found) == 1 else "settings differ"
                words = f"{len(found):,} {differ} from {path}. `magnetis settings diff` shows them unmasked."
            else:
                words = f"Could not be judged: {path} says nothing of {self._collection.name}. Export it again."
            passed = not found
        except BaselineError as error:
            words, passed = literal(str(error)), False
        return AssetCheckResult(
            asset_key=key,
            check_name=BASELINE,
            passed=passed,
            severity=AssetCheckSeverity.WARN,
            description=None if passed and metadata else words,
            metadata=metadata,
        )

    def _shown(self, found: "list[Difference]") -> dict[str, RawMetadataValue]:
        """Return the metadata of the differences: a line for each added or removed setting and for each changed field."""
        from magnetis_dagster.notification_settings.baseline import DifferenceKind

        metadata: dict[str, RawMetadataValue] = {"differences": len(found)}
        if not found:
            return metadata
        masking = Masking(self._collection)
        lines = []
        for each in found:
            names = (
                [*each.fields]
                if each.kind is DifferenceKind.CHANGED
                else ["title"]
                if "title" in each.fields
                else [""]
            )
            for name in names:
                was, now = (
                    (each.fields[name].baseline, each.fields[name].present)
                    if name
                    else (None, None)
                )
                lines.append(
                    TableRecord(
                        {
                            "id": masked_id(each.id),
                            "account": masked_id(each.account_id or ""),
                            "change": each.kind.value,
                            "field": masked(name),
                            "baseline": "" if was is None else masking.member(name, was),
                            "present": "" if now is None else masking.member(name, now),
                        }
                    )
                )
        shown = lines[:ROWS_SHOWN]
        return metadata | {
            "diff": MetadataValue.table(shown),
            "lines not shown": len(lines) - len(shown),
        }


def _row(offence: "Violation", title: str | None) -> TableRecord:
    names = {"id": masked_id(offence.id), "account": masked_id(offence.account_id or "")}
    return TableRecord({**names, "title": title or "", "reason": offence.reason})
