"""A real Chromium: pages of other sites are refused, our own pages work, other text is literal."""

import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from guarded import EVIL, HOSTILE, MUTATION, UI_NAME, body, materializations
from playwright.sync_api import Browser, Page, expect

from magnetis_dagster.dagster_support import graphql_queries as queries
from magnetis_dagster.dagster_support.webserver_client import ENDED, DagsterApi, asset_key

expect.set_options(timeout=60_000)

ATTACKS = """
async (ui) => {
  const seen = {};
  const attempt = async (name, what) => {
    try {
      const answer = await what();
      seen[name] = `${answer.type} ${answer.status}`;
    } catch (error) { seen[name] = "failed"; }
  };
  const json = {"content-type": "application/json"};
  const text = {"content-type": "text/plain;application/json"};
  const query = `${ui}/graphql?query=${encodeURIComponent(MUTATION)}`;
  await attempt("GET", () => fetch(query, {mode: "no-cors", credentials: "include"}));
  await attempt("POST in the address", () => fetch(query, {method: "POST", mode: "no-cors"}));
  const hidden = {method: "POST", mode: "no-cors"};
  const graphql = `${ui}/graphql`, report = `${ui}/report_asset_materialization/magnetis/raw`;
  await attempt("POST as text", () => fetch(graphql, {...hidden, headers: text, body: BODY}));
  await attempt("POST as JSON", () => fetch(graphql, {method: "POST", headers: json, body: BODY}));
  await attempt("report", () => fetch(report, hidden));
  await attempt("read", () => fetch(`${ui}/server_info`));
  const loads = (tag, address) => new Promise((done) => {
    const element = document.createElement(tag);
    element.onload = () => done({type: "loaded", status: 200});
    element.onerror = () => done({type: "error", status: 0});
    element.src = address;
    document.body.append(element);
  });
  await attempt("image", () => loads("img", `${ui}/favicon.png`));
  await attempt("script", () => loads("script", `${ui}/vendor/graphiql/graphiql.min.js`));
  await attempt("websocket", () => new Promise((done) => {
    const socket = new WebSocket(`${ui.replace("http", "ws")}/graphql`, "graphql-ws");
    socket.onopen = () => done({type: "open", status: 101});
    socket.onerror = () => done({type: "error", status: 0});
  }));
  const form = Object.assign(document.createElement("form"), {
    action: `${ui}/graphql`, method: "post", enctype: "text/plain", target: "frame",
  });
  const field = {name: BODY.slice(0, -1) + ',"x":"', value: '"}'};
  form.append(Object.assign(document.createElement("input"), field));
  const frame = Object.assign(document.createElement("iframe"), {name: "frame"});
  const framed = new Promise((done) => { frame.onload = done; });
  document.body.append(frame, form);
  form.submit();
  await framed;
  return seen;
}
"""


class Foreign:
    """Another site on this machine, and the paths requested from it."""

    def __init__(self) -> None:
        requested = self.requested = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requested.append(self.path)
                content = b"<html><body>cat pictures</body></html>"
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = self.server.server_port


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    site = Foreign()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def page(chromium: Browser, webserver: str) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1440, "height": 1200}, base_url=webserver)
    page.set_default_timeout(60_000)
    yield page
    page.close()


@pytest.mark.parametrize(
    "site", [EVIL, "127.0.0.1"], ids=["another site", "another port of this machine"]
)
def test_a_page_of_another_site_is_refused(
    page: Page, webserver: str, foreign: Foreign, site: str
) -> None:
    before = materializations(webserver)
    attacks = ATTACKS.replace("MUTATION", json.dumps(MUTATION)).replace(
        "BODY", json.dumps(body(MUTATION))
    )
    port = urlsplit(webserver).port
    for ui in (
        webserver,
        f"http://{UI_NAME}:{port}",
        f"http://0.0.0.0:{port}",
        f"http://{EVIL}:{port}",
    ):
        page.goto(f"http://{site}:{foreign.port}/page")
        seen = page.evaluate(attacks, ui)
        # a page cannot read an opaque response
        assert set(seen.values()) <= {"failed", "error 0", "opaque 0"}, seen
        assert len(seen) == 9
    assert materializations(webserver) == before


def test_a_rebound_host_name_is_refused(page: Page, webserver: str) -> None:
    answer = page.goto(f"http://{EVIL}:{urlsplit(webserver).port}/")
    assert answer
    assert answer.status == 403
    expect(page.get_by_text("MAGNETIS_UI_HOSTS")).to_be_visible()
    status = page.evaluate(
        "fetch('/graphql', {method: 'POST', headers: {'content-type': 'application/json'}, "
        "body: '{}'}).then(r => r.status)"
    )
    assert status == 403


def test_a_link_on_another_site_opens_the_ui(page: Page, webserver: str, foreign: Foreign) -> None:
    page.goto(f"http://{EVIL}:{foreign.port}/page")
    page.evaluate(
        "ui => { document.body.innerHTML = `<a href='${ui}/jobs'>to the run</a>`; }", webserver
    )
    page.get_by_text("to the run").click()
    expect(page.get_by_text("greetings").first).to_be_visible()


def test_the_ui_cannot_be_framed(page: Page, webserver: str, foreign: Foreign) -> None:
    page.goto(f"http://{EVIL}:{foreign.port}/page")
    page.evaluate(
        "ui => { document.body.innerHTML = `<iframe src='${ui}/jobs'></iframe>`; }", webserver
    )
    frame = page.frame_locator("iframe")
    expect(frame.get_by_text("greetings")).to_have_count(0)
    assert not [
        each.url
        for each in page.frames
        if each.url.startswith(webserver) and "greetings" in each.content()
    ]


@pytest.mark.parametrize("name", ["127.0.0.1", UI_NAME])
def test_the_ui_launches_a_run_and_shows_its_events_live(
    page: Page, webserver: str, name: str
) -> None:
    sockets, refused = list[str](), list[str]()
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: sockets.append(str(frame))),
    )
    page.on(
        "response",
        lambda response: (
            refused.append(response.url) if response.status in {400, 403, 405, 415} else None
        ),
    )
    blocked = list[str]()
    page.on(
        "console",
        lambda message: (
            blocked.append(message.text) if "Content Security Policy" in message.text else None
        ),
    )
    page.goto(
        f"http://{name}:{urlsplit(webserver).port}/locations/stand_in.py/jobs/greetings/playground"
    )
    page.get_by_role("button", name="Launch run").click()
    page.wait_for_url(re.compile("/runs/[0-9a-f-]{36}"))
    expect(page.get_by_text("Finished execution of run for").first).to_be_visible()
    assert any("PipelineRunLogsSubscriptionSuccess" in frame for frame in sockets), (
        "events arrive over the websocket"
    )
    assert refused == []
    assert blocked == []


def test_the_ui_reloads_definitions(page: Page, webserver: str) -> None:
    page.goto("/locations")
    with page.expect_response(
        lambda response: (
            "graphql" in response.url and "Reload" in (response.request.post_data or "")
        )
    ) as reloaded:
        page.get_by_role("button", name=re.compile("Reload")).first.click()
    assert reloaded.value.status == 200
    with DagsterApi(webserver, location="stand_in.py") as api:
        assert api.loaded()


def launch(api: DagsterApi, asset: str) -> str:
    selector = {
        "jobName": "__ASSET_JOB",
        "repositoryName": "__repository__",
        "repositoryLocationName": "stand_in.py",
    }
    parameters = {
        "selector": selector | {"assetSelection": [asset_key(asset)]},
        "mode": "default",
        "executionMetadata": {"tags": []},
        "runConfigData": "{}",
    }
    return str(api.ask(queries.LAUNCH, parameters=parameters)["launchRun"]["run"]["runId"])


PLACES = {
    "an asset": "/assets/magnetis/calls?view=overview",
    "a check and its evaluation": "/assets/magnetis/calls?view=checks&checkDetail=known",
}


def test_text_of_other_origin_is_literal_and_loads_nothing(
    chromium: Browser, webserver: str, foreign: Foreign
) -> None:
    """The guard's policy on images is off: escaping alone must suffice."""
    with DagsterApi(webserver, location="stand_in.py") as api:
        assert api.loaded()
        run = launch(api, "calls")
        while (status := api.news(run).status) not in ENDED:
            pass
        assert status == "SUCCESS"
    context = chromium.new_context(
        bypass_csp=True, base_url=webserver, viewport={"width": 1600, "height": 1400}
    )
    requests = list[str]()
    context.on("request", lambda request: requests.append(request.url))
    page = context.new_page()
    page.set_default_timeout(60_000)
    shown = re.compile(re.escape(" ".join(HOSTILE.split())[:40]))
    for place, address in PLACES.items():
        page.goto(address)
        described = page.locator(".dagster-markdown").filter(has_text=shown)
        expect(described.first, place).to_be_visible()
        for each in described.all():
            assert (
                each.locator("img, a, h1, strong, em, del, table, blockquote, pre, b").count() == 0
            ), place
    page.goto("/assets/magnetis/raw?view=overview")
    expect(page.locator(".dagster-markdown img")).to_have_count(1)
    assert {url for url in requests if "evil" in url} == {"http://evil.example/raw.png"}, (
        "only the unescaped text"
    )
    context.close()


def test_the_policy_on_images_stops_even_unescaped_text(page: Page, foreign: Foreign) -> None:
    blocked = list[str]()
    page.on("console", lambda message: blocked.append(message.text))
    page.goto("/assets/magnetis/raw?view=overview")
    expect(page.locator(".dagster-markdown img")).to_have_count(1)
    assert any("http://evil.example/raw.png" in text and "img-src" in text for text in blocked)
