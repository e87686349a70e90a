"""Text of other origin in every field that Dagster's UI or a chat renders as Markdown.

tests/integration/dagster_support test the renderer.
"""

from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.execution.plan.objects import StepFailureData, UserFailureData
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.connections import Connection
from magnetis_dagster.definitions import build_defs
from magnetis_dagster.defs.alerting.message import step_failure_reason
from magnetis_dagster.defs.checks import LoadChecks
from magnetis_dagster.defs.markdown import literal
from magnetis_dagster.defs.metadata import query
from magnetis_dagster.defs.policies import PolicyChecks
from magnetis_dagster.defs.step_failures import failure
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.settings import Settings
from magnetis_dagster.warehouse import CountMismatch
from magnetis_dagster.warehouse.policy_queries import PolicyResult

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
KEY = dg.AssetKey(["magnetis", "calls"])
IMAGE = "![seen](http://evil.example/seen.png)"
HOSTILE = {
    "image": IMAGE,
    "image with a title": '![a b](http://evil.example/x.png "t t")',
    "image by reference": "![x][1]\n\n[1]: http://evil.example/x.png",
    "link": "[click here](javascript:alert(1))",
    "autolink": "see <http://evil.example> and http://evil.example, www.evil.example, "
    "HTTPS://evil.example or a@evil.example",
    "html": "<img src=http://evil.example/x.png><script>alert(1)</script><!-- -->",
    "entity": "&lt;img&gt; &#33;[x](http://evil.example)",
    "emphasis": "*bold* **bolder** _it_ __them__ ~~gone~~ ~gone~",
    "backticks": "`a` ``b` ```\ncode\n``` `![i](http://evil.example/i.png)` `",
    "backtick before an image": "a` ![i](http://evil.example/i.png) `b",
    "escapes": r"\![x](http://evil.example/x.png) \\![x](u) \`![x](u)\`",
    "table": "| a | b |\n|---|---|\n| ![c](http://evil.example/c.png) | d |",
    "heading": "# big",
    "underlined": "big\n===",
    "quotation": ">quote",
    "list": "- one\n- two",
    "numbers": "1) one\n2) two",
    "rule": "---",
    "indented": "    code",
    "footnote": "[^1]\n\n[^1]: http://evil.example",
    "line breaks": "a  \nb\\\nc\r\n\r\nd\u2028e\x00f",
    "mention": "<!channel> <@U1> <http://evil.example|bank> @here",
}


def rendered(markdown: str) -> str:
    """Return the text of Markdown. Fails unless it is one paragraph of text and code."""
    opening, inline, closing = MARKDOWN.parse(markdown)
    assert (opening.type, closing.type) == ("paragraph_open", "paragraph_close")
    assert {child.type for child in inline.children or []} <= {"text", "code_inline"}, markdown
    for child in inline.children or []:
        # GitHub's dialect turns these into links in text, not in code
        assert child.type == "code_inline" or not any(
            sign in child.content.lower() for sign in ("://", "www.", "@")
        ), markdown
    return "".join(child.content for child in inline.children or [])


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_is_displayed_literally(text: str) -> None:
    line = " ".join(text.replace("\x00", " ").split())
    shown = rendered(literal(text))
    # a code span in the text stays a code span
    assert shown.replace("`", "") == line.replace("`", "")


@given(st.text(alphabet="`*_[]()!<>\\&;#~|-+=:/@w. \nab1"))
def test_a_text_contains_no_active_markdown(text: str) -> None:
    if " ".join(text.split()):
        rendered(f"Not declared: {literal(text)}.")
        rendered(literal(text))


def test_plain_prose_and_our_own_code_are_unchanged(catalogue: Catalogue) -> None:
    for text in (
        "first_seen_at is 3 > 2 & 5 - 4.",
        "`magnetis probe` shows them (`--write` too); 12) is no list.",
    ):
        assert literal(text) == text
    for collection in catalogue.enabled:
        for words in (
            collection.description,
            *(column.description for column in collection.columns.values()),
        ):
            assert literal(words) == words.strip()


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Return the catalogue with an overlay whose descriptions are hostile."""
    overlay = {
        "collections": {
            "calls": {
                "description": IMAGE,
                "columns": {"ours": {"type": "text", "description": IMAGE}},
            }
        },
        "policies": {"has_recipient": {"description": IMAGE}},
    }
    path = tmp_path / "magnetis.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    monkeypatch.setenv("MAGNETIS_CONFIG", str(path))
    return load_catalogue(path)


def test_descriptions_of_assets_ops_and_columns_are_literal(hostile: Catalogue) -> None:
    asset = build_defs().resolve_assets_def(KEY)
    assert rendered(asset.specs_by_key[KEY].description or "") == IMAGE
    assert rendered(asset.op.description or "") == IMAGE
    schema = asset.metadata_by_key[KEY]["dagster/column_schema"]
    [column] = [column for column in schema.columns if column.name == "ours"]
    assert rendered(column.description) == IMAGE


def test_descriptions_of_checks_are_literal(
    hostile: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGNETIS_SETTINGS_BASELINE", "![seen](http:x).yaml")
    policy_checks = PolicyChecks(
        Connection(UNNAMED, Settings.load(), hostile), hostile["email_alerts"]
    )
    specs = {spec.name: spec.description or "" for spec in policy_checks.specs(KEY)}
    assert rendered(specs["policy_has_recipient"]) == IMAGE
    assert rendered(specs["baseline"]) == "The notification settings equal ![seen](http:x).yaml."


def test_evaluations_of_checks_are_literal(
    hostile: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = LoadChecks(KEY)
    checks._unknown.update([IMAGE, "_both_sides_"])
    checks._misfits.update({IMAGE: 2})
    found = {
        result.check_name: result.description or ""
        for result in checks.results()
        if result.description
    }
    assert (
        rendered(found["unknown_fields"])
        == f"Not declared, kept in payload: {IMAGE}, _both_sides_."
    )
    assert f"{IMAGE} (2)" in rendered(found["misfit_values"])
    assert rendered(
        checks.incomplete(CountMismatch(f"calls: the API returned {IMAGE}")).description or ""
    ).endswith(IMAGE)
    monkeypatch.setenv("MAGNETIS_SETTINGS_BASELINE", "![seen](http:x).yaml")
    policy_checks = PolicyChecks(
        Connection(UNNAMED, Settings.load(), hostile), hostile["email_alerts"]
    )
    [policy] = [
        policy
        for policy in hostile.policies_of(hostile["email_alerts"])
        if policy.name == "has_recipient"
    ]
    result = policy_checks._policy_result(KEY, policy, PolicyResult(not_evaluated=IMAGE))
    assert rendered(result.description or "") == f"Not checked: {IMAGE}"
    # a missing file needs no database
    missing = policy_checks._baseline_result(None, KEY)  # type: ignore[arg-type]
    assert "The baseline ![seen](http:x).yaml cannot be read" in rendered(missing.description or "")


def test_queries_are_one_block_of_code(catalogue: Catalogue) -> None:
    for collection in catalogue.enabled:
        [fence] = MARKDOWN.parse(f"```sql\n{query(collection, date(2025, 3, 28))}\n```")
        assert (fence.type, fence.info) == ("fence", "sql")


@pytest.mark.parametrize(
    "text", [HOSTILE["image"], HOSTILE["mention"], HOSTILE["html"], HOSTILE["emphasis"]]
)
def test_alerts_of_failed_runs_are_literal(text: str) -> None:
    said = failure(PermanentError(text))
    data = StepFailureData(
        error=None, user_failure_data=UserFailureData("", said.description, said.metadata)
    )
    assert rendered(step_failure_reason("magnetis__calls", data)) == " ".join(text.split())
