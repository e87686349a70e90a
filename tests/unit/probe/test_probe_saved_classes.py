"""The file that `magnetis probe --write` saves proposed classes to."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from magnetis_dagster.catalog import PersonalData
from magnetis_dagster.cli.probe import save_findings
from magnetis_dagster.connections import choose, load_connections
from magnetis_dagster.privacy.plan import load_plan
from magnetis_dagster.probe.proposals import Proposals
from magnetis_dagster.probe.report import Availability, Finding, ProbeReport

KEYS = {"KEY_NORD": "key-nord-57a1e0", "KEY_SUD": "key-sud-57a1e0"}


def report_of(collection: str = "calls", **classes: PersonalData) -> ProbeReport:
    finding = Finding(
        collection,
        "/calls",
        Availability.YES,
        answered="/other",
        proposals=Proposals(classes=classes),
    )
    return ProbeReport([finding], 1, ("", ""), "2025-06-20")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / "magnetis.yaml"
    monkeypatch.setenv("MAGNETIS_CONFIG", str(path))
    for name, key in {"MAGNETIS_API_KEY": "key-57a1e0", **KEYS}.items():
        monkeypatch.setenv(name, key)
    return path


def write(path: Path, **content: Any) -> None:
    path.write_text(yaml.safe_dump(content))


def members(path: Path, collection: str = "calls") -> dict[str, str]:
    privacy = yaml.safe_load(path.read_text()).get("privacy", {})
    return privacy.get("collections", {}).get(collection, {}).get("members", {})


def test_a_class_that_was_declared_during_the_probe_is_kept(config: Path) -> None:
    declared = {"note_2": "none", "myRef": "personal"}
    write(config, collections={"calls": {"id_paths": ["ref"]}})
    [connection] = load_connections()
    write(
        config,
        collections={"calls": {"id_paths": ["ref"]}},
        privacy={"collections": {"calls": {"members": declared}}},
    )
    found = report_of(
        note_2=PersonalData.FREE_TEXT,
        my_ref=PersonalData.NONE,
        ref=PersonalData.NONE,
        picked_up=PersonalData.NONE,
        mail=PersonalData.CONTACT,
    )
    save_findings(found, connection, nested=False)
    assert members(config) == declared | {"picked_up": "none", "mail": "contact"}
    assert yaml.safe_load(config.read_text())["collections"]["calls"]["route"] == "/other"
    assert load_plan(config, load_connections()[0].catalogue).of("calls").members["mail"]


@pytest.mark.parametrize("in_file", [False, True])
def test_with_several_connections_the_plan_of_each_accepts_the_file(
    config: Path, capsys: pytest.CaptureFixture[str], *, in_file: bool
) -> None:
    overlay = {"collections": {"calls": {"id_paths": ["ref"]}}}
    nord: Any = {"collections": {"invoices": {"family": "organization", "kind": "snapshot"}}}
    nord["collections"]["invoices"] |= {"route": "/invoices", "columns": {"total": {}}}
    if in_file:
        write(config.parent / "nord.yaml", **nord)
    write(
        config,
        connections={
            "nord": {"api_key_env": "KEY_NORD", "overlay": "nord.yaml" if in_file else nord},
            "sud": {"api_key_env": "KEY_SUD", "overlay": overlay},
        },
    )
    chosen = choose(load_connections(), "nord")
    found = report_of(
        mail=PersonalData.CONTACT, ref=PersonalData.VISITOR, picked_up=PersonalData.NONE
    )
    found.findings += report_of("invoices", mail=PersonalData.CONTACT).findings
    save_findings(found, chosen, nested=True)
    assert members(config) == {"mail": "contact"}
    assert members(config, "invoices") == {}
    assert "class none are not saved" in capsys.readouterr().err
    own = yaml.safe_load((config.parent / "nord.yaml").read_text()) if in_file else None
    own = own or yaml.safe_load(config.read_text())["connections"]["nord"]["overlay"]
    assert own["collections"]["calls"] == {"route": "/other"}
    assert "privacy" not in own
    for each in load_connections():
        assert load_plan(config, each.catalogue).of("calls").members["mail"] == "contact"


def test_a_new_file_has_all_proposals(config: Path) -> None:
    write(config)
    [connection] = load_connections()
    config.unlink()
    save_findings(report_of(picked_up=PersonalData.NONE), connection, nested=False)
    assert members(config) == {"picked_up": "none"}
