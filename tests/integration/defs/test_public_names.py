"""Names that other programs use: variables, commands, tables, assets, checks, metadata labels.

A changed name is a diff of `public_names.json`, which
`PUBLIC_NAMES=write python -m pytest tests/integration/defs/test_public_names.py` writes again.
"""

import json
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import typer.main
from small_api import PARIS, SmallApi, call

from magnetis_dagster.cli.app import app
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.settings import Settings

FILE = Path(__file__).with_name("public_names.json")
COLUMNS = """
    SELECT table_schema || '.' || table_name, column_name FROM information_schema.columns
    WHERE table_schema LIKE 'magnetis%' ORDER BY 1, ordinal_position
"""


def commands(command: Any, name: str) -> dict[str, list[str]]:
    """Map each command to its options and arguments."""
    found = {
        name: sorted(
            option for each in command.params for option in [*each.opts, *each.secondary_opts]
        )
    }
    for part, child in sorted(getattr(command, "commands", {}).items()):
        found |= commands(child, f"{name} {part}")
    return found


def labels(result: dg.ExecuteInProcessResult) -> dict[str, list[str]]:
    """Map each kind of event of a run to its metadata labels."""
    found: dict[str, list[str]] = {}
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            found[made.asset_key.path[-1]] = sorted(made.metadata)
        elif event.is_asset_observation:
            seen = event.asset_observation_data.asset_observation
            found[seen.asset_key.path[-1]] = sorted(seen.metadata)
    for check in result.get_asset_check_evaluations():
        found[f"{check.asset_key.path[-1]} {check.check_name}"] = sorted(check.metadata)
    return found


def test_public_names_are_unchanged(
    api: SmallApi,
    materialize: Callable[..., dg.ExecuteInProcessResult],
    instance: dg.DagsterInstance,
    query: Callable[..., list[Any]],
) -> None:
    api.rows["/calls"] = [call(1, "2025-03-28 10:00:00"), call(2, "2025-03-28 10:00:00", new=1)]
    api.rows["/alerts/email"] = [{"id": "a-1", "account": {"id": "acc-1"}, "title": "Missed"}]
    today = datetime.now(PARIS).date()
    metadata: dict[str, list[str]] = {}
    for name, day in (
        ("calls", datetime(2025, 3, 28, tzinfo=PARIS).date()),
        ("email_alerts", today),
    ):
        metadata |= labels(materialize(name, day))
    definitions = build_defs()
    quota = definitions.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection={dg.AssetKey(["magnetis", "quota"])}
    )
    for job in (quota, definitions.resolve_job_def("prune")):
        metadata |= labels(job.execute_in_process(instance=instance, raise_on_error=False))
    graph = definitions.get_repository_def().asset_graph
    columns: dict[str, list[str]] = {}
    for table, column in query(COLUMNS):
        columns.setdefault(table, []).append(column)
    names = {
        "variables": sorted(f"MAGNETIS_{field.upper()}" for field in Settings.model_fields),
        "commands": commands(typer.main.get_command(app), "magnetis"),
        "assets": {
            "/".join(node.key.path): {
                "group": node.group_name,
                "parents": sorted("/".join(key.path) for key in node.parent_keys),
                "checks": sorted(key.name for key in node.check_keys),
            }
            for node in sorted(graph.asset_nodes, key=lambda node: node.key)
        },
        "tables": columns,
        "metadata": dict(sorted(metadata.items())),
    }
    if os.environ.get("PUBLIC_NAMES") == "write":
        FILE.write_text(json.dumps(names, indent=1) + "\n")
    assert names == json.loads(FILE.read_text())
