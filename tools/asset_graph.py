"""Write docs/asset-graph.json, so that a change of the asset graph is a reviewed diff.

    .venv/bin/python tools/asset_graph.py [--check]

The file lists assets, jobs, schedules and sensors of the code location. `--check` writes nothing
and exits 1 if the file differs. docs/data-dictionary.md has the descriptions and columns.
"""

import difflib
import json
import sys
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any

from dagster import AssetKey, Definitions

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.settings import Settings

FILE = Path(__file__).resolve().parent.parent / "docs" / "asset-graph.json"


def shipped_definitions() -> Definitions:
    """Return the code location as shipped, independent of environment and MAGNETIS_CONFIG."""
    return build_defs(settings=Settings.model_construct(), catalogue=load_catalogue())


def graph(definitions: Definitions) -> dict[str, Any]:
    """Return the code location as sorted plain data."""
    repository = definitions.get_repository_def()
    return {
        "assets": {
            _name(node.key): _asset(node, repository.asset_graph)
            for node in _sorted(repository.asset_graph.asset_nodes, "key")
        },
        "jobs": {
            job.name: sorted(map(_name, job.asset_layer.executable_asset_keys))
            for job in _sorted(repository.get_all_jobs(), "name")
            if not job.name.startswith("__")  # Dagster's own job of all assets
        },
        "schedules": {
            schedule.name: {
                "cron": schedule.cron_schedule,
                "zone": schedule.execution_timezone,
                "job": schedule.job_name,
                "starts": schedule.default_status.value,
            }
            for schedule in _sorted(repository.schedule_defs, "name")
        },
        "sensors": {
            sensor.name: {"type": sensor.sensor_type.value, "starts": sensor.default_status.value}
            for sensor in _sorted(repository.sensor_defs, "name")
        },
    }


def _asset(node: Any, graph: Any) -> dict[str, Any]:
    freshness = node.freshness_policy
    # Includes checks of other steps, such as no_missing_days.
    checks = [graph.get(key) for key in node.check_keys]
    return {
        "group": node.group_name,
        "deps": sorted(map(_name, node.parent_keys)),
        "kinds": sorted(node.kinds),
        "owners": sorted(node.owners),
        "partitions": node.partitions_def and str(node.partitions_def),
        "backfill": node.backfill_policy and node.backfill_policy.policy_type.value,
        "freshness": freshness and f"by {freshness.deadline_cron} {freshness.timezone}",
        "pools": sorted(node.pools or ()),
        "checks": {
            check.key.name: "blocking" if check.blocking else "warning"
            for check in _sorted(checks, "key.name")
        },
    }


def _name(key: AssetKey) -> str:
    return key.to_user_string()


def _sorted(items: Iterable[Any], attribute: str) -> list[Any]:
    return sorted(items, key=attrgetter(attribute))


def main() -> int:
    text = json.dumps(graph(shipped_definitions()), indent=2, ensure_ascii=False) + "\n"
    stored = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    if text == stored:
        return 0
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
        print(f"docs/{FILE.name} written")
        return 0
    difference = difflib.unified_diff(
        stored.splitlines(), text.splitlines(), "reviewed", "code", lineterm="", n=2
    )
    print(
        *list(difference)[:60],
        f"docs/{FILE.name} is stale: if the change is intended, run `make docs` and commit it",
        sep="\n",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
