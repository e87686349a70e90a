"""Shared by the tests of the guarded webserver: a stand-in code location, names, hostile text."""

import json

from magnetis_dagster.dagster_support.webserver_client import DagsterApi, asset_key

EVIL, UI_NAME = "evil.example", "ui.company.test"
HOSTILE = (
    "![seen](http://evil.example/seen.png) [click](http://evil.example) <img "
    "src=http://evil.example/html.png> `x` ``y *bold* _it_ ~~gone~~ http://evil.example/auto "
    "www.evil.example a@evil.example &lt;b&gt; <!channel>\n\n# heading\n\n| a | b |\n|---|---|\n| "
    "![c](http://evil.example/cell.png) | d |\n\n```\ncode\n```\n> quote"
)
"""Every construct of Markdown that loads, links or formats."""

STAND_IN = f"""
from dagster import *
from magnetis_dagster.defs.markdown import literal

text = literal({HOSTILE!r})
schema = TableSchema([TableColumn("title", "text", text)])

@asset(key=["magnetis", "calls"], description=text, metadata={{"dagster/column_schema": schema}},
       check_specs=[AssetCheckSpec("known", asset=["magnetis", "calls"], description=text)])
def calls():
    check = AssetCheckResult(check_name="known", passed=False, description=text)
    yield MaterializeResult(check_results=[check])

@asset(key=["magnetis", "raw"], description="![seen](http://evil.example/raw.png)")
def raw(): ...

@op
def greet(context):
    context.log.info("greeting")

@job
def greetings():
    greet()

defs = Definitions(assets=[calls, raw], jobs=[greetings])
"""

MUTATION = (
    "mutation { reportRunlessAssetEvents(eventParams: "
    '{eventType: ASSET_MATERIALIZATION, assetKey: {path: ["magnetis", "raw"]}}) '
    "{ __typename } }"
)


def body(query: str) -> str:
    return json.dumps({"query": query})


def materializations(url: str) -> int:
    query = (
        "query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) "
        "{ ... on AssetNode { assetMaterializations { runId } } } }"
    )
    with DagsterApi(url) as api:
        return len(
            api.ask(query, key=asset_key("raw"))["assetNodeOrError"]["assetMaterializations"]
        )
