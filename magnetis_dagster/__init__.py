"""Load the Magnetis call-tracking API into PostgreSQL, operated from Dagster."""
