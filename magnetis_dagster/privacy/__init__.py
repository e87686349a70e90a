"""Personal data: phone numbers, caller keys, the plan, and masking of rows.

No SQL, no HTTP, no Dagster. Nothing here logs, and no error or repr contains a value of a row or a
secret.
"""
