"""The sensors `report_settings_sensor` and `alert_settings_sensor`: load settings after a change.

A tick reads the collections (one API call per 250 rows, lane `settings`) and compares a digest of
the content with its cursor. It keeps the pages of changed collections, so the run that loads them
sends no API request. An error is the skip reason of its tick, and a later tick retries.

https://docs.dagster.io/guides/automate/sensors
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from magnetis_dagster.catalog import Collection, Kind
from magnetis_dagster.dagster_support.run_identity import LANE_TAG, READING_TAG
from magnetis_dagster.defs import settings_cursor
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.job_names import JOB_NAMES
from magnetis_dagster.defs.settings_cursor import STEADY_CHANGES, CollectionState
from magnetis_dagster.defs.settings_tick import SettingsTick
from magnetis_dagster.defs.step_failures import skipped_on_failure
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from magnetis_dagster.notification_settings.change_detection import Observation
    from magnetis_dagster.warehouse import PageCache, Warehouse

TWIN_SECONDS = 60
"""Dagster ends a tick after this time. A younger one may still launch the run."""


def settings_sensors(assets: ConnectionAssets) -> list[dg.SensorDefinition]:
    """Return the sensors, on by default. A sensor without an enabled collection is omitted."""
    watched: dict[str, list[Collection]] = {}
    for collection in assets.collections:
        if collection.sensor and not collection.is_events:
            watched.setdefault(collection.sensor, []).append(collection)
    return [
        _settings_sensor(assets.connection.scoped(name), collections, assets)
        for name, collections in watched.items()
    ]


def _settings_sensor(
    name: str, collections: list[Collection], assets: ConnectionAssets
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        job_name=assets.connection.scoped(JOB_NAMES[Kind.SNAPSHOT]),
        minimum_interval_seconds=assets.settings.settings_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Reads {' and '.join(each.name for each in collections)} (one API call per 250 rows). "
            "If they changed since the last tick, one run loads them without a further API call. "
            "If a tick fails, its skip reason is the error."
        ),
    )
    def detect_changes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return skipped_on_failure(lambda: _evaluate(name, context, collections, assets))

    return detect_changes


def _evaluate(
    name: str,
    context: dg.SensorEvaluationContext,
    collections: list[Collection],
    assets: ConnectionAssets,
) -> dg.SensorResult:
    from magnetis_dagster.wiring import open_engine, warehouse_of

    present = assets.connection.reload()
    settings = present.settings
    ended = context.last_tick_completion_time
    since = datetime.fromtimestamp(ended, UTC).isoformat() if ended else ""
    states = settings_cursor.parse(context.cursor, [each.name for each in collections], since)
    sentences: list[str] = []
    changed: list[tuple[Collection, Observation]] = []
    with open_engine(settings) as engine:
        warehouse = warehouse_of(engine, settings, present.catalogue)
        warehouse.prepare()
        tick = SettingsTick(name, context.instance, engine, assets, settings, warehouse.now())
        observations = tick.read([each for each in collections if not states[each.name].pause])
        for each in collections:
            states[each.name], sentence, to_load = tick.compare(
                each, states[each.name], observations.get(each.name)
            )
            sentences.append(sentence)
            if to_load:
                changed.append((each, to_load))
        request = _request(tick, changed, states, warehouse) if changed else None
    for each, _ in changed:
        states[each.name].slow_down(settings.settings_interval_seconds)
    steady = [
        state.why_slow(name) for name, state in states.items() if state.changes >= STEADY_CHANGES
    ]
    cursor = settings_cursor.serialize(states)
    if request:
        for sentence in steady:
            context.log.warning(sentence)  # Dagster shows no skip reason for such a tick
        return dg.SensorResult(run_requests=[request], cursor=cursor)
    sentences += steady
    if changed:
        sentences.append(
            "Another tick has just read the same content and requests the run. If it does not, the "
            "next tick does."
        )
    return dg.SensorResult(skip_reason=" ".join(sentences), cursor=cursor)


def _request(
    tick: SettingsTick,
    changed: "list[tuple[Collection, Observation]]",
    states: dict[str, CollectionState],
    warehouse: "Warehouse",
) -> dg.RunRequest | None:
    """Keep the pages of the changed collections and return the request for the run that loads them.

    None if a concurrent evaluation does both: two daemons may both find no run with the run key.
    """
    contents = []
    for each, _ in changed:
        state = states[each.name]
        state.requests += 1
        # the same for each evaluation of a tick: after the death of a daemon, or in two daemons
        after = state.before or "nothing"
        contents.append(f"{each.name} {state.digest[:16]} #{state.requests} after {after}")
    run_key = f"{tick.name}: {', '.join(contents)}"
    for each, observation in changed:
        states[each.name].run_key = run_key
        states[each.name].back_off(states[each.name].requests)
        observation.keep(_kept_pages(warehouse, each, run_key, tick.settings), tick.today)
    # kept pages are not replaced, so concurrent evaluations all find the pages of the first one
    collection, own = changed[0]
    for window in _kept_pages(warehouse, collection, run_key, tick.settings).windows():
        age = abs((own.at - window.read_at).total_seconds())
        if window.read_at != own.at and age < TWIN_SECONDS:
            return None
    return dg.RunRequest(
        run_key=run_key,
        partition_key=tick.today.isoformat(),
        asset_selection=[tick.assets.key(each) for each, _ in changed],
        tags={LANE_TAG: "settings", READING_TAG: run_key},
    )


def _kept_pages(
    warehouse: "Warehouse", collection: Collection, run_key: str, settings: Settings
) -> "PageCache":
    from magnetis_dagster.ingest.windows import request_fingerprint
    from magnetis_dagster.wiring import zones_of

    fingerprint = request_fingerprint(
        collection,
        zones_of(settings),
        key_fingerprint=settings.key_fingerprint,
        origin=settings.api_url,
    )
    return warehouse.page_cache(collection, run_key, fingerprint)
