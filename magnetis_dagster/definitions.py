"""Define the Dagster code location.

Its parts are in `defs/`, one module per Dagster concept. Tests call `build_defs`.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection, load_connections
from magnetis_dagster.defs.alerting.sensor import alert_sensors
from magnetis_dagster.defs.connection import connection_defs
from magnetis_dagster.defs.connection_assets import ConnectionAssets
from magnetis_dagster.defs.prune import Prune
from magnetis_dagster.defs.retention import Retention
from magnetis_dagster.defs.taken_days import taken_days
from magnetis_dagster.settings import Settings


def build_defs(
    *,
    settings: Settings | None = None,
    catalogue: Catalogue | None = None,
    taken: Sequence[date] | None = None,
    connections: Sequence[Connection] | None = None,
) -> dg.Definitions:
    """Return new definitions, which can be merged with those of a host project.

    `connections`: by default, those of the environment and of MAGNETIS_CONFIG. `settings` and
    `catalogue` define one connection instead, which uses them at run time too.

    `taken`: local days with a snapshot, which become the snapshot partitions. None means unknown:
    every day since MAGNETIS_START_DATE.

    Raises: SettingsError; CatalogueError. Dagster shows the text if the code location cannot load.
    """
    base = settings or Settings.load()
    if settings or catalogue:
        connections = [_only(base, catalogue or load_catalogue(base.config), fixed=bool(settings))]
    connections = load_connections() if connections is None else connections
    return _merged(base, connections, {each.name: taken for each in connections})


def _only(settings: Settings, catalogue: Catalogue, *, fixed: bool) -> Connection:
    def load() -> Connection:
        return Connection(UNNAMED, Settings.load(), catalogue)

    return Connection(UNNAMED, settings, catalogue, load=None if fixed else load)


def _merged(
    settings: Settings,
    connections: Sequence[Connection],
    taken: Mapping[str, Sequence[date] | None],
) -> dg.Definitions:
    return dg.Definitions.merge(
        *(connection_defs(ConnectionAssets.of(each, taken[each.name])) for each in connections),
        Prune.of_location(settings.timezone.key).definitions(),
        Retention.of_location(settings.timezone.key).definitions(),
        dg.Definitions(sensors=alert_sensors(settings)),
    )


def _defs_here() -> dg.Definitions:
    settings, connections = Settings.load(), load_connections()
    found = taken_days(settings, connections) or {}
    taken = {each.name: found.get(each.name) for each in connections}
    return dg.Definitions.merge(
        _merged(settings, connections, taken),
        # A step mostly waits for the API. A separate process per step would cost more than the
        # step. Only here, since it becomes the default of every job of the code location.
        dg.Definitions(executor=dg.in_process_executor),
    )


defs = _defs_here()
