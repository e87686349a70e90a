"""Posting to a webhook: delivery, time limit and secrecy of the URL."""

import logging
import socket
import threading
from collections.abc import Iterator

import pytest
from webhook import TOKEN, Chat, chat

from magnetis_dagster.webhook_client import WebhookFailed, post_json


@pytest.fixture
def hook() -> Iterator[Chat]:
    with chat() as hook:
        yield hook


def failure(url: str, seconds: float = 5.0) -> WebhookFailed:
    with pytest.raises(WebhookFailed) as caught:
        post_json(url, {"text": "x"}, seconds=seconds)
    assert TOKEN not in repr(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize("status", [200, 201, 204])
def test_any_2xx_is_delivered(hook: Chat, status: int) -> None:
    hook.status = status
    post_json(hook.url, {"text": "été\n<b>"})
    assert hook.accepted == ["été\n<b>"]


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410, 429, 500, 503])
def test_every_other_response_is_a_failure_and_no_redirect_is_followed(
    hook: Chat, status: int
) -> None:
    hook.status = status
    failed = failure(hook.url)
    assert (str(failed), failed.perhaps_delivered, hook.refused) == (f"HTTP {status}", False, 1)


def test_a_message_without_a_timely_response_may_be_delivered(hook: Chat) -> None:
    hook.seconds = 60
    failed = failure(hook.url, seconds=0.3)
    assert hook.accepted == [], "the client waited for the response"
    assert str(failed) in {"ReadTimeout", "TimeoutError"}
    assert failed.perhaps_delivered


def test_a_message_with_a_lost_connection_may_be_delivered(hook: Chat) -> None:
    hook.cut = True
    failed = failure(hook.url)
    assert (str(failed), failed.perhaps_delivered) == ("RemoteProtocolError", True)


def test_a_silent_name_server_does_not_exceed_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60))
    try:
        assert str(failure(f"https://hooks.invalid/{TOKEN}", seconds=0.2)) == "TimeoutError"
    finally:
        released.set()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"http://127.0.0.1:1/{TOKEN}", "ConnectError"),
        (f"https://hooks.invalid/{TOKEN}", "ConnectError"),
        (f"https://[::1/{TOKEN}", "InvalidURL"),
        (f"ftp://hooks.invalid/{TOKEN}", "UnsupportedProtocol"),
    ],
)
def test_an_unsent_message_is_not_delivered(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    failed = failure(url)
    assert (str(failed), failed.perhaps_delivered) == (reason, False)


def test_the_url_is_in_no_log(hook: Chat, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for hook.status in (200, 307, 500):
            try:
                post_json(hook.url, {"text": "x"})
            except WebhookFailed:
                continue
    assert "httpcore" in {record.name.partition(".")[0] for record in caplog.records}, (
        "there is a log to search"
    )
    assert TOKEN not in caplog.text
