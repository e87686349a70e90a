"""`magnetis sandbox`: serve a local Magnetis API, and edit its rows."""

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from magnetis_dagster.cli.connection_option import load_connection
from magnetis_dagster.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from magnetis_dagster.settings import Settings

app = typer.Typer(
    name="sandbox",
    help="Serve a local Magnetis API, or edit the rows of a running one.",
    invoke_without_command=True,
    rich_markup_mode=None,
)
PORT = 8250
_WORDS = Annotated[
    list[str],
    typer.Argument(
        metavar="COLLECTION [ID]",
        help="Collection, plural or singular: calls, call, email_alerts, alert. Without ID: its "
        "newest row.",
    ),
]
_ACCOUNT = Annotated[
    str | None,
    typer.Option(
        help="Without ID: the newest row of this account, given by number (from 1), id or name."
    ),
]
_CONNECTION = Annotated[
    str | None,
    typer.Option(
        "--connection",
        metavar="NAME",
        help="Use the API address and the key of this connection. [default: MAGNETIS_API_URL and "
        "MAGNETIS_API_KEY]",
        show_default=False,
    ),
]


class SandboxNotFound(TransientError):
    """No sandbox answers at the expected address."""


class EditRefused(PermanentError):
    """The running sandbox rejected the edit, for the reason in the text."""


@app.callback()
def sandbox(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = PORT,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal data.")] = 1,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts of the company group.")] = 12,
    calls_per_day: Annotated[
        int, typer.Option(min=0, help="Calls of the whole group, mean over a week.")
    ] = 120,
    daily_quota: Annotated[
        int, typer.Option(min=0, help="API calls a day for each key; 0 is no limit.")
    ] = 5000,
    latency: Annotated[
        float, typer.Option(min=0, help="Seconds by which every response is delayed.")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=PROBABILITY",
            help="Fault to simulate, such as error_500=0.01; repeatable.",
        ),
    ] = None,
    lie: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=NUMBER]",
            help="Lie to simulate, such as cap=1000 or ignore_from; repeatable. "
            "List: magnetis sandbox lies.",
        ),
    ] = None,
    still: Annotated[
        bool,
        typer.Option(
            "--still", help="Change no rows over time: no late changes, no edited settings."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Server processes.")] = 1,
) -> None:
    """Serve a local Magnetis API, or edit the rows of a running one.

    Serves invented data until Ctrl-C. Time zones are those of the MAGNETIS_ settings;
    MAGNETIS_CONFIG may add collections and change routes.
    """
    if context.invoked_subcommand is not None:
        return
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.dev.home import check_port
    from magnetis_dagster.sandbox import SandboxOptions, serve
    from magnetis_dagster.sandbox.lies import LIES
    from magnetis_dagster.settings import Settings

    settings = Settings.load()
    check_port(host, port)
    faults = (each.partition("=") for each in fault or [])
    try:
        options = SandboxOptions(
            seed=seed,
            daily_quota=daily_quota or None,
            accounts=accounts,
            calls_per_day=calls_per_day,
            latency=latency,
            faults={kind: float(probability) for kind, _, probability in faults},
            lies=_parse_lies(lie or []),
            activity=not still,
            zone=settings.response_timezone,
            query_zone=settings.query_timezone,
        )
    except ValueError as error:
        raise PermanentError(
            f"--fault: expected KIND=PROBABILITY, such as error_500=0.01 ({error})."
        ) from None

    def started(url: str) -> None:
        keys = options.keys
        lines = [
            f"Sandbox at {url}. To use it: MAGNETIS_API_URL={url} MAGNETIS_API_KEY={keys[0]}",
            f"One network only: MAGNETIS_API_KEY={keys[1]}. One account only: {keys[2]}.",
        ]
        if options.activity:
            lines.append(
                "Rows change as time passes, unless --still is given: the first alert is edited in "
                "2 minutes."
            )
        lines += [f"It {LIES[name].title}." for name in options.lies]
        typer.echo("\n".join(lines), err=True)

    catalogue = load_catalogue(settings.config)
    serve(host, port, options, workers=workers, catalogue=catalogue, started=started)


@app.command(context_settings={"ignore_unknown_options": True})
def edit(words: _WORDS, account: _ACCOUNT = None, connection: _CONNECTION = None) -> None:
    """Change a row of the running sandbox until it stops.

    Example: magnetis sandbox edit call --status missed. Further options name members of the row;
    their values are JSON or text: --enabled 0, --title "My alert", --duration 75.
    """
    _print_edit(_send("edit", words, account, connection), "Changed {members} of {row}.")


@app.command()
def delete(words: _WORDS, account: _ACCOUNT = None, connection: _CONNECTION = None) -> None:
    """Delete a row of the running sandbox until it stops.

    Example: magnetis sandbox delete calls ID
    """
    _print_edit(_send("delete", words, account, connection), "Deleted {row}.")


@app.command()
def show(words: _WORDS, account: _ACCOUNT = None, connection: _CONNECTION = None) -> None:
    """Print a row of the running sandbox as JSON."""
    row = _send("show", words, account, connection)["row"]
    typer.echo(json.dumps(row, indent=2, ensure_ascii=False))


@app.command()
def lies() -> None:
    """List the lies for --lie.

    docs/delivery-guarantees.md describes how a load detects each of them.
    """
    from magnetis_dagster.sandbox.lies import LIES

    for name, lie in LIES.items():
        number = f"={lie.usual} {lie.unit}" if lie.usual else ""
        typer.echo(f"{name + number:22} {lie.title}")


def _find_sandbox(settings: "Settings") -> tuple[str, str]:
    """Return the address and the organisation key of the sandbox on this machine."""
    from magnetis_dagster.sandbox import SANDBOX_KEY

    if settings.api_url == type(settings).model_fields["api_url"].default:
        return f"http://127.0.0.1:{PORT}", SANDBOX_KEY
    if urlsplit(settings.api_url).hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise SandboxNotFound(
            f"MAGNETIS_API_URL is {settings.api_url}, and a sandbox is edited on its own machine "
            "only. Set it to the address that `magnetis sandbox` printed, or unset it for "
            f"http://127.0.0.1:{PORT}."
        )
    return settings.api_url, settings.require_key() if settings.api_key else SANDBOX_KEY


def _parse_lies(texts: list[str]) -> dict[str, int | None]:
    from magnetis_dagster.sandbox.lies import parse

    try:
        return parse(texts)
    except ValueError as error:
        raise PermanentError(f"--lie: {error}.") from None


def _parse(words: list[str]) -> tuple[str, str | None, dict[str, Any]]:
    collection, *rest = words
    identifier = rest.pop(0) if rest and not rest[0].startswith("--") else None
    changes: dict[str, Any] = {}
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not name.startswith("--") or not (equals or rest):
            raise PermanentError(
                "Expected --MEMBER VALUE after the collection and the id, such as --status missed; "
                f"got {name!r}."
            )
        text = value if equals else rest.pop(0)
        member = name[2:].replace("-", "_")
        try:
            changes[member] = json.loads(text)
        except ValueError:
            changes[member] = text
    return collection, identifier, changes


def _send(
    action: str, words: list[str], account: str | None, connection: str | None
) -> dict[str, Any]:
    import httpx

    from magnetis_dagster.sandbox.control import CONTROL_PATH
    from magnetis_dagster.settings import Settings

    collection, identifier, changes = _parse(words)
    settings = load_connection(connection).settings if connection else Settings.load()
    url, key = _find_sandbox(settings)
    edit_request = {
        "action": action,
        "collection": collection,
        "id": identifier,
        "account": account,
        "changes": changes if action == "edit" else {},
    }
    try:
        # on this machine, so a proxy of the environment must not be used
        answer = httpx.post(
            f"{url}{CONTROL_PATH}",
            json=edit_request,
            headers={"x-api-key": key},
            timeout=30,
            trust_env=False,
        )
        content = answer.json()
    except (httpx.HTTPError, ValueError):
        raise SandboxNotFound(
            f"No sandbox answers at {url}. Start one with `magnetis sandbox` or `magnetis dev`, "
            "and set MAGNETIS_API_URL to the address that it printed."
        ) from None
    if answer.status_code != httpx.codes.OK:
        raise EditRefused(str(content.get("message", "The sandbox rejected the edit.")))
    return dict(content)


def _print_edit(edited: dict[str, Any], sentence: str) -> None:
    account = f" ({edited['account']})" if edited["account"] else ""
    row = f"{edited['collection']} {edited['id']}{account}"
    typer.echo(sentence.format(members=", ".join(edited["changed"]) or "nothing", row=row))
    typer.echo(edited["seen"], err=True)
