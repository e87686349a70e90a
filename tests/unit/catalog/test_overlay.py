"""MAGNETIS_CONFIG: its options, and errors that name file, key and allowed values."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetis_dagster.catalog import Catalogue, CatalogueError, Evidence, load_catalogue

Overlay = Callable[[str], Path]


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    def write(text: str) -> Path:
        path = tmp_path / "magnetis.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    "text",
    ["", "# nothing yet\n", "collections:\n", "collections: {}\n", "collections: {calls: {}}\n"],
)
def test_an_empty_overlay_returns_the_default_catalogue(
    overlay: Overlay, catalogue: Catalogue, text: str
) -> None:
    assert load_catalogue(overlay(text)) == catalogue


def test_a_route_becomes_the_first_candidate_and_the_others_remain(overlay: Overlay) -> None:
    routes = load_catalogue(overlay("collections: {visits: {route: /journeys}}"))["visits"].routes
    assert [route.path for route in routes] == ["/journeys", "/visits", "/visitors", "/sessions"]


def test_a_new_route_has_the_default_evidence_and_the_others_keep_theirs(
    overlay: Overlay,
) -> None:
    routes = load_catalogue(overlay("collections: {calls: {route: /v2/calls}}"))["calls"].routes
    assert [(route.path, route.evidence) for route in routes] == [
        ("/v2/calls", Evidence.ASSUMED),
        ("/calls", Evidence.OBSERVED),
    ]


def test_an_overlay_adds_a_reference(overlay: Overlay) -> None:
    catalogue = load_catalogue(
        overlay(
            "collections: {calls: {references: [numbers, accounts]}, numbers: {enabled: false}}"
        )
    )
    assert [each.name for each in catalogue.references_of(catalogue["calls"])] == [
        *("entities", "networks", "accounts"),
        *("pools", "recipients"),
    ]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ("{calls: {references: [faxes]}}", "unknown reference 'faxes'"),
        ("{visits: {references: [calls]}}", "form a cycle"),
    ],
)
def test_references_must_exist_without_cycles(
    overlay: Overlay, references: str, message: str
) -> None:
    with pytest.raises(CatalogueError, match=message):
        load_catalogue(overlay(f"collections: {references}"))


def test_columns_and_parameters_are_merged_and_lists_are_replaced(
    overlay: Overlay, catalogue: Catalogue
) -> None:
    calls = load_catalogue(
        overlay("""
collections:
  calls:
    parameters: {analysis: null, expand: account}
    time_fields: [begun_at]
    window: {start: since, end: until}
    columns:
      caller_number: {paths: [msisdn]}
      our_reference: {type: integer, description: Of our CRM.}
      caller_name: null
""")
    )["calls"]
    default = catalogue["calls"]
    assert calls.parameters == {"expand": "account"}
    assert calls.time_fields == ("begun_at",)
    assert calls.window is not None
    assert (calls.window.start, calls.window.end, calls.window.format) == (
        "since",
        "until",
        "%Y%m%d%H%M%S",
    )
    assert calls.columns["caller_number"].paths == ("msisdn",)
    assert (
        calls.columns["caller_number"].personal_data
        is default.columns["caller_number"].personal_data
    )
    assert calls.columns["our_reference"].paths == ("our_reference",)
    assert calls.columns.keys() == (default.columns.keys() - {"caller_name"}) | {"our_reference"}


@pytest.mark.parametrize(
    ("declared", "degree"),
    [
        ("none", "none"),
        ("pseudonym", "pseudonym"),
        ("personal", "personal"),
        ("visitor", "pseudonym"),
    ]
    + [(name, "personal") for name in ("caller_number", "free_text", "staff_recipient")],
)
def test_a_class_of_personal_data_is_declared_as_a_class_or_as_a_degree(
    overlay: Overlay, declared: str, degree: str
) -> None:
    text = CALLS % f"columns: {{x: {{personal_data: {declared}, contains: phone}}}}"
    column = load_catalogue(overlay(text))["calls"].columns["x"]
    assert (column.personal_data, column.personal_data.degree) == (declared, degree)
    assert column.contains == "phone"


def test_other_sections_of_the_file_are_accepted(overlay: Overlay, catalogue: Catalogue) -> None:
    text = (
        "connections: {nord: {api_key_env: K}}\nprivacy: {classes: {contact: {on_arrival: hash}}}"
    )
    assert load_catalogue(overlay(text)) == catalogue
    with pytest.raises(CatalogueError, match="privacy: unknown name"):
        load_catalogue(None, {"privacy": {}}, "connections.nord.overlay")


def test_ids_accounts_and_volatile_members_are_declared_as_lists(
    overlay: Overlay, catalogue: Catalogue
) -> None:
    calls = load_catalogue(
        overlay(
            "collections: {calls: {id_paths: [[id, leg], call_id], account_paths: [client.id], "
            "volatile: [score, 'link?']}}"
        )
    )["calls"]
    assert calls.id_paths == (("id", "leg"), ("call_id",))
    assert calls.account_paths == ("client.id",)
    assert calls.volatile == ("score", "link?")
    assert calls.key_paths == {"id", "leg", "call_id", "client.id"}
    assert (catalogue["calls"].id_paths, catalogue["calls"].account_paths) == (
        (("id",), ("uuid",)),
        ("account.id", "account_id"),
    )


def test_a_collection_can_be_disabled(overlay: Overlay) -> None:
    changed = load_catalogue(
        overlay("collections: {pools: {enabled: false, reason: not in our contract}}")
    )
    assert "pools" not in [collection.name for collection in changed.enabled]
    assert len(changed.enabled) == 17
    assert changed["pools"].reason == "not in our contract"


def test_an_overlay_does_not_change_the_default_catalogue(
    overlay: Overlay, catalogue: Catalogue
) -> None:
    load_catalogue(
        overlay(
            "collections: {calls: {route: /x, columns: {caller_number: {paths: [x]}}, "
            "parameters: {a: b}}}"
        )
    )
    assert load_catalogue() == catalogue


CALLS = "collections: {calls: {%s}}"
INVALID = {
    "colections: {}": (
        "colections: unknown name. Did you mean 'collections'? Allowed here: collections, "
        "policies, connections, privacy."
    ),
    "families: {}": (
        "families: unknown name. Allowed here: collections, policies, connections, privacy."
    ),
    "[calls]": (
        "expected a mapping with the keys 'collections', 'policies', 'connections' and 'privacy', "
        "got a list"
    ),
    "collections: [calls]": "collections: expected a mapping, got ['calls']",
    "collections: {cals: {}}": (
        "collections.cals: unknown name. Did you mean 'calls'? Allowed here: entities, networks"
    ),
    "collections: {1: {}}": "collections.1: unknown name. Allowed here: entities",
    "collections: {calls: off}": "collections.calls: expected a mapping, got False",
    "collections: {calls: [": ": not valid YAML: ",
    "collections: {calls: \x00}": "not valid YAML",
    CALLS % "rute: /x": (
        "collections.calls.rute: unknown name. Did you mean 'route'? Allowed here: account_paths, "
        "columns, description"
    ),
    CALLS % "kind: snapshot": "collections.calls.kind: unknown name.",
    CALLS % "route: calls": "collections.calls.route.path: String should match pattern '^/",
    CALLS % "route: 'https://elsewhere.example/calls'": (
        "collections.calls.route.path: String should match pattern"
    ),
    CALLS % "route: //elsewhere.example/calls": "or a second host; got '//elsewhere.example/calls'",
    CALLS % "route: /../admin": "without '..'",
    CALLS % "routes: /calls": "collections.calls.routes: expected a list, got '/calls'",
    CALLS % "routes: null, route: /x": "collections.calls.routes: expected a list, got None",
    CALLS % "routes: [/calls]": "collections.calls.routes.0: expected a mapping, got '/calls'",
    CALLS % "routes: []": "collections.calls.routes: Tuple should have at least 1 item",
    CALLS % "routes: [{pfad: /x}]": (
        "collections.calls.routes.0.pfad: unknown name. Allowed here: path, evidence."
    ),
    CALLS % "routes: [{path: /x, evidence: sure}]": (
        "'confirmed', 'observed', 'inferred' or 'assumed'; got 'sure'"
    ),
    CALLS
    % "time_fields: begun_at": "collections.calls.time_fields: expected a list; got 'begun_at'",
    CALLS % "time_fields: []": "collections.calls: an events collection requires time_fields",
    CALLS % "window: {begin: since}": (
        "collections.calls.window.begin: unknown name. Allowed here: start, end, format."
    ),
    CALLS % "window: {format: '%Q'}": (
        "collections.calls.window.format: expected a strftime format with at least year, month and"
    ),
    CALLS
    % "window: {format: '%H%M'}": "collections.calls.window.format: expected a strftime format",
    CALLS % "window: since": "collections.calls.window: expected a mapping, got 'since'",
    CALLS % "parameters: {analysis: 1}": (
        "collections.calls.parameters.analysis: Input should be a valid string; got 1"
    ),
    CALLS % "enabled: maybe": "collections.calls.enabled: Input should be a valid boolean",
    CALLS % "columns: {x: {tipe: text}}": (
        "collections.calls.columns.x.tipe: unknown name. Did you mean 'type'? Allowed here: type"
    ),
    CALLS % "columns: {x: {type: strin}}": (
        "collections.calls.columns.x.type: Input should be 'text', 'integer', 'decimal'"
    ),
    CALLS
    % "columns: {x: {paths: a.b}}": "collections.calls.columns.x.paths: expected a list; got 'a.b'",
    CALLS % "columns: {x: {personal_data: yes please}}": (
        "Input should be 'none', 'pseudonym', 'personal', 'caller_number', 'contact', 'free_text'"
    ),
    CALLS % "columns: {Our-Ref: {}}": (
        "collections.calls.columns.Our-Ref.[key]: String should match pattern "
        "'^[a-z][a-z0-9_]{0,39}$'"
    ),
    CALLS % "columns: {day: {}}": (
        "collections.calls: column names ['day'] are reserved in every table; choose other names"
    ),
    CALLS % "columns: {caller_key: {}}": (
        "column names ['caller_key'] are reserved for the caller keys of other columns"
    ),
    CALLS
    % (
        "columns: {x: {personal_data: contact, contains: phone}, "
        "x_number: {personal_data: contact, contains: phone}}"
    ): "the caller keys of several columns would have the name x_key",
    CALLS % "columns: {id: {paths: [call_id]}}": (
        "or declare their source: id_paths, account_paths or time_fields"
    ),
    CALLS
    % "id_path: [call_id]": "collections.calls.id_path: unknown name. Did you mean 'id_paths'?",
    CALLS % "id_paths: call_id": "collections.calls.id_paths: expected a list; got 'call_id'",
    CALLS % "id_paths: []": "collections.calls.id_paths: Tuple should have at least 1 item",
    CALLS % "id_paths: [[]]": (
        "collections.calls.id_paths.0: expected a member such as call_id, or a list of members "
        "that form one id"
    ),
    CALLS % "id_paths: [id, [id, 2]]": (
        "collections.calls.id_paths.1: expected a member such as call_id, or a list of members"
    ),
    CALLS
    % "id_paths: [7]": "collections.calls.id_paths.0: expected a member such as call_id, or a "
    "list of members that form one id, such as [id, leg]; got 7",
    CALLS
    % "account_paths: account": "collections.calls.account_paths: expected a list; got 'account'",
    CALLS % "account_paths: ['']": (
        "collections.calls.account_paths.0: String should have at least 1 character"
    ),
    CALLS
    % "volatile: last_sent_at": "collections.calls.volatile: expected a list; got 'last_sent_at'",
    CALLS % "volatile: ['a..b']": (
        "collections.calls.volatile.0: expected a dotted member such as last_sent_at; `*` is "
        "every element"
    ),
    CALLS % "volatile: ['url?x']": "means the query string of a link only; got 'url?x'",
    CALLS % "columns: {duration_seconds: {received_unit: fortnights}}": "columns.duration_seconds: "
    "received_unit: expected one of milliseconds, seconds, minutes, hours; got 'fortnights'",
    CALLS % "columns: {status: {received_unit: seconds}}": (
        "columns.status: received_unit requires a column of type integer or decimal"
    ),
    CALLS % "columns: {x: text}": "collections.calls.columns.x: expected a mapping, got 'text'",
    "collections: {pools: {window: {}}}": (
        "collections.pools: a snapshot collection has no window and no time_fields"
    ),
}


@pytest.mark.parametrize(("text", "expected"), INVALID.items(), ids=INVALID)
def test_an_error_names_the_file_the_key_and_the_allowed_values(
    overlay: Overlay, text: str, expected: str
) -> None:
    path = overlay(text)
    with pytest.raises(CatalogueError) as caught:
        load_catalogue(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert expected in message
    assert len(message) < 600, "an error must fit a log line"


def test_errors_distinguish_a_missing_file_a_folder_and_invalid_utf_8(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes("# café".encode("latin-1"))
    for path, expected in {
        missing: "No such file",
        tmp_path: "Is a directory",
        binary: "expected YAML in UTF-8",
    }.items():
        with pytest.raises(CatalogueError, match=expected) as caught:
            load_catalogue(path)
        assert str(path) in str(caught.value)


no_deadline = settings(deadline=None)
"""Tests may be slow on a busy machine."""

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["path", "type", "paths", "x"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=6,
)
KEYS = [
    "route",
    "routes",
    "parameters",
    "columns",
    "window",
    "time_fields",
    "enabled",
    "reason",
    "description",
    "window_evidence",
]


@no_deadline
@given(changes=st.dictionaries(st.sampled_from(KEYS), json, max_size=3))
def test_any_value_of_any_key_returns_a_catalogue_or_an_error_with_the_key(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(
        yaml.safe_dump({"collections": {"calls": changes}}, allow_unicode=False), encoding="utf-8"
    )
    try:
        load_catalogue(path)
    except CatalogueError as error:
        assert "collections.calls" in str(error) or "not valid YAML" in str(error)  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize("name", ["calls_current", "accounts_history", "settings_changes"])
def test_a_new_collection_cannot_have_the_name_of_another_table_or_view(
    overlay: Overlay, name: str
) -> None:
    with pytest.raises(CatalogueError, match=f"collection {name}: a table or view"):
        load_catalogue(
            overlay(f"collections: {{{name}: {{family: activity, kind: snapshot, route: /x}}}}")
        )


def test_an_index_is_removed_if_its_column_becomes_json(overlay: Overlay) -> None:
    assert (
        load_catalogue(overlay("collections: {calls: {columns: {caller_number: {type: json}}}}"))[
            "calls"
        ].indexes
        == ()
    )
