"""The sandbox's lies by name: a load fails, or stores exactly the rows of the sandbox.

docs/sandbox.md demonstrates these loads.
"""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest
from small_api import Open

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.sandbox import Request, SandboxOptions, SandboxServer
from magnetis_dagster.sandbox.lies import LIES, parse

FIRST = date(2026, 3, 2)
DAYS = [FIRST + timedelta(days=number) for number in range(5)]
Query = Callable[..., list[Any]]


def opened_sandbox(*lies: str) -> SandboxServer:
    # five days of some 400 calls: eight pages, and more than the cap
    return SandboxServer(
        SandboxOptions(
            calls_per_day=350, daily_quota=None, accounts=3, visits_per_call=0, lies=parse(lies)
        )
    )


def load(open_ingestion: Open, catalogue: Catalogue, sandbox: SandboxServer) -> str | None:
    try:
        with open_ingestion(origin=sandbox.url, key=sandbox.key) as ingestion:
            list(ingestion.read_days(catalogue["calls"], DAYS))
    except MagnetisError as error:
        return str(error)
    return None


def wrong_days(query: Query, sandbox: SandboxServer) -> list[date]:
    """Return the complete days whose rows differ from the sandbox."""
    wrong = []
    for (day,) in query("SELECT day FROM magnetis_ops.days WHERE collection = 'calls'"):
        held = {
            row
            for (row,) in query(
                "SELECT id FROM magnetis.calls WHERE day = :day AND deleted_at IS NULL", day=day
            )
        }
        if held != {row["id"] for row in sandbox.world.truth("calls", day, day)}:
            wrong.append(day)
    return wrong


@pytest.mark.parametrize("lie", [name for name in LIES if name != "swap"])
def test_no_green_day_differs_from_the_truth(
    lie: str, open_ingestion: Open, catalogue: Catalogue, query: Query
) -> None:
    with opened_sandbox(lie) as sandbox:
        honest = [row["id"] for row in sandbox.world.truth("calls", DAYS[0], DAYS[-1])]
        assert len(honest) > 1600
        load(open_ingestion, catalogue, sandbox)
        assert wrong_days(query, sandbox) == []


@pytest.mark.parametrize(
    ("lie", "complete", "reason"),
    [
        ("cap=1000", 5, None),  # the window is split
        ("shorten_end=2", 5, None),
        ("ignore_from", 0, "from"),
        ("too_few", 0, "rows"),
        ("too_many", 0, "rows"),
        ("bare", 5, None),
        ("error_200", 5, None),
    ],
)
def test_loads_behave_as_docs_sandbox_md_describes(
    lie: str,
    complete: int,
    reason: str | None,
    open_ingestion: Open,
    catalogue: Catalogue,
    query: Query,
) -> None:
    with opened_sandbox(lie) as sandbox:
        failure = load(open_ingestion, catalogue, sandbox)
        found = query("SELECT count(*) FROM magnetis_ops.days WHERE collection = 'calls'")[0][0]
        assert (found, failure) == (complete, failure)
        assert (failure is None) is (reason is None), failure


def pages(sandbox: SandboxServer) -> list[bytes]:
    window = {"from": "20260301230000", "to": "20260306225959"}
    return [
        sandbox.app._rows(Request(page, "/calls", window | {"page": str(page)}), sandbox.key).body
        for page in (1, 2)
    ]


def test_each_lie_changes_a_response() -> None:
    truth = pages(opened_sandbox())
    for lie in (name for name in LIES if name != "swap"):
        assert pages(opened_sandbox(lie)) != truth, lie
    swapping = opened_sandbox("swap")
    assert any(pages(swapping) != truth for _ in range(40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gossip", "unknown lie 'gossip'; expected one of cap"),
        ("cap=0", "cap expects a number of rows"),
        ("ignore_to=3", "takes no number"),
    ],
)
def test_an_unknown_lie_is_named_in_the_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse([text])
