"""Post one JSON message to a webhook whose URL is a secret.

The caller composes the message. No text that leaves this module contains the URL: an error contains
only the status code or the class of the failure.
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
    """The message was not delivered, or its delivery is uncertain.

    The text is `HTTP 500`, or the class of an error.
    """

    def __init__(self, reason: str, *, perhaps_delivered: bool = False) -> None:
        super().__init__(reason)
        self.perhaps_delivered = perhaps_delivered


def post_json(url: str, content: Mapping[str, object], *, seconds: float = SECONDS) -> None:
    """Post `content` and return when the server accepted it (2xx).

    `seconds` limits the whole exchange.

    Raises: WebhookFailed; PermanentError if the environment names an unusable proxy or unusable
    certificates.
    """
    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()
    logging.getLogger("httpcore.http11").addFilter(without_received_values)

    def post() -> None:
        try:
            timeout = httpx.Timeout(seconds).as_dict()
            request = httpx.Request("POST", url, json=content, extensions={"timeout": timeout})
            # A transport instead of a client: a client logs the URL, reads .netrc and can follow
            # redirects.
            with httpx.HTTPTransport(**transport_options(request.url)) as transport:
                response = transport.handle_request(request)
                response.close()
            answers.put(response.status_code)
        except Exception as error:  # noqa: BLE001 - the caller reports the class of any error
            answers.put(error)

    # A thread, because no socket time-out limits a silent name server or a response that trickles.
    threading.Thread(target=post, name="webhook", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise WebhookFailed("TimeoutError", perhaps_delivered=True) from None
    if isinstance(answer, PermanentError):
        raise answer
    if isinstance(answer, Exception):
        # the request was sent before these errors occurred
        sent = isinstance(answer, (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError))
        raise WebhookFailed(type(answer).__name__, perhaps_delivered=sent)
    if not 200 <= answer < 300:
        raise WebhookFailed(f"HTTP {answer}")
