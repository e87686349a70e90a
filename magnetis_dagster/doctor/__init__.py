"""Checks of database, keys and time zones, for `magnetis doctor`.

Checks return findings and change nothing. They do not import Dagster: `dagster_support/doctor.py`
contains the checks of its instance.
"""

from magnetis_dagster.doctor.findings import Finding, Status

__all__ = ["Finding", "Status"]
