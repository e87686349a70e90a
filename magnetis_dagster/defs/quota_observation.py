"""One observation of the quota: numbers that Dagster plots, and the results of two checks."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Self

import dagster as dg
from dagster._core.definitions.metadata import RawMetadataValue

from magnetis_dagster.connections import EXPIRY_DAYS, Connection
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.quota import QuotaPolicy, QuotaWindow

if TYPE_CHECKING:
    from magnetis_dagster.quota.report import FloorReplay, Today

QUOTA = "quota"
"""Last part of the asset's key."""
PACE = "quota_pace"
FLOORS = "floors_kept"
EXPIRY = "key_expiry"
"""Only if the connection declares `key_expires`."""
WARN_SHARE = 0.8
WARN_BEFORE_HOUR = 18

SETTINGS = "settings"
JUDGED_SINCE = "judged since"
"""Metadata labels. The next observation reads from them since when these quota rules apply."""


def check_specs(key: dg.AssetKey, connection: Connection) -> list[dg.AssetCheckSpec]:
    """Return the checks of the asset."""
    descriptions = {
        PACE: f"Before {WARN_BEFORE_HOUR}:00, less than {WARN_SHARE:.0%} of the day's API calls "
        "are used.",
        FLOORS: "Backfills used no API call that was reserved for other lanes. The check replays "
        "the calls of backfills from the ledger.",
    }
    if connection.key_expires:
        descriptions[EXPIRY] = f"The key is valid for more than {EXPIRY_DAYS} days."
    return [
        dg.AssetCheckSpec(name, asset=key, description=text) for name, text in descriptions.items()
    ]


@dataclass(frozen=True, slots=True)
class QuotaObservation:
    """The state of a connection's quota at one moment."""

    key: dg.AssetKey
    """Asset that shows it."""
    today: "Today"
    floors: "FloorReplay"
    quota_rules: str
    since: datetime
    """When these quota rules were first observed."""
    expires: date | None
    """Last day of the key, as declared."""

    @classmethod
    def now(cls, instance: dg.DagsterInstance, connection: Connection) -> Self:
        """Read the ledger. Raises: SettingsError; DatabaseUnavailable; DatabaseRefused."""
        from magnetis_dagster.quota.report import read_today, replay_floors
        from magnetis_dagster.wiring import open_engine

        present, asset = connection.reload(), dg.AssetKey(connection.path(QUOTA))
        settings = present.settings
        key, policy = settings.key_fingerprint, settings.quota_policy
        quota_rules = _quota_rules(key, policy)
        with open_engine(settings) as engine:
            today = read_today(engine, key_fingerprint=key, policy=policy)
            since = _rules_apply_since(instance, asset, quota_rules) or today.at
            floors = replay_floors(
                engine, key_fingerprint=key, policy=policy, since=since, now=today.at
            )
        # the spec of the check exists only if it was declared when the code location loaded
        expires = present.key_expires if connection.key_expires else None
        return cls(asset, today, floors, quota_rules, since, expires)

    @property
    def hour(self) -> str:
        """The hour of the observation, in the time zone of the quota."""
        return f"{self.today.at:%Y-%m-%dT%H%z}"

    def summary(self) -> str:
        """Return the state in one line."""
        today = self.today
        words = f"{today.used:,} of {today.limit:,} API calls used, {today.remaining:,} left"
        if today.closed_until:
            words += f", closed until {today.closed_until:%Y-%m-%d %H:%M %Z}"
        return words

    def metadata(self) -> dict[str, RawMetadataValue]:
        """Return the numbers, which Dagster plots, and the quota rules for the next observation."""
        today = self.today
        return {
            "used": today.used,
            "remaining": today.remaining,
            **{f"used by {lane.lane}": lane.used for lane in today.lanes},
            "used elsewhere": today.used_elsewhere,
            **{f"{lane.lane} may use": lane.remaining for lane in today.lanes},
            "limit": today.limit,
            "quota day": str(today.day),
            SETTINGS: self.quota_rules,
            JUDGED_SINCE: dg.MetadataValue.timestamp(self.since.astimezone(UTC)),
        }

    def event(self) -> dg.AssetObservation:
        """Return the event that shows the numbers on the asset's page."""
        return dg.AssetObservation(self.key, description=self.summary(), metadata=self.metadata())

    def checks(self) -> list[dg.AssetCheckResult]:
        """Return one result per check."""
        expiry = [self._key_expiry(self.expires)] if self.expires else []
        return [self._pace(), self._floors_kept(), *expiry]

    def _key_expiry(self, expires: date) -> dg.AssetCheckResult:
        from magnetis_dagster.doctor.keys import expiry_sentence

        today = self.today.at.date()
        sentence = expiry_sentence(expires, today)
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=EXPIRY,
            passed=sentence is None,
            severity=dg.AssetCheckSeverity.WARN,
            description=sentence or f"The key is valid until {expires}.",
            metadata={"days left": (expires - today).days},
        )

    def _pace(self) -> dg.AssetCheckResult:
        today = self.today
        share = today.used / today.limit
        early = today.ends_at is None or today.at.hour < WARN_BEFORE_HOUR
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=PACE,
            passed=not (early and share >= WARN_SHARE),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{self.summary()} at {today.at:%H:%M %Z}. `magnetis quota` lists the runs "
            "that used them.",
            metadata={"used": today.used, "share": round(share, 4)},
        )

    def _floors_kept(self) -> dg.AssetCheckResult:
        floors = self.floors
        if floors.first_broken is None:
            words = f"{floors.judged:,} API calls of backfills checked."
        else:
            first = floors.first_broken.astimezone(self.today.at.tzinfo)
            words = (
                f"{floors.broken:,} of {floors.judged:,} API calls of backfills were granted from "
                f"the reserve of other lanes, the first at {first:%H:%M:%S %Z}. "
                f"Quota rules: {literal(self.quota_rules)}. "
                "A process with different quota rules ignores this reserve. Set the same MAGNETIS_ "
                "variables for every process, and restart runs that started with others."
            )
        return dg.AssetCheckResult(
            asset_key=self.key,
            check_name=FLOORS,
            passed=not floors.broken,
            description=words,
            metadata={
                "judged calls": floors.judged,
                "broken": floors.broken,
                JUDGED_SINCE: dg.MetadataValue.timestamp(self.since),
            },
        )


def _quota_rules(key: str, policy: QuotaPolicy) -> str:
    floors = ", ".join(f"{lane} {share * 100:g} %" for lane, share in policy.floors.items())
    rules = f"key {key}, {policy.limit} calls, {policy.window} ({policy.zone})"
    rules += f", floors: {floors or 'none'}"
    if policy.window is QuotaWindow.CALENDAR:
        rules += f" melting over {policy.release_hours:g} h"
    return rules


def _rules_apply_since(
    instance: dg.DagsterInstance, key: dg.AssetKey, quota_rules: str
) -> datetime | None:
    """Return since when these quota rules have been observed, without other rules in between.

    Earlier grants are not checked, because their rules are unknown.
    """
    for record in instance.fetch_observations(key, limit=1).records:
        last = record.asset_observation
        if last and last.metadata.get(SETTINGS) == dg.MetadataValue.text(quota_rules):
            since = last.metadata.get(JUDGED_SINCE)
            if isinstance(since, dg.TimestampMetadataValue):
                return datetime.fromtimestamp(since.value, UTC)
    return None
