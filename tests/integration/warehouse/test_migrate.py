"""Migrations: of an empty database, repeated, with an overlay, and by concurrent processes."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.database import connect
from magnetis_dagster.warehouse.migrate import NewerDatabase, differences, migrate
from magnetis_dagster.warehouse.schema import data_metadata, ops_metadata


def overlaid(tmp_path: Path, text_: str) -> Catalogue:
    path = tmp_path / "overlay.yaml"
    path.write_text(text_)
    return load_catalogue(path)


def test_migrations_and_catalogue_give_the_declared_tables(
    engine: Engine, catalogue: Catalogue
) -> None:
    with engine.connect() as connection:
        assert differences(connection, ops_metadata) == []
        assert differences(connection, data_metadata(catalogue)) == []


def test_a_second_migration_changes_nothing(engine: Engine, catalogue: Catalogue) -> None:
    assert migrate(engine, catalogue) is False


def test_descriptions_in_the_catalogue_are_comments_of_the_columns(engine: Engine) -> None:
    with engine.connect() as connection:
        comment = connection.execute(
            text(
                "SELECT col_description('magnetis.calls'::regclass, attnum) FROM pg_attribute "
                "WHERE attrelid = 'magnetis.calls'::regclass AND attname = 'duration_seconds'"
            )
        ).scalar_one()
    assert comment == "Length of the conversation. Unit: seconds."


def test_an_overlay_adds_columns_and_keeps_rows(engine: Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO magnetis.pools (id, payload, first_seen_at, last_seen_at, changed_at) "
                "VALUES ('1', '{}', now(), now(), now())"
            )
        )
    more = overlaid(
        tmp_path, "collections: {pools: {columns: {region: {type: integer, paths: [region.id]}}}}"
    )
    assert migrate(engine, more) is True
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, region FROM magnetis.pools")).all() == [
            ("1", None)
        ]
        assert (
            connection.execute(
                text("SELECT pg_typeof(region)::text FROM magnetis.pools")
            ).scalar_one()
            == "bigint"
        )
        assert (
            connection.execute(
                text("SELECT count(region) FROM magnetis.pools_history")
            ).scalar_one()
            == 0
        )


def test_an_older_program_reports_that_the_database_is_newer(
    engine: Engine, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE magnetis_ops.alembic_version SET version_num = '9999'"))
    more = overlaid(tmp_path, "collections: {pools: {columns: {region: {}}}}")
    with pytest.raises(NewerDatabase, match="made by a newer version"):
        migrate(engine, more)


def test_only_one_of_several_concurrent_migrations_changes_the_database(
    empty_database_url: str, catalogue: Catalogue
) -> None:
    results: list[bool] = []
    engines = [connect(empty_database_url) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda engine=engine: results.append(migrate(engine, catalogue)))
        for engine in engines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for engine in engines:
        engine.dispose()
    assert sorted(results) == [False, False, False, True]
