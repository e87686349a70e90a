"""A client of Dagster's webserver: partition status, launches, and the progress of a run."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from types import TracebackType
from typing import Any, Self

import httpx

from magnetis_dagster.api.network import transport_options
from magnetis_dagster.dagster_support import graphql_queries as queries
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.dates import days_between
from magnetis_dagster.errors import PermanentError, TransientError

LOCATION = "magnetis_dagster.definitions"

ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

ASSET_JOB = "__ASSET_JOB"
"""Dagster's implicit job over all assets; the UI shows its runs without a job."""


class DagsterUnavailable(TransientError):
    """The webserver did not answer, or refused a query."""


class LocationFailed(PermanentError):
    """The code location does not load; the text is Dagster's reason."""


@dataclass(frozen=True, slots=True)
class LoadedDay:
    """One partition that a run materialized."""

    collection: str
    day: str
    rows: int


@dataclass(slots=True)
class RunNews:
    """The events of a run since the previous call."""

    status: str
    days: list[LoadedDay] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """By collection: why its step failed."""
    errors: dict[str, str] = field(default_factory=dict)
    """By collection: the class of our error that failed its step."""
    ended_because: str | None = None
    """Why the run failed or was canceled."""
    retries: dict[str, str] = field(default_factory=dict)
    """By collection: why its step will be retried."""


class DagsterApi:
    """A client of one webserver. Methods take names of collections, not asset keys."""

    def __init__(self, url: str, *, location: str = LOCATION) -> None:
        # trust_env off: a .netrc must not add an identity
        transport = httpx.HTTPTransport(**transport_options(httpx.URL(url)))
        self._http = httpx.Client(base_url=url, transport=transport, timeout=30, trust_env=False)
        self._location = location
        self._repository = "__repository__"
        self._cursors: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Return the client; connections open on first use."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """Send a query and return `data` of the response.

        Raises: DagsterUnavailable if the webserver does not answer or refuses the query.
        """
        try:
            answer = self._http.post("/graphql", json={"query": query, "variables": variables})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DagsterUnavailable(
                f"Dagster's webserver at {self._http.base_url} does not answer "
                f"({type(error).__name__})."
            ) from None
        if body.get("errors"):
            raise DagsterUnavailable(
                f"Dagster's webserver refused a query: {body['errors'][0]['message']}"
            )
        data: dict[str, Any] = body["data"]
        return data

    def loaded(self) -> bool:
        """Return whether the webserver answers and has loaded the code location.

        Raises: LocationFailed if the code location cannot be loaded.
        """
        try:
            workspace = self.ask(queries.LOCATIONS)["workspaceOrError"]
        except DagsterUnavailable:
            return False
        if workspace["__typename"] != "Workspace":
            raise LocationFailed(f"Dagster does not load its workspace: {reason(workspace)}")
        for entry in workspace["locationEntries"]:
            found = entry["locationOrLoadError"]
            if entry["name"] != self._location or found is None:
                continue
            if found["__typename"] != "RepositoryLocation":
                raise LocationFailed(
                    f"The code location {self._location} does not load: {reason(found)}"
                )
            self._repository = found["repositories"][0]["name"]
            return True
        return False

    def green(self, collections: Iterable[str]) -> dict[str, set[date]]:
        """Return the materialized days of the collections, without days that failed later."""
        return self._days(collections, "MATERIALIZED")

    def in_progress(self, collections: Iterable[str]) -> dict[str, set[date]]:
        """Return the days of the collections that a queued or running run will load."""
        return self._days(collections, "MATERIALIZING")

    def _days(self, collections: Iterable[str], status: str) -> dict[str, set[date]]:
        data = self.ask(queries.PARTITIONS, keys=[asset_key(name) for name in collections])
        found: dict[str, set[date]] = {}
        for node in data["assetNodes"]:
            days = found[node["assetKey"]["path"][-1]] = set()
            for span in node["assetPartitionStatuses"]["ranges"]:
                if span["status"] == status:
                    first = date.fromisoformat(span["startKey"])
                    days.update(days_between(first, date.fromisoformat(span["endKey"])))
        return found

    def launch(
        self,
        collections: Sequence[str],
        first: date,
        last: date,
        tags: Mapping[str, str],
        *,
        job: str = ASSET_JOB,
    ) -> str:
        """Launch one run of `job` over the days `first` to `last`, inclusive, and return its id.

        Raises: DagsterUnavailable if Dagster does not launch the run.
        """
        selector = {
            "jobName": job,
            "repositoryName": self._repository,
            "repositoryLocationName": self._location,
            "assetSelection": [asset_key(name) for name in collections],
        }
        all_tags = [
            {"key": key, "value": value}
            for key, value in {**days_tags(first, last), **tags}.items()
        ]
        parameters = {
            "selector": selector,
            "mode": "default",
            "executionMetadata": {"tags": all_tags},
            "runConfigData": "{}",
        }
        launched = self.ask(queries.LAUNCH, parameters=parameters)["launchRun"]
        if launched["__typename"] != "LaunchRunSuccess":
            message = launched.get("message") or "; ".join(
                error["message"] for error in launched.get("errors", [])
            )
            raise DagsterUnavailable(
                f"Dagster did not launch the run ({launched['__typename']}): {message}"
            )
        return str(launched["run"]["runId"])

    def launch_backfill(
        self,
        ranges: Mapping[str, Sequence[tuple[date, date]]],
        *,
        title: str,
        description: str,
        tags: Mapping[str, str],
    ) -> str:
        """Launch a backfill over these inclusive ranges of each collection, and return its id.

        The daemon checks for new backfills every 30 s. The title has at most 100 characters.

        Raises: DagsterUnavailable if Dagster does not launch the backfill.
        """
        selections = []
        for name, spans in ranges.items():
            partitions = [
                {"start": first.isoformat(), "end": last.isoformat()} for first, last in spans
            ]
            selections.append({"assetKey": asset_key(name), "partitions": {"ranges": partitions}})
        parameters = {
            "partitionsByAssets": selections,
            "title": title,
            "description": description,
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        launched = self.ask(queries.BACKFILL, parameters=parameters)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            message = launched.get("message") or "no reason given"
            raise DagsterUnavailable(
                f"Dagster did not launch the backfill ({launched['__typename']}): {message}"
            )
        return str(launched["backfillId"])

    def backfill_page(self, backfill: str, *, ui_url: str | None = None) -> str:
        """Return the address of the backfill's page.

        `ui_url` replaces the address of this client.
        """
        return f"{ui_url or str(self._http.base_url).rstrip('/')}/runs/b/{backfill}"

    def news(self, run: str) -> RunNews:
        """Return the events of the run since the last call for it.

        Raises: DagsterUnavailable if the webserver does not answer or does not know the run.
        """
        news = RunNews("")
        more = True
        while more:
            # The status is read before the events, so a run that has ended has no further events.
            data = self.ask(queries.RUN, run=run, cursor=self._cursors.get(run))
            for part in (data["runOrError"], data["logsForRun"]):
                if part["__typename"] not in {"Run", "EventConnection"}:
                    raise DagsterUnavailable(
                        f"Dagster does not know run {run}: {part.get('message')}"
                    )
            news.status = data["runOrError"]["status"]
            self._cursors[run] = data["logsForRun"]["cursor"]
            more = data["logsForRun"]["hasMore"]
            for event in data["logsForRun"]["events"]:
                _add_event(news, event)
        return news


def asset_key(collection: str) -> dict[str, list[str]]:
    """Return the collection's asset key in GraphQL."""
    return {"path": ["magnetis", collection]}


def reason(error: Mapping[str, Any] | None) -> str:
    """Return the innermost message of a PythonError, without the class path in front of it."""
    if error is None:
        return "no reason given"
    messages = [
        error.get("message") or "",
        *(cause["message"] for cause in error.get("causes") or []),
    ]
    return (
        re.sub(r"^[\w.]+(Error|Failure|Exception|[A-Z]\w+): ", "", messages[-1].strip())
        or "no reason given"
    )


def _add_event(news: RunNews, event: Mapping[str, Any]) -> None:
    kind = event["__typename"]
    if kind == "MaterializationEvent":
        entries = event["metadataEntries"]
        rows = next((int(entry["intRepr"]) for entry in entries if entry["label"] == "rows"), 0)
        news.days.append(LoadedDay(event["assetKey"]["path"][-1], event["partition"] or "", rows))
    elif kind == "ExecutionStepFailureEvent":
        news.failures[_collection(event["stepKey"])] = reason(event["error"])
        for entry in (event["failureMetadata"] or {}).get("metadataEntries", []):
            if entry["label"] == "error":
                news.errors[_collection(event["stepKey"])] = entry["text"]
    elif kind == "ExecutionStepUpForRetryEvent":
        news.retries[_collection(event["stepKey"])] = reason(event["error"])
    elif kind in {"RunFailureEvent", "RunCanceledEvent"}:
        news.ended_because = reason(event["error"]) if event.get("error") else event["message"]


def _collection(step: str) -> str:
    return step.removeprefix("magnetis__")
