"""Combine plan, secrets, erased persons and the local day to mask the rows of a connection."""

from dataclasses import dataclass
from datetime import date
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine

from magnetis_dagster.catalog import Catalogue, Collection
from magnetis_dagster.database import guarded
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.masking import RowMasker
from magnetis_dagster.privacy.protection import Protection
from magnetis_dagster.warehouse.queries import Queries

QUERIES = Queries("privacy")


class WrongPrivacyKey(PermanentError):
    """MAGNETIS_PRIVACY_KEY lacks a secret that the database needs, or contains another one."""


@dataclass(frozen=True, slots=True)
class State:
    """The erased persons of a connection at one moment."""

    today: date
    """Local day of the database's clock."""
    suppressed: frozenset[str]
    """Caller keys of erased persons, of any secret."""
    generation: tuple[int, int]
    """Differs after an erasure, and after the end of a suppression."""


class Masking:
    """Masks the rows of one connection. Thread-safe: threads may share the maskers.

    `zone`: the time zone of days.

    Raises: MissingPrivacyKey.
    """

    def __init__(
        self, protection: Protection, catalogue: Catalogue, connection_name: str, zone: ZoneInfo
    ) -> None:
        self.protection = protection
        self.catalogue = catalogue
        self.connection_name = connection_name
        self.zone = zone
        self.persons = protection.persons(connection_name)
        self._maskers: dict[str, RowMasker] = {}
        self._state: State | None = None
        self._are_keys_checked = False

    def masker(self, collection: Collection) -> RowMasker:
        """Return the masker of a collection's rows."""
        if collection.name not in self._maskers:
            self._maskers[collection.name] = self.protection.masker(collection, self.persons)
        return self._maskers[collection.name]

    def key_masker(self, collection: Collection) -> RowMasker:
        """Return a masker that computes caller keys and masks nothing."""
        return self.protection.key_masker(collection, self.persons)

    def state(self, connection: Connection) -> State:
        """Return the present state; reads the erased persons only if they have changed.

        Raises: WrongPrivacyKey.
        """
        if not self._are_keys_checked:
            check_keys(connection, self.protection.require_keys())
            self._are_keys_checked = True
        names = {"connection": self.connection_name, "zone": self.zone.key}
        now, *generation = connection.execute(QUERIES["state"], names).one()
        today = now.astimezone(self.zone).date()
        newest, active = generation
        state = self._state
        if state is None or state.generation != (newest, active):
            if newest:
                # an erasure may have used another secret
                check_keys(connection, self.protection.require_keys())
            keys = connection.execute(QUERIES["suppressed"], names).scalars()
            state = State(today, frozenset(keys), (newest, active))
        elif state.today != today:
            state = State(today, state.suppressed, state.generation)
        self._state = state
        return state


def compare_keys(engine: Engine, keys: PrivacyKeys, *, only_used: bool = False) -> None:
    """Compare the secrets with those of earlier loads.

    Raises: WrongPrivacyKey; with `only_used`, also for an active secret that no load has used.
    """
    with guarded(engine, "read the privacy keys"), engine.connect() as connection:
        check_keys(connection, keys, record=False)
        known = dict(map(tuple, connection.execute(QUERIES["proofs"])))
    if only_used and known and keys.active not in known:
        raise WrongPrivacyKey(
            f"No load has used key {keys.active} of MAGNETIS_PRIVACY_KEY yet. Use the secrets of "
            "the loads. To replace a secret, run the job `retention` with the new one first "
            "(docs/privacy.md#caller-keys). Nothing was changed."
        )


def check_keys(connection: Connection, keys: PrivacyKeys, *, record: bool = True) -> None:
    """Compare the secrets with those of earlier loads, and record new ones.

    Raises: WrongPrivacyKey if an id has another secret, or a secret of an erasure is missing.
    """
    proofs = keys.proofs()
    known = dict(map(tuple, connection.execute(QUERIES["proofs"])))
    for key_id, proof in proofs.items():
        if known.get(key_id, proof) != proof:
            raise WrongPrivacyKey(
                f"Key {key_id} of MAGNETIS_PRIVACY_KEY is not the one that the rows of this "
                "database were loaded with. Restore it from your copy. To use a new one, give it "
                "another id and put it first (docs/privacy.md#caller-keys). Nothing was written."
            )
    used = {key_id for key_id in connection.execute(QUERIES["used_ids"]).scalars() if key_id}
    if missing := sorted(used - proofs.keys()):
        raise WrongPrivacyKey(
            f"MAGNETIS_PRIVACY_KEY lacks the key {', '.join(missing)}, and persons were erased "
            "with it: without it, loads would restore them. Add it after the active key "
            "(docs/privacy.md#caller-keys). Nothing was written."
        )
    for key_id in (proofs.keys() - known.keys()) if record else ():
        connection.execute(QUERIES["record_proof"], {"key_id": key_id, "proof": proofs[key_id]})
