"""Checks of connections: keys, files, expiry, addresses."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from magnetis_dagster.connections import Connection, load_connections
from magnetis_dagster.doctor import Finding, Status
from magnetis_dagster.doctor.keys import check_api, check_key_files, check_keys

TODAY = date(2026, 11, 29)
KEY = "doctor-key-5577"


def declare(monkeypatch: pytest.MonkeyPatch, text: str) -> list[Connection]:
    Path("magnetis.yaml").write_text(f"connections:\n{text}")
    monkeypatch.setenv("MAGNETIS_CONFIG", "magnetis.yaml")
    return load_connections()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert KEY not in str(findings)
    return {each.name: each for each in findings}


def test_missing_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    [unnamed] = check_keys(load_connections(), TODAY)
    assert unnamed.status is Status.WARNING, "the sandbox works without a key"
    connections = declare(monkeypatch, "  nord: {api_key_env: KEY_NORD}")
    [nord] = check_keys(connections, TODAY)
    assert nord.status is Status.ERROR
    assert "KEY_NORD" in nord.text


def test_a_key_with_a_line_break_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_NORD", f"{KEY} {KEY}")
    [nord] = check_keys(declare(monkeypatch, "  nord: {api_key_env: KEY_NORD}"), TODAY)
    assert nord.status is Status.ERROR
    assert KEY not in str(nord)


def test_the_same_key_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY_A", "KEY_B", "KEY_C"):
        monkeypatch.setenv(name, KEY if name != "KEY_C" else f"{KEY}-other")
    text = "".join(f"  {name}: {{api_key_env: KEY_{name.upper()}}}\n" for name in "abc")
    found = by_name(check_keys(declare(monkeypatch, text), TODAY))
    assert "The same key as b" in found["key of a"].text
    assert "The same key as a" in found["key of b"].text
    assert found["key of c"].status is Status.OK


@pytest.mark.parametrize(
    ("days", "status", "words"),
    [
        (-1, Status.ERROR, "expired on 2026-11-28"),
        (0, Status.WARNING, "expires today"),
        (1, Status.WARNING, "in 1 day, on"),
        (14, Status.WARNING, "in 14 days, on"),
        (15, Status.OK, "expires on 2026-12-14"),
    ],
)
def test_expiry(monkeypatch: pytest.MonkeyPatch, days: int, status: Status, words: str) -> None:
    monkeypatch.setenv("KEY_NORD", KEY)
    expires = TODAY + timedelta(days=days)
    text = f"  nord: {{api_key_env: KEY_NORD, key_expires: {expires}}}"
    [found] = check_keys(declare(monkeypatch, text), TODAY)
    assert found.status is status
    assert words in found.text


def test_an_expiry_that_the_api_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_NORD", KEY)
    connections = declare(monkeypatch, "  nord: {api_key_env: KEY_NORD}")
    [found] = check_keys(connections, TODAY, {"nord": TODAY})
    assert "expires today" in found.text


def test_files_that_others_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key_nord").write_text(KEY)
    Path("key_nord").chmod(0o644)
    connections = declare(monkeypatch, "  nord: {api_key_file: key_nord}")
    [found] = check_key_files(connections)
    assert found.status is Status.WARNING
    assert found.remedy == "chmod 600 key_nord"
    Path("key_nord").chmod(0o600)
    [found] = check_key_files(connections)
    assert found.status is Status.OK


def test_the_api_gets_a_connection_and_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_NORD", KEY)
    text = "  nord: {api_key_env: KEY_NORD, api_url: http://127.0.0.1:9}\n"
    text += "  sud: {api_key_env: KEY_NORD}\n  est: {api_key_env: KEY_NORD}\n"
    connections = declare(monkeypatch, text)
    tried: list[tuple[str, int]] = []

    def connect(address: tuple[str, int]) -> None:
        tried.append(address)
        if address[0] == "127.0.0.1":
            raise ConnectionRefusedError(111, "Connection refused")

    nord, others = check_api(connections, connect)
    assert tried == [("127.0.0.1", 9), ("api.magnetis.io", 443)], "each address once"
    assert (nord.status, others.status) == (Status.ERROR, Status.OK)
    assert "Connection refused" in nord.text

    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@proxy.example:3128")
    _, proxied = check_api(connections, connect)
    assert "through the proxy proxy.example:3128; not tried" in proxied.text
    assert len(tried) == 3
    assert "hush" not in str(proxied)
