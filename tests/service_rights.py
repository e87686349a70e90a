"""The secrets, networks and database rights of each service in docker-compose.yml."""

from dataclasses import dataclass

READ = frozenset({"select"})
WRITE = READ | {"insert", "update", "delete"}
OWN = WRITE | {"create", "alter"}
DATABASE_ROLES = {
    "magnetis_owner": {"magnetis": OWN, "magnetis_ops": OWN, "dagster": OWN},
    "magnetis_load": {"magnetis": WRITE, "magnetis_ops": WRITE, "dagster": WRITE},
    "magnetis_daemon": {"dagster": WRITE},
    "magnetis_ui": {"dagster": WRITE},
    "magnetis_view": {"dagster": READ},
}
"""By role and schema: the allowed statements. A role may not use other schemas."""


@dataclass(frozen=True)
class Service:
    secrets: frozenset[str] = frozenset()
    """Names of the files under /run/secrets."""
    networks: frozenset[str] = frozenset()
    role: str | None = None
    """Its database role; the secret magnetis_database_password contains the password."""
    port: int | None = None
    """Its port."""


def service(
    secrets: str = "", networks: str = "", role: str | None = None, port: int | None = None
) -> Service:
    return Service(frozenset(secrets.split()), frozenset(networks.split()), role, port)


SERVICES = {
    "postgres": service("postgres_password", "data", port=5432),
    "roles": service(
        "postgres_password magnetis_owner_password magnetis_load_password magnetis_daemon_password "
        "magnetis_ui_password magnetis_view_password",
        "data",
    ),
    "migrate": service("magnetis_database_password", "data", "magnetis_owner"),
    "code": service(
        "magnetis_database_password magnetis_api_key magnetis_privacy_key "
        "magnetis_alert_webhook_url",
        "data location invented outside",
        "magnetis_load",
        4000,
    ),
    "webserver": service("magnetis_database_password", "data location ui", "magnetis_ui", 3000),
    "viewer": service("magnetis_database_password", "data location ui", "magnetis_view", 3000),
    "daemon": service(
        "magnetis_database_password magnetis_celery_broker_url",
        "data location queue",
        "magnetis_daemon",
    ),
    "worker": service(
        "magnetis_database_password magnetis_api_key magnetis_privacy_key "
        "magnetis_celery_broker_url",
        "data queue invented outside",
        "magnetis_load",
    ),
    "redis": service("redis_password", "queue", port=6379),
    "proxy": service("ui_users ui_viewers", "ui outside", port=8080),
    "sandbox": service("", "invented", port=8250),
}
ONE_NETWORK_ONLY = {"code": "location"}
"""The network in which its port is open, if it is not open in all."""


def reachable(source: str, target: str) -> bool:
    """Return whether `source` can connect to the port of `target`."""
    open_in = (
        {ONE_NETWORK_ONLY[target]} if target in ONE_NETWORK_ONLY else SERVICES[target].networks
    )
    return bool(SERVICES[source].networks & open_in)
