"""The Dagster face: one module per Dagster concept. Nothing here asks the API or the database by itself; `ingest` does.

Importing it must stay light: every run, schedule tick and command loads the code location, so SQLAlchemy, httpx and the rest are
imported where a run needs them.
"""
