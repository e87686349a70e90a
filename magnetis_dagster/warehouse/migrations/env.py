"""Runs the migrations in `versions/` for Alembic, in the transaction of `migrate.py`."""

from alembic import context

from magnetis_dagster.warehouse.schema import OPS_SCHEMA, ops_metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=ops_metadata,
    version_table_schema=OPS_SCHEMA,
    transactional_ddl=False,  # one transaction, the caller's, for migrations and catalogue
)
context.run_migrations()
