"""The collections and columns that any of several catalogues declares.

Connections share the tables.
"""

from collections.abc import Sequence

from magnetis_dagster.catalog.model import Catalogue


def union(catalogues: Sequence[Catalogue]) -> Catalogue:
    """Return the first catalogue with the collections and columns that only others declare.

    If several declare a column, the first declaration applies.
    """
    first, *others = catalogues
    collections = dict(first.collections)
    for other in others:
        for name, collection in other.collections.items():
            known = collections.setdefault(name, collection)
            if missing := collection.columns.keys() - known.columns.keys():
                added = {column: collection.columns[column] for column in sorted(missing)}
                columns = known.columns | added
                collections[name] = known.model_copy(update={"columns": columns})
    return first.model_copy(update={"collections": collections})
