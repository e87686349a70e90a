"""Keys read only the rows of their scope, and have their own quota."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest

from magnetis_dagster.sandbox import SANDBOX_KEYS, SandboxOptions

ORGANISATION, NETWORK, ACCOUNT = SANDBOX_KEYS
FIRST, LAST = datetime(2025, 11, 10, tzinfo=UTC), datetime(2025, 11, 12, tzinfo=UTC)
EVENTS = ("calls", "visits", "conversions", "emails", "leads")


def read(sandbox: Any, key: str, collection: str) -> dict[str, Any]:
    sandbox.http.headers["x-api-key"] = key
    try:
        window = (FIRST, LAST) if collection in EVENTS else ()
        return {row["id"]: row for row in sandbox.rows(collection, *window, limit=40)}
    finally:
        sandbox.http.headers["x-api-key"] = ORGANISATION


@pytest.mark.parametrize("collection", ["numbers", "email_alerts", "reports", *EVENTS])
def test_each_key_reads_the_rows_of_its_accounts(sandbox: Any, collection: str) -> None:
    accounts = {key: read(sandbox, key, "accounts") for key in SANDBOX_KEYS}
    assert [len(accounts[key]) for key in SANDBOX_KEYS] == [4, 2, 1]
    assert accounts[ACCOUNT].items() <= accounts[NETWORK].items() <= accounts[ORGANISATION].items()
    everything = read(sandbox, ORGANISATION, collection)
    for key in SANDBOX_KEYS:
        rows = read(sandbox, key, collection)
        assert (
            rows
            == {
                each: row
                for each, row in everything.items()
                if row["account"]["id"] in accounts[key]
            }
            != {}
        )


def test_a_key_also_reads_the_network_and_entity_of_its_account(sandbox: Any) -> None:
    account = next(iter(read(sandbox, ACCOUNT, "accounts").values()))
    assert list(read(sandbox, ACCOUNT, "networks")) == [account["network"]["id"]]
    assert list(read(sandbox, ACCOUNT, "entities")) == [account["entity"]["id"]]
    assert len(read(sandbox, ORGANISATION, "networks")) == 2


def test_an_account_outside_the_scope_is_forbidden(sandbox: Any) -> None:
    own, network, all_ = (
        read(sandbox, key, "accounts") for key in (ACCOUNT, NETWORK, ORGANISATION)
    )
    other = next(each for each in network if each not in own)
    outside = next(each for each in all_ if each not in network)
    for key, account, status in (
        (ACCOUNT, next(iter(own)), 200),
        (ACCOUNT, other, 403),
        (NETWORK, other, 200),
        (NETWORK, outside, 403),
    ):
        assert (
            sandbox.http.get(
                "/calls", params={"account_id": account}, headers={"x-api-key": key}
            ).status_code
            == status
        )


def test_each_key_has_its_own_quota_and_id(open_sandbox: Callable[..., Any]) -> None:
    sandbox = open_sandbox(daily_quota=2)
    names = set()
    for key in SANDBOX_KEYS:
        answers = [sandbox.http.get("/accounts", headers={"x-api-key": key}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        names.add(answers[0].json()["meta"]["apiKey"]["id"])
    assert len(names) == 3


def test_scopes_of_other_keys(open_sandbox: Callable[..., Any]) -> None:
    sandbox = open_sandbox(keys=("all", "second"), scopes={"second": "account:2"})
    everything = [row["id"] for row in sandbox.world.truth("accounts")][::-1]
    answer = sandbox.http.get("/accounts", headers={"x-api-key": "second"})
    assert [row["id"] for row in answer.json()["data"]] == everything[1:2]
    assert sandbox.world.count("calls", date(2025, 11, 10), date(2025, 11, 10)) > 0


@pytest.mark.parametrize(
    "scopes", [{"a": "account"}, {"a": "account:0"}, {"a": "house:1"}, {"b": "account:1"}]
)
def test_invalid_scopes_are_rejected(scopes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="scopes"):
        SandboxOptions(keys=("a",), scopes=scopes)
