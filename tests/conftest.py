"""Rules of all tests: no settings from outside, no secrets in output, slowest files first."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from protected import PRIVACY_KEY

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.sandbox import PERSONAL_MARKERS

pytest_plugins = ["leftovers"]

# how long examples take depends on what else the machine does
settings.register_profile(
    "any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

LONGEST = (
    "end_to_end/test_everything.py",
    "end_to_end/test_wheel.py",
    "integration/defs/test_settings_sensors.py",
    "integration/ingest/test_lies.py",
    "end_to_end/test_quota.py",
    "end_to_end/test_several_keys.py",
    "integration/quota/test_kills.py",
    "integration/ingest/test_chaos.py",
    "end_to_end/test_without_a_key.py",
    "integration/test_leftovers.py",
    "integration/defs/test_celery_launcher.py",
    "integration/defs/test_run_launcher.py",
    "integration/defs/test_run_retries.py",
    "integration/dev/test_dagster_api.py",
    "integration/defs/test_repair.py",
    "integration/defs/test_alerts.py",
    "integration/defs/test_no_personal_output.py",
    "integration/defs/test_missing.py",
    "integration/ingest/test_every_failure.py",
    "integration/test_cli.py",
    "integration/ingest/test_expected_calls.py",
    "integration/ingest/test_overlap.py",
    "integration/ingest/test_ingestion.py",
    "integration/warehouse/test_upgrade.py",
    "integration/warehouse/test_connection_rows.py",
    "integration/components/test_component.py",
    "integration/warehouse/test_masked_views.py",
    "integration/warehouse/test_access.py",
)
"""Files that take over 20 seconds each. One of the workers runs the last file alone. `end_to_end`
mostly waits, so its files are spread over the workers."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # xdist would begin with the files with the most tests, but the slowest files have few
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files and keep the order within each file."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the developer's MAGNETIS_ variables, `.env` files and container secrets from tests."""
    for name in [name for name in os.environ if name.startswith(("MAGNETIS_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    # the tests' databases are servers of their own, for which no key is created
    monkeypatch.setenv("MAGNETIS_PRIVACY_KEY", PRIVACY_KEY)
    monkeypatch.setattr("magnetis_dagster.settings.SECRETS", tmp_path / "secrets")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _quiet_connections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Log connections only for tests that read logs: a dozen lines per request take time."""
    logger = logging.getLogger("httpcore")
    logger.setLevel(logging.DEBUG if "caplog" in request.fixturenames else logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return load_catalogue()


SECRETS = ("key-0f-the-tests", "0033199", *PERSONAL_MARKERS)
"""The tests' key, and markers that every personal value of the small API and the sandbox contains.
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Fail any test whose captured output or log contains the key or a caller's number."""
    report = yield
    captured = f"{report.capstdout}{report.capstderr}{report.caplog}"
    if found := [secret for secret in SECRETS if secret in captured]:
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid}: the captured output contains {found}, which must appear in no log"
        )
    return report
