"""From settings to working parts. The one place where the edges (defs, cli) put database, ledger, warehouse and client together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import connect, embedded
from magnetis_dagster.ingest import Ingestion, RunIdentity, Zones
from magnetis_dagster.quota.ledger import Ledger
from magnetis_dagster.sandbox.options import SANDBOX_KEYS
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import Emptied, Rules, Warehouse


def uses_sandbox(settings: Settings) -> bool:
    """Whether these settings bring invented rows: no key is set, or one of the sandbox's."""
    return settings.api_key is None or settings.api_key.get_secret_value() in SANDBOX_KEYS


def embedded_database(settings: Settings) -> str:
    """Return which database of the embedded server is used: invented rows and real ones never share one."""
    return "sandbox" if uses_sandbox(settings) else embedded.DATABASE


def database_url(settings: Settings) -> str:
    """Return MAGNETIS_DATABASE_URL, or start the embedded server and return its address. Raises EmbeddedServerFailed."""
    if address := settings.database_address:
        return address
    return embedded.start(settings.home, database=embedded_database(settings))


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Open the database for the length of the block."""
    engine = connect(database_url(settings))
    try:
        yield engine
    finally:
        engine.dispose()


def warehouse_of(engine: Engine, settings: Settings, catalogue: Catalogue) -> Warehouse:
    """Return the warehouse in these settings' zones."""
    return Warehouse(
        engine,
        catalogue,
        response_zone=settings.response_timezone,
        partition_zone=settings.timezone,
        rules=Rules(Emptied(settings.emptied_days), settings.doubted_share, settings.unreadable_share),
    )


def ledger_of(engine: Engine, settings: Settings) -> Ledger:
    """Return the ledger of these settings' key. Raises SettingsError where no key is set."""
    return Ledger(engine, key_fingerprint=settings.key_fingerprint, policy=settings.quota_policy)


def zones_of(settings: Settings) -> Zones:
    """Return the three zones of the API's times."""
    return Zones(partition=settings.timezone, query=settings.query_timezone, response=settings.response_timezone)


@contextmanager
def open_ingestion(
    settings: Settings,
    catalogue: Catalogue,
    run: RunIdentity,
    progress: Callable[[str], None] = lambda _line: None,
    advanced: Callable[[], None] = lambda: None,
) -> Iterator[Ingestion]:
    """Open what one run needs to read the API into the warehouse. Raises SettingsError, DatabaseUnwell, DatabaseRefused."""
    key = settings.require_key()
    with (
        open_engine(settings) as engine,
        Ingestion(
            warehouse_of(engine, settings, catalogue),
            ledger_of(engine, settings),
            run,
            origin=settings.api_url,
            key=key,
            zones=zones_of(settings),
            concurrency=settings.concurrency,
            progress=progress,
            advanced=advanced,
        ) as ingestion,
    ):
        yield ingestion
