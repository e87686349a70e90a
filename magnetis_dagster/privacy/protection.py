"""The plan and the secrets by which rows are masked."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from magnetis_dagster.catalog import Collection, PersonalData
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.classification import classify, column_classes
from magnetis_dagster.privacy.masking import RowMasker
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.phone import WITHHELD, PhoneReader
from magnetis_dagster.privacy.plan import CLASSES, CollectionPlan, PayloadRule, Plan, Rule

_VERSION = 1
"""Increase it when the same plan masks rows in another way: retention then masks all rows again."""


class MissingPrivacyKey(PermanentError):
    """Rows cannot be loaded, because caller keys cannot be computed without a secret."""

    def __init__(self) -> None:
        super().__init__(
            "MAGNETIS_PRIVACY_KEY is not set. It is the secret of the caller keys that are stored "
            "beside phone numbers. Set it to the secret of earlier loads. For a new database, set "
            "it to 1: and the output of `openssl rand -base64 32`, and keep a copy outside the "
            "database (docs/privacy.md#caller-keys). Nothing was written."
        )


@dataclass(frozen=True, slots=True)
class Protection:
    """The plan and the secrets. Without secrets, rows can be read but not loaded."""

    plan: Plan
    keys: PrivacyKeys | None

    def require_keys(self) -> PrivacyKeys:
        """Return the secrets. Raises: MissingPrivacyKey."""
        if self.keys is None:
            raise MissingPrivacyKey
        return self.keys

    def persons(self, connection: str) -> PersonKeys:
        """Return the keys of a connection. Raises: MissingPrivacyKey."""
        phones = PhoneReader(self.plan.region, WITHHELD | set(self.plan.withheld), cached=0)
        return PersonKeys(self.require_keys(), connection, phones)

    def masker(self, collection: Collection, persons: PersonKeys) -> RowMasker:
        """Return the masker of a collection's rows."""
        return RowMasker(collection, self.plan.of(collection.name), persons)

    def key_masker(self, collection: Collection, persons: PersonKeys) -> RowMasker:
        """Return a masker that computes caller keys and masks nothing."""
        members = self.plan.of(collection.name).members
        rules: dict[PersonalData, Rule] = {name: Rule() for name in CLASSES}
        return RowMasker(collection, CollectionPlan(rules, PayloadRule(), members), persons)

    def keys_digest(self, collection: Collection) -> str:
        """Return a digest of all that determines the caller keys of stored rows."""
        return self._digest(collection, {})

    def rules_digest(self, collection: Collection) -> str:
        """Return a digest of all that determines masked rows, apart from ages and erasures."""
        plan = self.plan.of(collection.name)
        rules = {name: str(rule) for name, rule in sorted(plan.rules.items())}
        return self._digest(collection, {"rules": rules, "payload": str(plan.payload)})

    def _digest(self, collection: Collection, more: dict[str, Any]) -> str:
        plan = self.plan.of(collection.name)
        content = more | {
            "version": _VERSION,
            "region": self.plan.region,
            "withheld": sorted(self.plan.withheld),
            "members": dict(sorted(plan.members.items())),
            "columns": column_classes(collection, classify(collection, plan)),
            "paths": {name: list(each.paths) for name, each in collection.columns.items()},
            "keys": collection.key_columns,
            "secret": self.require_keys().active,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
