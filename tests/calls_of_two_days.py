"""A few calls in the database, for the programs in examples/."""

import psycopg
from paths import ROOT

FIRST, SECOND = "2025-03-04", "2025-03-05"
MISSED = {"a": 2, "b": 1}
"""Missed calls of the first day, by account; one of b is deleted."""

_INSERT = """
    INSERT INTO magnetis.calls (
        id, account_id, payload, occurred_at, day, status, duration_seconds,
        first_seen_at, last_seen_at, changed_at, deleted_at)
    SELECT id, account, '{}', CAST(day AS date) + interval '12 hours', CAST(day AS date), status,
           CASE status WHEN 'completed' THEN 60 END, now(), now(), now(),
           CASE WHEN gone THEN now() END
    FROM (VALUES
        ('1', 'a', '2025-03-04', 'missed', false),
        ('2', 'a', '2025-03-04', 'missed', false),
        ('3', 'a', '2025-03-04', 'completed', false),
        ('4', 'b', '2025-03-04', 'missed', false),
        ('5', 'b', '2025-03-04', 'missed', true),
        ('6', 'b', '2025-03-05', 'completed', false)
    ) AS row (id, account, day, status, gone)
"""


def insert(url: str) -> None:
    """Insert the calls."""
    with psycopg.connect(url) as connection:
        connection.execute(_INSERT)


def statements_of_the_readme() -> str:
    """Return the SQL of examples/README.md."""
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    return page.partition("```sql\n")[2].partition("```")[0]
