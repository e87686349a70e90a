"""Checks of connections: their keys, files, expiry, and the API's address."""

import os
import socket
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from magnetis_dagster.api.network import proxy_address, proxy_for
from magnetis_dagster.connections import EXPIRY_DAYS, Connection, declarations
from magnetis_dagster.doctor.findings import Finding, error, ok, warning
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.settings import SettingsError

CONNECT_SECONDS = 5.0


def key_problem(connection: Connection) -> str | None:
    """Return why the connection has no usable key; None if it has one."""
    try:
        connection.settings.require_key()
    except SettingsError as problem:
        return str(problem)
    return None


def twins(connection: Connection, connections: Iterable[Connection]) -> list[str]:
    """Return the names of other connections with the same key."""
    key = connection.settings.api_key
    return [
        each.name
        for each in connections
        if key is not None and each.name != connection.name and each.settings.api_key == key
    ]


def twins_sentence(names: Sequence[str]) -> str:
    """Return the consequence of a key that these connections declare too."""
    return (
        f"The same key as {', '.join(names)}: they share one quota, and each row is stored once "
        "for each of them."
    )


def expiry_sentence(expires: date | None, today: date) -> str | None:
    """Return when the key expires; None if not within EXPIRY_DAYS."""
    if expires is None or (expires - today).days > EXPIRY_DAYS:
        return None
    if expires < today:
        return f"Its key expired on {expires}."
    days = (expires - today).days
    when = "today" if days == 0 else f"in {days} day{'' if days == 1 else 's'}"
    return f"Its key expires {when}, on {expires}."


def check_keys(
    connections: Sequence[Connection],
    today: date,
    reported: Mapping[str, date | None] | None = None,
) -> list[Finding]:
    """Check that each connection has a key of its own that does not expire soon.

    `reported`: expiry by connection as the API reported it; a declared one takes precedence.
    """
    findings = []
    for each in connections:
        name = f"key of {each.name}"
        expires = each.key_expires or (reported or {}).get(each.name)
        if problem := key_problem(each):
            findings.append(_missing_key(each, name, problem))
        elif expires and expires < today:
            findings.append(
                error(
                    name,
                    f"Its key expired on {expires}.",
                    "Its loads fail with HTTP 401.",
                    _rotation(each),
                )
            )
        elif sentence := expiry_sentence(expires, today):
            findings.append(
                warning(name, sentence, "After that day its loads fail.", _rotation(each))
            )
        elif names := twins(each, connections):
            findings.append(
                warning(
                    name,
                    twins_sentence(names),
                    "Each of them reads every row, so a day costs its API calls several times.",
                    "Declare one connection for each key.",
                )
            )
        else:
            until = f", expires on {expires}" if expires else ""
            findings.append(ok(name, f"set{until}"))
    return findings


def _missing_key(connection: Connection, name: str, problem: str) -> Finding:
    if connection.is_unnamed and connection.settings.api_key is None:
        return warning(
            name,
            "MAGNETIS_API_KEY is not set.",
            "No rows of Magnetis are loaded: `magnetis dev` uses the local sandbox.",
            "Create a key in the Magnetis interface (API & connecteurs > API), and set the "
            "variable in the environment or in .env.",
        )
    return error(name, problem, "Every run of the connection fails.", "")


def _rotation(connection: Connection) -> str:
    option = "" if connection.is_unnamed else f" --connection {connection.name}"
    return (
        "Create another key with the same scope, replace the value, and run "
        f"`magnetis migrate --adopt-key{option}`."
    )


def check_key_files(connections: Sequence[Connection]) -> list[Finding]:
    """Check that nobody else can read .env and the files that `api_key_file` names."""
    files = {Path(".env")}
    config = connections[0].settings.config if connections else None
    if config and config.exists():
        declared = declarations(config).values()
        files |= {each.api_key_file for each in declared if each.api_key_file}
    findings = []
    for path in sorted(files):
        try:
            found = path.stat()
        except OSError:
            continue  # a missing file is a missing key
        # a secret of Docker or Kubernetes is mounted for this container only
        if stat.S_IMODE(found.st_mode) & 0o077 and not str(path).startswith("/run/secrets/"):
            findings.append(
                warning(
                    f"file {path}",
                    f"Other users of this machine can access it (mode "
                    f"{stat.S_IMODE(found.st_mode):o}).",
                    "They can read the key.",
                    f"chmod 600 {path}",
                )
            )
        elif not os.access(path, os.R_OK):
            findings.append(
                error(f"file {path}", "It cannot be read.", "Its key is missing.", f"ls -l {path}")
            )
        else:
            findings.append(ok(f"file {path}", "only its owner can read it"))
    return findings


def check_api(
    connections: Sequence[Connection],
    connect: Callable[[tuple[str, int]], None] | None = None,
) -> list[Finding]:
    """Check that each API address accepts TCP connections; sends no request.

    `connect` opens and closes a connection to host and port, and raises OSError if it cannot.
    """
    findings = []
    for url in dict.fromkeys(each.settings.api_url for each in connections):
        name, parts = f"API {url}", urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        remedy = (
            "Check name resolution and the firewall, or set HTTPS_PROXY if the network requires a "
            "proxy."
        )
        try:
            if proxy := proxy_for(httpx.URL(url)):
                findings.append(ok(name, f"through the proxy {proxy_address(proxy)}; not tried"))
                continue
            (connect or _connect)((host, port))
        except PermanentError as problem:
            findings.append(error(name, str(problem), "Every request fails.", ""))
        except OSError as problem:
            reason = problem.strerror or type(problem).__name__
            findings.append(
                error(name, f"No TCP connection: {reason}.", "Every request fails.", remedy)
            )
        else:
            findings.append(ok(name, "accepts TCP connections; no request was sent"))
    return findings


def _connect(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=CONNECT_SECONDS):
        pass
