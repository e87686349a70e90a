"""Checks of Dagster's instance, by the settings of dagster.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from magnetis_dagster.dagster_support.doctor import check_instance
from magnetis_dagster.doctor import Finding, Status

ROOT = Path(__file__).parents[3]
OURS = yaml.safe_load((ROOT / "magnetis_dagster/dev/dagster.yaml").read_text())


def check(tmp_path: Path, instance: object, connections: int = 1) -> dict[str, Finding]:
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(instance))
    environment = {"DAGSTER_HOME": str(tmp_path)}
    findings = check_instance(environment, tmp_path / "none", connections)
    return {each.name: each for each in findings}


@pytest.mark.parametrize("file", ["magnetis_dagster/dev", "deploy/kubernetes"])
def test_our_own_instances_pass(file: str, tmp_path: Path) -> None:
    pytest.importorskip("dagster_k8s")
    findings = check(tmp_path, yaml.safe_load((ROOT / file / "dagster.yaml").read_text()))
    assert {each.status for each in findings.values()} == {Status.OK}, findings
    assert len(findings) == 9


def test_the_defaults_of_dagster_lack_most_of_it(tmp_path: Path) -> None:
    findings = check(tmp_path, {})
    assert {name for name, each in findings.items() if each.status is Status.ERROR} == {
        "run monitoring"
    }
    assert {name for name, each in findings.items() if each.status is Status.WARNING} == {
        "Dagster's storage",
        "backfill limit",
        "run retries",
        "run launcher",
        "scheduler",
    }
    for each in findings.values():
        assert bool(each.cost) == bool(each.remedy) == (each.status is not Status.OK)
        assert each.text


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return our dagster.yaml with another value at a dotted path."""
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(OURS))
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


QUEUE = "concurrency.runs"


@pytest.mark.parametrize(
    ("path", "value", "name", "status", "words"),
    [
        (f"{QUEUE}.max_concurrent_runs", -1, "run queue", "warning", "no limit"),
        (f"{QUEUE}.max_concurrent_runs", 0, "run queue", "error", "No run starts"),
        (f"{QUEUE}.tag_concurrency_limits", [], "backfill limit", "warning", "No limit applies"),
        ("run_coordinator", None, "backfill limit", "warning", "has no effect"),
        (
            "run_coordinator",
            {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
            "run queue",
            "warning",
            "immediately",
        ),
        ("run_monitoring.enabled", False, "run monitoring", "error", "stays in progress"),
        (
            "run_monitoring.free_slots_after_run_end_seconds",
            None,
            "run monitoring",
            "error",
            "keeps its slot",
        ),
        ("run_retries.enabled", False, "run retries", "warning", "not resumed"),
        ("run_retries.max_retries", 0, "run retries", "warning", "less often"),
        ("run_retries.max_retries", 9, "run retries", "warning", "more API calls"),
        (
            "run_retries.retry_on_asset_or_op_failure",
            None,
            "run retries",
            "warning",
            "several times over",
        ),
        ("concurrency.pools.granularity", "run", "pools", "warning", "granularity: run"),
        ("run_launcher", None, "run launcher", "warning", "does not detect"),
        ("scheduler.config", {}, "scheduler", "warning", "up to 5 missed ticks"),
        ("storage", None, "Dagster's storage", "warning", "SQLite"),
    ],
)
def test_each_gap_is_found_with_its_cost(
    tmp_path: Path, path: str, value: object, name: str, status: str, words: str
) -> None:
    content = changed(path, value)
    found = check(tmp_path, content)[name]
    assert found.status == status
    assert words in f"{found.text} {found.cost}"
    assert found.remedy


def test_several_connections_need_more_runs_and_a_limit_for_each(tmp_path: Path) -> None:
    findings = check(tmp_path, OURS, connections=3)
    assert findings["backfill limit"].status is Status.OK
    assert findings["run queue"].status is Status.WARNING
    assert "13" in findings["run queue"].remedy
    shared = changed(f"{QUEUE}.tag_concurrency_limits", [{"key": "dagster/backfill", "limit": 1}])
    found = check(tmp_path, shared, connections=3)["backfill limit"]
    assert found.status is Status.WARNING
    assert "waits for the backfills of others" in found.cost
    assert check(tmp_path, shared)["backfill limit"].status is Status.OK


def test_a_broken_file_is_an_error_without_its_content(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("storage: {custom: hush-5577}")
    findings = check_instance({"DAGSTER_HOME": str(tmp_path)}, tmp_path, 1)
    assert findings[-1].status is Status.ERROR
    assert "hush" not in str(findings)


def test_without_dagster_home_the_home_of_magnetis_dev_is_checked(tmp_path: Path) -> None:
    [absent] = check_instance({}, tmp_path / "dagster", 1)
    assert absent.status is Status.WARNING
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster/dagster.yaml").write_text(yaml.safe_dump(OURS))
    home, *others = check_instance({}, tmp_path / "dagster", 1)
    assert home.status is Status.WARNING
    assert "temporary instance" in home.cost
    assert {each.status for each in others} == {Status.OK}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("relative/path", "is not an absolute path"),
        ("{tmp}/missing", "is not a folder"),
        ("{tmp}", "contains no dagster.yaml"),
    ],
)
def test_an_unusable_home_is_an_error(tmp_path: Path, given: str, reason: str) -> None:
    home = given.format(tmp=tmp_path)
    [found] = check_instance({"DAGSTER_HOME": home}, tmp_path / "dev", 1)
    assert found.status is Status.ERROR
    assert reason in found.text
