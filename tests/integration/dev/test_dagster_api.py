"""GraphQL requests to a real webserver and daemon, with a fake code location."""

from collections.abc import Iterator
from datetime import date

import pytest

from magnetis_dagster.dagster_support.webserver_client import (
    DagsterApi,
    DagsterUnavailable,
    LocationFailed,
)
from magnetis_dagster.dev.load import load, missing_days

DAYS = [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)]


class RecordingListener:
    """Records the progress of a load."""

    def __init__(self) -> None:
        self.expected: dict[str, int] = {}
        self.rows: dict[str, list[int]] = {}
        self.lines: list[str] = []

    def expect(self, collection: str, days: int) -> None:
        self.expected[collection] = days

    def add_day(self, collection: str, rows: int) -> None:
        self.rows.setdefault(collection, []).append(rows)

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def api(webserver: str) -> Iterator[DagsterApi]:
    with DagsterApi(webserver, location="stand_in") as api:
        assert api.loaded()
        yield api


def test_a_load_loads_only_missing_days(api: DagsterApi) -> None:
    first = RecordingListener()
    result = load(api, {"calls": DAYS[:1], "visits": DAYS[:1]}, first, lambda: None)
    assert result.failures == {}
    assert len(result.runs) == 1
    assert first.expected == {"calls": 1, "visits": 1}
    assert first.rows == {"calls": [7], "visits": [7]}
    assert missing_days(api, {"calls": DAYS, "visits": DAYS}) == {
        "calls": DAYS[1:],
        "visits": DAYS[1:],
    }

    second = RecordingListener()
    result = load(api, {"calls": DAYS, "visits": DAYS}, second, lambda: None)
    assert result.failures == {}
    assert len(result.runs) == 1
    assert second.rows == {"calls": [7, 7], "visits": [7, 7]}
    assert api.green(["calls"]) == {"calls": set(DAYS)}

    third = RecordingListener()
    assert load(api, {"calls": DAYS, "visits": DAYS}, third, lambda: None).runs == []
    assert (third.expected, third.rows) == ({}, {})


def test_a_failure_is_reported_with_the_text_of_the_error(api: DagsterApi) -> None:
    listener = RecordingListener()
    result = load(api, {"leads": DAYS, "emails": DAYS}, listener, lambda: None)
    assert result.failures == {
        "leads": "leads: the API said no on 2024-01-02.",
        "emails": "emails: the API said no on 2024-01-01.",
    }
    assert result.errors == {"leads": "KeyRefused", "emails": "KeyRefused"}
    assert listener.rows == {"leads": [7]}
    assert listener.lines == ["emails: waiting to retry. emails: the API said no on 2024-01-01."]
    assert missing_days(api, {"leads": DAYS}) == {"leads": DAYS[1:]}, (
        "the day loaded before the failure stays green"
    )


def test_a_prefix_selects_the_assets_of_another_connection(webserver: str) -> None:
    listener, days = RecordingListener(), [date(2024, 1, 2), date(2024, 1, 3)]
    with DagsterApi(webserver, location="stand_in", prefix=("magnetis", "nord")) as nord:
        assert nord.loaded()
        result = load(nord, {"calls": days}, listener, lambda: None)
        assert listener.rows == {"calls": [7]}
        assert result.failures == {"calls": "calls: the API said no on 2024-01-03."}
        assert nord.green(["calls"]) == {"calls": {days[0]}}
        backfill = nord.launch_backfill(
            {"calls": [(days[0], days[1])]}, title="x", description="", tags={}
        )
        query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
            ... on PartitionBackfill { assetBackfillData { assetBackfillStatuses {
                ... on AssetPartitionsStatusCounts { assetKey { path } }
            } } }
        } }"""
        data = nord.ask(query, id=backfill)["partitionBackfillOrError"]["assetBackfillData"]
        assert [each["assetKey"]["path"] for each in data["assetBackfillStatuses"]] == [
            ["magnetis", "nord", "calls"]
        ]


def test_a_collection_unknown_to_dagster_fails_the_load(
    api: DagsterApi,
) -> None:
    with pytest.raises(DagsterUnavailable, match="did not launch"):
        load(api, {"faxes": DAYS}, RecordingListener(), lambda: None)


def test_the_error_of_a_code_location_that_does_not_load_is_reported(webserver: str) -> None:
    with (
        DagsterApi(webserver, location="broken") as api,
        pytest.raises(
            LocationFailed,
            match=r"broken does not load: MAGNETIS_TIMEZONE: expected the name of a time zone\.$",
        ),
    ):
        api.loaded()


def test_a_backfill_targets_exactly_its_ranges_of_each_asset(
    api: DagsterApi, webserver: str
) -> None:
    def march(day: int) -> date:
        return date(2024, 3, day)

    ranges = {
        "calls": [(march(1), march(2)), (march(5), march(5))],
        "visits": [(march(3), march(4))],
    }
    backfill = api.launch_backfill(
        ranges,
        title="forecast: 5 calls, done about today 15:40",
        description="of 2 collections",
        tags={"magnetis/x": "y"},
    )
    assert api.backfill_page(backfill) == f"{webserver}/runs/b/{backfill}"
    assert (
        api.backfill_page(backfill, ui_url="https://dagster.example.com")
        == f"https://dagster.example.com/runs/b/{backfill}"
    )
    query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
        ... on PartitionBackfill { title description tags { key value }
        assetBackfillData { assetBackfillStatuses {
            ... on AssetPartitionsStatusCounts { assetKey { path } numPartitionsTargeted }
        } }
    } } }"""
    found = api.ask(query, id=backfill)["partitionBackfillOrError"]
    assert (found["title"], found["description"]) == (
        "forecast: 5 calls, done about today 15:40",
        "of 2 collections",
    )
    assert {"key": "magnetis/x", "value": "y"} in found["tags"]
    statuses = found["assetBackfillData"]["assetBackfillStatuses"]
    assert {each["assetKey"]["path"][-1]: each["numPartitionsTargeted"] for each in statuses} == {
        "calls": 3,
        "visits": 2,
    }


def test_a_backfill_that_dagster_refuses_raises(api: DagsterApi) -> None:
    with pytest.raises(DagsterUnavailable):
        api.launch_backfill({"faxes": [(DAYS[0], DAYS[0])]}, title="x", description="", tags={})
    with pytest.raises(DagsterUnavailable):
        api.launch_backfill(
            {"calls": [(date(1999, 1, 1), date(1999, 1, 2))]}, title="x", description="", tags={}
        )


def test_a_load_ends_if_dagster_dies(api: DagsterApi) -> None:
    def died() -> None:
        raise RuntimeError("dagster ended")

    with pytest.raises(RuntimeError, match="dagster ended"):
        load(api, {"calls": [date(2024, 2, 1)]}, RecordingListener(), died)


def test_a_missing_webserver_is_not_loaded_and_a_refused_query_names_its_reason(
    api: DagsterApi,
) -> None:
    with DagsterApi("http://127.0.0.1:9") as nobody:
        assert not nobody.loaded()
        with pytest.raises(DagsterUnavailable, match="does not answer"):
            nobody.green(["calls"])
    with pytest.raises(DagsterUnavailable, match="Cannot query field 'faxes'"):
        api.ask("{ faxes }")
    with pytest.raises(DagsterUnavailable, match="does not know run 00000000"):
        api.news("00000000-0000-0000-0000-000000000000")
