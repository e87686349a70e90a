"""Price backfills in API calls and forecast their end. Writes no rows."""
