"""`magnetis settings`: the settings of reports and alerts as a file, and how they differ from it. Asks the database only."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from magnetis_dagster.catalog import Catalogue
    from magnetis_dagster.notification_settings.baseline import Difference
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.current_settings import Payloads

app = typer.Typer(
    name="settings",
    help="Settings of reports and alerts: export them to a file, and show how they differ from it. No API call.",
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
            help="Leave this field out, of the comparison too; may be given several times: account.name",
        ),
    ] = None,
) -> None:
    """Print the present settings of reports and alerts as YAML, to be reviewed, kept and compared with: > config/settings.yaml

    They are those that the last load found. Recipients' addresses and phone numbers are in it as they are: keep the file where
    personal data may be kept.
    """
    from magnetis_dagster.notification_settings.baseline import without_effect, write_baseline
    from magnetis_dagster.private_files import close_output_to_others

    configured, catalogue, names = _configured()
    held = _present(configured, catalogue, names)
    missing = [name for name, rows in held.items() if rows is None]
    read = {name: rows for name, rows in held.items() if rows is not None}
    text = write_baseline(read, frozenset(without or []))
    for name in without_effect(read, without or []):
        _say(f"No setting has a field {name}, so --without {name} left nothing out.")
    for name in missing:
        _say(f"{name} has never been read, so it is not in the file. {_state(catalogue, name)}")
    close_output_to_others()
    # as UTF-8 with plain line ends on every system: equal settings are equal bytes
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
    json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Print how the present settings differ from the baseline file. Exit code 0: they do not, 1: they do.

    They are those that the last load found. Values are shown as they are, with recipients' addresses and phone numbers; in
    Dagster, the check `baseline` shows the same with those masked.
    """
    from json import dumps

    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.notification_settings.baseline import read_baseline

    configured, catalogue, names = _configured()
    path = baseline or configured.settings_baseline
    if path is None:
        raise PermanentError(
            "There is no baseline to compare with. Make one with `magnetis settings export > config/settings.yaml`, then name it: "
            "magnetis settings diff config/settings.yaml, or MAGNETIS_SETTINGS_BASELINE=config/settings.yaml."
        )
    file = read_baseline(path, names)
    held = _present(configured, catalogue, names)
    found: list[Difference] = []
    left_out = {}
    for name, rows in held.items():
        if name not in file.settings:
            left_out[name] = f"{path} says nothing of it: export it again."
        elif rows is None:
            left_out[name] = f"It has never been read. {_state(catalogue, name)}"
        else:
            found += file.differences(name, rows, catalogue[name])
    for name in file.settings:
        if name not in held:
            left_out[name] = "It is switched off in MAGNETIS_CONFIG."
    if held.keys() <= left_out.keys():
        raise PermanentError(
            f"Nothing can be compared with {path}. "
            + " ".join(f"{name}: {why}" for name, why in left_out.items())
        )
    if json:
        typer.echo(
            dumps(
                {
                    "baseline": str(path),
                    "differences": [each.as_dict() for each in found],
                    "not_compared": left_out,
                }
            )
        )
    else:
        for name, why in left_out.items():
            _say(f"{name} is not compared. {why}")
        typer.echo(_fit(_words(found, path)))
    if found:
        raise typer.Exit(1)


def _configured() -> "tuple[Settings, Catalogue, list[str]]":
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.settings import Settings
    from magnetis_dagster.warehouse.current_settings import settings_collections

    settings = Settings.load()
    catalogue = load_catalogue(settings.config)
    return settings, catalogue, [collection.name for collection in settings_collections(catalogue)]


def _present(
    settings: "Settings", catalogue: "Catalogue", names: list[str]
) -> "dict[str, Payloads | None]":
    """Return the present rows of the collections that are switched on; raise PermanentError where none was ever read."""
    from magnetis_dagster.errors import PermanentError
    from magnetis_dagster.warehouse.current_settings import current_rows
    from magnetis_dagster.wiring import open_engine

    with open_engine(settings, create=False) as engine:
        held = {
            name: current_rows(engine, catalogue[name]) for name in names if catalogue[name].enabled
        }
    if all(rows is None for rows in held.values()):
        raise PermanentError(
            f"Nothing of {', '.join(names)} has been read into this database yet. Load them first: `magnetis dev`, or materialize "
            "their assets in Dagster."
        )
    return held


def _state(catalogue: "Catalogue", name: str) -> str:
    return f"Load it: materialize magnetis/{name} in Dagster; `magnetis probe` shows whether the key has {catalogue[name].route}."


def _words(found: "list[Difference]", path: Path) -> str:
    if not found:
        return f"The settings are those of {path}."
    differ = "setting differs" if len(found) == 1 else "settings differ"
    lines = [f"{len(found):,} {differ} from {path} (- there, + now)."]
    for name in dict.fromkeys(each.collection for each in found):
        lines += ["", name]
        for each in found:
            if each.collection == name:
                lines += _difference(each)
    return "\n".join(lines)


def _difference(difference: "Difference") -> list[str]:
    lines = [
        f"{_SIGNS[difference.kind]} {difference.id} (account {difference.account_id or 'unknown'}): {difference.kind}"
    ]
    for name, field in difference.fields.items():
        sides = [
            value if isinstance(value, list) else [] if value is None else [value]
            for value in (field.baseline, field.present)
        ]
        gone = [value for value in sides[0] if value not in sides[1]]
        come = [value for value in sides[1] if value not in sides[0]]
        if not gone and not come:  # the same values, one of them more often
            gone, come = [field.baseline], [field.present]
        lines += [
            f"    {sign} {name}: {_value(value)}"
            for sign, values in (("-", gone), ("+", come))
            for value in values
        ]
    return lines


def _value(value: Any) -> str:
    from json import dumps

    return dumps(value, ensure_ascii=False)


def _fit(text: str) -> str:
    """Return the text without control characters, and with what the terminal cannot show written as escapes."""
    text = re.sub(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _say(words: str) -> None:
    typer.echo(_fit(words), err=True)
