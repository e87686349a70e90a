"""Dagster definitions, one module per Dagster concept. Requests and SQL are in `ingest` and below.

Every run, schedule tick and command loads the code location. So SQLAlchemy, httpx and other
libraries are imported inside the functions that a run calls.
"""
