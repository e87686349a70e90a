"""`magnetis person`: find and erase a person, to answer a request under the GDPR."""

import sys
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from json import JSONDecodeError, dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    from magnetis_dagster.warehouse import Warehouse

    Warehouses = dict[str, Warehouse]
    from magnetis_dagster.warehouse.erasure import Erasure, JournalEntry, Persons, Place

app = typer.Typer(
    name="person",
    help="Find or erase a person by phone number or e-mail address. Sends no request to the API.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Identifiers = Annotated[
    list[str],
    typer.Argument(
        metavar="NUMBER|EMAIL...",
        help="Phone numbers and e-mail addresses of one person. `-`: read them from standard "
        "input, one per line, so that they are not in the shell's history.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


@dataclass(slots=True)
class Report:
    """The result of a command, without the person's number or address."""

    searched_at: datetime
    places: "list[Place]" = field(default_factory=list)
    """Connection, table and column with rows about the person, and their number."""
    rows: int = 0
    erasure: "Erasure | None" = None
    caller_keys: "dict[str, list[str]] | None" = None
    """By connection, the key of each secret; None unless they were asked for."""


@app.command()
def find(
    identifiers: Identifiers,
    keys: Annotated[
        bool,
        typer.Option("--keys", help="Print the person's caller keys too, to export the rows."),
    ] = False,
    json: AsJson = False,
) -> None:
    """List the places with rows about a person, and their number of rows.

    Searches tables, history, quarantine and cached pages of all connections. Prints no number, name
    or address.
    """
    from magnetis_dagster.warehouse.erasure import find as find_places

    given = _given(identifiers)
    for engine, warehouses, _ in _databases():
        persons = _persons(given, warehouses)
        report = _report(find_places(engine, warehouses, persons, _notify))
        if keys:
            report.caller_keys = {name: sorted(each) for name, each in persons.items()}
        _print(report, as_json=json)


@app.command()
def erase(
    identifiers: Identifiers,
    reason: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Why the person is erased, such as the number of the request. No personal data.",
        ),
    ] = "request for erasure",
    expires: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="DAY",
            help="Day on which loads stop masking the person. [default: never]",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Erase. Without it, the command only lists.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Mask the data about a person in every table, and in all later loads.

    Deletes no row of a table, so counts and completed days do not change. An interrupted erasure
    is completed by the next load or run of retention. Run deploy/backup.sh afterwards: it
    writes the list of erasures that deploy/restore.sh replays.
    """
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.redaction import scrub
    from magnetis_dagster.warehouse.erasure import (
        complete_erasures,
        read_erasure,
        record,
    )
    from magnetis_dagster.warehouse.erasure import (
        find as find_places,
    )

    given = _given(identifiers)
    if expires and expires.date() <= datetime.now().date():  # noqa: DTZ005 - the user's day
        raise PermanentError(
            f"--expires {expires:%Y-%m-%d}: expected a day in the future. Nothing was changed."
        )
    for engine, warehouses, own in _databases():
        persons = _persons(given, warehouses)
        places = find_places(engine, warehouses, persons, _notify)
        report = _report(places)
        if yes:
            last = expires.date() if expires else None
            erasure = record(engine, persons, scrub(reason, ""), last)
            complete_erasures(engine, own, _notify)
            report.erasure = read_erasure(engine, erasure)
            for name in sorted(warehouses.keys() - own.keys()):
                _notify(f"{name}: its component completes the erasure at its next load.")
        _print(report, as_json=json)
        if not yes:
            _notify("Nothing was erased. Add --yes to erase.")


@app.command("export")
def export_erasures() -> None:
    """Print the list of erasures as JSON lines, for `magnetis person replay`.

    It contains caller keys, and no number, name or address. deploy/backup.sh writes it beside each
    backup.
    """
    from magnetis_dagster.private_files import restrict_output_to_owner
    from magnetis_dagster.warehouse.erasure import journal

    restrict_output_to_owner()
    for engine, _, _ in _databases():
        for entry in journal(engine):
            typer.echo(dumps(asdict(entry), default=lambda value: value.isoformat()))


@app.command()
def replay(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="List from `magnetis person export`; `-`: read stdin."),
    ],
) -> None:
    """Repeat the erasures that a restored backup lacks."""
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.warehouse.erasure import complete_erasures
    from magnetis_dagster.warehouse.erasure import replay as replay_entries

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise PermanentError(f"{file} cannot be read: {problem}. Nothing was changed.") from None
    entries = [_entry(line, number) for number, line in enumerate(text.splitlines(), 1) if line]
    for engine, _, own in _databases():
        recorded = replay_entries(engine, entries)
        completed = complete_erasures(engine, own, _notify)
        typer.echo(
            f"Missing erasures recorded: {len(recorded)}. Erasures completed: {len(completed)}."
        )


def _entry(line: str, number: int) -> "JournalEntry":
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.privacy.caller_key import key_id
    from magnetis_dagster.warehouse.erasure import JournalEntry

    try:
        content = loads(line)
        expires = content["expires_on"]
        entry = JournalEntry(
            datetime.fromisoformat(content["requested_at"]),
            str(content["reason"]),
            str(content["connection"]),
            str(content["person_key"]),
            date.fromisoformat(expires) if expires else None,
        )
    except (JSONDecodeError, KeyError, TypeError, ValueError):
        entry = None
    if entry is None or key_id(entry.person_key) is None:
        raise PermanentError(
            f"Line {number} is not a line of `magnetis person export`. Nothing was changed."
        )
    return entry


def _databases() -> "Iterator[tuple[Engine, Warehouses, Warehouses]]":
    """Yield each database, with the warehouses of all connections and those known here.

    Connections of components are known to their own code location only.

    Raises: MissingPrivacyKey, WrongPrivacyKey.
    """
    from magnetis_dagster.cli.connection_option import by_database
    from magnetis_dagster.connections import load_connections
    from magnetis_dagster.warehouse.erasure import unknown_tables
    from magnetis_dagster.warehouse.masking import compare_keys
    from magnetis_dagster.wiring import open_engine, require_home, warehouse_of, warehouses_of

    declared = load_connections()
    for each in declared:
        require_home(each.settings)
    for group in by_database(declared):
        with open_engine(group[0].settings, create=False) as engine:
            for each in group:
                warehouse_of(engine, each.settings, each.catalogue).prepare(_notify)
            own = warehouses_of(engine, group)
            for warehouse in own.values():
                keys = warehouse.masking.protection.require_keys()
                compare_keys(engine, keys, only_used=True)
            every = warehouses_of(engine, group, of_components=True)
            for table in unknown_tables(engine, [each.catalogue for each in every.values()]):
                _notify(f"{table} is not in the catalogue, so it is not searched.")
            yield engine, every, own


def _persons(identifiers: "Sequence[str]", warehouses: "Mapping[str, Warehouse]") -> "Persons":
    """Return the caller keys of the person by connection."""
    from magnetis_dagster.privacy.identifiers import keys_of

    return {name: keys_of(identifiers, each.masking.persons) for name, each in warehouses.items()}


def _given(identifiers: "Sequence[str]") -> "list[str]":
    from magnetis_dagster.errors import PermanentError

    if list(identifiers) != ["-"]:
        return list(identifiers)
    if given := [line.strip() for line in sys.stdin if line.strip()]:
        return given
    raise PermanentError("Standard input is empty: expected a number or an address per line.")


def _report(places: "list[Place]") -> Report:
    from datetime import UTC

    return Report(datetime.now(UTC), places, sum(place.rows for place in places))


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(dumps(asdict(report), default=lambda value: value.isoformat()))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    if not report.places:
        console.print("No row is about this person.")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for heading in ("connection", "table", "column"):
            table.add_column(heading)
        table.add_column("rows", justify="right")
        for place in report.places:
            table.add_row(place.connection, place.table, place.column, f"{place.rows:,}")
        console.print(table)
    for name, keys in (report.caller_keys or {}).items():
        console.print(f"caller keys of {name}: {' '.join(keys)}", markup=False, highlight=False)
    if erasure := report.erasure:
        masked = sum(rows for _, _, rows in erasure.places)
        until = f"until {erasure.expires_on}" if erasure.expires_on else "permanently"
        done = "complete" if erasure.completed_at else "not complete"
        console.print(
            f"Erasure {erasure.id} is {done}. Rows masked or deleted: {masked:,}; tables searched: "
            f"{len(erasure.places)}. Later loads mask this person {until}. Older backups contain "
            "the data until they expire (docs/privacy.md#backups)."
        )


def _notify(line: str) -> None:
    typer.echo(line, err=True)
