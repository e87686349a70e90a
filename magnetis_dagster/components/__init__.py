"""The Dagster component of this package."""
