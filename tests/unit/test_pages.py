"""The pages of docs/ agree with the code and with each other."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

from magnetis_dagster.warehouse.schema import ops_metadata


def tool(name: str) -> ModuleType:
    """Return the module tools/NAME.py."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_link_and_module_name_of_the_pages_exists() -> None:
    assert list(tool("links").broken_references()) == []


def test_broken_references_are_reported_with_page_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = tool("links")
    monkeypatch.setattr(links, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("## Here it is\n\n## Here it is\n")
    (tmp_path / "README.md").write_text(
        "# Title\n"
        "[good](docs/other.md#here-it-is-1) [outside](https://example.com/x.md) [top](#title)\n"
        "[file](docs/none.md)\n"
        "[heading](docs/other.md#nowhere)\n"
        "`api/none.py`\n"
        "```\n[code](not/checked.md)\n```\n"
    )
    assert list(links.broken_references()) == [
        "README.md:3: no file docs/none.md",
        "README.md:4: no heading for #nowhere in docs/other.md",
        "README.md:5: no file api/none.py",
    ]


def test_architecture_lists_every_table_of_magnetis_ops() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [
        table.name for table in ops_metadata.tables.values() if f"| `{table.name}` |" not in page
    ]
    assert missing == []


def test_the_data_dictionary_describes_every_column_of_magnetis_ops() -> None:
    page = tool("docs").data_dictionary()
    for table in ops_metadata.tables.values():
        section = page.partition(f"\n### {table.name}\n")[2].partition("\n### ")[0]
        described = [line for line in section.splitlines() if line.startswith("| `")]
        assert len(described) == len(table.columns), table.name
        assert not [line for line in described if line.endswith("|  |")], table.name
