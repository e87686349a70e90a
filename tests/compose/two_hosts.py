"""Two Celery workers, as on two machines, with one quota; one is disconnected during its run.

`make test-compose` runs it after stack.py. Each worker takes one run at a time, so two runs are on
different workers. The tests depend on their order.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pytest
from compose_stack import EVENTS, LAST, Stack, brought_up, days, ended, wait
from service_rights import SERVICES

pytestmark = pytest.mark.timeout(1500)

TAKEN = (
    "SELECT run_id, substring(event FROM 'Taken by Celery worker celery@([0-9a-f]+)') "
    "FROM dagster.event_logs WHERE event LIKE '%Taken by Celery worker%' ORDER BY id"
)
OTHERS = ["leads", "conversions"]


@pytest.fixture(scope="module")
def stack(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with brought_up(
        docker_host,
        tmp_path_factory.mktemp("hosts"),
        profiles=("sandbox", "celery"),
        overlay="tests/compose/two_hosts.yml",
        secrets=("--sandbox", "--celery"),
        variables={"WORKER_RUNS": "1"},
        up=("--scale", "worker=2"),
    ) as stack:
        wait(
            lambda: all(health(stack, worker) == "healthy" for worker in workers(stack)),
            "both workers are well",
            240,
        )
        yield stack


def workers(stack: Stack) -> list[str]:
    """Return the host names (short ids) of both containers."""
    found = stack.compose("ps", "-q", "worker").split()
    assert len(found) == 2
    return [container[:12] for container in found]


def health(stack: Stack, worker: str) -> str:
    return stack.docker("inspect", "--format", "{{.State.Health.Status}}", worker).strip()


def taken(stack: Stack) -> dict[str, str]:
    """Return the worker of each run."""
    return dict(line.split("|", 1) for line in stack.sql(TAKEN).splitlines())  # type: ignore[misc]


def runs(stack: Stack, tag: str, value: str) -> dict[str, str]:
    """Return the runs with a tag, oldest first, with their status."""
    found = stack.sql(
        "SELECT r.run_id, r.status FROM dagster.runs AS r JOIN dagster.run_tags AS t USING "
        f"(run_id) WHERE t.key = '{tag}' AND t.value = '{value}' ORDER BY r.id"
    )
    return dict(line.split("|", 1) for line in found.splitlines())  # type: ignore[misc]


def status(stack: Stack, run: str) -> str:
    return stack.sql(f"SELECT status FROM dagster.runs WHERE run_id = '{run}'")


def charged(stack: Stack) -> int:
    return int(stack.sql("SELECT count(*) FROM magnetis_ops.api_calls"))


def received(stack: Stack) -> list[str]:
    return re.findall(r"received (/\S+\?\S+)", stack.compose("logs", "--no-color", "sandbox"))


def complete(stack: Stack, collection: str, first: date, number: int) -> None:
    """Assert that each of `number` days from `first` was read once and is complete."""
    last = first + timedelta(days=number - 1)
    windows = (
        f"FROM magnetis_ops.windows WHERE collection = '{collection}' "
        f"AND first_day BETWEEN '{first}' AND '{last}'"
    )
    assert int(stack.sql(f"SELECT sum(last_day - first_day + 1) {windows}")) == number, (
        f"{collection}: days were read twice, or not at all"
    )
    held = stack.sql(
        "SELECT count(*), count(*) FILTER (WHERE announced = held AND held = (SELECT count(*) "
        f"FROM magnetis.{collection} AS t WHERE t.day = d.day AND deleted_at IS NULL)) FROM "
        f"magnetis_ops.days AS d WHERE collection = '{collection}' AND day BETWEEN '{first}' AND "
        f"'{last}'"
    )
    assert held == f"{number}|{number}"


def test_two_workers_share_the_work_and_the_quota(stack: Stack) -> None:
    with stack.api() as api:
        wait(api.loaded, "the code location is loaded", 120)
        backfill = api.launch_backfill(days(6, 1), title="shared", description="", tags={})
        one = api.launch(OTHERS[:1], LAST - timedelta(days=20), LAST, {})
        two = api.launch(OTHERS[1:], LAST - timedelta(days=20), LAST, {})
    assert ended(stack, backfill, 400) == "COMPLETED_SUCCESS"
    wait(lambda: status(stack, one) == status(stack, two) == "SUCCESS", "both runs have ended", 240)
    assert set(taken(stack).values()) == set(workers(stack))
    wait(
        lambda: charged(stack) == len(received(stack)),
        "the ledger contains every request",
        30,
    )
    for name in OTHERS:
        complete(stack, name, LAST - timedelta(days=20), 21)


def test_the_other_worker_takes_over_the_run_of_a_disconnected_one(stack: Stack) -> None:
    before = len(received(stack))
    with stack.api() as api:
        backfill = api.launch_backfill(days(45, 7), title="cut off", description="", tags={})
    wait(lambda: len(received(stack)) > before + 12, "the backfill calls", 240)
    [(run, state)] = runs(stack, "dagster/backfill", backfill).items()
    assert state == "STARTED"
    lost = taken(stack)[run]
    [other] = set(workers(stack)) - {lost}
    networks = stack.docker(
        "inspect",
        "--format",
        "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}",
        lost,
    ).split()
    assert set(networks) == {
        f"{stack.environment['COMPOSE_PROJECT_NAME']}_{name}"
        for name in SERVICES["worker"].networks
    }
    for network in networks:
        stack.docker("network", "disconnect", "--force", network, lost)
    try:
        at_cut = len(received(stack))
        wait(lambda: status(stack, run) == "FAILURE", "run monitoring gives the run up", 300)
        wait(
            lambda: "The database has not answered" in logs(stack, lost),
            "the worker has ended its run by itself",
            5,
        )
        assert ended(stack, backfill, 600) == "COMPLETED_SUCCESS"
    finally:
        for network in networks:
            stack.docker("network", "connect", network, lost)
    first, retry = runs(stack, "dagster/backfill", backfill)
    assert first == run
    assert taken(stack)[retry] == other
    assert len(received(stack)) > at_cut
    for name in EVENTS:
        complete(stack, name, LAST - timedelta(days=45), 39)
    # Requests in flight when the worker was cut off are sent again: MAGNETIS_CONCURRENCY of the
    # window that was read, and of the one announced ahead. Witnesses request a page of a complete
    # list once more.
    again = [query for query, number in Counter(received(stack)[before:]).items() if number > 1]
    first_day, last_day = LAST - timedelta(days=45), LAST - timedelta(days=7)
    witnesses = stack.sql(
        "SELECT sum(witness_calls) FROM magnetis_ops.windows WHERE first_day BETWEEN "
        f"'{first_day}' AND '{last_day}'"
    )
    assert len(again) <= 16 + int(witnesses), again
    assert len(received(stack)) <= charged(stack) <= len(received(stack)) + 16


def logs(stack: Stack, worker: str) -> str:
    return stack.run("sh", "-c", f"/usr/bin/docker logs {worker} 2>&1")


def test_a_reconnected_worker_changes_nothing_and_takes_new_runs(stack: Stack) -> None:
    calls, counts = charged(stack), stack.counts()
    wait(
        lambda: all(health(stack, worker) == "healthy" for worker in workers(stack)),
        "both workers are well",
        300,
    )
    time.sleep(30)
    assert charged(stack) == calls, "the interrupted run sends requests again"
    assert stack.counts() == counts
    with stack.api() as api:
        launched = [
            api.launch([name], LAST - timedelta(days=40), LAST - timedelta(days=21), {})
            for name in OTHERS
        ]
    wait(
        lambda: all(status(stack, run) == "SUCCESS" for run in launched),
        "both runs have ended",
        300,
    )
    assert {taken(stack)[run] for run in launched} == set(workers(stack))


def test_no_run_is_lost_if_redis_dies(stack: Stack) -> None:
    with stack.api() as api:
        run = api.launch(OTHERS[:1], LAST - timedelta(days=90), LAST - timedelta(days=41), {})
        wait(lambda: status(stack, run) == "STARTED", "the run works", 120)
        stack.kill("redis")
        later = api.launch(OTHERS[1:], LAST - timedelta(days=90), LAST - timedelta(days=41), {})
    wait(
        lambda: status(stack, run) == status(stack, later) == "SUCCESS", "both runs have ended", 400
    )


def test_redis_is_reachable_only_by_its_users(stack: Stack) -> None:
    port = stack.ports(["redis"])
    for service in (
        "code",
        "webserver",
        "viewer",
        "proxy",
        "sandbox",
        "postgres",
        "daemon",
        "worker",
    ):
        assert stack.opened(service, port) == (
            {"redis"} if service in {"daemon", "worker"} else set()
        ), service
    for service in ("daemon", "worker"):
        there = stack.execute(service, "ls", "/run/secrets").split()
        assert set(there) == SERVICES[service].secrets
    assert (
        stack.execute("webserver", "sh", "-c", "echo $MAGNETIS_CELERY_BROKER_URL").strip()
        == "redis://redis:6379/0"
    )


def test_the_password_of_redis_is_not_shown(stack: Stack) -> None:
    password = (stack.folder / "secrets" / "redis_password").read_text().strip()
    assert password not in stack.compose("logs", "--no-color")
    for container in stack.compose("ps", "-q").split():
        assert password not in stack.docker("inspect", container)
    assert password not in stack.compose(
        "exec", "-T", "postgres", "pg_dump", "--username=magnetis", "sandbox"
    )
    assert password not in stack.run("ps", "-ef")
