"""A warehouse with a plan, and a search of the whole database for a person."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import zstandard
from protected import protection
from sqlalchemy import Engine, text
from windows import load_window

from magnetis_dagster.catalog import Catalogue
from magnetis_dagster.warehouse import Emptied, MergeResult, Warehouse
from magnetis_dagster.warehouse.reconcile import reconcile

PARIS = ZoneInfo("Europe/Paris")
WarehouseOf = Callable[..., Warehouse]
Load = Callable[..., MergeResult]


@pytest.fixture
def warehouse_of(engine: Engine, catalogue: Catalogue) -> WarehouseOf:
    """Return a warehouse with a section `privacy`; None is the default plan."""

    def warehouse_of(plan: object = None, name: str = "magnetis", **options: Any) -> Warehouse:
        return Warehouse(
            engine,
            catalogue,
            connection_name=name,
            response_zone=PARIS,
            partition_zone=PARIS,
            protection=protection(plan, **options),
        )

    return warehouse_of


@pytest.fixture
def first_read() -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def load(first_read: datetime) -> Load:
    """Load pages of rows as one complete window; each window is a second newer than the last."""
    clock = iter(first_read + timedelta(seconds=second) for second in range(100_000))

    def load(
        warehouse: Warehouse, name: str, days: Sequence[date], *pages: list[Any]
    ) -> MergeResult:
        merged = load_window(
            warehouse, name, days, *pages, read_at=next(clock), emptied=Emptied.DELETE
        )
        collection = warehouse.catalogue[name]
        names = {"connection_name": warehouse.connection_name}
        assert reconcile(warehouse.engine, collection, **names) == []
        return merged

    return load


@pytest.fixture
def snapshot(engine: Engine) -> Callable[[], dict[str, int]]:
    """Return the number of rows of every table of the schema magnetis."""

    def snapshot() -> dict[str, int]:
        with engine.connect() as connection:
            tables = connection.execute(
                text(
                    "SELECT relname FROM pg_class WHERE relkind = 'r' "
                    "AND relnamespace = 'magnetis'::regnamespace ORDER BY 1"
                )
            ).scalars()
            return {
                name: connection.execute(text(f"SELECT count(*) FROM magnetis.{name}")).scalar_one()
                for name in tables
            }

    return snapshot


@pytest.fixture
def hits(engine: Engine) -> Callable[..., list[str]]:
    """Return the places of the database that contain one of the digits or texts.

    Searches every text, JSON, array and bytes column of every schema of the program.
    """

    def hits(digits: Iterable[str] = (), texts: Iterable[str] = ()) -> list[str]:
        found = []
        with engine.connect() as connection:
            columns = connection.execute(
                text(
                    "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL) "
                    "FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
                    "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                    "WHERE n.nspname LIKE 'magnetis%' AND c.relkind IN ('r', 'm') "
                    "AND a.attnum > 0 AND NOT a.attisdropped "
                    "AND format_type(a.atttypid, NULL) IN "
                    "('text', 'jsonb', 'text[]', 'bytea', 'character varying')"
                )
            ).all()
            for schema, table, column, type_ in columns:
                rows = connection.execute(text(f'SELECT "{column}" FROM {schema}.{table}'))
                for (value,) in rows:
                    if value is None:
                        continue
                    shown = zstandard.decompress(value).decode() if type_ == "bytea" else str(value)
                    plain = "".join(filter(str.isdigit, _decimal(shown)))
                    if any(each in plain for each in digits) or any(
                        each.casefold() in shown.casefold() for each in texts
                    ):
                        found.append(f"{schema}.{table}.{column}")
        return sorted(set(found))

    return hits


def _decimal(value: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFKC", value)


def rows_of(engine: Engine, statement: str, **parameters: object) -> list[Mapping[str, Any]]:
    """Return the rows of a statement as mappings."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(statement), parameters).mappings()]
