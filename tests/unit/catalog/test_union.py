"""The columns that any of several catalogues declares."""

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.catalog.union import union


def with_column(name: str) -> Catalogue:
    column = {"type": "text", "paths": [name], "description": "Ours."}
    return load_catalogue(None, {"collections": {"calls": {"columns": {name: column}}}}, "overlay")


def test_the_first_catalogue_gains_columns_and_collections_of_others() -> None:
    shipped = load_catalogue()
    invoices = {
        "family": "organization",
        "kind": "snapshot",
        "route": "/invoices",
        "description": "Invoices.",
    }
    more = load_catalogue(None, {"collections": {"invoices": invoices}}, "overlay")
    joined = union([shipped, with_column("ours"), more, with_column("theirs")])
    assert list(joined["calls"].columns)[-2:] == ["ours", "theirs"]
    assert list(joined.collections) == [*shipped.collections, "invoices"]
    assert union([shipped, shipped]) == shipped
    assert "ours" not in shipped["calls"].columns
