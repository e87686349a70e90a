"""Makes the generated pages of docs/, so that they cannot drift from the code. `--check` writes nothing; exits 1 if one is stale.

The data dictionary comes from the catalogue and the tables made from it, the commands from the `magnetis` program itself, the
variables of docs/configuration.md from the settings.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer.main
from sqlalchemy.dialects import postgresql

from magnetis_dagster.catalog import Collection, Kind, load_catalogue
from magnetis_dagster.cli.app import app as cli
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse.schema import data_metadata, history_name
from magnetis_dagster.warehouse.views import view_name

DOCS = Path(__file__).resolve().parent.parent / "docs"
BEGIN, END = "<!-- begin: made by tools/docs.py -->\n", "<!-- end -->\n"

DICTIONARY_HEAD = """\
# Data dictionary

<!-- made by tools/docs.py from the catalogue; `make docs` writes it again -->

One table per collection, in the schema `magnetis`. Personal data is marked after the GDPR, article 4: `personal` names or reaches a
person, `pseudonym` singles one out without naming. `payload` holds the whole row as received: treat it like the most personal
column of its table.

Each table has a view `magnetis.<collection>_current` for queries. The view leaves out deleted rows and `payload`. Beside each time
of the row it has the same time in MAGNETIS_TIMEZONE, without a zone: `occurred_at_local`. It adds `account_name`, `network_name`
and `entity_name`: the name received with the row, otherwise that of `accounts`, `networks` or `entities`.

How well each route is known:

| mark | meaning |
| --- | --- |
| confirmed | read in the vendor's own material |
| observed | seen in a third-party client that calls the API |
| inferred | follows from confirmed facts |
| assumed | the most plausible guess; nothing was seen |

Member names carry no mark of their own: those of `email_alerts` are confirmed, nearly all others are assumed. Candidates are tried
in the order given, and the first that holds a fitting value wins. What no candidate finds is NULL in its column and still there in
`payload`; `magnetis probe` tells what a real key returns, and [configuration.md](configuration.md) how to correct a name.
"""

COMMANDS_HEAD = """\
# Commands

<!-- made by tools/docs.py from the program; `make docs` writes it again -->

What Dagster has a command for stays Dagster's: `dagster asset materialize`, `dg launch`, `dg check defs`. The rest is `magnetis`.
Exit codes: 0 done, 1 a defect, 2 something must be changed first, 3 try again, 130 interrupted.
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
    return "\n\n".join(pages) + "\n"


def _collection(collection: Collection, tables: Any) -> str:
    route, *candidates = collection.routes
    facts = [
        f"table `magnetis.{collection.name}`"
        + ("" if collection.is_events else f", versions in `magnetis.{history_name(collection)}`"),
        f"view `magnetis.{view_name(collection)}`",
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
            collection.description,
            "",
            *(f"- {fact}" for fact in facts),
            "",
            COLUMNS_HEAD,
            *rows,
        ]
    )


COLUMNS_HEAD = "| column | type | description | unit | personal data | read from |\n| --- | --- | --- | --- | --- | --- |"


def _partition(collection: Collection) -> str:
    if collection.kind is Kind.SNAPSHOT:
        return "snapshot: the partition is the local day on which the state was taken; a past day cannot be taken any more"
    window = collection.window
    asked = (
        f"asked with `{window.start}`/`{window.end}` ({collection.window_evidence})"
        if window
        else "read whole, placed by day here"
    )
    return f"events: the partition is the local day of the first of {_code(collection.time_fields)} that holds a time; {asked}"


def _row(column: Any, collection: Collection) -> str:
    declared = collection.columns.get(column.name)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    kind = column.type.compile(dialect=dialect).lower()
    kind = kind.replace("timestamp with time zone", "timestamptz")
    if declared is None:
        personal = "personal" if column.name == "payload" else ""
        ids = tuple(" + ".join(parts) for parts in collection.id_paths)
        accounts = ids if collection.rows_are_accounts else collection.account_paths
        paths = {"id": ids, "account_id": accounts, "occurred_at": collection.time_fields}.get(
            column.name, ()
        )
        return _cells(f"`{column.name}`", kind, column.comment or "", "", personal, _code(paths))
    personal = "" if declared.personal_data == "none" else declared.personal_data.value
    return _cells(
        f"`{column.name}`",
        kind,
        declared.description,
        declared.unit or "",
        personal,
        _code(declared.paths),
    )


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def commands() -> str:
    """Return docs/commands.md."""
    program: Any = typer.main.get_command(cli)
    pages = [COMMANDS_HEAD.strip(), *_command(program, "magnetis")]
    return "\n\n".join(pages) + "\n"


SHELL_OPTIONS = {"install_completion", "show_completion", "help"}
"""Every program of this kind has them."""


def _command(command: Any, path: str) -> list[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    # click folds the lines of a paragraph, and \b keeps them: neither matters in Markdown
    text = (command.help or "").replace("\b\n", "").strip()
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
    """Return docs/configuration.md with its table of variables made again; the rest is written by hand."""
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
    """Return name, default and meaning of every variable of the settings; no default is ''."""
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
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


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
            stale.append(f"docs/{name} is stale: run `make docs` and commit what it writes")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{name} written")
    print("\n".join(stale), end="\n" if stale else "", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
