"""`magnetis settings` as a process, and the stability and errors of its file."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from protected import PROTECTION
from sqlalchemy import Engine
from test_cli import magnetis

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.cli.app import main
from magnetis_dagster.notification_settings.baseline import (
    BaselineError,
    DifferenceKind,
    read_baseline,
    write_baseline,
)
from magnetis_dagster.warehouse import Emptied, Rules, Warehouse, WindowFacts

PARIS = ZoneInfo("Europe/Paris")
NAMES = ["reports", "email_alerts", "sms_alerts"]
Hold = Callable[[str, list[dict[str, Any]]], None]
Run = Callable[..., tuple[int, str, str]]


def alert(identifier: str, account: str, name: str = "Agence", **more: Any) -> dict[str, Any]:
    return {
        "type": "lost_calls",
        "title": "Alerte sur appel manqué",
        "id": identifier,
        "account": {"name": name, "id": account},
        "enabled": 1,
        "less_than": None,
        "recipients": ["paul@exemple.fr", "jean@exemple.fr"],
        **more,
    }


@pytest.fixture
def hold(engine: Engine, catalogue: Catalogue) -> Hold:
    """Store rows as the current state of a collection."""
    warehouse = Warehouse(
        engine, catalogue, response_zone=PARIS, partition_zone=PARIS, protection=PROTECTION
    )

    def hold(name: str, rows: list[dict[str, Any]]) -> None:
        now = warehouse.now()
        with warehouse.staging(catalogue[name]) as staging:
            staging.add(rows)
            received = staging.deduplicate().received
            facts = WindowFacts(
                days=[now.date()],
                read_at=now,
                announced=received,
                received=received,
                api_calls=1,
                bytes=0,
                milliseconds=0,
                run_id="test",
                read_on=now.date(),
                rules=Rules(Emptied.DELETE),
            )
            warehouse.commit(staging, facts)

    return hold


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `magnetis settings` in this process, and return exit code, output and errors."""

    def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            patched.setattr("sys.argv", ["magnetis", "settings", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return run


EXPORTED = """\
# Settings of reports and alerts at Magnetis, written by `magnetis settings export`.
# Contains addresses and phone numbers of people: store it where such data may be stored.
version: 1
without: []
settings:
  email_alerts:
    ale-9:
      account:
        id: acc-1
        name: Agence
      enabled: 1
      less_than: null
      recipients:
      - jean@exemple.fr
      - paul@exemple.fr
      title: Alerte sur appel manqué
      type: lost_calls
    ale-1:
      account:
        id: acc-2
        name: Agence
      enabled: 1
      less_than: null
      recipients:
      - jean@exemple.fr
      - paul@exemple.fr
      title: Alerte sur appel manqué
      type: lost_calls
  reports: {}
"""


def test_export_and_diff(hold: Hold, run: Run, database_url: str, tmp_path: Path) -> None:
    hold("email_alerts", [alert("ale-1", "acc-2"), alert("ale-9", "acc-1")])
    hold("reports", [])
    environment = {"MAGNETIS_DATABASE_URL": database_url, "PYTHONIOENCODING": "ascii"}
    exported = magnetis("settings", "export", **environment | {"PYTHONIOENCODING": "utf-8"})
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == EXPORTED
    assert "sms_alerts has never been read" in exported.stderr

    path = tmp_path / "settings.yaml"
    path.write_text(exported.stdout, encoding="utf-8")
    environment["MAGNETIS_SETTINGS_BASELINE"] = str(path)
    code, output, notices = run("diff", **environment)
    assert (code, output) == (0, f"The settings are those of {path}.\n")
    assert notices == f"sms_alerts is not compared. {path} does not contain it: export it again.\n"

    hold(
        "email_alerts",
        [
            alert("ale-9", "acc-1", enabled=0, recipients=["paul@exemple.fr", "marie@exemple.fr"]),
            alert("ale-3", "acc-3"),
        ],
    )
    drift = magnetis("settings", "diff", **environment)
    assert (drift.returncode, drift.stderr) == (1, notices)
    assert drift.stdout.startswith(f"3 settings differ from {path}")
    assert (
        "~ ale-9 (account acc-1): changed\n"
        "    - enabled: 1\n"
        "    + enabled: 0\n"
        '    - recipients: "jean@exemple.fr"\n'
        '    + recipients: "marie@exemple.fr"\n'
        "- ale-1 (account acc-2): removed\n"
    ) in drift.stdout
    assert '+ title: "Alerte sur appel manqu\\xe9"' in drift.stdout, (
        "a terminal that can show only ASCII"
    )

    code, output, _ = run("diff", str(path), "--json", MAGNETIS_DATABASE_URL=database_url)
    report = json.loads(output)
    assert code == 1
    assert [(each["id"], each["kind"]) for each in report["differences"]] == [
        ("ale-9", "changed"),
        ("ale-1", "removed"),
        ("ale-3", "added"),
    ]
    assert report["differences"][0]["fields"]["enabled"] == {"baseline": 1, "present": 0}
    assert list(report["not_compared"]) == ["sms_alerts"]

    options = [
        word for name in ("account.name", "recipients", "recipient") for word in ("--without", name)
    ]
    _, without, notices = run("export", *options, **environment)
    assert notices.startswith(
        "No setting has a field recipient, so --without recipient left nothing out.\n"
    )
    assert yaml.safe_load(without)["settings"]["email_alerts"]["ale-3"]["account"] == {
        "id": "acc-3"
    }
    assert "exemple.fr" not in without
    path.write_text(without, encoding="utf-8")
    hold(
        "email_alerts",
        [alert("ale-9", "acc-1", enabled=0, recipients=[]), alert("ale-3", "acc-3", "New")],
    )
    assert run("diff", **environment)[0] == 0, "a left-out field was compared"
    path.write_text("version: 1\nsettings: {sms_alerts: {}}\n")
    code, output, errors = run("diff", **environment)
    assert (code, output) == (2, "")
    assert f"Nothing can be compared with {path}." in errors
    assert "sms_alerts: It has never been read." in errors


def test_missing_settings_are_explained(run: Run, empty_database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("version: 1\nsettings: {}\n")
    nowhere = str(tmp_path / "none.yaml")
    for arguments, environment, words in (
        (["export"], dict[str, str](), "There is no database under"),
        (
            ["export"],
            {"MAGNETIS_DATABASE_URL": empty_database_url},
            "No rows of reports, email_alerts, sms_alerts have been read",
        ),
        (
            ["diff"],
            {"MAGNETIS_DATABASE_URL": empty_database_url},
            "There is no baseline to compare with",
        ),
        (
            ["diff"],
            {"MAGNETIS_SETTINGS_BASELINE": nowhere},
            f"The baseline {nowhere} cannot be read (No such file",
        ),
        (
            ["diff", str(path)],
            {"MAGNETIS_DATABASE_URL": empty_database_url},
            "No rows of reports, email_alerts, sms_alerts have been",
        ),
    ):
        code, output, errors = run(*arguments, **environment)
        assert (code, output) == (2, "")
        assert words in errors


@pytest.mark.parametrize("command", ["export", "diff"])
def test_help_warns_of_personal_data(command: str) -> None:
    shown = magnetis("settings", command, "--help")
    assert "addresses and phone numbers" in " ".join(shown.stdout.split())


MALFORMED = {
    "": "expected `version: 1` at the top",
    "[]": "expected `version: 1` at the top",
    "version: 2": "expected `version: 1` at the top",
    "version: 1": "settings: expected a mapping, got nothing.",
    "version: 1\nsettings: [x]": "settings: expected a mapping, got list.",
    "version: 1\nsettings: {emial_alerts: {}}": (
        "settings.emial_alerts: no such collection. There are: reports, email_alerts"
    ),
    "version: 1\nsettings: {reports: {rep-1: x}}": (
        "settings.reports.rep-1: expected a mapping, got str."
    ),
    "version: 1\nsettings: {jean@exemple.fr: {}}": "settings.***: no such collection.",
    "version: 1\nsettings: {reports: {jean@exemple.fr: x}}": (
        "settings.reports.***: expected a mapping, got str."
    ),
    "version: 1\nwithout: x\nsettings: {}": "without: expected a list of names.",
    "version: 1\nsettings:\n  reports:\n    rep-1: {}\n    rep-1: {}": (
        "line 5, column 5: not valid YAML: a key that occurs twice."
    ),
    "version: 1\nsettings: {reports: [": "not valid YAML",
    "<<<<<<< ours\nversion: 1": "line 2, column 8: not valid YAML",
    "version: !!python/object:os.system x": "not valid YAML: a tag that is not supported.",
    "? [a]\n: b": "not valid YAML: found unhashable key",
    "version: 1\nsettings: {reports: {rep-1: {a: 0b_}}}": (
        "line 2, column 33: not valid YAML: a value that does not fit"
    ),
    "version: 1\nsettings: {reports: {rep-1: {a: !!bool x}}}": (
        "not valid YAML: a value that does not fit its tag."
    ),
    "version: 1\nsettings: {reports: {rep-1: {a: !!timestamp x}}}": (
        "not valid YAML: a tag that is not supported."
    ),
    "version: 1\nsettings: {reports: {rep-1: {a: !!set {b}}}}": (
        "not valid YAML: a tag that is not supported."
    ),
    "version: 1\nsettings: {reports: {rep-1: &a {b: *a}}}": (
        "not valid YAML: an alias; quote texts that begin with *."
    ),
}


@pytest.mark.parametrize(("text", "words"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_an_invalid_file_is_reported_with_line_and_column(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError) as caught:
        read_baseline(path, NAMES)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_a_folder_and_invalid_utf_8_are_reported(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes("é".encode("latin-1"))
    for path, words in {tmp_path: "Is a directory", binary: "expected YAML in UTF-8"}.items():
        with pytest.raises(BaselineError, match=words):
            read_baseline(path, NAMES)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(
        [
            "2024-03-04",
            "2024-03-04 09:06:09",
            "on",
            "1_000",
            "=",
            "<<",
            "\n",
            "a\n",
            "a: b",
            "# x",
            "\x85",
            "\u2028",
            "é",
            "\x00",
        ]
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
rows = st.dictionaries(
    st.text(min_size=1, max_size=6),
    st.dictionaries(st.text(max_size=4), values, max_size=4),
    max_size=3,
)


@settings(deadline=None, max_examples=150)
@given(held=rows)
def test_any_settings_are_read_back_unchanged_with_one_field_per_line(
    tmp_path_factory: pytest.TempPathFactory, held: dict[str, dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    text = write_baseline({"reports": held})
    path.write_bytes(text.encode())
    baseline = read_baseline(path, NAMES)
    assert baseline.differences("reports", held) == []
    assert write_baseline(baseline.settings) == text, "a second export differs"
    assert (
        write_baseline(
            {"reports": {name: dict(reversed(row.items())) for name, row in held.items()}}
        )
        == text
    )


def test_null_equals_absent_and_the_order_of_recipients_is_ignored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(write_baseline({"reports": {"rep-1": {"a": None, "to": ["x", "y", 1]}}}))
    baseline = read_baseline(path, NAMES)
    assert baseline.differences("reports", {"rep-1": {"b": None, "to": [1, "y", "x"]}}) == []
    [difference] = baseline.differences("reports", {"rep-1": {"to": ["x", "y"], "deep": {"er": 1}}})
    assert (difference.kind, list(difference.fields)) == (DifferenceKind.CHANGED, ["deep.er", "to"])


@pytest.mark.parametrize("text", ["0033199008744", "0033100000000", "199008744", "1e5", "0o17"])
def test_a_text_that_looks_like_a_number_is_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(write_baseline({"sms_alerts": {text: {"recipients": [text, "+a"]}}}))
    # YAML 1.2 reads each of these as a number unless it is quoted
    assert f"    '{text}':\n      recipients:\n      - +a\n      - '{text}'\n" in path.read_text()
    assert read_baseline(path, NAMES).settings == {
        "sms_alerts": {text: {"recipients": ["+a", text]}}
    }


def test_numbers_that_yaml_would_round_are_compared_by_every_digit(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    held = {"rep-1": {"share": Decimal("0.12345678901234567890"), "number": Decimal(2**70)}}
    path.write_text(write_baseline({"reports": held}))
    baseline = read_baseline(path, NAMES)
    assert baseline.differences("reports", held) == []
    [difference] = baseline.differences(
        "reports", {"rep-1": held["rep-1"] | {"number": Decimal(2**70 + 1)}}
    )
    assert list(difference.fields) == ["number"]
