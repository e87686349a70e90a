"""Every collection of the Magnetis call-tracking API in PostgreSQL, watched, scheduled and backfilled in Dagster."""
