"""The sentence about rows that other connections load too."""

import pytest

from magnetis_dagster.probe.report import Overlap


@pytest.mark.parametrize(
    ("shared", "sentence"),
    [
        ({"nord": 12}, "12 of 12 accounts are also loaded by nord (network)"),
        ({"nord": 1}, "1 of 12 accounts is also loaded by nord (network)"),
        (
            {"nord": 12, "old": 3},
            "12 of 12 accounts are also loaded by nord (network), 3 by old",
        ),
    ],
)
def test_numbers_and_names(shared: dict[str, int], sentence: str) -> None:
    said = Overlap(12, shared).sentence("accounts", {"nord": "network", "sud": None})
    assert said == f"{sentence}: the view accounts_distinct returns each once."
