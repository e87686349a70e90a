"""PgBouncer in its three pool modes."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from paths import ROOT
from small_api import SmallApi, call, serve
from sqlalchemy import Engine, text
from test_locks import ingestion
from waiting import wait_until

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.database import DatabaseRefused, connect, guarded

sys.path.append(str(ROOT / "tools"))
PGBOUNCER = __import__("pgbouncer").find()
pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer is not installed: make pgbouncer"
)


@pytest.fixture
def start_pooler(empty_database_url: str, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that starts PgBouncer and returns its URL."""
    processes: list[subprocess.Popen[bytes]] = []
    with psycopg.connect(empty_database_url) as connection:
        info = connection.info
        database, user = info.dbname, info.user
        server = f"host={info.host} port={info.port} user={user} dbname={database}"
        if info.password:
            server += f" password={info.password}"
        owner = Path(info.host).owner()

    def start(mode: str, **options: object) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": mode,
            "default_pool_size": 5,
            "ignore_startup_parameters": "extra_float_digits,options",
            **options,
        }
        content = f"[databases]\n{database} = {server}\n[pgbouncer]\n" + "".join(
            f"{k} = {v}\n" for k, v in lines.items()
        )
        configuration = tmp_path / "pgbouncer.ini"
        configuration.write_text(content)
        # PgBouncer refuses to run as root, and only the server's owner can use its socket
        user_options = (
            {"user": owner, "group": owner, "extra_groups": []}
            if Path.home() == Path("/root")
            else {}
        )
        with configuration.open("rb") as stdin:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(
                [PGBOUNCER, "/dev/stdin"], stdin=stdin, **quiet, **user_options
            )
        processes.append(process)
        wait_until(lambda: accepts_connections(port), "PgBouncer accepts connections", 10)
        return f"postgresql://{user}@127.0.0.1:{port}/{database}"

    yield start
    for process in processes:
        process.terminate()
        process.wait(60)


@pytest.fixture
def api() -> Iterator[SmallApi]:
    with serve() as small:
        small.rows["/calls"] = [call(n, "2025-03-04 10:00:00") for n in range(300)]
        yield small


def accepts_connections(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def tables(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT schemaname, count(*) FROM pg_tables "
            "WHERE schemaname !~ '^(pg_|info)' GROUP BY 1"
        )
        return dict(found.fetchall())


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize(
    "options", [{}, {"server_round_robin": 1}, {"default_pool_size": 1}], ids=["", "in turn", "one"]
)
def test_pool_modes_without_persistent_sessions_are_refused(
    mode: str,
    options: dict[str, int],
    start_pooler: Callable[..., str],
    api: SmallApi,
    catalogue: Catalogue,
    empty_database_url: str,
) -> None:
    engine = connect(start_pooler(mode, **options))
    with pytest.raises(DatabaseRefused, match="PgBouncer: pool_mode = session"):
        ingestion(engine, catalogue, api.url).__enter__()
    engine.dispose()
    assert api.requests == []
    assert tables(empty_database_url) == {}


def test_a_pooler_with_persistent_sessions_works(
    start_pooler: Callable[..., str],
    api: SmallApi,
    catalogue: Catalogue,
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = start_pooler("session", default_pool_size=20)
    engine: Engine = connect(url)
    with ingestion(engine, catalogue, api.url) as running:
        [window] = running.read_days(catalogue["calls"], [date(2025, 3, 4)])
    assert window.received == 300
    with guarded(engine, "ask"), engine.connect() as connection:
        assert connection.execute(text("SHOW TimeZone")).scalar_one() == "UTC"
    engine.dispose()
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", url)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization("here", partition="1"))
        assert instance.get_materialized_partitions(dg.AssetKey("here")) == {"1"}
    assert set(tables(empty_database_url)) == {"magnetis", "magnetis_ops", "dagster"}
