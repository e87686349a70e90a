"""`magnetis probe`: what this key can read."""

from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magnetis_dagster.cli.connection_option import ConnectionName, database_of
from magnetis_dagster.cli.notices import print_notice, print_sandbox_notice

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from magnetis_dagster.connections import Connection
    from magnetis_dagster.probe.report import ProbeReport

_SCOPE_COLLECTIONS = ("entities", "networks", "accounts")
"""Collections whose ids show the overlap of two keys."""


def probe(
    write: Annotated[
        bool,
        typer.Option(
            "--write", help="Save findings and proposals to the file that MAGNETIS_CONFIG names."
        ),
    ] = False,
    connection: ConnectionName = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show the routes and members that this key can read.

    Also shows the query parameters that the routes honour.

    Sends one request per collection, and one per further route if the first does not answer; three
    more per events collection, and one more for a snapshot without an id or with members like those
    of events. With the shipped catalogue: 18 requests for routes and 15 for events. All are charged
    to the quota.

    Proposes a class of personal data for members that no declaration classifies. --write saves the
    proposals and replaces no class that is declared already.

    With several connections it also shows how many of the received ids other connections have
    loaded. --write then saves to `connections.NAME.overlay`. Classes apply to all connections and
    are saved under `privacy`, except `none`.
    """
    from rich.console import Console

    from magnetis_dagster import wiring
    from magnetis_dagster.cli.probe_report import format_probe
    from magnetis_dagster.errors import PermanentError, TransientError
    from magnetis_dagster.privacy.plan import load_plan
    from magnetis_dagster.probe.probe import run_probe
    from magnetis_dagster.quota.guard import LedgerGuard, RunIdentity

    chosen, others = _load_connections(connection)
    settings, catalogue = chosen.settings, chosen.catalogue
    key = settings.require_key()
    if write and settings.config is None:
        raise PermanentError(
            "--write saves to the YAML file that MAGNETIS_CONFIG names, and it is not set. Set it, "
            "such as MAGNETIS_CONFIG=config/magnetis.yaml."
        )
    wiring.require_home(settings)
    print_sandbox_notice(settings)
    config = settings.config
    if config and not config.exists():  # --write creates it
        print_notice(f"{config} does not exist yet: probing the catalogue as shipped.")
        config = None
    plan = load_plan(config, catalogue)
    print_notice(
        f"Probing {len(catalogue.enabled)} collections: one request each, three more for each "
        "events collection; more if a first route does not answer or a row has no id."
    )
    with wiring.open_engine(settings) as engine:
        existing = settings.model_copy(update={"config": config})
        wiring.warehouse_of(engine, existing, catalogue).prepare()
        run = RunIdentity(run_id="magnetis probe", lane="manual")
        report = run_probe(
            catalogue,
            wiring.zones_of(settings),
            LedgerGuard(wiring.ledger_of(engine, settings), run),
            origin=settings.api_url,
            key=key,
            progress=print_notice,
            wanted=_SCOPE_COLLECTIONS if others else (),
            plan=plan,
        )
        if others:
            _add_overlaps(report, engine, chosen)
    if json:
        typer.echo(dumps(report.as_dict()))
    else:
        scopes = {each.name: each.scope for each in others}
        Console().print(format_probe(report, scopes))
    if write:
        save_findings(report, chosen, nested=bool(others) or not chosen.is_unnamed)
    if report.stopped:
        error = PermanentError if report.stopped_for_good else TransientError
        raise error(f"The probe ended early: {report.stopped}")


def _load_connections(name: str | None) -> "tuple[Connection, list[Connection]]":
    """Return the chosen connection, and the others that share its database.

    A file of MAGNETIS_CONFIG that does not exist declares no connections.
    """
    from magnetis_dagster.catalog import load_catalogue
    from magnetis_dagster.connection_names import UNNAMED
    from magnetis_dagster.connections import Connection, choose, load_connections
    from magnetis_dagster.settings import Settings

    settings = Settings.load()
    if settings.config and not settings.config.exists():
        connections = [Connection(UNNAMED, settings, load_catalogue())]
    else:
        connections = load_connections()
    chosen = choose(connections, name)
    database = database_of(chosen.settings)
    others = [
        each
        for each in connections
        if each.name != chosen.name and database_of(each.settings) == database
    ]
    return chosen, others


def _add_overlaps(report: "ProbeReport", engine: "Engine", connection: "Connection") -> None:
    from magnetis_dagster.probe.report import Overlap
    from magnetis_dagster.warehouse.overlaps import overlaps

    for name, ids in report.ids.items():
        shared = overlaps(engine, connection.catalogue[name], connection.name, ids) if ids else {}
        if shared:
            report.overlaps[name] = Overlap(len(ids), shared)


def save_findings(report: "ProbeReport", connection: "Connection", *, nested: bool) -> None:
    """Save findings to MAGNETIS_CONFIG; `nested`: to the connection's overlay in it.

    Classes apply to all connections: they are always saved to MAGNETIS_CONFIG.
    """
    from pathlib import Path

    from magnetis_dagster.connections import Declaration, declarations
    from magnetis_dagster.probe.overlay import write_overlay

    config, content = connection.settings.config, report.overlay()
    assert config is not None
    content.pop("privacy", None)
    classes = _savable_classes(report, connection)
    path = config
    if nested:
        declared = declarations(config).get(connection.name, Declaration()).overlay
        if isinstance(declared, Path):
            path = config.parent / declared
        elif content:
            content = {"connections": {connection.name: {"overlay": content}}}
    if path == config:
        content, classes = content | classes, {}
    changed = write_overlay(path, content, report.reasons())
    print_notice(f"{path}: {'written' if changed else 'nothing to change'}.")
    if classes and write_overlay(config, classes):
        print_notice(f"{config}: written.")


def _savable_classes(report: "ProbeReport", connection: "Connection") -> dict[str, Any]:
    """Return the section `privacy` with the proposals that the plan of every connection accepts.

    Not `none` if there are several connections: the rows of the others were not examined.
    """
    from magnetis_dagster.catalog import PersonalData
    from magnetis_dagster.connections import load_connections
    from magnetis_dagster.privacy.plan import load_plan
    from magnetis_dagster.probe.classes import without_refused

    config = connection.settings.config
    assert config is not None
    if not config.exists():
        return report.privacy_section()
    # read again: somebody may have classified members since the probe began
    connections = load_connections()
    plans = [load_plan(config, each.catalogue) for each in connections]
    skipped = {PersonalData.NONE} if len(connections) > 1 else set()
    if any(skipped.intersection(each.proposals.classes.values()) for each in report.findings):
        print_notice(
            "Members of class none are not saved: the plan applies to all connections, and only "
            f"rows of {connection.name} were examined."
        )

    def accept(collection: str, members: dict[str, PersonalData]) -> dict[str, PersonalData]:
        members = {path: each for path, each in members.items() if each not in skipped}
        for each, plan in zip(connections, plans, strict=True):
            declared = each.catalogue.collections.get(collection)
            members = without_refused(members, declared, plan.of(collection))
        return members

    return report.privacy_section(accept)
