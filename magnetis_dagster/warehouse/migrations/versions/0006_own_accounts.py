"""Set `account_id` of accounts that were loaded before `rows_are_accounts` to their own id."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Fill `account_id` if the tables exist. In a new database they are created later."""
    for table in ("accounts", "accounts_history"):
        op.execute(
            "DO $$ BEGIN "
            f"IF to_regclass('magnetis.{table}') IS NOT NULL THEN "
            f"UPDATE magnetis.{table} SET account_id = id WHERE account_id IS DISTINCT FROM id; "
            "END IF; END $$"
        )
