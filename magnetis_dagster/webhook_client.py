"""Posting one JSON message to a webhook, whose address is a secret. What the message says, and when, is not known here.

The address is in no text that leaves this module: a failure is told by the status code or by the class of the error.
"""

import logging
import queue
import threading
from collections.abc import Mapping

import httpx

from magnetis_dagster.api.network import transport_options
from magnetis_dagster.api.transport import without_received_values
from magnetis_dagster.errors import PermanentError, TransientError

SECONDS = 5.0


class WebhookFailed(TransientError):
    """The message did not arrive, or nobody knows whether it did. The text is `HTTP 500`, or the class of an error."""

    def __init__(self, reason: str, *, perhaps_delivered: bool = False) -> None:
        super().__init__(reason)
        self.perhaps_delivered = perhaps_delivered


def post_json(url: str, content: Mapping[str, object], *, seconds: float = SECONDS) -> None:
    """Post `content` and return when it was accepted (2xx), within `seconds` altogether.

    Raises: WebhookFailed; PermanentError if the environment names a proxy or certificates that cannot
    be used.
    """
    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
    # a thread, since no time-out of a socket bounds a name server that is silent, or an answer that comes byte by byte
    threading.Thread(
        target=_post, args=(url, content, seconds, answers), name="webhook", daemon=True
    ).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise WebhookFailed("TimeoutError", perhaps_delivered=True) from None
    if isinstance(answer, PermanentError):
        raise answer
    if isinstance(answer, Exception):
        # behind these the request had left
        sent = isinstance(answer, (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError))
        raise WebhookFailed(type(answer).__name__, perhaps_delivered=sent)
    if not 200 <= answer < 300:
        raise WebhookFailed(f"HTTP {answer}")


def _post(
    url: str,
    content: Mapping[str, object],
    seconds: float,
    answers: "queue.SimpleQueue[int | Exception]",
) -> None:
    logging.getLogger("httpcore.http11").addFilter(without_received_values)
    try:
        timeout = httpx.Timeout(seconds).as_dict()
        request = httpx.Request("POST", url, json=content, extensions={"timeout": timeout})
        # the transport, and not a client: that logs the address, obeys .netrc and would follow redirects if it were told to
        with httpx.HTTPTransport(**transport_options(request.url)) as transport:
            response = transport.handle_request(request)
            response.close()
        answers.put(response.status_code)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the address or the network, the caller shall hear its class
        answers.put(error)
