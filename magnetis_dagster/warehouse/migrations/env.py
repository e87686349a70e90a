"""Alembic's entry: runs the scripts of `versions/` on the connection that `migrate.py` hands over, in its transaction."""

from alembic import context

from magnetis_dagster.warehouse.schema import OPS_SCHEMA, ops_metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=ops_metadata,
    version_table_schema=OPS_SCHEMA,
    transactional_ddl=False,  # the caller's transaction holds schema and catalogue together
)
context.run_migrations()
