"""The price of a backfill in API calls, and when it ends. Nothing here writes rows."""
