"""The sensors `report_settings_sensor` and `alert_settings_sensor`: they notice that settings changed, and have just those loaded.

A tick reads the collections (a call for each 250 rows, lane `settings`) and compares a digest with the one in its cursor. What
it has read is kept, so the run that loads it makes no call. Nothing here raises: what was in the way is told as the skip reason,
and the next tick that can looks again.

https://docs.dagster.io/guides/automate/sensors
"""

import asyncio
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

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
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from magnetis_dagster.catalog import Catalogue, Collection, Kind, load_catalogue
from magnetis_dagster.dagster_support.partition_tags import PARTITION
from magnetis_dagster.dagster_support.run_identity import LANE_TAG, READING_TAG
from magnetis_dagster.defs.assets import asset_key
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.notification_settings.change_detection import Observation
    from magnetis_dagster.warehouse import PageCache, Warehouse

SECONDS = 8.0
"""For all calls of a tick, which shall take no longer than ten; Dagster ends one after 60."""
TWIN_SECONDS = 60
"""Dagster ends a tick after so long: whoever has read the same so short a time ago may be about to launch the run."""
LONGEST_PAUSE = 7
"""Ticks skipped at most, after consecutive failures (0, 1, 3, 7): two hours with ticks every 15 minutes."""
STEADY_CHANGES = 5
"""A collection that changed in this many consecutive reads is read less often, and its changing members are named."""
SLOWEST_SECONDS = 3600
"""The longest time between two reads of such a collection."""
RUN_KEY_TAG = "dagster/run_key"


def _moment(value: str) -> str:
    if value:
        datetime.fromisoformat(value)
    return value


class Known(BaseModel):
    """What the sensor knows of one collection."""

    digest: str = ""
    """Of the content that a run was last requested for."""
    since: Annotated[str, AfterValidator(_moment)] = ""
    """When that content was first seen. A collection that the cursor does not name has the end of the tick before here."""
    before: str = ""
    """The same of the content before it."""
    run_key: str = ""
    requests: int = 0
    """Runs requested for it: another one after one that failed."""
    landed: bool = False
    """Whether a run has loaded it."""
    failures: int = 0
    """Looks that failed, one behind the other."""
    pause: int = Field(default=0, ge=0, le=SLOWEST_SECONDS)
    """Ticks to skip."""
    changes: int = 0
    """Consecutive reads that found a change."""
    members: dict[str, str] = {}
    """Digest of each member, by its path, in the last read."""
    changing: list[str] = []
    """Paths of the members that changed in each of those reads."""

    @property
    def is_new(self) -> bool:
        """Whether no tick has read the collection yet: somebody else may have loaded it, such as `magnetis dev`."""
        return not self.digest and not self.since

    def changed(self, look: "Observation", now: datetime) -> "Known":
        """Return what is known after a read that found other content."""
        if not self.digest:
            return Known(
                digest=look.digest, before=self.since, since=now.isoformat(), members=look.members
            )
        # a cursor of an earlier version names no members
        differ = {
            path
            for path in {*look.members, *self.members}
            if look.members.get(path) != self.members.get(path)
        }
        return Known(
            digest=look.digest,
            before=self.since,
            since=now.isoformat(),
            changes=self.changes + 1,
            members=look.members,
            changing=sorted(differ.intersection(self.changing) if self.changes else differ),
        )

    def slow_down(self, interval: int) -> None:
        """From STEADY_CHANGES on, double the time between reads with each further change, up to an hour."""
        if self.changes >= STEADY_CHANGES:
            doubled = 2 ** min(self.changes - STEADY_CHANGES + 1, 12)
            self.pause = max(self.pause, min(doubled, SLOWEST_SECONDS // interval) - 1)

    def forget_changes(self) -> None:
        """Reset the count: a read failed or found no change."""
        self.changes, self.changing = 0, []

    def why_skipped(self, name: str) -> str:
        """Return a sentence for a collection that this tick does not read."""
        if self.changes >= STEADY_CHANGES and not self.failures:
            return f"{name}: not read, since it keeps changing."
        return f"{name}: left out, after {self.failures or self.requests} failures in a row."

    def why_slow(self, name: str) -> str:
        """Return a sentence for a collection that is read less often: what changes, and what to do."""
        # the names that cannot be shown are `*`
        paths = sorted({path.partition(".*")[0] for path in self.changing} - {"*"})
        found = f"{name}: changed in {self.changes} consecutive reads"
        slow = "It is read less often until a read finds no change."
        if not paths or "id" in paths or len(self.changing) == len(self.members):
            return f"{found}: its rows come and go, or other members change each time. {slow}"
        listed = ", ".join(paths[:10])
        return (
            f"{found}, each time in {listed}. {slow} If that changes by itself, exclude it in MAGNETIS_CONFIG: "
            f"collections: {{{name}: {{volatile: [{listed}]}}}}"
        )

    def wait_after(self, times: int) -> None:
        """Skip ticks after so many failures: 0, 1, 3, 7."""
        self.pause = min(2 ** max(0, times - 1) - 1, LONGEST_PAUSE)


_Cursor = TypeAdapter(dict[str, Known])


def settings_sensors(catalogue: Catalogue, settings: Settings) -> list[SensorDefinition]:
    """Return the sensors, on from the start; one whose collections are all switched off is left out."""
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
            f"Reads {' and '.join(each.name for each in collections)} (a call for each 250 rows). If they changed since the last "
            "tick, it launches one run that loads them without a further call. The skip reason of a tick that fails is its error."
        ),
    )
    def notice(context: SensorEvaluationContext) -> SensorResult:
        return skipped_on_failure(lambda: _tick(name, context, collections))

    return notice


def _known(context: SensorEvaluationContext, collections: list[Collection]) -> dict[str, Known]:
    """Return what the cursor says; an empty one, or one that somebody wrote by hand wrongly, knows nothing."""
    try:
        known = _Cursor.validate_json(context.cursor or "{}")
    except ValidationError:
        known = {}
    # once emptied, a cursor asks for runs of names of their own: those that there were would stand for changes since then
    ended = context.last_tick_completion_time
    since = datetime.fromtimestamp(ended, UTC).isoformat() if ended else ""
    return {each.name: known.get(each.name, Known(since=since)) for each in collections}


def _tick(
    name: str, context: SensorEvaluationContext, collections: list[Collection]
) -> SensorResult:
    from magnetis_dagster.notification_settings.change_detection import Observation
    from magnetis_dagster.wiring import open_engine, warehouse_of

    settings = Settings.load()
    states = _known(context, collections)
    words, changed = [], list[tuple[Collection, Observation]]()
    with open_engine(settings) as engine:
        warehouse = warehouse_of(engine, settings, load_catalogue(settings.config))
        warehouse.prepare()
        now = warehouse.now()
        today = now.astimezone(settings.timezone).date()
        found = _look(
            engine,
            name,
            [each for each in collections if not states[each.name].pause],
            settings,
            now,
        )
        for each in collections:
            state, seen = states[each.name], found.get(each.name)
            if seen is None:
                state.pause -= 1
                words.append(state.why_skipped(each.name))
            elif not isinstance(seen, Observation):
                words.append(str(seen))
                state.forget_changes()
                _count_failure(state, seen)
            elif state.is_new and (
                others := _loaded_by_others(context.instance, engine, each, seen, today)
            ):
                states[each.name], sentence = others
                words.append(sentence)
            else:
                state.failures = 0
                if seen.digest != state.digest:
                    states[each.name] = state.changed(seen, now)
                    changed.append((each, seen))
                else:
                    state.members = seen.members
                    state.forget_changes()
                    if _is_lost(context.instance, state):
                        changed.append((each, seen))
                words.append(
                    f"{each.name}: {seen.rows} rows, the same since {_shown(states[each.name].since, settings)}."
                )
        request = _request(name, changed, states, warehouse, today) if changed else None
    for each, _ in changed:
        states[each.name].slow_down(settings.settings_interval_seconds)
    steady = [
        state.why_slow(name) for name, state in states.items() if state.changes >= STEADY_CHANGES
    ]
    words += steady
    cursor = _Cursor.dump_json(states).decode()
    if request:
        for sentence in steady:
            context.log.warning(sentence)  # such a tick shows no reason
        return SensorResult(run_requests=[request], cursor=cursor)
    if changed:
        words.append(
            "Another tick has read the same just now and asks for the run; if none comes, the next tick does."
        )
    return SensorResult(skip_reason=" ".join(words), cursor=cursor)


def _request(
    name: str,
    changed: "list[tuple[Collection, Observation]]",
    states: dict[str, Known],
    warehouse: "Warehouse",
    today: date,
) -> RunRequest | None:
    """Return the request for the run that loads what was seen, and keep that for it; None where a twin of this tick does both.

    Dagster looks whether there is a run of that key and then launches one: two daemons at once would both find none.
    """
    for each, _ in changed:
        states[each.name].requests += 1
    run_key = f"{name}: {', '.join(_named(each, states[each.name]) for each, _ in changed)}"
    for each, seen in changed:
        states[each.name].run_key = run_key
        states[each.name].wait_after(states[each.name].requests)
        seen.keep(_kept_pages(warehouse, each, run_key), today)
    # pages that are kept already are not kept again: of twins, both find those of the first
    collection, own = changed[0]
    kept = _kept_pages(warehouse, collection, run_key).windows()
    if any(
        window.read_at != own.at and abs((own.at - window.read_at).total_seconds()) < TWIN_SECONDS
        for window in kept
    ):
        return None
    return RunRequest(
        run_key=run_key,
        partition_key=today.isoformat(),
        asset_selection=[asset_key(each) for each, _ in changed],
        tags={LANE_TAG: "settings", READING_TAG: run_key},
    )


def _kept_pages(warehouse: "Warehouse", collection: Collection, run_key: str) -> "PageCache":
    """Return the pages that the run of `run_key` will find, if its settings are those of this tick."""
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


def _look(
    engine: "Engine", name: str, collections: list[Collection], settings: Settings, now: datetime
) -> "dict[str, Observation | MagnetisError]":
    from magnetis_dagster.api import ClientLimits, MagnetisClient
    from magnetis_dagster.ingest import LedgerGuard, RunIdentity
    from magnetis_dagster.notification_settings.change_detection import observe_each
    from magnetis_dagster.wiring import ledger_of

    async def look() -> "dict[str, Observation | MagnetisError]":
        gate = LedgerGuard(ledger_of(engine, settings), RunIdentity(name, "settings"))
        # one attempt: the next tick is the next one
        limits = ClientLimits(attempts=1, connect=SECONDS / 2, read=SECONDS, total=SECONDS)
        async with MagnetisClient(
            settings.api_url, key, gate, concurrency=settings.concurrency, limits=limits
        ) as client:
            return await observe_each(client, collections, now, seconds=SECONDS)

    key = settings.require_key()
    return asyncio.run(look())


def _count_failure(state: Known, error: MagnetisError) -> None:
    from magnetis_dagster.quota.ledger import QuotaExhausted

    # the ledger says no before anything is sent: to ask it again costs nothing
    if not isinstance(error, QuotaExhausted):
        state.failures += 1
        state.wait_after(state.failures)


def _loaded_by_others(
    instance: DagsterInstance,
    engine: "Engine",
    collection: Collection,
    look: "Observation",
    today: date,
) -> tuple[Known, str] | None:
    """Return what is known and a sentence, if another run loads the collection or has loaded just what this first look found."""
    from magnetis_dagster.notification_settings.change_detection import digest_of
    from magnetis_dagster.warehouse.current_settings import present

    runs = instance.get_runs(
        RunsFilter(statuses=NOT_FINISHED_STATUSES, tags={PARTITION: today.isoformat()})
    )
    if any(asset_key(collection) in (run.asset_selection or ()) for run in runs):
        return Known(), f"{collection.name}: a run is loading it; the next tick compares."
    rows = present(engine, collection)
    if rows is None or digest_of(rows.values()) != look.digest:
        return None
    known = Known(digest=look.digest, since=look.at.isoformat(), members=look.members, landed=True)
    return known, f"{collection.name}: {look.rows} rows, loaded before this first look."


def _is_lost(instance: DagsterInstance, state: Known) -> bool:
    """Whether no run has loaded the content, nor is about to."""
    if state.landed:
        return False
    runs = instance.get_runs(RunsFilter(tags={RUN_KEY_TAG: state.run_key}))
    state.landed = any(run.status is DagsterRunStatus.SUCCESS for run in runs)
    return not state.landed and all(run.is_finished for run in runs)


def _named(collection: Collection, state: Known) -> str:
    # the same tick, evaluated again since its daemon died or has a twin, names the same run
    return f"{collection.name} {state.digest[:16]} #{state.requests} behind {state.before or 'nothing'}"


def _shown(moment: str, settings: Settings) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(settings.timezone):%Y-%m-%d %H:%M %Z}"
