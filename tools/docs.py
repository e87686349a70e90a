"""Generate pages of docs/ from the code; `--check` only verifies them.

    .venv/bin/python tools/docs.py [--check]

The data dictionary comes from the catalogue and `warehouse/schema.py`, the commands come from the
`magnetis` program, and the variables of docs/configuration.md come from the settings class.
`--check` writes nothing and exits 1 if a page is stale.
"""

import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer.main
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from magnetis_dagster.catalog import Collection, Kind, load_catalogue
from magnetis_dagster.cli.app import app as cli
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.schema import (
    OPS_SCHEMA,
    data_metadata,
    history_name,
    ops_metadata,
)
from magnetis_dagster.warehouse.views import distinct_name, view_name

WIDTH = 100
DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- begin: made by tools/docs.py -->\n", "<!-- end -->\n"

DICTIONARY_HEAD = """\
# Data dictionary

<!-- made by tools/docs.py from the catalogue; `make docs` writes it again -->

This page describes every table of the schema `magnetis`, one for each collection, and then the
tables of [`magnetis_ops`](#magnetis_ops), which record requests, windows and days.

Personal data (GDPR, article 4) is marked with its class, for which the plan has a rule
([privacy.md](privacy.md#the-plan)). `visitor` and `pseudonym` distinguish one person from another
without a name. All other classes identify or reach a person. `payload` contains the whole row as
received: protect it like the most personal column of its table.

Each table has a view `magnetis.<collection>_current` for queries. The view leaves out deleted rows
and `payload`. Beside each time of the row it has the same time in MAGNETIS_TIMEZONE, without a
zone: `occurred_at_local`. It adds `account_name`, `network_name` and `entity_name`: the name
received with the row, otherwise the name in `accounts`, `networks` or `entities`.

`connection` names the API key that returned a row. Keys with overlapping scopes return the same
rows, so such a row is in the table once for each connection. The view
`magnetis.<collection>_distinct` has the same columns and each `id` once, from the connection with
the widest scope that has it.

The view `magnetis_masked.<collection>` has the rows and columns of `_current` without personal
data. [privacy.md](privacy.md#masked-views) describes its columns, and who reads which rows.

The partition of an event is the local day of its time. The partition of a snapshot is the local day
on which it was taken; a past day can no longer be taken.

Each route and window carries a mark that says how well it is known:

| mark | meaning |
| --- | --- |
| confirmed | read in the vendor's own material |
| observed | seen in a third-party client that calls the API |
| inferred | follows from confirmed facts |
| assumed | the most plausible guess, without evidence |

Member names carry no mark of their own: those of `email_alerts` are confirmed, nearly all others
are assumed. The program tries the members of "read from" in order and takes the first with a
suitable value. If no member has one, the column is NULL, and the value stays in `payload`.
`magnetis probe` reports what a real key returns, and [configuration.md](configuration.md) shows how
to correct a name.
"""

OPS_HEAD = f"""\
## {OPS_SCHEMA}

These tables record the work of the program: requests, windows, days, and limits of the API. Two
columns contain received rows and therefore personal data: `pages.body` and `quarantine.payload`.
[retention.md](retention.md) lists how long rows are kept.

Two views summarize them: `{OPS_SCHEMA}.api_usage_30d` ([quota.md](quota.md#see-it)) and
`{OPS_SCHEMA}.late_changes` ([backfills.md](backfills.md#late-changes)).
"""

OPS_COLUMNS = {
    "adopted_at": "When the table was filled for the first time, or the key was adopted.",
    "api_calls": "API calls spent on the window, retries included.",
    "applied_at": "When the tables were last compared with the catalogue and extended.",
    "bytes": "Size of the received bodies.",
    "changed": "Rows whose payload differed from the stored one.",
    "charged_at": "When the call was charged, by the clock of the database.",
    "collection": "Collection of the catalogue.",
    "committed_at": "When the window was written, shortly before the commit.",
    "day": "Local day in MAGNETIS_TIMEZONE.",
    "deleted": "Rows that were marked as deleted, because the API no longer returned them.",
    "digest": "Digest of the catalogue.",
    "done_at": "When the place was masked.",
    "first_day": "First local day.",
    "erasure_id": "Erasure that the row belongs to.",
    "first_seen_at": "Start of the first read that returned the row.",
    "first_used_at": "When a load or an erasure first used the secret.",
    "forecast_at": "When the forecast was made.",
    "id": "Number of the row.",
    "inserted": "Rows that the table did not contain before.",
    "key_id": "Id of the secret in MAGNETIS_PRIVACY_KEY.",
    "key_fingerprint": "Twelve hexadecimal digits of the key's SHA-256; never the key.",
    "lane": "Lane of the run: schedule, settings, manual or backfill.",
    "last_day": "Last local day, inclusive.",
    "last_seen_at": "Start of the newest read that returned the row.",
    "milliseconds": "Duration in milliseconds.",
    "name": "Always `catalogue`.",
    "page": "Number of the page, from 1.",
    "payload": "The row as received. May contain personal data.",
    "quarantined": "Rows of the window that went to `quarantine`.",
    "read_at": "When the read of the window began.",
    "reason": "Why the row could not be assigned to a day.",
    "requested_at": "When the erasure was requested.",
    "route": "Path of the request.",
    "rows": "Rows that the page contained.",
    "suppressed_at": "When the person was first erased.",
    "run_id": "Dagster run, or the command that sent the request.",
    "window_id": "Window that wrote this row: `id` in `windows`.",
}
"""Meaning of columns that have no comment in `warehouse/schema.py`: the same in every table."""

COMMANDS_HEAD = """\
# Commands

<!-- made by tools/docs.py from the program; `make docs` writes it again -->

Use Dagster's own commands where they exist: `dagster asset materialize`, `dg launch`,
`dg check defs`. `magnetis` has the others.

| exit code | meaning |
| --- | --- |
| 0 | success |
| 1 | a defect of the program, or a difference that the command reports |
| 2 | something must be changed first: the configuration, the key, the database |
| 3 | a temporary failure: try again |
| 130 | interrupted |
"""


def data_dictionary() -> str:
    """Return docs/data-dictionary.md."""
    catalogue = load_catalogue()
    tables = data_metadata(catalogue)
    pages = [DICTIONARY_HEAD.strip()]
    for family, about in catalogue.families.items():
        pages += [f"## {family}", about]
        pages += [
            _collection(collection, tables)
            for collection in catalogue.collections.values()
            if collection.family == family
        ]
    pages += [OPS_HEAD.strip(), *map(_ops_table, ops_metadata.tables.values())]
    return "\n\n".join(pages) + "\n"


def _ops_table(table: Table) -> str:
    rows = [
        _cells(f"`{column.name}`", _type_name(column), column.comment or OPS_COLUMNS[column.name])
        for column in table.columns
    ]
    key = f"Primary key: {_code(column.name for column in table.primary_key)}."
    head = "| column | type | description |\n| --- | --- | --- |"
    about = _wrap(f"{table.comment} {key}")
    return "\n".join([f"### {table.name}", "", about, "", head, *rows])


def _collection(collection: Collection, tables: Any) -> str:
    route, *candidates = collection.routes
    facts = [
        f"table `magnetis.{collection.name}`"
        + ("" if collection.is_events else f", versions in `magnetis.{history_name(collection)}`"),
        f"views `magnetis.{view_name(collection)}` and `magnetis.{distinct_name(collection)}`",
        f"asset `magnetis/{collection.name}`",
        f"route `GET {route.path}` ({route.evidence})",
    ]
    if candidates:
        facts.append("other candidates " + _code(candidate.path for candidate in candidates))
    if collection.parameters:
        facts.append(
            "always sent "
            + _code(f"{name}={value}" for name, value in collection.parameters.items())
        )
    facts.append(_partition(collection))
    table = tables.tables[f"magnetis.{collection.name}"]
    rows = [_row(column, collection) for column in table.columns]
    return "\n".join(
        [
            f"### {collection.name}",
            "",
            _wrap(collection.description),
            "",
            *(_wrap(fact, indent="- ") for fact in facts),
            "",
            COLUMNS_HEAD,
            *rows,
        ]
    )


COLUMNS_HEAD = """\
| column | type | description | unit | personal data | read from |
| --- | --- | --- | --- | --- | --- |"""


def _partition(collection: Collection) -> str:
    if collection.kind is Kind.SNAPSHOT:
        return "snapshot"
    window = collection.window
    request = (
        f"requested with `{window.start}`/`{window.end}` ({collection.window_evidence})"
        if window
        else "read whole, because the route has no window"
    )
    return f"events; the time is the first of {_code(collection.time_fields)}; {request}"


def _row(column: Any, collection: Collection) -> str:
    declared = collection.columns.get(column.name)
    type_name = _type_name(column)
    if declared is None:
        personal = "personal" if column.name == "payload" else ""
        ids = tuple(" + ".join(parts) for parts in collection.id_paths)
        accounts = ids if collection.rows_are_accounts else collection.account_paths
        paths = {"id": ids, "account_id": accounts, "occurred_at": collection.time_fields}.get(
            column.name, ()
        )
        return _cells(
            f"`{column.name}`", type_name, column.comment or "", "", personal, _code(paths)
        )
    personal = "" if declared.personal_data == "none" else declared.personal_data.value
    return _cells(
        f"`{column.name}`",
        type_name,
        declared.description,
        declared.unit or "",
        personal,
        _code(declared.paths),
    )


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        width=WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _type_name(column: "Column[Any]") -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return (
        column.type.compile(dialect=dialect)
        .lower()
        .replace("timestamp with time zone", "timestamptz")
    )


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def commands() -> str:
    """Return docs/commands.md."""
    program: Any = typer.main.get_command(cli)
    pages = [COMMANDS_HEAD.strip(), *_command(program, "magnetis")]
    return "\n\n".join(pages) + "\n"


SHELL_OPTIONS = {"install_completion", "show_completion", "help"}
"""typer adds these options to every program."""


def _command(command: Any, path: str) -> list[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    # \b makes click keep line breaks; Markdown needs no such mark
    text = (command.help or "").replace("\b\n", "").strip()
    text = "\n".join(_wrap(line) if len(line) > WIDTH else line for line in text.splitlines())
    pages = [f"{'#' * (1 + len(path.split()))} {path}", text, f"```\n{usage}\n```"]
    records = [
        record
        for option in command.params
        if (record := option.get_help_record(context)) and option.name not in SHELL_OPTIONS
    ]
    if records:
        rows = [_cells(f"`{name}`", " ".join(about.split())) for name, about in records]
        pages.append("\n".join(["| parameter | meaning |", "| --- | --- |", *rows]))
    for name, member in sorted(getattr(command, "commands", {}).items()):
        if not member.hidden:
            pages += _command(member, f"{path} {name}")
    return [page for page in pages if page]


def configuration() -> str:
    """Return docs/configuration.md with a new table of variables between the two marks."""
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [
        _cells(f"`{name}`", f"`{default}`" if default else "none", about)
        for name, default, about in variables()
    ]
    return (
        f"{before}{BEGIN}| variable | default | meaning |\n| --- | --- | --- |\n"
        + "\n".join(rows)
        + f"\n{END}{after}"
    )


def variables() -> list[tuple[str, str, str]]:
    """Return name, default ('' if there is none) and meaning of each variable."""
    return [
        (
            f"MAGNETIS_{name.upper()}",
            _default(field.default),
            " ".join((field.description or "").split()),
        )
        for name, field in sorted(Settings.model_fields.items())
    ]


def _default(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cells(*cells: str) -> str:
    escaped = (cell.replace("|", r"\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(escaped)} |"


PAGES: dict[str, Callable[[], str]] = {
    "data-dictionary.md": data_dictionary,
    "commands.md": commands,
    "configuration.md": configuration,
}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in sys.argv[1:]:
            stale.append(f"docs/{name} is stale: run `make docs` and commit the result")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name} written")
    print("\n".join(stale), end="\n" if stale else "", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
