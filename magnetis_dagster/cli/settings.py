"""`magnetis settings`: export and compare settings of reports and alerts.

Reads only the database.
"""

import re
import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnetis_dagster.cli.connection_option import ConnectionName, load_connection

if TYPE_CHECKING:
    from magnetis_dagster.connections import Connection
    from magnetis_dagster.notification_settings.baseline import Difference
    from magnetis_dagster.warehouse.current_settings import Payloads

app = typer.Typer(
    name="settings",
    help="Export the settings of reports and alerts, or compare. Sends no API call.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@app.command()
def export(
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Leave this field out, of the comparison too; repeatable: account.name",
        ),
    ] = None,
    connection: ConnectionName = None,
) -> None:
    """Print the settings of reports and alerts as YAML.

    Redirect it to a file such as config/settings.yaml, to review it and to compare later settings
    with it. The settings are those of the last load. The file contains recipients' addresses and
    phone numbers: store it where personal data may be stored.
    """
    from magnetis_dagster.notification_settings.baseline import without_effect, write_baseline
    from magnetis_dagster.private_files import restrict_output_to_owner

    chosen = load_connection(connection)
    current = _current_rows(chosen, _names(chosen))
    missing = [name for name, rows in current.items() if rows is None]
    rows_by_name = {name: rows for name, rows in current.items() if rows is not None}
    text = write_baseline(rows_by_name, frozenset(without or []))
    for name in without_effect(rows_by_name, without or []):
        _notify(f"No setting has a field {name}, so --without {name} left nothing out.")
    for name in missing:
        _notify(f"{name} has never been read, so it is not in the file. {_hint(chosen, name)}")
    restrict_output_to_owner()
    # UTF-8 and plain line ends on every system, so that equal settings are equal bytes
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


@app.command()
def diff(
    baseline: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="File made by `magnetis settings export`. [default: MAGNETIS_SETTINGS_BASELINE]",
        ),
    ] = None,
    connection: ConnectionName = None,
    json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare the settings with the baseline file.

    Exit code 0: no difference, 1: some. The settings are those of the last load. Values include
    recipients' addresses and phone numbers; in Dagster, the check `baseline` masks those.
    """
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.notification_settings.baseline import read_baseline

    chosen = load_connection(connection)
    catalogue, names = chosen.catalogue, _names(chosen)
    path = baseline or chosen.settings.settings_baseline
    if path is None:
        raise PermanentError(
            "There is no baseline to compare with. Create one with "
            "`magnetis settings export > config/settings.yaml`, then name it: "
            "magnetis settings diff config/settings.yaml, or "
            "MAGNETIS_SETTINGS_BASELINE=config/settings.yaml."
        )
    file = read_baseline(path, names)
    current = _current_rows(chosen, names)
    differences: list[Difference] = []
    not_compared = {}
    for name, rows in current.items():
        if name not in file.settings:
            not_compared[name] = f"{path} does not contain it: export it again."
        elif rows is None:
            not_compared[name] = f"It has never been read. {_hint(chosen, name)}"
        else:
            differences += file.differences(name, rows, catalogue[name])
    for name in file.settings:
        if name not in current:
            not_compared[name] = "It is switched off in MAGNETIS_CONFIG."
    if current.keys() <= not_compared.keys():
        reasons = " ".join(f"{name}: {reason}" for name, reason in not_compared.items())
        raise PermanentError(f"Nothing can be compared with {path}. {reasons}")
    if json:
        content = {
            "baseline": str(path),
            "differences": list(map(asdict, differences)),
            "not_compared": not_compared,
        }
        typer.echo(dumps(content))
    else:
        for name, reason in not_compared.items():
            _notify(f"{name} is not compared. {reason}")
        typer.echo(_printable(_format(differences, path)))
    if differences:
        raise typer.Exit(1)


def _names(connection: "Connection") -> list[str]:
    """Return the names of the collections of settings."""
    from magnetis_dagster.warehouse.current_settings import settings_collections

    return [each.name for each in settings_collections(connection.catalogue)]


def _current_rows(connection: "Connection", names: list[str]) -> "dict[str, Payloads | None]":
    """Return the current rows of each enabled collection; None if it was never read.

    Raises: PermanentError if none was ever read.
    """
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.warehouse.current_settings import current_rows
    from magnetis_dagster.wiring import open_engine

    catalogue = connection.catalogue
    with open_engine(connection.settings, create=False) as engine:
        rows_by_name = {
            name: current_rows(engine, catalogue[name], connection_name=connection.name)
            for name in names
            if catalogue[name].enabled
        }
    if all(rows is None for rows in rows_by_name.values()):
        raise PermanentError(
            f"No rows of {', '.join(names)} have been read into this database yet. Load them "
            "first: `magnetis dev`, or materialize their assets in Dagster."
        )
    return rows_by_name


def _hint(connection: "Connection", name: str) -> str:
    asset, route = "/".join(connection.path(name)), connection.catalogue[name].route
    return (
        f"Load it: materialize {asset} in Dagster; `magnetis probe` shows whether the key has "
        f"{route}."
    )


def _format(differences: "list[Difference]", path: Path) -> str:
    if not differences:
        return f"The settings are those of {path}."
    differ = "setting differs" if len(differences) == 1 else "settings differ"
    lines = [f"{len(differences):,} {differ} from {path} (- there, + now)."]
    for name in dict.fromkeys(each.collection for each in differences):
        lines += ["", name]
        for each in differences:
            if each.collection == name:
                lines += _format_one(each)
    return "\n".join(lines)


def _format_one(difference: "Difference") -> list[str]:
    account = difference.account_id or "unknown"
    sign = _SIGNS[difference.kind]
    lines = [f"{sign} {difference.id} (account {account}): {difference.kind}"]
    for name, field in difference.fields.items():
        before, now = (
            value if isinstance(value, list) else [] if value is None else [value]
            for value in (field.baseline, field.present)
        )
        removed = [value for value in before if value not in now]
        added = [value for value in now if value not in before]
        if not removed and not added:  # equal values, one of them more often
            removed, added = [field.baseline], [field.present]
        lines += [f"    - {name}: {dumps(value, ensure_ascii=False)}" for value in removed]
        lines += [f"    + {name}: {dumps(value, ensure_ascii=False)}" for value in added]
    return lines


def _printable(text: str) -> str:
    """Return the text with escapes for characters that a terminal cannot show."""
    control = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]"
    text = re.sub(control, lambda found: f"\\u{ord(found[0]):04x}", text)
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _notify(line: str) -> None:
    typer.echo(_printable(line), err=True)
