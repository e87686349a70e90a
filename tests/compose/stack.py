"""The compose stack on a real engine: `make test-compose`, as root; too slow for `make test`.

The tests share one stack only: each loads its own days, restores its changes, and also runs alone.
Without an engine, they fail with the reason.
"""

import json
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from compose_stack import LAST, Stack, brought_up, days, ended, status_of, wait
from playwright.sync_api import sync_playwright
from service_rights import DATABASE_ROLES, reachable
from service_rights import SERVICES as RIGHTS

from magnetis_dagster.dev.home import free_port

pytestmark = pytest.mark.timeout(1500)

SERVICES = {"postgres", "code", "webserver", "viewer", "daemon", "proxy", "sandbox"}
AT_ONCE, A_MINUTE = 21, 10
"""Password guesses that an address may make (deploy/nginx/nginx.conf)."""


@pytest.fixture(scope="module")
def stack(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with brought_up(
        docker_host, tmp_path_factory.mktemp("stack"), overlay="tests/compose/slow_sandbox.yml"
    ) as stack:
        yield stack


def test_nobody_has_access_without_a_password(stack: Stack) -> None:
    for port in (stack.environment["UI_PORT"], stack.environment["VIEWER_PORT"]):
        for path in ("/", "/graphql", "/server_info", "/logs"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 401
    assert stack.get("viewer", "/", stack.environment["UI_PORT"]).status_code == 401, (
        "a viewer may not launch"
    )
    assert stack.get("admin", "/").status_code == 200
    assert stack.get("viewer", "/").status_code == 200
    headers = stack.get("admin", "/").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers["server"] == "nginx"
    assert "content-security-policy" in headers


def test_a_page_of_another_site_is_refused_even_with_the_password(stack: Stack) -> None:
    ui, password = (
        f"http://127.0.0.1:{stack.environment['UI_PORT']}",
        ("admin", stack.passwords["admin"]),
    )
    mutation = (
        "mutation { reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION}) "
        "{ __typename } }"
    )
    with httpx.Client(base_url=ui, auth=password, trust_env=False) as client:
        assert client.post("/graphql", json={"query": "{version}"}).status_code == 200
        assert (
            client.post("/graphql", json={"query": "{version}"}, headers={"Origin": ui}).status_code
            == 200
        )
        assert client.get(
            "/",
            headers={
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
        ).is_success
        refused = [
            *(
                client.post("/graphql", json={"query": "{version}"}, headers={"Origin": origin})
                for origin in ("null", "https://evil.example")
            ),
            *(
                client.get("/", headers={name: value})
                for name, value in (("Sec-Fetch-Site", "cross-site"), ("Host", "evil.example"))
            ),
            client.get("/", headers={"X-Forwarded-Host": "evil.example"}),
            client.get("/graphql", params={"query": mutation}),
            client.post(
                "/graphql",
                content=mutation,
                headers={"Content-Type": "text/plain;application/json"},
            ),
            client.post("/report_asset_materialization/magnetis/calls"),
            client.request("OPTIONS", "/graphql"),
        ]
        assert {answer.status_code for answer in refused} == {403}
        for name in (
            "x-frame-options",
            "cross-origin-opener-policy",
            "cross-origin-resource-policy",
            "x-content-type-options",
        ):
            assert len(client.get("/").headers.get_list(name)) == 1, name


def test_every_service_is_healthy(stack: Stack) -> None:
    for service in sorted(SERVICES - {"sandbox"}):
        wait(
            lambda service=service: (
                stack.inspect(service)["State"]["Health"]["Status"] == "healthy"
            ),
            f"{service} is well",
            240,
        )  # type: ignore[misc]


GUESSES = """
import base64, collections, http.client, sys, time
host, port, user, number = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
began = time.monotonic()
answers = collections.Counter()
for guess in range(number):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    word = base64.b64encode(f"{user}:guess-{guess}".encode()).decode()
    connection.request("GET", "/", headers={"Authorization": "Basic " + word})
    answers[connection.getresponse().status] += 1
    connection.close()
print(answers[401], answers[429], sum(answers.values()), time.monotonic() - began)
"""


def guess(stack: Stack, service: str, user: str, port: int, number: int = 300) -> None:
    """Guess from a container with its own address; check how many guesses were answered."""
    command = ("python3", "-c", GUESSES, "proxy", str(port), user, str(number))
    refused, slowed, asked, seconds = map(float, stack.execute(service, *command).split())
    assert refused + slowed == asked == number
    assert refused <= allowed(seconds), f"{refused:.0f} guesses in {seconds:.1f} s"


def allowed(seconds: float) -> float:
    return AT_ONCE + A_MINUTE * seconds / 60 + 1


def asked(url: str, number: int, **options: Any) -> Counter[int]:
    """Return the status codes of `number` requests without a session, each with a password."""
    return Counter(
        httpx.get(url, trust_env=False, timeout=30, **options).status_code for _ in range(number)
    )


def test_password_guesses_are_counted_by_address_for_all_users(stack: Stack) -> None:
    stack.compose("restart", "proxy")  # forgets the guesses
    wait(stack.serves, "the UI is served", 120)
    right, wrong = (
        stack.url("admin"),
        f"http://admin:wrong@127.0.0.1:{stack.environment['UI_PORT']}",
    )
    admin = httpx.Client(base_url=right, trust_env=False, timeout=30)
    assert admin.get("/").status_code == 200
    try:
        guess(stack, "webserver", "admin", 8080)
        guess(stack, "webserver", "nobody", 8080, 60)  # neither another user nor the other server
        guess(stack, "webserver", "viewer", 8081, 60)  # gives an address more guesses
        guess(stack, "viewer", "viewer", 8081)  # another address has its own

        # nor does the right password in between, an invented cookie, or a cookie of the other
        # server
        made_up, other = (
            {"magnetis_ui": "0" * 32},
            {"magnetis_viewer": admin.cookies["magnetis_ui"]},
        )
        began = time.monotonic()
        answers = asked(wrong, 15) + asked(right, 15) + asked(wrong, 15)
        answers += asked(right, 15, cookies=made_up) + asked(stack.url("viewer"), 15, cookies=other)
        answered = answers[200] + answers[401]
        assert answered + answers[429] == 75, answers
        assert answered <= allowed(time.monotonic() - began), answers

        # a user with a session is not slowed at the same address; the cookie is no password
        assert {admin.get("/").status_code for _ in range(200)} == {200}
        session = {"magnetis_ui": admin.cookies["magnetis_ui"]}
        assert httpx.get(wrong, cookies=session, trust_env=False).status_code == 401
    finally:
        admin.close()
        stack.compose("restart", "proxy")
        wait(stack.serves, "the UI is served", 120)


def test_users_with_a_session_are_not_slowed_by_guesses_from_their_address(stack: Stack) -> None:
    chromium = stack.run(
        sys.executable, str(Path(__file__).parents[2] / "tools" / "browser.py")
    ).strip()
    answers: Counter[int] = Counter()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            pages = []
            for _ in range(3):  # three users behind one address
                page = browser.new_context(
                    http_credentials={"username": "admin", "password": stack.passwords["admin"]}
                ).new_page()
                page.on("response", lambda answer: answers.update([answer.status]))
                page.goto(f"http://127.0.0.1:{stack.environment['UI_PORT']}/", timeout=120_000)
                pages.append(page)
            wrong = f"http://admin:wrong@127.0.0.1:{stack.environment['UI_PORT']}"
            assert asked(wrong, 60)[429] > 0, "the address has guesses left"
            for page in pages:
                for path in ("/runs", "/assets", "/deployment/daemons"):
                    page.goto(
                        f"http://127.0.0.1:{stack.environment['UI_PORT']}{path}", timeout=120_000
                    )
                    page.wait_for_load_state("networkidle", timeout=60_000)
            browser.close()
    finally:
        stack.compose("restart", "proxy")
        wait(stack.serves, "the UI is served", 120)
    assert answers[200] > 100, answers
    assert not answers.keys() & {401, 429, 502, 503}, answers


def test_responses_without_a_valid_password_set_no_session_cookie(stack: Stack) -> None:
    for user, name in (("admin", "magnetis_ui"), ("viewer", "magnetis_viewer")):
        port = stack.environment["UI_PORT" if user == "admin" else "VIEWER_PORT"]
        assert "set-cookie" not in httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).headers
        assert (
            "set-cookie"
            not in httpx.get(f"http://{user}:wrong@127.0.0.1:{port}/", trust_env=False).headers
        )
        given = httpx.get(stack.url(user), trust_env=False).headers["set-cookie"]
        assert re.fullmatch(f"{name}=[0-9a-f]{{32}}; Path=/; HttpOnly; SameSite=Lax", given)


def test_a_viewer_can_launch_nothing(stack: Stack) -> None:
    with stack.api("viewer") as api:
        assert api.loaded()
        with pytest.raises(Exception, match=r"(?i)permission|unauthori|refused|read"):
            api.launch_backfill(days(3, 1), title="must not start", description="", tags={})


def test_containers_have_only_their_secrets(stack: Stack) -> None:
    for service in sorted(SERVICES):
        there = stack.execute(service, "sh", "-c", "ls /run/secrets 2>/dev/null || true").split()
        assert set(there) == RIGHTS[service].secrets, service


def test_roles_have_only_the_rights_of_their_services(stack: Stack) -> None:
    program = (Path(__file__).parents[1] / "try_rights.py").read_text(encoding="utf-8")
    for service in ("code", "webserver", "viewer", "daemon"):
        role = RIGHTS[service].role
        assert role
        found = json.loads(stack.execute(service, "python3", "-", input=program))
        assert found["role"] == role
        assert {
            schema: frozenset(kinds) for schema, kinds in found["allowed"].items()
        } == DATABASE_ROLES[role], service
    found = json.loads(
        stack.compose(
            "run", "--rm", "-T", "--no-deps", "migrate", "python3", "-", input=program
        ).splitlines()[-1]
    )
    assert {
        schema: frozenset(kinds) for schema, kinds in found["allowed"].items()
    } == DATABASE_ROLES["magnetis_owner"]
    # `up` restores missing rights, such as those of an older version
    stack.sql("REVOKE SELECT ON dagster.runs FROM magnetis_view")
    stack.compose("up", "--detach")
    assert stack.sql("SELECT has_table_privilege('magnetis_view', 'dagster.runs', 'SELECT')") == "t"
    # the other database of the stack has the same roles and no others
    superusers = stack.sql("SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolsuper")
    assert superusers == "magnetis"
    assert stack.sql("SELECT has_database_privilege('public', 'magnetis', 'CONNECT')") == "f"


def test_ports_answer_only_where_they_are_needed(stack: Stack) -> None:
    ports = stack.ports(sorted(name for name in SERVICES if RIGHTS[name].port))
    for source in sorted(SERVICES):
        # a container reaches itself
        others = {port: name for port, name in ports.items() if name != source}
        assert stack.opened(source, others) == {
            name for name in others.values() if reachable(source, name)
        }, source
    # proxy and sandbox share networks with the code server: its port is closed there, not absent
    assert list(ports.values()).count("code") == len(RIGHTS["code"].networks)
    assert all(RIGHTS["code"].networks & RIGHTS[name].networks for name in ("proxy", "sandbox"))


def test_a_backfill_launched_through_the_proxy_succeeds(stack: Stack) -> None:
    stack.load(5, 1)


def test_a_plan_is_launched_from_within_the_stack(stack: Stack) -> None:
    range_of = ["--from", str(LAST - timedelta(days=4)), "--to", str(LAST)]
    said = stack.execute(
        "code", "entrypoint", "magnetis", "plan", "calls", *range_of, "--launch", "--json"
    )
    launched = json.loads(said)["launched"]
    assert launched["page"] == f"http://webserver:3000/runs/b/{launched['backfill']}"
    assert ended(stack, launched["backfill"], 300) == "COMPLETED_SUCCESS"


def test_a_backfill_survives_the_death_of_every_service_in_turn(stack: Stack) -> None:
    with stack.api() as api:
        wait(api.loaded, "the code location is loaded", 120)
        backfill = api.launch_backfill(days(60, 6), title="disturbed", description="", tags={})
    calls = "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'backfill'"
    before = int(stack.sql(calls))
    wait(lambda: int(stack.sql(calls)) > before + 3, "the backfill calls", 120)
    for service in ("code", "daemon", "webserver", "postgres"):
        stack.kill(service)
        assert not status_of(stack, backfill).startswith("COMPLETED"), (
            f"it ended before {service} was killed: nothing was tested"
        )
    assert ended(stack, backfill, 900) == "COMPLETED_SUCCESS"
    stack.holds(60, 6)
    spent, limit = stack.sql(
        "SELECT max(schedule + settings + manual + backfill), max(daily_quota) FROM "
        "magnetis_ops.quota_days"
    ).split("|")
    assert int(spent) <= int(limit)


def test_nothing_is_lost_by_down_and_up(stack: Stack) -> None:
    stack.load(64, 62)
    counts, green = stack.counts(), stack.green()
    stack.compose("down", "--timeout", "30")
    stack.up()
    assert stack.counts() == counts
    assert stack.green() == green
    stack.holds(64, 62)


def test_a_backup_is_restored_onto_an_empty_server(stack: Stack) -> None:
    stack.load(68, 66)
    stack.compose("stop", "daemon", "code")
    counts = stack.counts()
    dump = stack.run("deploy/backup.sh", "sandbox").strip()
    stack.compose("down", "--volumes", "--timeout", "10")
    stack.compose("up", "--detach", "postgres")
    wait(
        lambda: stack.inspect("postgres")["State"]["Health"]["Status"] == "healthy",
        "the server is up",
        120,
    )
    restored = stack.run("deploy/restore.sh", dump, "sandbox")
    assert "tables have the row counts of the backup" in restored
    stack.up()
    assert stack.counts() == counts
    assert all(
        {LAST - timedelta(days=66), LAST - timedelta(days=68)} <= found
        for found in stack.green().values()
    )
    stack.holds(68, 66)
    stack.load(72, 71)  # the roles may use the restored tables


def test_containers_have_minimal_rights(stack: Stack) -> None:
    secrets = [path.read_text().strip() for path in (stack.folder / "secrets").iterdir()]
    secrets = [secret for secret in [*secrets, *stack.passwords.values()] if secret]
    published: dict[str, list[dict[str, str]]] = {}
    for service in sorted(SERVICES):
        found = stack.inspect(service)
        config, host = found["Config"], found["HostConfig"]
        assert config["User"] not in {"", "0", "root", "0:0"}, service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert not host["Privileged"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["Memory"] > 0, service
        assert host["PidsLimit"] > 0, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert host["LogConfig"]["Config"] == {"max-file": "5", "max-size": "10m"}, service
        assert host["Init"], service
        assert not any("docker.sock" in str(mount) for mount in found["Mounts"]), service
        text = json.dumps(found)
        assert not [secret for secret in secrets if secret in text], (
            f"{service}: docker inspect shows a secret"
        )
        if bindings := [each for bound in (host["PortBindings"] or {}).values() for each in bound]:
            published[service] = bindings
    assert published.keys() == {"proxy"}
    assert {each["HostIp"] for each in published["proxy"]} == {"127.0.0.1"}
    image = stack.inspect("code")["Image"]
    assert not [
        secret for secret in secrets if secret in stack.docker("history", "--no-trunc", image)
    ]
    assert not [secret for secret in secrets if secret in stack.compose("logs", "--no-color")]


def test_the_proxy_speaks_tls_and_closes_the_plain_ports(stack: Stack) -> None:
    plain = stack.environment
    # as in docs/deployment.md, on ports of this machine only
    certificate = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", "secrets/tls_key", "-out", "secrets/tls_certificate"]
    stack.run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:3072",
        "-nodes",
        "-days",
        "2",
        *certificate,
        *files,
    )
    for name in ("tls_key", "tls_certificate"):
        (stack.folder / "secrets" / name).chmod(0o644)
    tls = {"admin": free_port(), "viewer": free_port()}
    stack.environment = {
        **plain,
        "COMPOSE_FILE": f"{plain['COMPOSE_FILE']}:docker-compose.tls.yml",
        "TLS_ADDRESS": "127.0.0.1",
        "TLS_UI_PORT": str(tls["admin"]),
        "TLS_VIEWER_PORT": str(tls["viewer"]),
    }
    try:
        stack.compose("up", "--detach")
        context = ssl.create_default_context(cafile=stack.folder / "secrets" / "tls_certificate")
        with httpx.Client(verify=context, trust_env=False, timeout=30) as client:

            def answers(
                user: str, path: str = "/server_info", auth: tuple[str, str] | None = None
            ) -> httpx.Response:
                return client.get(f"https://localhost:{tls[user]}{path}", auth=auth)

            def served() -> bool:
                try:
                    return (
                        answers("admin", auth=("admin", stack.passwords["admin"])).status_code
                        == 200
                    )
                except httpx.HTTPError:
                    return False

            wait(served, "the UI is served with TLS", 240)
            for user in tls:
                assert answers(user).status_code == 401
                page = answers(user, "/", (user, stack.passwords[user]))
                assert page.status_code == 200
                assert page.headers["strict-transport-security"] == "max-age=31536000"
                assert page.headers["x-frame-options"] == "DENY"
                closed = httpx.get(
                    f"http://127.0.0.1:{plain['UI_PORT' if user == 'admin' else 'VIEWER_PORT']}/",
                    trust_env=False,
                )
                assert closed.status_code == 403, "a password must not travel"
                assert "www-authenticate" not in closed.headers
            began = time.monotonic()
            guesses = asked(f"https://viewer:wrong@localhost:{tls['viewer']}/", 90, verify=context)
            assert guesses[401] + guesses[429] == 90, guesses
            assert guesses[401] <= allowed(time.monotonic() - began), guesses
            for user in tls:
                assert answers(user, "/", (user, stack.passwords[user])).status_code == 200, (
                    "a user with a session is not slowed"
                )
    finally:
        stack.environment = plain
        stack.compose("up", "--detach")
        wait(stack.serves, "the UI is served without TLS again", 240)
