"""Policies and the baseline as asset checks, evaluated by the step that loads, after its commit.

Dagster would skip a separate step, because the load logs its days without an output. Metadata names
notification settings and accounts by id and title; personal values are masked.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.catalog import Collection, Policy, Severity
from magnetis_dagster.catalog.masking import Masking, mask_id, mask_text
from magnetis_dagster.connections import Connection
from magnetis_dagster.defs.checks import as_evaluation
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.markdown import literal

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.notification_settings.baseline import Difference
    from magnetis_dagster.warehouse.policy_queries import PolicyResult, Violation

BASELINE = "baseline"
_SEVERITIES = {
    Severity.WARN: dg.AssetCheckSeverity.WARN,
    Severity.ERROR: dg.AssetCheckSeverity.ERROR,
}
ROWS_SHOWN = 50


class PolicyChecks:
    """The checks of one collection: its policies, and the baseline if one is configured."""

    def __init__(self, connection: Connection, collection: Collection) -> None:
        self._connection = connection
        self._catalogue = connection.catalogue
        self._collection = collection
        self._policies = connection.catalogue.policies_of(collection)
        baseline = connection.settings.settings_baseline
        self._path = baseline if collection.is_setting else None

    def specs(self, key: dg.AssetKey) -> list[dg.AssetCheckSpec]:
        """Return the specs of the checks."""
        specs = [
            dg.AssetCheckSpec(
                f"policy_{policy.name}",
                asset=key,
                description=literal(policy.description),
                metadata={"kind": policy.kind, "severity": policy.severity.value},
            )
            for policy in self._policies
        ]
        if self._path:
            specs.append(
                dg.AssetCheckSpec(
                    BASELINE,
                    asset=key,
                    description=f"The notification settings equal {literal(self._path.name)}.",
                )
            )
        return specs

    def results(
        self, context: dg.OpExecutionContext, assets: ConnectionAssets
    ) -> Iterator[dg.AssetCheckResult]:
        """Check the rows in the table. Raises: DatabaseUnavailable; DatabaseRefused."""
        if not self._policies and not self._path:
            return
        from magnetis_dagster.warehouse.policy_queries import evaluate_policy
        from magnetis_dagster.wiring import open_engine

        name, key = self._connection.name, assets.key(self._collection)
        with open_engine(self._connection.reload().settings) as engine:
            for policy in self._policies:
                found = evaluate_policy(
                    engine, self._catalogue, policy, self._collection, connection_name=name
                )
                result = self._policy_result(key, policy, found)
                yield result
                if policy.across_collections and found.not_evaluated is None:
                    self._report_for_others(context, assets, policy, result)
            if self._path:
                yield self._baseline_result(engine, key)

    def _policy_result(
        self, key: dg.AssetKey, policy: Policy, found: "PolicyResult"
    ) -> dg.AssetCheckResult:
        words: str | None = None
        metadata: dict[str, RawMetadataValue] = {}
        if found.not_evaluated:
            words = f"Not checked: {literal(found.not_evaluated)}"
        else:
            metadata = {"offending rows": found.number, "judged rows": found.evaluated}
        if found.number:
            violate = "violates" if found.number == 1 else "violate"
            words = f"{found.number:,} of {found.evaluated:,} rows {violate} this policy."
            collection, title = self._collection, "title"
            if policy.across_collections:
                collection, title = self._catalogue["accounts"], "name"
            masking = Masking(collection)
            metadata["rows"] = dg.MetadataValue.table(
                [_row(each, masking.column(title, each.title)) for each in found.violations]
            )
            metadata["rows not shown"] = found.number - len(found.violations)
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=f"policy_{policy.name}",
            passed=not found.number,
            severity=_SEVERITIES[policy.severity],
            description=words,
            metadata=metadata,
        )

    def _report_for_others(
        self,
        context: dg.OpExecutionContext,
        assets: ConnectionAssets,
        policy: Policy,
        result: dg.AssetCheckResult,
    ) -> None:
        """Report the result for the other collections, whose next load may be days away."""
        for name in policy.collections:
            if name != self._collection.name and name in assets.specs:
                other = assets.specs[name].key
                context.instance.report_runless_asset_event(as_evaluation(result, other))

    def _baseline_result(self, engine: "Engine", key: dg.AssetKey) -> dg.AssetCheckResult:
        from magnetis_dagster.notification_settings.baseline import BaselineError, read_baseline
        from magnetis_dagster.warehouse.current_settings import current_rows, settings_collections

        assert self._path is not None
        name, path = self._collection.name, literal(str(self._path))
        passed, words = True, None
        metadata: dict[str, RawMetadataValue] = {}
        try:
            baseline = read_baseline(
                self._path, [each.name for each in settings_collections(self._catalogue)]
            )
        except BaselineError as error:
            passed, words = False, literal(str(error))
        else:
            if name in baseline.settings:
                rows = (
                    current_rows(engine, self._collection, connection_name=self._connection.name)
                    or {}
                )
                found = baseline.differences(name, rows, self._collection)
                passed, metadata = not found, self._differences(found)
                if found:
                    differ = "setting differs" if len(found) == 1 else "settings differ"
                    words = (
                        f"{len(found):,} {differ} from {path}. "
                        "`magnetis settings diff` shows them unmasked."
                    )
            else:
                words = f"Not checked: {path} does not contain {name}. Export the baseline again."
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=BASELINE,
            passed=passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=words,
            metadata=metadata,
        )

    def _differences(self, found: "list[Difference]") -> dict[str, RawMetadataValue]:
        """Return the metadata: one row per added or removed setting and per changed field."""
        if not found:
            return {"differences": 0}
        masking = Masking(self._collection)
        rows = [
            _difference_row(each, name, masking) for each in found for name in _shown_fields(each)
        ]
        return {
            "differences": len(found),
            "diff": dg.MetadataValue.table(rows[:ROWS_SHOWN]),
            "lines not shown": max(0, len(rows) - ROWS_SHOWN),
        }


def _shown_fields(difference: "Difference") -> list[str]:
    if difference.kind == "changed":
        return [*difference.fields]
    return ["title" if "title" in difference.fields else ""]


def _difference_row(difference: "Difference", name: str, masking: Masking) -> dg.TableRecord:
    field = difference.fields.get(name)
    was, now = (field.baseline, field.present) if field else (None, None)
    return dg.TableRecord(
        {
            "id": mask_id(difference.id),
            "account": mask_id(difference.account_id or ""),
            "change": difference.kind.value,
            "field": mask_text(name),
            "baseline": "" if was is None else masking.member(name, was),
            "present": "" if now is None else masking.member(name, now),
        }
    )


def _row(violation: "Violation", title: str | None) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "id": mask_id(violation.id),
            "account": mask_id(violation.account_id or ""),
            "title": title or "",
            "reason": violation.reason,
        }
    )
