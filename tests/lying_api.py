"""Simulate the lies of `magnetis_dagster.sandbox.lies` on a SmallApi.

A lie is named by its title, such as "caps a search, oldest first". `truth` contains the rows of
Magnetis; `lies` are applied in order. docs/delivery-guarantees.md describes each of them.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from small_api import Request, SmallApi, ok

from magnetis_dagster.sandbox import lies as sandbox_lies

Rows = list[dict[str, Any]]
NAMES = {lie.title: name for name, lie in sandbox_lies.LIES.items()}
LIES = list(NAMES)


@dataclass
class LyingApi:
    """Serves `truth` on /calls through the lies, which store their state in `memory`."""

    api: SmallApi
    truth: Rows
    lies: tuple[str, ...] = ()
    cap: int = 60
    days: int = 3
    """Days to which windows are shortened."""
    seed: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Replace the responses of the SmallApi."""
        self.liar: sandbox_lies.Liar[dict[str, Any]] = sandbox_lies.Liar(
            {NAMES[lie]: self._number(lie) for lie in self.lies},
            oldest_first=lambda rows: sorted(rows, key=self.api.moment),
            identity=lambda row: str(row["id"]),
            swap=self._swap,
            seed=self.seed,
        )
        self._moments: dict[str, float] = {}
        self.memory["states"] = [self.ids()]
        self.api.respond = self._respond

    def _number(self, lie: str) -> int | None:
        numbers = {"caps": self.cap, "shortens": self.days}
        return numbers.get(lie.partition(" ")[0])

    def ids(self) -> frozenset[str]:
        """Return the current ids of Magnetis."""
        return frozenset(row["id"] for row in self.truth)

    def _respond(self, request: Request) -> Any:
        search = self.liar.search(
            sandbox_lies.Search(_seconds(request, "from"), _seconds(request, "to"))
        )
        found = self.liar.found([row for row in self.truth if self._between(row, search)])
        content = json.loads(self.api.envelope(found, request)[2])
        return ok(self.liar.response(content, request.page))

    def _between(self, row: dict[str, Any], search: sandbox_lies.Search) -> bool:
        if (moment := self._moments.get(row["id"])) is None:
            moment = self._moments[row["id"]] = self.api.moment(row).timestamp()
        return (search.start is None or search.start <= moment) and (
            search.end is None or moment <= search.end
        )

    def _swap(self, gone: dict[str, Any]) -> dict[str, Any]:
        self.truth.remove(gone)
        self.memory["swaps"] = number = self.memory.get("swaps", 0) + 1
        arrived = gone | {"id": f"call-new-{number}"}
        self.truth.append(arrived)
        self.memory["states"].append(self.ids())
        return arrived


def _seconds(request: Request, name: str) -> int:
    return int(
        datetime.strptime(request.query[name], "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    )
