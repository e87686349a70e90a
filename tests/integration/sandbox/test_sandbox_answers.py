"""Responses without rows: authentication, errors, quota and faults."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from magnetis_dagster.sandbox import FAULTS, Answer, Request, SandboxOptions


@pytest.mark.parametrize("key", ["", "another"])
def test_an_unknown_key_is_unauthenticated(sandbox: Any, key: str) -> None:
    for path in ("/calls", "/nowhere"):
        answer = sandbox.http.get(path, headers={"x-api-key": key})
        assert (answer.status_code, answer.json()) == (401, {"message": "Unauthenticated."})


def test_every_key_of_the_options_is_accepted(open_sandbox: Callable[..., Any]) -> None:
    sandbox = open_sandbox(keys=("one", "two"))
    assert sandbox.server.key == "one"
    assert sandbox.http.get("/calls", headers={"x-api-key": "two"}).status_code == 200


def test_an_unknown_path_is_not_found(sandbox: Any) -> None:
    for path in ("/nowhere", "/calls/1", "/emails/"):
        answer = sandbox.get(path)
        assert answer.status_code == 404
        assert "could not be found" in answer.json()["message"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_get_and_head_are_allowed(sandbox: Any, method: str) -> None:
    answer = sandbox.http.request(method, "/calls")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert method in answer.json()["message"]


def test_head_is_get_without_the_body(sandbox: Any) -> None:
    head, get = sandbox.http.head("/accounts"), sandbox.get("/accounts")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(get.content))
    assert sandbox.get("/accounts").content == get.content, "the connection is usable afterwards"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("limit", value)
            for value in ("0", "251", "-1", "ten", "1.5", "١", "99999999999999999999")
        ),
        *(("page", value) for value in ("0", "-1", "last", "99999999999999999999")),
        *(
            ("from", value)
            for value in (
                "2025-01-01",
                "20250101",
                "20251301000000",
                "2025111111111",
                "20250101T00000",
                "now",
            )
        ),
        ("to", "20250230000000"),
    ],
)
def test_the_error_for_an_invalid_parameter_names_it(sandbox: Any, name: str, value: str) -> None:
    answer = sandbox.get("/calls", **{f"{name}_": value})
    assert answer.status_code == 422
    assert answer.json()["message"] == "The given data was invalid."
    assert list(answer.json()["errors"]) == [name]


def test_snapshots_ignore_window_parameters(sandbox: Any) -> None:
    assert sandbox.get("/accounts", from_="nonsense").status_code == 200


def test_the_root_lists_the_routes_without_a_key(sandbox: Any) -> None:
    answer = sandbox.http.get("/", headers={"x-api-key": ""})
    assert "/calls" in answer.json()["routes"]


def test_the_quota_is_per_local_day(open_sandbox: Callable[..., Any]) -> None:
    # 26 October 2025 has 25 hours in Paris: 01:30 is 23 h 30 min before the next day
    now = [datetime(2025, 10, 25, 23, 30, tzinfo=UTC)]
    sandbox = open_sandbox(daily_quota=4, keys=("one", "two"), clock=lambda: now[0])
    calls = [
        ("GET", "/calls", 200),
        ("GET", "/nowhere", 404),
        ("GET", "/calls?limit=0", 422),
        ("POST", "/calls", 405),
    ]
    for method, path, status in calls:
        assert sandbox.http.get("/calls", headers={"x-api-key": "wrong"}).status_code == 401
        assert sandbox.http.request(method, path).status_code == status
    answer = sandbox.get("/calls")
    assert (answer.status_code, answer.json()) == (429, {"message": "Too Many Attempts."})
    assert answer.headers["retry-after"] == str(23 * 3600 + 1800)
    assert sandbox.http.get("/calls", headers={"x-api-key": "two"}).status_code == 200
    now[0] += timedelta(seconds=int(answer.headers["retry-after"]) - 1)
    assert sandbox.get("/calls").status_code == 429
    assert (
        sandbox.server.quota.used("one", now[0].astimezone(sandbox.server.options.zone).date()) == 4
    )
    now[0] += timedelta(seconds=1)
    assert sandbox.get("/calls").status_code == 200
    assert (
        sandbox.server.quota.used("one", now[0].astimezone(sandbox.server.options.zone).date()) == 1
    )


def test_requests_are_recorded_with_their_status(open_sandbox: Callable[..., Any]) -> None:
    sandbox = open_sandbox()
    sandbox.get("/calls", from_="20250101000000", page=3)
    sandbox.get("/nowhere")
    assert sandbox.server.requests == [
        (Request(1, "/calls", {"from": "20250101000000", "page": "3"}), 200),
        (Request(2, "/nowhere", {}), 404),
    ]
    assert sandbox.server.received == 2


def test_a_test_can_replace_responses(open_sandbox: Callable[..., Any]) -> None:
    sandbox = open_sandbox(daily_quota=1)
    sandbox.server.intercept(
        lambda request: (
            Answer(418, b"tea", {"x-pot": "1"}) if request.query.get("page") == "2" else None
        )
    )
    replaced = sandbox.get("/calls", page=2)
    assert (replaced.status_code, replaced.content, replaced.headers["x-pot"]) == (418, b"tea", "1")
    assert sandbox.get("/calls", page=1).status_code == 200, "a replaced response costs no quota"
    sandbox.server.intercept(lambda _request: None)
    assert sandbox.get("/calls", page=2).status_code == 429


def test_latency(open_sandbox: Callable[..., Any]) -> None:
    assert open_sandbox(latency=0.2).get("/calls").elapsed.total_seconds() >= 0.2


# --- faults


def always(open_sandbox: Callable[..., Any], kind: str) -> Any:
    return open_sandbox(faults={kind: 1.0}, daily_quota=10)


@pytest.mark.parametrize(
    ("kind", "status", "content_type"),
    [
        ("too_many", 429, "application/json"),
        ("error_500", 500, "application/json"),
        ("bad_gateway", 502, "text/html"),
    ],
)
def test_faults_with_a_status(
    open_sandbox: Callable[..., Any], kind: str, status: int, content_type: str
) -> None:
    sandbox = always(open_sandbox, kind)
    answer = sandbox.get("/calls")
    assert (answer.status_code, answer.headers["content-type"]) == (status, content_type)
    assert answer.headers.get("retry-after") == ("1" if kind == "too_many" else None)
    assert (b"<html>" in answer.content) is (kind == "bad_gateway")
    today = sandbox.server.options.clock().astimezone(sandbox.server.options.zone).date()
    assert sandbox.server.quota.used(sandbox.server.key, today) == 1, "failed calls count too"
    assert sandbox.http.get("/calls", headers={"x-api-key": "wrong"}).status_code == 401


def test_fault_hang(open_sandbox: Callable[..., Any]) -> None:
    sandbox = always(open_sandbox, "hang")
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            sandbox.http.get("/calls", timeout=0.2)
    assert sandbox.server.received == 2


def test_fault_truncated(open_sandbox: Callable[..., Any]) -> None:
    answer = always(open_sandbox, "truncated").get("/calls")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="unexpected end"):
        orjson.loads(answer.content)


def test_fault_empty(open_sandbox: Callable[..., Any]) -> None:
    answer = always(open_sandbox, "empty").get("/calls")
    assert (answer.status_code, answer.content) == (200, b"")


def test_fault_dropped(open_sandbox: Callable[..., Any]) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
        always(open_sandbox, "dropped").get("/calls")


def test_fault_duplicated(open_sandbox: Callable[..., Any], sandbox: Any) -> None:
    faulty = always(open_sandbox, "duplicated")
    assert faulty.page("calls", limit=9) == sandbox.page("calls", limit=9), (
        "the first page is unchanged"
    )
    rows, whole = (each.page("calls", limit=9, page=2)["data"] for each in (faulty, sandbox))
    assert rows == [*whole[:-1], whole[0]]


def test_fault_total_moved(open_sandbox: Callable[..., Any], sandbox: Any) -> None:
    faulty, correct = (
        each.page("accounts") for each in (always(open_sandbox, "total_moved"), sandbox)
    )
    assert faulty["meta"]["total"] == correct["meta"]["total"] + 1
    assert faulty["data"] == correct["data"]


def responses(open_sandbox: Callable[..., Any], seed: int) -> list[str]:
    fast = [kind for kind in FAULTS if kind not in {"hang", "dropped"}]
    sandbox = open_sandbox(faults=dict.fromkeys(fast, 0.15), fault_seed=seed)
    return [
        f"{answer.status_code} {answer.content[-80:]!r}"
        for answer in (sandbox.get("/calls", page=2) for _ in range(60))
    ]


def test_equal_fault_seeds_give_equal_faults(open_sandbox: Callable[..., Any]) -> None:
    assert responses(open_sandbox, 1) == responses(open_sandbox, 1) != responses(open_sandbox, 2)
    assert len(set(responses(open_sandbox, 1))) >= 6


@pytest.mark.parametrize("faults", [{"unheard_of": 0.5}, {"hang": 1.5}, {"hang": -0.1}])
def test_invalid_faults_are_rejected(faults: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected probabilities"):
        SandboxOptions(faults=faults)
