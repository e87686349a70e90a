"""The sensors `report_settings_sensor` and `alert_settings_sensor`: load settings after a change.

A tick reads the collections (one API call per 250 rows, lane `settings`) and compares a digest of
the content with its cursor. It keeps the pages of changed collections, so the run that loads them
sends no API request. Errors do not fail a tick: they are its skip reason, and a later tick tries
again.

https://docs.dagster.io/guides/automate/sensors
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from dagster import (
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    RunRequest,
    RunsFilter,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    sensor,
)
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from magnetis_dagster.catalog import Catalogue, Collection, Kind, load_catalogue
from magnetis_dagster.dagster_support.partition_tags import PARTITION
from magnetis_dagster.dagster_support.run_identity import LANE_TAG, READING_TAG
from magnetis_dagster.defs import settings_cursor
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.defs.settings_cursor import STEADY_CHANGES, CollectionState
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.notification_settings.change_detection import Observation
    from magnetis_dagster.warehouse import PageCache, Warehouse

SECONDS = 8.0
"""Time limit for all requests of a tick.

A tick should take at most 10 s; Dagster ends it after 60 s.
"""
TWIN_SECONDS = 60
"""Dagster ends a tick after this time.

A tick that read the same content more recently may still launch the run.
"""
RUN_KEY_TAG = "dagster/run_key"


def settings_sensors(catalogue: Catalogue, settings: Settings) -> list[SensorDefinition]:
    """Return the sensors, on by default. A sensor without an enabled collection is omitted."""
    watched: dict[str, list[Collection]] = {}
    for collection in catalogue.enabled:
        if collection.sensor and not collection.is_events:
            watched.setdefault(collection.sensor, []).append(collection)
    return [_settings_sensor(name, collections, settings) for name, collections in watched.items()]


def _settings_sensor(
    name: str, collections: list[Collection], settings: Settings
) -> SensorDefinition:
    @sensor(
        name=name,
        job_name=JOB_NAMES[Kind.SNAPSHOT],
        minimum_interval_seconds=settings.settings_interval_seconds,
        default_status=DefaultSensorStatus.RUNNING,
        description=(
            f"Reads {' and '.join(each.name for each in collections)} (one API call per 250 rows). "
            "If they changed since the last tick, one run loads them without a further API call. "
            "If a tick fails, its skip reason is the error."
        ),
    )
    def detect_changes(context: SensorEvaluationContext) -> SensorResult:
        return skipped_on_failure(lambda: _evaluate(name, context, collections))

    return detect_changes


def _states(
    context: SensorEvaluationContext, collections: list[Collection]
) -> dict[str, CollectionState]:
    ended = context.last_tick_completion_time
    since = datetime.fromtimestamp(ended, UTC).isoformat() if ended else ""
    return settings_cursor.parse(context.cursor, [each.name for each in collections], since)


def _evaluate(
    name: str, context: SensorEvaluationContext, collections: list[Collection]
) -> SensorResult:
    from magnetis_dagster.wiring import open_engine, warehouse_of

    settings = Settings.load()
    states = _states(context, collections)
    sentences: list[str] = []
    changed: list[tuple[Collection, Observation]] = []
    with open_engine(settings) as engine:
        warehouse = warehouse_of(engine, settings, load_catalogue(settings.config))
        warehouse.prepare()
        tick = _Tick(name, context.instance, engine, settings, warehouse.now())
        due = [each for each in collections if not states[each.name].pause]
        looks = tick.read(due)
        for each in collections:
            look = looks.get(each.name)
            states[each.name], sentence, to_load = tick.compare(each, states[each.name], look)
            sentences.append(sentence)
            if to_load:
                changed.append((each, to_load))
        request = _request(name, changed, states, warehouse, tick.today) if changed else None
    for each, _ in changed:
        states[each.name].slow_down(settings.settings_interval_seconds)
    steady = [
        state.why_slow(name) for name, state in states.items() if state.changes >= STEADY_CHANGES
    ]
    cursor = settings_cursor.serialize(states)
    if request:
        for sentence in steady:
            context.log.warning(sentence)  # Dagster shows no skip reason for such a tick
        return SensorResult(run_requests=[request], cursor=cursor)
    sentences += steady
    if changed:
        sentences.append(
            "Another tick has just read the same content and requests the run. If it does not, the "
            "next tick does."
        )
    return SensorResult(skip_reason=" ".join(sentences), cursor=cursor)


@dataclass(frozen=True, slots=True)
class _Tick:
    """One tick of a sensor: reads the collections and compares them with the cursor."""

    name: str
    instance: DagsterInstance
    engine: "Engine"
    settings: Settings
    now: datetime

    @property
    def today(self) -> date:
        return self.now.astimezone(self.settings.timezone).date()

    def read(self, collections: list[Collection]) -> "dict[str, Observation | MagnetisError]":
        """Read the collections from the API; return content or error by collection."""
        from magnetis_dagster.api import ClientLimits, MagnetisClient
        from magnetis_dagster.ingest import LedgerGuard, RunIdentity
        from magnetis_dagster.notification_settings.change_detection import observe_each
        from magnetis_dagster.wiring import ledger_of

        settings = self.settings

        async def read() -> "dict[str, Observation | MagnetisError]":
            guard = LedgerGuard(
                ledger_of(self.engine, settings), RunIdentity(self.name, "settings")
            )
            # a single attempt per request: the next tick is the retry
            limits = ClientLimits(attempts=1, connect=SECONDS / 2, read=SECONDS, total=SECONDS)
            async with MagnetisClient(
                settings.api_url, key, guard, concurrency=settings.concurrency, limits=limits
            ) as client:
                return await observe_each(client, collections, self.now, seconds=SECONDS)

        key = settings.require_key()
        return asyncio.run(read())

    def compare(
        self,
        collection: Collection,
        state: CollectionState,
        look: "Observation | MagnetisError | None",
    ) -> "tuple[CollectionState, str, Observation | None]":
        """Return the new state, a sentence for the skip reason, and the content to load.

        `look` is None if this tick did not read the collection.
        """
        from magnetis_dagster.notification_settings.change_detection import Observation

        name = collection.name
        if look is None:
            state.pause -= 1
            return state, state.why_skipped(name), None
        if not isinstance(look, Observation):
            state.reset_changes()
            _count_failure(state, look)
            return state, str(look), None
        if state.is_new and (loaded := self._loaded_by_others(collection, look)):
            return *loaded, None
        state.failures = 0
        to_load: Observation | None = look
        if look.digest != state.digest:
            state = state.changed(look, self.now)
        else:
            state.members = look.members
            state.reset_changes()
            to_load = look if _is_lost(self.instance, state) else None
        since = datetime.fromisoformat(state.since).astimezone(self.settings.timezone)
        sentence = f"{name}: {look.rows} rows, unchanged since {since:%Y-%m-%d %H:%M %Z}."
        return state, sentence, to_load

    def _loaded_by_others(
        self, collection: Collection, look: "Observation"
    ) -> tuple[CollectionState, str] | None:
        """Return state and sentence if another run loads or has loaded this content."""
        from magnetis_dagster.notification_settings.change_detection import digest_of
        from magnetis_dagster.warehouse.current_settings import present

        name = collection.name
        of_today = {PARTITION: self.today.isoformat()}
        runs = self.instance.get_runs(RunsFilter(statuses=NOT_FINISHED_STATUSES, tags=of_today))
        if any(asset_key(collection) in (run.asset_selection or ()) for run in runs):
            return CollectionState(), f"{name}: a run is loading it; the next tick compares."
        rows = present(self.engine, collection)
        if rows is None or digest_of(rows.values()) != look.digest:
            return None
        state = CollectionState(
            digest=look.digest, since=look.at.isoformat(), members=look.members, landed=True
        )
        return state, f"{name}: {look.rows} rows, already loaded before the first tick."


def _request(
    name: str,
    changed: "list[tuple[Collection, Observation]]",
    states: dict[str, CollectionState],
    warehouse: "Warehouse",
    today: date,
) -> RunRequest | None:
    """Keep the pages of the changed collections and return the request for the run that loads them.

    Returns None if a concurrent evaluation of this tick does both. Dagster checks for a run with
    the run key before it launches one, so two daemons may both find none.
    """
    for each, _ in changed:
        states[each.name].requests += 1
    contents = ", ".join(_content_name(each, states[each.name]) for each, _ in changed)
    run_key = f"{name}: {contents}"
    for each, look in changed:
        states[each.name].run_key = run_key
        states[each.name].back_off(states[each.name].requests)
        look.keep(_kept_pages(warehouse, each, run_key), today)
    # kept pages are not replaced, so concurrent evaluations all find the pages of the first one
    collection, own = changed[0]
    for window in _kept_pages(warehouse, collection, run_key).windows():
        age = abs((own.at - window.read_at).total_seconds())
        if window.read_at != own.at and age < TWIN_SECONDS:
            return None
    return RunRequest(
        run_key=run_key,
        partition_key=today.isoformat(),
        asset_selection=[asset_key(each) for each, _ in changed],
        tags={LANE_TAG: "settings", READING_TAG: run_key},
    )


def _kept_pages(warehouse: "Warehouse", collection: Collection, run_key: str) -> "PageCache":
    """Return the page cache of a run with `run_key` and the settings of this tick."""
    from magnetis_dagster.ingest.windows import request_fingerprint
    from magnetis_dagster.wiring import zones_of

    settings = Settings.load()
    fingerprint = request_fingerprint(
        collection,
        zones_of(settings),
        key_fingerprint=settings.key_fingerprint,
        origin=settings.api_url,
    )
    return warehouse.kept_pages(collection, run_key, fingerprint)


def _count_failure(state: CollectionState, error: MagnetisError) -> None:
    from magnetis_dagster.quota.ledger import QuotaExhausted

    # without quota, no request is sent: the next tick may try again at no cost
    if not isinstance(error, QuotaExhausted):
        state.failures += 1
        state.back_off(state.failures)


def _is_lost(instance: DagsterInstance, state: CollectionState) -> bool:
    """Return whether no run has loaded the content and none is queued or running."""
    if state.landed:
        return False
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: state.run_key}))
    state.landed = any(run.status is DagsterRunStatus.SUCCESS for run in runs)
    return not state.landed and all(run.is_finished for run in runs)


def _content_name(collection: Collection, state: CollectionState) -> str:
    # the same for each evaluation of a tick: after the death of a daemon, or in two daemons
    after = state.before or "nothing"
    return f"{collection.name} {state.digest[:16]} #{state.requests} after {after}"
