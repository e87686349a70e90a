"""Requests that the guarded webserver refuses, byte by byte, and those that it serves."""

import asyncio
import json
import re
import socket
from http.client import HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
import websockets
from guarded import MUTATION, body, materializations
from paths import ROOT

from magnetis_dagster.dagster_support.guard import LOCAL_NAMES, SECURITY_HEADERS

QUERY = "{ version }"
JSON = "Content-Type: application/json"
EVIL = "Origin: https://evil.example"
NAVIGATION = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document")


def ask(
    url: str,
    *headers: str,
    method: str = "GET",
    target: str = "/server_info",
    content: str = "",
    version: str = "1.1",
    host: str | None = "",
) -> tuple[int, str]:
    """Send exactly these lines and return status and text.

    `host`: None sends no Host header, "" sends the webserver's own.
    """
    address = urlsplit(url)
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host or address.netloc}")
    lines += [*headers, "Connection: close", f"Content-Length: {len(content)}", "", content]
    with socket.create_connection(
        (str(address.hostname), address.port or 80), timeout=30
    ) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        response = HTTPResponse(connection, method=method)
        response.begin()
        return response.status, response.read().decode()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:3000",
        "0.0.0.0",
        "[::]",
        "[fd00::2]",
        "192.168.1.7",
        "127.1",
        "2130706433",
    ],
)
def test_another_host_is_refused_with_the_setting_that_allows_it(webserver: str, host: str) -> None:
    status, text = ask(webserver, host=host)
    assert status == 403
    assert "MAGNETIS_UI_HOSTS" in text
    assert "MAGNETIS_UI_URL" in text
    assert (
        ask(webserver, JSON, method="POST", target="/graphql", content=body(QUERY), host=host)[0]
        == 403
    )


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "LocalHost:1",
            "localhost.",
            "localhost.:8080",
            "127.0.0.1:9",
            "[::1]",
            "[::1]:80",
            "[0:0:0:0:0:0:0:1]",
        ),
        *(
            "[::ffff:127.0.0.1]",
            "webserver:3000",
            "viewer",
            "ui.company.test",
            "UI.COMPANY.TEST:18080",
            "[fd00::1]:3000",
        ),
        "dagster.example.com",
    ],
)
def test_every_spelling_of_an_allowed_host_is_served(webserver: str, host: str) -> None:
    assert ask(webserver, host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "a b",
        "user@localhost",
        "localhost/x",
        "localhost:",
        "localhost:port",
        "[::1",
        "::1",
        "[fe80::1%25eth0]",
        "é",
    ],
)
def test_an_invalid_host_is_refused(webserver: str, host: str) -> None:
    assert ask(webserver, host=host)[0] == 400


def test_a_missing_or_repeated_host_header_is_refused(webserver: str) -> None:
    assert ask(webserver, host=None)[0] == 400
    assert ask(webserver, host=None, version="1.0")[0] == 400
    assert ask(webserver, version="1.0")[0] == 200
    assert ask(webserver, "Host: evil.example")[0] == 400
    assert ask(webserver, "Host: localhost", host="evil.example")[0] == 400


def test_neither_another_header_nor_the_target_replaces_the_host(webserver: str) -> None:
    assert ask(webserver, "X-Forwarded-Host: localhost", host="evil.example")[0] == 403
    assert ask(webserver, "X-Forwarded-Host: evil.example")[0] == 403, (
        "a proxy that replaces Host sends the original one here"
    )
    assert ask(webserver, "X-Forwarded-Host: localhost, evil.example")[0] == 403
    assert ask(webserver, "X-Forwarded-Host: dagster.example.com")[0] == 200
    assert ask(webserver, target="http://localhost/server_info", host="evil.example")[0] == 403
    assert ask(webserver, target="http://evil.example/server_info")[0] == 200, (
        "only the client of a proxy sends this; Host decides"
    )


FOREIGN: dict[str, tuple[str, ...]] = {
    "another site": (EVIL,),
    "another site over http": ("Origin: http://evil.example",),
    "a sandboxed frame": ("Origin: null",),
    "another port of this machine": ("Origin: http://127.0.0.1:8888",),
    "this machine under another name": ("Origin: http://localhost",),
    "a browser extension": ("Origin: chrome-extension://abcdef",),
    "the UI's name in a longer one": ("Origin: https://dagster.example.com.evil.example",),
    "the UI over http": ("Origin: http://dagster.example.com",),
    "an own and a foreign one": (EVIL, "Origin: https://dagster.example.com"),
    "no origin, the browser says cross-site": ("Sec-Fetch-Site: cross-site",),
    "no origin, the browser says same-site": ("Sec-Fetch-Site: same-site",),
    "an own origin, the browser says cross-site": (
        "Origin: https://dagster.example.com",
        "Sec-Fetch-Site: cross-site",
    ),
    "what no browser says yet": ("Sec-Fetch-Site: neighbour",),
    "a form that navigates": NAVIGATION,
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_a_page_of_another_site_can_change_nothing(
    webserver: str, headers: tuple[str, ...]
) -> None:
    before = materializations(webserver)
    status, text = ask(
        webserver, JSON, *headers, method="POST", target="/graphql", content=body(MUTATION)
    )
    assert (status, "another site" in text) == (403, True)
    assert (
        ask(
            webserver,
            JSON,
            *headers,
            method="POST",
            target="/report_asset_materialization/magnetis/raw",
            content="{}",
        )[0]
        == 403
    )
    assert ask(webserver, *headers, target=f"/graphql?query={quote(MUTATION)}")[0] in {403, 405}
    if headers is not NAVIGATION:
        assert ask(webserver, *headers)[0] == 403, "nor can it read anything"
    assert materializations(webserver) == before


@pytest.mark.parametrize(
    "headers",
    [
        *((), ("Sec-Fetch-Site: none",), ("Sec-Fetch-Site: same-origin",)),
        *(
            ("Origin: https://dagster.example.com",),
            ("Origin: https://DAGSTER.example.com:443", "Sec-Fetch-Site: same-origin"),
        ),
    ],
    ids=[
        "curl",
        "typed address",
        "own page",
        "the UI behind a proxy that replaces Host",
        "the same, spelled otherwise",
    ],
)
def test_own_pages_and_programs_are_served(webserver: str, headers: tuple[str, ...]) -> None:
    status, text = ask(
        webserver, JSON, *headers, method="POST", target="/graphql", content=body(QUERY)
    )
    assert (status, set(json.loads(text))) == (200, {"data"})


def test_a_page_with_the_address_of_the_request_is_our_own(webserver: str) -> None:
    for host in ("localhost:3000", "ui.company.test", "[::1]:81"):
        for scheme in ("http", "https"):
            origin = f"Origin: {scheme}://{host}"
            assert (
                ask(
                    webserver,
                    JSON,
                    origin,
                    method="POST",
                    target="/graphql",
                    content=body(QUERY),
                    host=host,
                )[0]
                == 200
            )
    assert ask(webserver, "Origin: http://localhost:3001", host="localhost:3000")[0] == 403
    assert ask(webserver, "Origin: https://ui.company.test", host="ui.company.test:443")[0] == 200


def test_a_link_on_another_site_opens_the_ui_only_in_a_tab(webserver: str) -> None:
    for target in ("/", "/runs/b/abc", "/assets/magnetis/calls?view=partitions", "/graphql"):
        assert ask(webserver, "Accept: text/html", *NAVIGATION, target=target)[0] == 200
    frame = (*NAVIGATION[:2], "Sec-Fetch-Dest: iframe")
    assert ask(webserver, *frame, target="/")[0] == 403
    assert (
        ask(
            webserver,
            NAVIGATION[0],
            "Sec-Fetch-Mode: no-cors",
            "Sec-Fetch-Dest: image",
            target="/favicon.png",
        )[0]
        == 403
    )
    assert ask(webserver, EVIL, *NAVIGATION, target="/")[0] == 403, "a navigation has no origin"


@pytest.mark.parametrize(
    "target", ["/graphql", "/%67raphql", "/graphql%0A", "//graphql", "/graphql/"]
)
@pytest.mark.parametrize("query", [QUERY, MUTATION])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_graphql_in_the_address_is_refused(
    webserver: str, target: str, query: str, method: str
) -> None:
    before = materializations(webserver)
    for accept in ("*/*", "text/html"):
        status, text = ask(
            webserver, f"Accept: {accept}", method=method, target=f"{target}?query={quote(query)}"
        )
        assert status in {404, 405} or "data" not in text.partition("<html")[0]
        if target in {"/graphql", "/%67raphql", "/graphql%0A"}:
            assert status == 405
    assert materializations(webserver) == before


TYPES = {
    *(
        "text/plain",
        "text/plain;application/json",
        "text/plain; charset=application/json",
        "application/x-www-form-urlencoded",
    ),
    *(
        "multipart/form-data; boundary=application/json",
        "application/graphql",
        "application/json, text/plain",
        "application/jsonx",
    ),
    *(
        "application/json;text/plain",
        "application/vnd.api+json",
        "",
        "application/json; charset=utf-8; text/plain",
    ),
}


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_a_post_that_is_not_json_is_refused(webserver: str, kind: str) -> None:
    before = materializations(webserver)
    for target in (
        "/graphql",
        f"/graphql?query={quote(MUTATION)}",
        "/report_asset_materialization/magnetis/raw",
    ):
        status, text = ask(
            webserver, f"Content-Type: {kind}", method="POST", target=target, content=body(MUTATION)
        )
        assert (status, text) == (
            415,
            "Expected POST with exactly Content-Type: application/json.\n",
        )
    assert materializations(webserver) == before


def test_a_post_without_or_with_two_types_is_refused(webserver: str) -> None:
    for target in (
        f"/graphql?query={quote(MUTATION)}",
        "/report_asset_materialization/magnetis/raw?partition=2024-03-06",
    ):
        assert ask(webserver, method="POST", target=target)[0] == 415
        assert (
            ask(
                webserver,
                JSON,
                "Content-Type: text/plain",
                method="POST",
                target=target,
                content=body(MUTATION),
            )[0]
            == 415
        )


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json ; charset="UTF-8"',
    ],
)
def test_json_with_parameters_is_served(webserver: str, kind: str) -> None:
    status, text = ask(
        webserver, f"Content-Type: {kind}", method="POST", target="/graphql", content=body(QUERY)
    )
    if kind == "Application/JSON":  # Dagster itself expects lower case and finds no query
        assert status == 400
    else:
        assert (status, set(json.loads(text))) == (200, {"data"})


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
)
def test_other_methods_are_refused(webserver: str, method: str) -> None:
    assert ask(webserver, JSON, method=method, target="/graphql", content=body(QUERY))[0] in {
        400,
        405,
    }


def test_a_header_does_not_replace_the_method(webserver: str) -> None:
    before = materializations(webserver)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        ask(webserver, JSON, f"{name}: POST", target="/graphql", content=body(MUTATION))
        ask(
            webserver,
            JSON,
            f"{name}: POST",
            target="/report_asset_materialization/magnetis/raw",
            content="{}",
        )
    assert materializations(webserver) == before


def test_a_mutation_of_our_own_page_is_executed(webserver: str) -> None:
    before = materializations(webserver)
    assert ask(webserver, JSON, method="POST", target="/graphql", content=body(MUTATION))[0] == 200
    assert (
        ask(
            webserver,
            JSON,
            method="POST",
            target="/report_asset_materialization/magnetis/raw",
            content="{}",
        )[0]
        == 200
    )
    assert materializations(webserver) == before + 2


def converse(url: str, query: str, **options: Any) -> dict[str, Any]:
    """Return the first response to a query over a websocket."""

    async def talk() -> dict[str, Any]:
        address = f"{url.replace('http', 'ws', 1)}/graphql"
        async with websockets.connect(
            address, subprotocols=["graphql-ws"], **options
        ) as connection:  # type: ignore[list-item]
            await connection.send(json.dumps({"type": "connection_init"}))
            assert json.loads(await connection.recv()) == {"type": "connection_ack"}
            await connection.send(
                json.dumps({"type": "start", "id": "1", "payload": {"query": query}})
            )
            answer: dict[str, Any] = json.loads(await connection.recv())
            return answer

    return asyncio.run(talk())


SUBSCRIPTION = "subscription { locationStateChangeEvents { event { message } } }"


@pytest.mark.parametrize(
    "options",
    [
        *({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"}),
        *(
            {"additional_headers": {"Sec-Fetch-Site": "cross-site"}},
            {"additional_headers": {"X-Forwarded-Host": "evil.example"}},
        ),
    ],
    ids=[
        "another site",
        "a sandboxed frame",
        "another port",
        "the browser says so",
        "another host",
    ],
)
def test_a_websocket_of_another_sites_page_is_refused(
    webserver: str, options: dict[str, Any]
) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        converse(webserver, SUBSCRIPTION, **options)
    assert refused.value.response.status_code == 403
    assert b"MAGNETIS_UI_URL" in (refused.value.response.body or b"")


def test_a_websocket_of_our_own_page_cannot_execute_mutations(webserver: str) -> None:
    before = materializations(webserver)
    for options in ({}, {"origin": webserver}):
        answer = converse(webserver, MUTATION, **options)
        assert answer["type"] == "error" or answer["payload"]["errors"], answer
    assert materializations(webserver) == before


def test_answers_and_refusals_carry_security_headers(webserver: str) -> None:
    with httpx.Client(base_url=webserver, trust_env=False) as client:
        for answer in (
            client.get("/"),
            client.get("/server_info"),
            client.get("/favicon.png"),
            client.get("/", headers={"Host": "x"}),
        ):
            for name, value in SECURITY_HEADERS.items():
                assert answer.headers.get_list(name) == [value]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers
        assert "script-src 'nonce-" in client.get("/").headers["content-security-policy"], (
            "Dagster's own policy stays"
        )


def test_compose_services_run_this_command_and_their_names_are_allowed() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for service in ("webserver", "viewer"):
        described = compose.partition(f"\n  {service}:\n")[2].partition("\n\n")[0]
        assert "magnetis_dagster.dagster_support.webserver" in described
        assert service in LOCAL_NAMES
    assert not re.search(r"\bdagster-webserver\b", compose)
    shim = next(
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if "exec /opt/magnetis/bin/python3" in line
    )
    assert "magnetis_dagster.dagster_support.webserver" in shim, (
        "Dagster's chart starts `dagster-webserver`"
    )


def test_the_proxy_has_the_same_rules() -> None:
    rules = (ROOT / "deploy" / "nginx" / "guard.conf").read_text()
    for text in (
        "Expected one Host header",
        "Expected GET, HEAD or POST",
        "A page of another site",
        "Expected GraphQL as POST",
        "Expected POST",
    ):
        assert text in rules
    assert "if ($refusal)" in (ROOT / "deploy" / "nginx" / "proxied.conf").read_text()
    assert (
        "include /etc/nginx/guard.conf;" in (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
    )
