"""Edit a running sandbox.

The endpoint is for programs on this machine, not for web pages. A request requires a loopback
client, a loopback Host, a JSON body and the organisation's key in a header. It must have neither
Origin nor Sec-Fetch-Site. No response allows cross-origin requests.
"""

import json
import mmap
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from datetime import UTC, datetime
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any

from magnetis_dagster.sandbox.group import Row
from magnetis_dagster.sandbox.shared_memory import fork_context
from magnetis_dagster.sandbox.world import World

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
CONTROL_PATH = "/_sandbox"
_LARGEST_BODY = 16 * 1024
_JOURNAL_SIZE = 2**20
_HOST = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)


class EditError(Exception):
    """The edit is not possible; nothing has changed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Journal:
    """A log of edits that the forked processes of one sandbox share."""

    def __init__(self) -> None:
        self._lines = mmap.mmap(-1, _JOURNAL_SIZE)
        self.lock = fork_context().Lock()
        self._end = fork_context().Value("q", 0, lock=False)

    @property
    def end(self) -> int:
        """Length of the journal in bytes."""
        return int(self._end.value)

    @property
    def is_full(self) -> bool:
        """Whether the next edit may not fit."""
        return self.end > _JOURNAL_SIZE - 2 * _LARGEST_BODY

    def append(self, entry: dict[str, Any]) -> None:
        """Append an edit. The caller holds the lock."""
        begin, line = self.end, json.dumps(entry).encode() + b"\n"
        self._lines[begin : begin + len(line)] = line
        self._end.value = begin + len(line)

    def since(self, begin: int, end: int) -> Iterator[dict[str, Any]]:
        """Yield the edits between two positions."""
        yield from map(json.loads, self._lines[begin:end].splitlines())


class Control:
    """Handles requests to CONTROL_PATH; keys without a scope may edit."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._collections = world.catalogue.collections
        self._keys = [key for key in world.options.keys if key not in world.options.scopes]
        self._journal = Journal()
        self._read = 0

    def catch_up(self) -> None:
        """Apply the edits of other processes."""
        if self._read == (end := self._journal.end):
            return
        for entry in self._journal.since(self._read, end):
            self._world.advance(datetime.fromtimestamp(entry.pop("moment"), UTC))
            self._apply(**entry)
        self._read = end

    async def answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        """Return status and JSON body of the response."""
        try:
            headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
            }
            self._authorize(scope, headers)
            return 200, json.dumps(self._edit(await _body(receive))).encode()
        except EditError as error:
            return error.status, json.dumps({"message": str(error)}).encode()

    def _authorize(self, scope: Scope, headers: dict[str, str]) -> None:
        client = scope.get("client")
        if client is None or not ip_address(client[0]).is_loopback:
            raise EditError(403, "The sandbox can be edited from its own machine only.")
        if not _HOST.fullmatch(headers.get("host", "")):
            raise EditError(
                403, "The Host header is not loopback: use http://127.0.0.1 and the port."
            )
        if "origin" in headers or "sec-fetch-site" in headers:
            raise EditError(403, "Web pages cannot edit the sandbox: use `magnetis sandbox edit`.")
        if scope["method"] != "POST":
            raise EditError(405, "Edits require the method POST.")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise EditError(415, "The Content-Type must be application/json.")
        key = headers.get("x-api-key", "").encode()
        if not any(compare_digest(key, each.encode()) for each in self._keys):
            raise EditError(
                401,
                "Only the organisation's key may edit the sandbox; set it in MAGNETIS_API_KEY.",
            )

    def _edit(self, request: dict[str, Any]) -> dict[str, Any]:
        action, name = request.get("action"), str(request.get("collection"))
        if action not in {"edit", "delete", "show"}:
            raise EditError(422, "action: expected edit, delete or show.")
        collection = _collection(name, list(self._collections))
        with self._journal.lock:
            self.catch_up()
            if self._journal.is_full:
                raise EditError(507, "The sandbox cannot store more edits: restart it.")
            now = self._world.options.clock()
            self._world.advance(now)
            old = self._select(collection, request.get("id"), request.get("account"))
            identifier = self._world.identity(collection, old)
            if action == "show":
                return {"collection": collection, "id": identifier, "row": old}
            changes = _convert_changes(request.get("changes"), old) if action == "edit" else {}
            entry = {"action": action, "collection": collection, "id": identifier}
            try:
                self._apply(**entry, changes=changes)
            except (ValueError, TypeError, KeyError):
                first = self._world.options.first_day
                raise EditError(
                    422, f"Expected a time such as {first} 09:06:09, on this day or later."
                ) from None
            self._journal.append(entry | {"changes": changes, "moment": now.timestamp()})
            self._read = self._journal.end
        return {
            "collection": collection,
            "id": identifier,
            "account": (old.get("account") or {}).get("name"),
            "changed": [member for member, value in changes.items() if value != old[member]],
            "seen": self._visibility(collection),
        }

    def _visibility(self, name: str) -> str:
        if sensor := self._collections[name].sensor:
            return f"{sensor} detects it within MAGNETIS_SETTINGS_INTERVAL_SECONDS."
        if self._collections[name].is_events:
            return (
                "The next read of the day loads it: the daily schedule re-reads recent days, or "
                "materialize the day."
            )
        return "The next snapshot contains it: snapshots are daily, or materialize today."

    def _apply(self, *, action: str, collection: str, id: str, changes: Row) -> None:  # noqa: A002
        if action == "delete":
            self._world.delete(collection, id)
        else:
            self._world.edit(collection, id, **changes)

    def _select(self, collection: str, identifier: object, account: object) -> Row:
        """Return the row with this id, or the newest row, of the account if one is given."""
        try:
            if identifier is not None:
                return self._world.find(collection, str(identifier))
        except KeyError:
            raise EditError(404, f"{collection} has no row with this id.") from None
        owner = None if account is None else self._account(str(account))
        for row in self._newest(collection):
            if owner is None or owner in {(row.get("account") or {}).get("id"), row.get("id")}:
                return row
        raise EditError(
            404, f"{collection} has no row{'' if account is None else ' of this account'}."
        )

    def _newest(self, collection: str) -> Iterator[Row]:
        if not self._collections[collection].is_events:
            yield from map(json.loads, self._world.snapshot(collection))
            return
        first, size = 0, 250
        while rows := self._world.events(collection, first=first, size=size)[1]:
            yield from map(json.loads, rows)
            first += size

    def _account(self, text: str) -> str:
        accounts = self._world.oldest_first("accounts")
        if text.isdecimal() and 1 <= int(text) <= len(accounts):
            return str(accounts[int(text) - 1]["id"])
        for row in accounts:
            if text in {row.get("id"), row.get("name")}:
                return str(row["id"])
        raise EditError(
            404, f"account: expected a number from 1 to {len(accounts)}, an id or a name."
        )


def _collection(name: str, names: Sequence[str]) -> str:
    """Return the collection; accepts singulars: call, alert, sms-alert."""
    folded = name.replace("-", "_").lower()
    plural = f"{folded}s"
    ies = re.sub("y$", "ies", folded)
    for candidate in (folded, plural, ies, f"email_{folded}", f"email_{plural}"):
        if candidate in names:
            return candidate
    raise EditError(404, f"Unknown collection {name!r}; expected one of {', '.join(names)}.")


def _convert_changes(changes: object, row: Row) -> Row:
    """Convert a number for a text to text, and a scalar for a list to a list."""
    if not isinstance(changes, dict) or not changes:
        raise EditError(
            422, f"No changes: name a member and its new value. Members: {', '.join(row)}."
        )
    if unknown := [str(member) for member in changes if member not in row]:
        raise EditError(
            422, f"The row has no member {unknown[0]}; expected one of {', '.join(row)}."
        )
    if "id" in changes or "account" in changes:
        raise EditError(422, "The id and the account of a row cannot be changed.")
    converted = dict(changes)
    for member, value in changes.items():
        if isinstance(row[member], str) and isinstance(value, int | float):
            converted[member] = str(value)
        elif isinstance(row[member], list) and not isinstance(value, list):
            converted[member] = [value]
    return converted


async def _body(receive: Receive) -> dict[str, Any]:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise EditError(400, "The request ended early.")
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > _LARGEST_BODY:
            raise EditError(413, f"The body exceeds {_LARGEST_BODY // 1024} kB.")
    try:
        content = json.loads(body)
    except ValueError:
        raise EditError(400, "The body is not JSON.") from None
    if not isinstance(content, dict):
        raise EditError(400, "The body is not a JSON object.")
    return content
