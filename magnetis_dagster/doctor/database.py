"""Checks of the database: access, version, rights, clock, disk, tables."""

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from magnetis_dagster.catalog.union import union
from magnetis_dagster.connections import Connection
from magnetis_dagster.database import connect
from magnetis_dagster.database.embedded import NoEmbeddedDatabase
from magnetis_dagster.database.health import ServerFacts, read_facts, read_offsets
from magnetis_dagster.doctor.findings import Finding, error, ok, warning
from magnetis_dagster.doctor.zones import compare_offsets, moments_of
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.key_file import UnusableKeyFile
from magnetis_dagster.privacy.protection import MissingPrivacyKey
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.masking import WrongPrivacyKey, compare_keys
from magnetis_dagster.warehouse.migration_state import MigrationState, migration_state
from magnetis_dagster.wiring import database_url, existing_privacy_keys

SCHEMAS = ("magnetis", "magnetis_ops", "dagster")
"""Schemas that loads use."""
OWNED_SCHEMAS = (*SCHEMAS, "magnetis_masked")
"""Schemas in which migrations create tables and views."""
CONNECT_SECONDS = 5
OLDEST = 140000
"""Oldest server version that PostgreSQL itself still maintains, as of 2026."""
FAST = timedelta(seconds=2)
"""A larger difference between the clocks is a warning."""
WRONG = timedelta(seconds=60)
"""A larger difference between the clocks is an error."""
LITTLE_DISK = 2 * 1024**3
"""Fewer free bytes are a warning."""
NO_DISK = 256 * 1024**2
"""Fewer free bytes are an error."""
_SHOWN = 5
"""Maximum number of names in a text."""


def check_database(
    connections: Sequence[Connection], free_bytes: Callable[[Path], int] | None = None
) -> list[Finding]:
    """Check the database that the connections share. Creates nothing.

    `free_bytes` returns the free bytes of the disk of a path; default: as the operating system
    reports them. Errors of the database are findings.
    """
    settings = connections[0].settings
    name = "database" if settings.database_url else "embedded database"
    try:
        url = database_url(settings, create=False)
    except NoEmbeddedDatabase as problem:
        absent = warning(name, str(problem), "There is no data yet.", "Start `magnetis dev`.")
        return [absent, *_disk(settings.home, "home", free_bytes)]
    engine = connect(url, connect_timeout=str(CONNECT_SECONDS))
    try:
        facts = read_facts(engine, OWNED_SCHEMAS)
        state = migration_state(engine, union([each.catalogue for each in connections]))
        zones = {
            zone
            for each in connections
            for zone in (each.settings.timezone, each.settings.response_timezone)
        }
        moments = moments_of(facts.ahead)
        offsets = read_offsets(engine, sorted(zone.key for zone in zones), moments)
        compare = partial(compare_keys, engine) if state.is_current else None
        privacy = _check_privacy_key(settings, compare)
    except MagnetisError as problem:
        return [
            error(
                name,
                str(problem),
                "No run can load rows or charge an API call; Dagster does not start.",
                "Correct MAGNETIS_DATABASE_URL, or start the server.",
            )
        ]
    finally:
        engine.dispose()
    return [
        ok(name, f"PostgreSQL {facts.version}, database {facts.database}"),
        *judge_server(facts),
        judge_tables(state),
        judge_rights(facts, is_current=state.is_current),
        judge_clock(facts),
        privacy,
        *compare_offsets(zones, moments, offsets),
        *_data_disk(facts, settings.home, free_bytes),
    ]


def _check_privacy_key(
    settings: Settings, compare: Callable[[PrivacyKeys], None] | None
) -> Finding:
    """Check the secret of the caller keys; `compare` compares it with those of earlier loads."""
    name, cost = "privacy key", "Loads, retention and erasures fail before they write anything."
    remedy = "Restore the secret from your copy (docs/privacy.md#caller-keys)."
    try:
        keys = existing_privacy_keys(settings)
        if keys is None and settings.database_url is None:
            return ok(name, "The first load creates it.")
        if keys is None:
            return error(name, str(MissingPrivacyKey()), cost, remedy)
        if compare:
            compare(keys)
    except (WrongPrivacyKey, UnusableKeyFile) as problem:
        return error(name, str(problem), cost, remedy)
    return ok(name, f"Key {keys.active} is active.")


def judge_server(facts: ServerFacts) -> list[Finding]:
    """Check version and encoding."""
    findings = []
    if facts.version_number < OLDEST:
        findings.append(
            warning(
                "server version",
                f"PostgreSQL {facts.version} is no longer maintained.",
                "Security fixes are missing, and this program is tested with version 18.",
                "Upgrade the server.",
            )
        )
    if facts.encoding != "UTF8":
        findings.append(
            error(
                "encoding",
                f"The database has the encoding {facts.encoding}.",
                "Rows with other characters cannot be stored.",
                "Create one with ENCODING 'UTF8' TEMPLATE template0, and set "
                "MAGNETIS_DATABASE_URL to it.",
            )
        )
    return findings or [ok("encoding", facts.encoding)]


def judge_rights(facts: ServerFacts, *, is_current: bool) -> Finding:
    """Check the rights of the role. `is_current`: whether the tables need no migration."""
    name = "rights"
    locked = [
        schema for schema, each in facts.schemas.items() if schema in SCHEMAS and not each.is_usable
    ]
    if locked:
        return error(
            name,
            f"The role may not use the schema {', '.join(locked)}.",
            "Loads fail.",
            "; ".join(f"As its owner: GRANT USAGE ON SCHEMA {each} TO the role" for each in locked)
            + ".",
        )
    if not facts.creates_temporary_tables:
        return error(
            name,
            "The role may not create temporary tables.",
            "Loads fail, because rows are staged in them.",
            f'GRANT TEMPORARY ON DATABASE "{facts.database}" TO the role.',
        )
    absent = [each for each in OWNED_SCHEMAS if each not in facts.schemas]
    closed = [each for each, rights in facts.schemas.items() if not rights.creates_tables]
    gaps = []
    if absent and not facts.creates_schemas:
        gaps.append(f"create the schema {', '.join(absent)}")
    if closed:
        gaps.append(f"create tables in {', '.join(closed)}")
    if not gaps:
        return ok(name, "may create schemas and tables")
    text = f"The role may not {' or '.join(gaps)}."
    remedy = "Run `magnetis migrate` as the owner of the schemas (deploy/postgres/roles.sql)."
    if is_current and not absent:
        return warning(
            name,
            text,
            "After an upgrade or a change of the catalogue, loads fail until the owner has "
            "migrated the tables.",
            remedy,
        )
    return error(name, text, "Loads fail, because tables are missing.", remedy)


def judge_clock(facts: ServerFacts) -> Finding:
    """Compare the clocks of the server and of this machine."""
    name, difference = "clock", abs(facts.ahead)
    seconds = f"{difference.total_seconds():.1f} s"
    if difference - facts.accuracy <= FAST:
        return ok(name, f"differs by {seconds} from the clock of this machine")
    side = "ahead of" if facts.ahead > timedelta() else "behind"
    text = f"The clock of the database is {seconds} {side} this machine's."
    remedy = "Synchronize both machines with NTP (`timedatectl`)."
    if difference - facts.accuracy > WRONG:
        return error(
            name,
            text,
            "The quota day uses the database's clock: calls are charged to the wrong day, and the "
            "API's quota is exceeded around midnight.",
            remedy,
        )
    return warning(name, text, "Times in Dagster and in the tables differ around midnight.", remedy)


def judge_tables(state: MigrationState) -> Finding:
    """Check that the tables have the form of this version and this catalogue."""
    name = "tables"
    if state.is_newer:
        return error(
            name,
            f"A newer version of this program migrated them (migration {state.revision}).",
            "Every load fails.",
            "Install that version or a later one.",
        )
    if state.revision is None:
        return warning(
            name,
            "They do not exist yet.",
            "The first load creates them, which needs the rights to do so.",
            "`magnetis migrate` creates them now.",
        )
    if state.is_current:
        return ok(name, f"up to date (migration {state.revision})")
    shown = [*state.pending, *state.missing][:_SHOWN]
    count = len(state.pending) + len(state.missing)
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return warning(
        name,
        f"They lack {', '.join(shown)}{more}.",
        "The next load migrates them, and waits for the locks of running queries to do so.",
        "`magnetis migrate` does it now.",
    )


def _data_disk(
    facts: ServerFacts, home: Path, free_bytes: Callable[[Path], int] | None
) -> list[Finding]:
    """Check the disk of the data directory if the server runs here; otherwise that of the home."""
    folder = Path(facts.data_directory) if facts.data_directory and facts.by_socket else None
    try:
        is_here = folder is not None and folder.exists()
    except OSError:
        is_here = False  # a container may share the socket, and not the files
    if folder and is_here:
        return _disk(folder, "data directory", free_bytes)
    elsewhere = ok("disk of the database", "not on this machine, or not visible: monitor it there")
    return [elsewhere, *_disk(home, "home", free_bytes)]


def _disk(path: Path, name: str, free_bytes: Callable[[Path], int] | None) -> list[Finding]:
    existing = next(each for each in (path, *path.resolve().parents) if each.exists())
    try:
        free = free_bytes(existing) if free_bytes else shutil.disk_usage(existing).free
    except OSError as problem:
        text = f"The free space cannot be read ({problem.strerror})."
        return [warning(f"disk of {name}", text, "A full disk is reported too late.", "")]
    shown = f"{free / 1024**3:.1f} GiB free"
    cost = "PostgreSQL stops when the disk is full, and with it every load and Dagster."
    remedy = "Free or add space. docs/retention.md describes what may be deleted."
    if free < NO_DISK:
        return [error(f"disk of {name}", f"{shown}.", cost, remedy)]
    if free < LITTLE_DISK:
        return [warning(f"disk of {name}", f"{shown}.", cost, remedy)]
    return [ok(f"disk of {name}", shown)]
