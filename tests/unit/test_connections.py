"""Connections: what a declaration may contain, what it inherits, and the errors of the others."""

from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magnetis_dagster.catalog import load_catalogue
from magnetis_dagster.connections import (
    NAME,
    Connection,
    Scope,
    UnknownConnection,
    choose,
    load_connections,
)
from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.settings import Settings, SettingsError

SECRET = "k-57a1e0"


def declare(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> Path:
    file = path / "magnetis.yaml"
    file.write_text(text)
    monkeypatch.setenv("MAGNETIS_CONFIG", str(file))
    return file


def by_name() -> dict[str, Connection]:
    return {each.name: each for each in load_connections()}


def test_without_declarations_the_variables_are_the_only_connection() -> None:
    [connection] = load_connections()
    assert connection.name == "magnetis"
    assert connection.is_unnamed
    assert connection.key_prefix == ("magnetis",)
    assert connection.path("calls") == ("magnetis", "calls")
    assert connection.scoped("daily_events") == "daily_events"
    assert connection.settings == Settings.load()


def test_a_declared_connection_inherits_what_it_does_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declare(
        monkeypatch,
        tmp_path,
        """
        collections: {pools: {enabled: false, reason: none}}
        connections:
          nord:
            api_key_env: KEY_NORD
            scope: network
            daily_quota: 1000
            start_date: 2025-02-01
            timezone: Europe/London
            key_expires: 2027-03-31
            collections: [calls, pools]
            overlay: {collections: {calls: {route: /v9/calls}}}
        """,
    )
    monkeypatch.setenv("MAGNETIS_LOOKBACK_DAYS", "3")
    monkeypatch.setenv("KEY_NORD", SECRET)
    nord = by_name()["nord"]
    assert nord.settings.require_key() == SECRET
    assert nord.settings.connection == "nord"
    assert nord.settings.daily_quota == nord.settings.quota_policy.limit == 1000
    assert nord.settings.start_date == date(2025, 2, 1)
    assert nord.settings.lookback_days == 3
    assert nord.settings.timezone == ZoneInfo("Europe/London")
    assert nord.settings.view_timezone == ZoneInfo("Europe/Paris"), "all connections share views"
    assert (nord.scope, nord.key_expires) == (Scope.NETWORK, date(2027, 3, 31))
    assert [each.name for each in nord.catalogue.enabled] == ["calls"]
    assert nord.catalogue["calls"].route == "/v9/calls"
    assert nord.path("calls") == ("magnetis", "nord", "calls")
    assert nord.scoped("daily_events") == "nord_daily_events"
    assert SECRET not in repr(nord)


def test_the_unnamed_connection_exists_beside_others_if_it_has_a_key_or_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declare(monkeypatch, tmp_path, "connections: {nord: {api_key_env: KEY_NORD}}")
    assert [*by_name()] == ["nord"]
    monkeypatch.setenv("MAGNETIS_API_KEY", SECRET)
    assert [*by_name()] == ["magnetis", "nord"]
    monkeypatch.delenv("MAGNETIS_API_KEY")
    declare(
        monkeypatch,
        tmp_path,
        "connections: {nord: {api_key_env: KEY_NORD}, magnetis: {scope: organization}}",
    )
    assert by_name()["magnetis"].scope is Scope.ORGANIZATION


def test_each_source_of_a_key_is_read_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    declare(
        monkeypatch,
        tmp_path,
        f"connections: {{a: {{api_key_env: KEY_A}}, b: {{api_key_file: {file}}}}}",
    )
    for name, problem in {"a": "Set the variable KEY_A", "b": "cannot be read"}.items():
        with pytest.raises(SettingsError, match=f"^Connection {name}: .*{problem}"):
            by_name()[name].settings.require_key()
    loaded = by_name()
    Path(".env").write_text(f"KEY_A={SECRET}\n")
    file.write_text(f"{SECRET}-b\n")
    assert loaded["a"].reload().settings.require_key() == SECRET
    assert loaded["b"].reload().settings.require_key() == f"{SECRET}-b"
    monkeypatch.setenv("KEY_A", "from-the-environment")
    assert by_name()["a"].settings.require_key() == "from-the-environment"


def test_a_reload_depends_on_no_value_of_another_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "connections: {a: {api_key_env: A}, b: {api_key_env: B, timezone: Europe/Paris}}"
    file = declare(monkeypatch, tmp_path, text)
    loaded = by_name()
    file.write_text(text.replace("Paris", "Pari"))
    assert loaded["a"].reload() == loaded["a"]
    with pytest.raises(SettingsError, match=r"connections\.b\.timezone: "):
        loaded["b"].reload()
    file.write_text("connections: {b: {api_key_env: B}}")
    with pytest.raises(UnknownConnection, match=r"No connection 'a' is declared\. There are: b"):
        loaded["a"].reload()


def test_a_secret_file_of_the_variables_name_contains_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "key_a").write_text(f"{SECRET}\n")
    declare(monkeypatch, tmp_path, "connections: {a: {api_key_env: KEY_A}}")
    assert by_name()["a"].settings.require_key() == SECRET


def test_an_unusable_key_fails_its_connection_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declare(
        monkeypatch, tmp_path, "connections: {a: {api_key_env: KEY_A}, b: {api_key_env: KEY_B}}"
    )
    monkeypatch.setenv("KEY_A", f"{SECRET}\nX-Evil: 1")
    monkeypatch.setenv("KEY_B", SECRET)
    with pytest.raises(SettingsError, match=r"KEY_A.*without spaces or line breaks") as caught:
        by_name()["a"].settings.require_key()
    assert SECRET not in str(caught.value)
    assert by_name()["b"].settings.require_key() == SECRET


def test_a_variable_for_a_connections_key_is_no_misspelling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variable = "MAGNETIS_API_KEY" + "_NORD"
    declare(monkeypatch, tmp_path, f"connections: {{nord: {{api_key_env: {variable}}}}}")
    monkeypatch.setenv(variable, SECRET)
    assert by_name()["nord"].settings.require_key() == SECRET


BAD = {
    "connections: [a]": "connections: expected a mapping of names",
    "connections: {Nord: {}}": "connections.Nord: expected a name of at most 30 characters",
    "connections: {a-b: {}}": "connections.a-b: expected a name",
    "connections: {2nd: {}}": "that does not begin with a digit, got '2nd'",
    "connections: {nord: {}}": "connections.nord: expected api_key_env",
    "connections: {nord: {api_key_env: A}, nord: {api_key_env: B}}": "line 1, column 39: not valid "
    "YAML: the key 'nord' occurs twice",
    "connections: {nord: 3}": "connections.nord: ",
    f"connections: {{nord: {{api_key: {SECRET}}}}}": "connections.nord.api_key: unknown name. A "
    "key itself does not belong in this file",
    "connections: {nord: {api_key_env: A, api_key_file: b}}": "api_key_env or api_key_file, not "
    "both",
    "connections: {nord: {api_key_env: A, quota: 3}}": "connections.nord.quota: unknown name. "
    "Allowed here: api_key_env",
    "connections: {nord: {api_key_env: A, daily_quota: -1}}": "connections.nord.daily_quota: "
    "Input should be greater than 0",
    "connections: {nord: {api_key_env: A, scope: world}}": "connections.nord.scope: Input should "
    "be 'organization'",
    "connections: {nord: {api_key_env: A, collections: []}}": "connections.nord.collections: "
    "expected at least one collection",
    "connections: {nord: {api_key_env: A, collections: [cals]}}": "connections.nord.collections: "
    "no collection 'cals'",
    "connections: {nord: {api_key_env: A, overlay: {collections: {calls: {rute: x}}}}}": (
        "connections.nord.overlay.collections.calls.rute: unknown name. Did you mean 'route'?"
    ),
    "connections: {nord: {api_key_env: A, overlay: other.yaml}}": "other.yaml cannot be read",
    "connections: {magnetis: {daily_quota: 3}}": "set MAGNETIS_DAILY_QUOTA instead",
    "connections: {magnetis: {api_key_env: A}}": "the key of magnetis is MAGNETIS_API_KEY",
}


@pytest.mark.parametrize(("text", "expected"), BAD.items(), ids=range(len(BAD)))
def test_a_bad_declaration_names_file_key_and_expectation(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declare(monkeypatch, tmp_path, text)
    with pytest.raises(MagnetisError) as caught:
        load_connections()
    assert expected in str(caught.value)
    assert "magnetis.yaml" in str(caught.value) or "other.yaml" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_command_takes_the_only_connection_or_asks_which_one() -> None:
    a, b = (Connection(name, Settings.load(), load_catalogue()) for name in "ab")
    assert choose([a], None) is a
    assert choose([a, b], "b") is b
    with pytest.raises(UnknownConnection, match=r"several connections: a, b\. Add --connection"):
        choose([a, b], None)
    with pytest.raises(UnknownConnection, match=r"No connection 'c' is declared\. There are: a, b"):
        choose([a, b], "c")


@given(st.lists(st.from_regex(NAME, fullmatch=True), min_size=2, unique=True))
def test_no_two_connections_share_a_name_of_dagster(names: list[str]) -> None:
    settings = Settings.model_construct()
    names = [name for name in names if name != "magnetis"]
    catalogue = load_catalogue()
    connections = [Connection(name, settings, catalogue) for name in ["magnetis", *names]]
    for own in ("daily_events", "quota_sensor", "magnetis", "magnetis_api"):
        assert len({each.scoped(own) for each in connections}) == len(connections)
        assert all(each.scoped(own).isidentifier() for each in connections), "Dagster requires it"
    assert len({each.path("calls") for each in connections}) == len(connections)
