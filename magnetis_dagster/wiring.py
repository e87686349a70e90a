"""Build database sessions, ledger, warehouse and ingestion from the settings.

Only `cli`, `dev`, `components`, `definitions`, `defs`, `dagster_support` and `doctor` use it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection, declarations
from magnetis_dagster.database import connect, embedded, postmaster
from magnetis_dagster.ingest import Ingestion, Permit, RunIdentity, Zones
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.key_file import KEY_FILE, load_or_create_key, read_key_file
from magnetis_dagster.privacy.plan import load_plan
from magnetis_dagster.privacy.protection import Protection
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.running_dev import running_dev
from magnetis_dagster.sandbox.options import SANDBOX_KEYS
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import Emptied, Rules, Warehouse
from magnetis_dagster.warehouse.connections import DeclaredConnection, declare
from magnetis_dagster.warehouse.erasure import complete_erasures, connections_with_rows
from magnetis_dagster.warehouse.roles import LoginRole, RoleUnknown, instructions


def uses_sandbox(settings: Settings) -> bool:
    """Return whether the key is the sandbox's, or none is set and `magnetis dev` uses no other.

    Raises: CatalogueError if MAGNETIS_CONFIG cannot be read.
    """
    if settings.api_key is None:
        if has_named_connections(settings):
            return False
        running = running_dev(settings.home)
        return running is None or running.sandbox_key is not None
    return settings.api_key.get_secret_value() in SANDBOX_KEYS


def embedded_database(settings: Settings) -> str:
    """Return the embedded database to use: sandbox rows and real rows never share one.

    Declared connections share one, whichever keys they have.

    Raises: CatalogueError if MAGNETIS_CONFIG cannot be read.
    """
    if has_named_connections(settings) or not uses_sandbox(settings):
        return embedded.DATABASE
    return embedded.SANDBOX_DATABASE


def has_named_connections(settings: Settings) -> bool:
    """Return whether MAGNETIS_CONFIG declares connections. Raises CatalogueError."""
    return settings.connection != UNNAMED or bool(declarations(settings.config).keys() - {UNNAMED})


def database_url(settings: Settings, *, create: bool = True, port: int | None = None) -> str:
    """Return MAGNETIS_DATABASE_URL, or start the embedded server and return its URL.

    `port`: as in `embedded.start`.

    Raises: EmbeddedServerFailed; NoEmbeddedDatabase if `create` is false and there is no database.
    """
    if address := settings.database_address:
        return address
    database = embedded_database(settings)
    return embedded.start(settings.home, database=database, port=port, create=create)


def database_of(settings: Settings) -> str:
    """Return an identifier of the connection's database; it may contain a password.

    Raises: CatalogueError if MAGNETIS_CONFIG cannot be read.
    """
    return settings.database_address or f"{settings.home}:{embedded_database(settings)}"


def by_database(connections: Iterable[Connection]) -> list[list[Connection]]:
    """Return the connections in groups that share a database, in the given order."""
    groups: dict[str, list[Connection]] = {}
    for each in connections:
        groups.setdefault(database_of(each.settings), []).append(each)
    return list(groups.values())


def require_home(settings: Settings) -> None:
    """Raise NoEmbeddedDatabase if the embedded server is needed but was never started."""
    if settings.database_url is None:
        embedded.require(settings.home)


def shown_address(
    settings: Settings, *, tcp: bool, role: LoginRole | None = None
) -> tuple[str, bool]:
    """Return the database's URL for psql and BI tools, and whether its server runs.

    Starts no server. `tcp`: on 127.0.0.1 with a password. `role`: for this role, which is created;
    None: for the owner.

    Raises: NoEmbeddedDatabase, NotRunning, NoTcp, RoleRefused; RoleUnknown for a server of the
    user's own.
    """
    if address := settings.database_address:
        if role:
            raise RoleUnknown(instructions(address, role))
        return address, True
    database = embedded_database(settings)
    url, runs = embedded.address(settings.home, database=database)
    if tcp or role:
        embedded.require_running(settings.home)
    if role:
        engine = connect(url)
        try:
            role.create(engine)
        finally:
            engine.dispose()
    user = role.name if role else postmaster.SUPERUSER
    if tcp:
        access = embedded.allow_tcp(settings.home, user)
        return f"postgresql://{user}:{access.password}@127.0.0.1:{access.port}/{database}", True
    return embedded.address(settings.home, database=database, role=user)[0], runs


@contextmanager
def open_engine(settings: Settings, *, create: bool = True) -> Iterator[Engine]:
    """Open the database for the length of the block. Parameters and errors: `database_url`."""
    engine = connect(database_url(settings, create=create))
    try:
        yield engine
    finally:
        engine.dispose()


def existing_privacy_keys(settings: Settings) -> PrivacyKeys | None:
    """Return the secrets of MAGNETIS_PRIVACY_KEY, or of the key file. Raises: UnusableKeyFile."""
    file = settings.home / KEY_FILE
    if settings.privacy_keys is None and file.exists():
        return read_key_file(file)
    return settings.privacy_keys


def protection_of(settings: Settings, catalogue: Catalogue) -> Protection:
    """Return plan and secrets for personal data.

    Without MAGNETIS_PRIVACY_KEY, the secret is in the key file of MAGNETIS_HOME. It is created for
    the embedded server only.

    Raises: CatalogueError if the plan is invalid; UnusableKeyFile.
    """
    keys = existing_privacy_keys(settings)
    if keys is None and settings.database_url is None:
        keys = load_or_create_key(settings.home)
    return Protection(load_plan(settings.config, catalogue), keys)


def warehouse_of(
    engine: Engine, settings: Settings, catalogue: Catalogue, name: str | None = None
) -> Warehouse:
    """Return the warehouse in these settings' time zones; `name` replaces their connection.

    Raises: CatalogueError if the plan for personal data is invalid; UnusableKeyFile.
    """
    return Warehouse(
        engine,
        catalogue,
        connection_name=name or settings.connection,
        response_zone=settings.response_timezone,
        partition_zone=settings.timezone,
        view_zone=settings.view_timezone,
        rules=Rules(
            Emptied(settings.emptied_days), settings.doubted_share, settings.unreadable_share
        ),
        protection=protection_of(settings, catalogue),
    )


def warehouses_of(
    engine: Engine, connections: Sequence[Connection], *, of_components: bool = False
) -> dict[str, Warehouse]:
    """Return a warehouse for each declared or removed connection with rows, by name.

    `connections`: the declared ones of this database. A removed connection, whose rows are still
    stored, has the plan and the catalogue of the first one. Connections of components are left out
    unless `of_components`: only their code location knows their plan and their tables. Call
    `prepare` before.
    """
    found = {each.name: warehouse_of(engine, each.settings, each.catalogue) for each in connections}
    first = connections[0]
    for name, of_component in connections_with_rows(engine).items():
        if name not in found and (of_components or not of_component):
            found[name] = warehouse_of(engine, first.settings, first.catalogue, name)
    return found


def declare_connections(
    engine: Engine, connections: Iterable[Connection], *, complete: bool
) -> None:
    """Record the connections of a database, so that the views `_distinct` can rank them.

    `complete`: mark other connections of MAGNETIS_CONFIG as removed. Call `Warehouse.prepare`
    before.

    Raises: DatabaseUnavailable, DatabaseRefused.
    """
    declare(
        engine,
        [
            DeclaredConnection(
                each.name,
                each.scope.value if each.scope else None,
                each.key_expires,
                each.rank,
                each.declared_in,
            )
            for each in sorted(connections, key=lambda each: (each.rank, each.name))
        ],
        complete=complete,
    )


def ledger_of(engine: Engine, settings: Settings) -> Ledger:
    """Return the ledger of these settings' key. Raises SettingsError if none is set."""
    return Ledger(
        engine,
        key_fingerprint=settings.key_fingerprint,
        policy=settings.quota_policy,
        connection_name=settings.connection,
    )


def zones_of(settings: Settings) -> Zones:
    """Return the three time zones of the API."""
    return Zones(
        partition=settings.timezone,
        query=settings.query_timezone,
        response=settings.response_timezone,
    )


@contextmanager
def open_ingestion(
    connection: Connection,
    run: RunIdentity,
    progress: Callable[[str], None] = lambda _line: None,
    advanced: Callable[[], None] = lambda: None,
    permit: Permit | None = None,
) -> Iterator[Ingestion]:
    """Open the ingestion of one run; complete interrupted erasures first.

    Raises: SettingsError, MissingPrivacyKey, WrongPrivacyKey and errors of the database.
    """
    settings = connection.settings
    key = settings.require_key()
    with open_engine(settings) as engine:
        warehouse = warehouse_of(engine, settings, connection.catalogue)
        _ = warehouse.masking  # without a secret, no request
        with Ingestion(
            warehouse,
            ledger_of(engine, settings),
            run,
            origin=settings.api_url,
            key=key,
            zones=zones_of(settings),
            concurrency=settings.concurrency,
            progress=progress,
            advanced=advanced,
            permit=permit,
        ) as ingestion:
            declare_connections(engine, [connection], complete=False)
            complete_erasures(engine, {connection.name: warehouse}, progress, wait=False)
            yield ingestion
