"""The compose stack on a real engine: `make test-compose`, as root. Minutes, so not in `make test`.

The tests run in their order: they tell the life of one stack. Where no engine can be had they fail and say why.
"""

import json
import ssl
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from compose_stack import EVENTS, LAST, Stack, brought_up, days, ended, status_of, wait

from magnetis_dagster.dev.dagster_api import DagsterApi
from magnetis_dagster.dev.home import free_port

pytestmark = pytest.mark.timeout(1500)

SERVICES = {"postgres", "code", "webserver", "viewer", "daemon", "proxy", "sandbox"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with brought_up(tmp_path_factory.mktemp("stack"), overlay="tests/compose/slow_sandbox.yml") as stack:
        yield stack


# --- in their order


def test_nobody_comes_in_without_a_password(stack: Stack) -> None:
    for port in (stack.environment["UI_PORT"], stack.environment["VIEWER_PORT"]):
        for path in ("/", "/graphql", "/server_info", "/logs"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 401
    assert stack.get("viewer", "/", stack.environment["UI_PORT"]).status_code == 401, "who may look may not launch"
    assert stack.get("admin", "/").status_code == 200
    assert stack.get("viewer", "/").status_code == 200
    headers = stack.get("admin", "/").headers
    assert headers["x-frame-options"] == "DENY"
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers["server"] == "nginx"
    assert "content-security-policy" in headers


def test_a_page_of_another_site_gets_nothing_even_with_the_password(stack: Stack) -> None:
    ui, password = f"http://127.0.0.1:{stack.environment['UI_PORT']}", ("admin", stack.passwords["admin"])
    mutation = "mutation { reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION}) { __typename } }"
    with httpx.Client(base_url=ui, auth=password, trust_env=False) as client:
        assert client.post("/graphql", json={"query": "{version}"}).status_code == 200
        assert client.post("/graphql", json={"query": "{version}"}, headers={"Origin": ui}).status_code == 200
        assert client.get(
            "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
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
            client.post("/graphql", content=mutation, headers={"Content-Type": "text/plain;application/json"}),
            client.post("/report_asset_materialization/magnetis/calls"),
            client.request("OPTIONS", "/graphql"),
        ]
        assert {answer.status_code for answer in refused} == {403}
        for name in ("x-frame-options", "cross-origin-opener-policy", "cross-origin-resource-policy", "x-content-type-options"):
            assert len(client.get("/").headers.get_list(name)) == 1, name


def test_every_service_says_that_it_is_well(stack: Stack) -> None:
    for service in sorted(SERVICES - {"sandbox"}):
        wait(lambda service=service: stack.inspect(service)["State"]["Health"]["Status"] == "healthy", f"{service} is well", 240)  # type: ignore[misc]


def test_guesses_of_passwords_are_slowed_down(stack: Stack) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.environment['UI_PORT']}", trust_env=False) as client:
        answers = [client.get("/").status_code for _ in range(120)]
    assert answers.count(503) > 20
    assert stack.get("admin", "/").status_code == 200, "those who know it are not"


def test_who_only_looks_can_launch_nothing(stack: Stack) -> None:
    with DagsterApi(stack.url("viewer")) as api:
        assert api.loaded()
        with pytest.raises(Exception, match=r"(?i)permission|unauthori|refused|read"):
            api.launch_backfill(days(3, 1), title="must not start", description="", tags={})


def test_a_backfill_is_launched_through_the_proxy_and_ends_well(stack: Stack) -> None:
    with stack.api() as api:
        assert api.loaded()
        backfill = api.launch_backfill(days(5, 1), title="first", description="", tags={})
    assert ended(stack, backfill, 300) == "COMPLETED_SUCCESS"
    counts = stack.counts()
    assert all(counts[name] > 0 for name in EVENTS), counts


def test_a_plan_is_launched_from_within_the_stack(stack: Stack) -> None:
    range_of = ["--from", str(LAST - timedelta(days=4)), "--to", str(LAST)]
    said = stack.compose("exec", "-T", "code", "entrypoint", "magnetis", "plan", "calls", *range_of, "--launch", "--json")
    launched = json.loads(said)["launched"]
    assert launched["page"] == f"http://webserver:3000/runs/b/{launched['backfill']}"
    assert ended(stack, launched["backfill"], 300) == "COMPLETED_SUCCESS"


def test_a_backfill_survives_the_death_of_every_service_in_turn(stack: Stack) -> None:
    with stack.api() as api:
        backfill = api.launch_backfill(days(60, 6), title="disturbed", description="", tags={})
    calls = "SELECT count(*) FROM magnetis_ops.api_calls WHERE lane = 'backfill'"
    before = int(stack.sql(calls))
    wait(lambda: int(stack.sql(calls)) > before + 3, "the backfill calls", 120)
    for service in ("code", "daemon", "webserver", "postgres"):
        stack.kill(service)
        assert not status_of(stack, backfill).startswith("COMPLETED"), f"over before {service} was killed: nothing was tested"
    assert ended(stack, backfill, 900) == "COMPLETED_SUCCESS"
    for name in EVENTS:
        expected = f"SELECT count(*) FROM magnetis_ops.days WHERE collection = '{name}' AND day >= '{LAST - timedelta(days=60)}'"
        assert int(stack.sql(expected)) == 60
        assert (
            stack.sql(
                f"SELECT count(*) FROM magnetis_ops.days AS d WHERE collection = '{name}' AND held <> "
                f"(SELECT count(*) FROM magnetis.{name} AS t WHERE t.day = d.day AND deleted_at IS NULL)"
            )
            == "0"
        )
    spent, limit = stack.sql(
        "SELECT max(schedule + settings + manual + backfill), max(daily_quota) FROM magnetis_ops.quota_days"
    ).split("|")
    assert int(spent) <= int(limit)


def test_down_and_up_again_loses_nothing(stack: Stack) -> None:
    before = stack.counts()
    stack.compose("down", "--timeout", "30")
    stack.up()
    assert stack.counts() == before
    with stack.api() as api:
        wait(api.loaded, "the code location is loaded", 120)
        green = api.green(EVENTS)
    assert all(len(found) == 60 for found in green.values()), {name: len(found) for name, found in green.items()}


def test_what_was_backed_up_is_restored_onto_an_empty_server(stack: Stack) -> None:
    before = stack.counts()
    stack.compose("stop", "daemon", "code")
    dump = stack.run("deploy/backup.sh", "sandbox").strip()
    stack.compose("down", "--volumes", "--timeout", "10")
    stack.compose("up", "--detach", "postgres")
    wait(lambda: stack.inspect("postgres")["State"]["Health"]["Status"] == "healthy", "the server is up", 120)
    assert "tables hold what the backup counted" in stack.run("deploy/restore.sh", dump, "sandbox")
    stack.up()
    assert stack.counts() == before
    with stack.api() as api:
        wait(api.loaded, "the code location is loaded", 120)
        assert all(len(found) == 60 for found in api.green(EVENTS).values())


def test_containers_have_no_more_rights_than_they_need(stack: Stack) -> None:
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
        assert not [secret for secret in secrets if secret in text], f"{service}: docker inspect shows a secret"
        if bindings := [each for bound in (host["PortBindings"] or {}).values() for each in bound]:
            published[service] = bindings
    assert published.keys() == {"proxy"}
    assert {each["HostIp"] for each in published["proxy"]} == {"127.0.0.1"}
    image = stack.inspect("code")["Image"]
    assert not [secret for secret in secrets if secret in stack.docker("history", "--no-trunc", image)]
    assert not [secret for secret in secrets if secret in stack.compose("logs", "--no-color")]


def test_the_proxy_speaks_tls_and_closes_the_plain_ports(stack: Stack) -> None:
    plain = stack.environment
    # as docs/deployment.md has it, on ports of this machine alone
    certificate = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", "secrets/tls_key", "-out", "secrets/tls_certificate"]
    stack.run("openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "2", *certificate, *files)
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
    stack.compose("up", "--detach")
    context = ssl.create_default_context(cafile=stack.folder / "secrets" / "tls_certificate")
    with httpx.Client(verify=context, trust_env=False, timeout=30) as client:

        def answers(user: str, path: str = "/server_info", auth: tuple[str, str] | None = None) -> httpx.Response:
            return client.get(f"https://localhost:{tls[user]}{path}", auth=auth)

        def served() -> bool:
            try:
                return answers("admin", auth=("admin", stack.passwords["admin"])).status_code == 200
            except httpx.HTTPError:
                return False

        wait(served, "the UI is served with TLS", 240)
        for user in tls:
            assert answers(user).status_code == 401
            page = answers(user, "/", (user, stack.passwords[user]))
            assert page.status_code == 200
            assert page.headers["strict-transport-security"] == "max-age=31536000"
            assert page.headers["x-frame-options"] == "DENY"
            closed = httpx.get(f"http://127.0.0.1:{plain['UI_PORT' if user == 'admin' else 'VIEWER_PORT']}/", trust_env=False)
            assert closed.status_code == 403, "a password must not travel"
            assert "www-authenticate" not in closed.headers
