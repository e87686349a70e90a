"""The generated dbt sources describe the tables and views that the database contains."""

from typing import Any

from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.warehouse.dbt_sources import dbt_sources

COLUMNS = (
    "SELECT c.relname, a.attname, format_type(a.atttypid, NULL) "
    "FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
    "WHERE c.relnamespace = 'magnetis'::regnamespace AND c.relkind IN ('r', 'v') "
    "AND a.attnum > 0 AND NOT a.attisdropped"
)


def test_columns_and_types_are_those_of_the_database(engine: Engine, catalogue: Catalogue) -> None:
    with engine.connect() as connection:
        rows = connection.execute(text(COLUMNS)).all()
    in_database: dict[str, dict[str, str]] = {}
    for table, column, type_ in rows:
        in_database.setdefault(table, {})[column] = type_
    [source] = dbt_sources(catalogue)["sources"]
    declared: dict[str, Any] = {
        table["name"]: {column["name"]: column["data_type"] for column in table["columns"]}
        for table in source["tables"]
    }
    assert declared.keys() <= in_database.keys()
    assert declared == {table: in_database[table] for table in declared}
