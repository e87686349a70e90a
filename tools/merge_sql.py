"""Writes tests/golden/merge_*.sql: the rendered statements that merge a collection.

They show a change of a template, of the catalogue or of the rendering as a reviewable difference.
`--check` writes nothing, and exits 1 if a file differs.
"""

import difflib
import sys
from pathlib import Path

from magnetis_dagster.catalog import Collection, load_catalogue
from magnetis_dagster.warehouse.merge_queries import merge_queries

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
COLLECTIONS = ("calls", "accounts")
"""An events collection and a snapshot collection."""


def rendered(collection: Collection) -> str:
    """Return all statements that merge the collection, each with its name."""
    queries = merge_queries(collection)
    return "\n".join(f"-- name: {name}\n{queries.sql(name)}\n" for name in queries.names())


def main() -> int:
    catalogue = load_catalogue()
    stale = False
    for name in COLLECTIONS:
        file = FOLDER / f"merge_{name}.sql"
        shown = file.relative_to(FOLDER.parent.parent)
        text = rendered(catalogue[name])
        stored = file.read_text(encoding="utf-8") if file.exists() else ""
        if text == stored:
            continue
        if "--check" not in sys.argv[1:]:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
            print(f"{shown} written")
            continue
        stale = True
        difference = difflib.unified_diff(
            stored.splitlines(), text.splitlines(), "reviewed", "code", lineterm="", n=2
        )
        print(
            *list(difference)[:60],
            f"{shown} is stale: if the change is meant, run `python tools/merge_sql.py` and "
            "commit it",
            sep="\n",
            file=sys.stderr,
        )
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
