"""A client of Dagster's webserver: partition status, launches, and the progress of a run."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Self

import httpx

from magnetis_dagster.api.network import transport_options
from magnetis_dagster.dagster_support import graphql_queries as queries
from magnetis_dagster.dagster_support.partition_tags import days_tags
from magnetis_dagster.dates import days_between
from magnetis_dagster.errors import PermanentError, TransientError

LOCATION = "magnetis_dagster.definitions"
PREFIX = ("magnetis",)
"""First parts of the asset keys of the unnamed connection."""

ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

ASSET_JOB = "__ASSET_JOB"
"""Dagster's implicit job over all assets; the UI shows its runs without a job."""


class DagsterUnavailable(TransientError):
    """The webserver did not answer, or refused a query."""


class LocationFailed(PermanentError):
    """The code location does not load; the text is Dagster's reason."""


@dataclass(slots=True)
class RunNews:
    """The events of a run since the previous call."""

    status: str
    days: list[tuple[str, int]] = field(default_factory=list)
    """Collection and rows of each materialized day."""
    failures: dict[str, str] = field(default_factory=dict)
    """By collection: why its step failed."""
    errors: dict[str, str] = field(default_factory=dict)
    """By collection: the class of our error that failed its step."""
    ended_because: str | None = None
    """Why the run failed or was canceled."""
    retries: dict[str, str] = field(default_factory=dict)
    """By collection: why its step will be retried."""


class DagsterApi:
    """A client of one webserver. Methods take names of collections, not asset keys.

    `prefix` contains the parts of an asset key before the name of the collection.
    """

    def __init__(
        self, url: str, *, location: str = LOCATION, prefix: Sequence[str] = PREFIX
    ) -> None:
        # trust_env off: a .netrc must not add an identity
        transport = httpx.HTTPTransport(**transport_options(httpx.URL(url)))
        self._http = httpx.Client(base_url=url, transport=transport, timeout=30, trust_env=False)
        self._location = location
        self._prefix = tuple(prefix)
        self._repository = "__repository__"
        self._cursors: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Return the client; connections open on first use."""
        return self

    def __exit__(self, *_error: object) -> None:
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
            raise LocationFailed(f"Dagster does not load its workspace: {_reason(workspace)}")
        for entry in workspace["locationEntries"]:
            found = entry["locationOrLoadError"]
            if entry["name"] != self._location or found is None:
                continue
            if found["__typename"] != "RepositoryLocation":
                raise LocationFailed(
                    f"The code location {self._location} does not load: {_reason(found)}"
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
        data = self.ask(queries.PARTITIONS, keys=[self._key(name) for name in collections])
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
        """Launch one run of `job` over inclusive days and return its id.

        Raises: DagsterUnavailable if Dagster does not launch the run.
        """
        selector = {
            "jobName": job,
            "repositoryName": self._repository,
            "repositoryLocationName": self._location,
            "assetSelection": [self._key(name) for name in collections],
        }
        parameters = {
            "selector": selector,
            "mode": "default",
            "executionMetadata": {"tags": _tags({**days_tags(first, last), **tags})},
            "runConfigData": "{}",
        }
        launched = self.ask(queries.LAUNCH, parameters=parameters)["launchRun"]
        return str(_require_success(launched, "run")["run"]["runId"])

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
        selections = [
            {
                "assetKey": self._key(name),
                "partitions": {
                    "ranges": [{"start": str(first), "end": str(last)} for first, last in spans]
                },
            }
            for name, spans in ranges.items()
        ]
        parameters = {
            "partitionsByAssets": selections,
            "title": title,
            "description": description,
            "tags": _tags(tags),
        }
        launched = self.ask(queries.BACKFILL, parameters=parameters)["launchPartitionBackfill"]
        return str(_require_success(launched, "backfill")["backfillId"])

    def backfill_page(self, backfill: str, *, ui_url: str | None = None) -> str:
        """Return the address of the backfill's page; `ui_url` replaces the client's address."""
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

    def _key(self, collection: str) -> dict[str, list[str]]:
        return asset_key(collection, self._prefix)


def asset_key(collection: str, prefix: Sequence[str] = PREFIX) -> dict[str, list[str]]:
    """Return the collection's asset key in GraphQL."""
    return {"path": [*prefix, collection]}


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _require_success(launched: dict[str, Any], what: str) -> dict[str, Any]:
    kind = launched["__typename"]
    if kind != f"Launch{what.title()}Success":
        errors = "; ".join(error["message"] for error in launched.get("errors", []))
        message = launched.get("message") or errors or "no reason given"
        raise DagsterUnavailable(f"Dagster did not launch the {what} ({kind}): {message}")
    return launched


def _reason(error: Mapping[str, Any] | None) -> str:
    """Return the innermost message of a PythonError, without the class path in front of it."""
    innermost = [error, *(error.get("causes") or [])][-1] if error else {}
    message = (innermost.get("message") or "").strip()
    return re.sub(r"^[\w.]+(Error|Failure|Exception|[A-Z]\w+): ", "", message) or "no reason given"


def _add_event(news: RunNews, event: Mapping[str, Any]) -> None:
    # a step key consists of the parts of the asset key: magnetis__nord__calls
    kind, collection = event["__typename"], event.get("stepKey", "").rpartition("__")[2]
    if kind == "MaterializationEvent":
        entries = event["metadataEntries"]
        rows = next((int(entry["intRepr"]) for entry in entries if entry["label"] == "rows"), 0)
        news.days.append((event["assetKey"]["path"][-1], rows))
    elif kind == "ExecutionStepFailureEvent":
        news.failures[collection] = _reason(event["error"])
        for entry in (event["failureMetadata"] or {}).get("metadataEntries", []):
            if entry["label"] == "error":
                news.errors[collection] = entry["text"]
    elif kind == "ExecutionStepUpForRetryEvent":
        news.retries[collection] = _reason(event["error"])
    elif kind in {"RunFailureEvent", "RunCanceledEvent"}:
        news.ended_because = _reason(event["error"]) if event.get("error") else event["message"]
