"""Dagster components of this package."""
