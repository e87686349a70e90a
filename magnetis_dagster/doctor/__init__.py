"""Checks of what this program needs, for `magnetis doctor`.

Checks return findings and change nothing. They know no Dagster: `dagster_support/doctor.py`
contains the checks of the instance.
"""

from magnetis_dagster.doctor.findings import Finding, Status

__all__ = ["Finding", "Status"]
