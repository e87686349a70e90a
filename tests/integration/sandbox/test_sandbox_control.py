"""Edits of a running sandbox by command and HTTP, but not by web pages."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.sandbox import SANDBOX_KEY, SANDBOX_KEYS
from magnetis_dagster.sandbox.control import CONTROL_PATH, Control, Journal
from magnetis_dagster.sandbox.options import SandboxOptions
from magnetis_dagster.sandbox.world import World

EDIT = {
    "action": "edit",
    "collection": "email_alerts",
    "account": "2",
    "changes": {"title": "Mine"},
}


def magnetis(
    *arguments: str, url: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAGNETIS_", "DAGSTER_"))
    }
    if url is not None:
        environment["MAGNETIS_API_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "magnetis_dagster.cli", *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "magnetis_dagster.cli", "sandbox", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
        try:
            assert url, line
            yield url[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def rows(url: str, path: str, **parameters: str) -> list[Any]:
    answer = httpx.get(
        f"{url}{path}", params=parameters, headers={"x-api-key": SANDBOX_KEY}, trust_env=False
    )
    return list(answer.json()["data"])


def test_the_commands_edit_every_process_of_the_running_sandbox() -> None:
    with running("--accounts", "3", "--workers", "2", "--still") as url:
        before = {row["id"]: row for row in rows(url, "/alerts/email")}
        options = ["--account", "3", "--less-than", "45", "--title", "Mine"]
        edited = magnetis("sandbox", "edit", "alert", *options, url=url)
        assert (edited.returncode, edited.stderr) == (
            0,
            "alert_settings_sensor detects it within MAGNETIS_SETTINGS_INTERVAL_SECONDS.\n",
        )
        output = re.fullmatch(
            r"Changed less_than, title of email_alerts (\S+) \(.*\)\.\n", edited.stdout
        )
        assert output, edited.stdout
        for _ in range(8):  # either process may respond
            assert {row["id"]: row for row in rows(url, "/alerts/email")} == before | {
                output[1]: before[output[1]] | {"less_than": 45, "title": "Mine"}
            }
        call = rows(url, "/calls", limit="3")[2]
        assert (
            magnetis(
                "sandbox", "edit", "call", call["id"], "--status", "missed", url=url
            ).returncode
            == 0
        )
        assert (
            json.loads(magnetis("sandbox", "show", "calls", call["id"], url=url).stdout)["status"]
            == "missed"
        )
        deleted = magnetis("sandbox", "delete", "calls", call["id"], url=url)
        assert deleted.returncode == 0
        assert call["id"] in deleted.stdout
        for _ in range(8):
            assert call["id"] not in {row["id"] for row in rows(url, "/calls")}


def test_errors_of_edits_name_the_cause(open_sandbox: Callable[..., Any]) -> None:
    url = open_sandbox(keys=(SANDBOX_KEY,)).server.url
    for arguments, words in (
        (["edit", "call", "call-1", "--status", "x"], "calls has no row with this id."),
        (
            ["edit", "call", "--statu", "x"],
            "The row has no member statu; expected one of id, account, analysis",
        ),
        (["edit", "cals", "--status", "x"], "Unknown collection 'cals'; expected one of entities"),
        (["edit", "call"], "No changes: name a member"),
        (["edit", "call", "--id", "call-1"], "The id and the account of a row cannot be changed."),
        (["edit", "call", "--start-at", "yesterday"], "Expected a time such as"),
        (
            ["edit", "alert", "--account", "9", "--title", "x"],
            "account: expected a number from 1 to 4",
        ),
        (["edit", "call", "--status"], "Expected --MEMBER VALUE"),
        (["delete", "calls", "--status", "x"], "No such option: --status"),
    ):
        ended = magnetis("sandbox", *arguments, url=url)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9", "No sandbox answers at http://127.0.0.1:9."),
        ("https://api.example.invalid", "a sandbox is edited on its own machine only"),
    ],
)
def test_the_error_without_a_sandbox_names_the_cause(url: str, words: str) -> None:
    ended = magnetis(
        "sandbox", "edit", "alert", "--title", "x", url=url, MAGNETIS_API_KEY="a-real-key"
    )
    assert ended.returncode == 3
    assert words in ended.stderr
    assert "a-real-key" not in ended.stderr


def control(sandbox: Any, **changes: Any) -> httpx.Response:
    headers = {"x-api-key": sandbox.server.key} | changes.pop("headers", {})
    return sandbox.http.request(
        changes.pop("method", "POST"), CONTROL_PATH, headers=headers, **({"json": EDIT} | changes)
    )


UNAUTHORIZED: dict[str, tuple[dict[str, Any], int]] = {
    "a form": (
        {"json": None, "content": json.dumps(EDIT), "headers": {"content-type": "text/plain"}},
        415,
    ),
    "two types": (
        {"json": None, "content": "{}", "headers": {"content-type": "text/plain;application/json"}},
        415,
    ),
    "no type": ({"json": None, "content": json.dumps(EDIT)}, 415),
    "a page of another site": ({"headers": {"origin": "https://evil.example"}}, 403),
    "a page of another port": ({"headers": {"origin": "http://127.0.0.1:3000"}}, 403),
    "a sandboxed frame": ({"headers": {"origin": "null"}}, 403),
    "a browser": ({"headers": {"sec-fetch-site": "same-origin"}}, 403),
    "a rebound name": ({"headers": {"host": "evil.example:8250"}}, 403),
    "a name with a loopback prefix": ({"headers": {"host": "127.0.0.1.evil.example"}}, 403),
    "an image": ({"method": "GET", "json": None}, 405),
    "a preflight": ({"method": "OPTIONS", "json": None}, 405),
    "no key": ({"headers": {"x-api-key": ""}}, 401),
    "another key": ({"headers": {"x-api-key": "another"}}, 401),
    "the key of an account": ({"headers": {"x-api-key": SANDBOX_KEYS[2]}}, 401),
    "a long body": ({"json": EDIT | {"changes": {"title": "x" * 20_000}}}, 413),
    "no JSON": (
        {"json": None, "content": "{", "headers": {"content-type": "application/json"}},
        400,
    ),
    "no object": ({"json": [1]}, 400),
    "no action": ({"json": {"collection": "calls"}}, 422),
}


@pytest.mark.parametrize("name", UNAUTHORIZED)
def test_unauthorized_requests_change_nothing(sandbox: Any, name: str) -> None:
    before = sandbox.rows("email_alerts")
    given, status = UNAUTHORIZED[name]
    answer = control(sandbox, **given)
    assert answer.status_code == status, answer.text
    assert not [header for header in answer.headers if header.startswith("access-control")]
    assert sandbox.rows("email_alerts") == before


def test_an_edit_over_http_costs_no_quota_and_does_not_count_as_a_request(
    open_sandbox: Callable[..., Any],
) -> None:
    sandbox = open_sandbox(daily_quota=1)
    for _ in range(3):
        answer = control(sandbox, headers={"content-type": "application/json; charset=utf-8"})
        assert answer.status_code == 200, answer.text
    assert answer.json()["changed"] == [], "the value was the same"
    assert sandbox.server.received == 0
    assert sandbox.get("/alerts/email").status_code == 200


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": json.dumps(EDIT).encode()}


async def _status_for(client: tuple[str, int] | None) -> int:
    world = World(SandboxOptions(accounts=3))
    editor = Control(world, load_catalogue(), [SANDBOX_KEY], Journal(), lambda: datetime.now(UTC))
    headers = [
        (b"host", b"127.0.0.1"),
        (b"content-type", b"application/json"),
        (b"x-api-key", SANDBOX_KEY.encode()),
    ]
    return (
        await editor.answer({"method": "POST", "headers": headers, "client": client}, _receive)
    )[0]


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (("10.1.2.3", 5), 403),
        (("::2", 5), 403),
        (None, 403),
        (("127.0.0.1", 5), 200),
        (("::1", 5), 200),
    ],
)
def test_only_programs_on_this_machine_can_edit(
    client: tuple[str, int] | None, status: int
) -> None:
    assert asyncio.run(_status_for(client)) == status
