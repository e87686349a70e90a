"""WHAT Magnetis has: one declaration per collection, the model that validates it, and the reading of one row by it.

No HTTP, no SQL, no Dagster. `catalogue.yaml` and `policies.yaml` hold the declarations; MAGNETIS_CONFIG lays overrides over them.
"""

from magnetis_dagster.catalog.model import (
    Catalogue,
    Collection,
    Column,
    ColumnType,
    Evidence,
    Kind,
    PersonalData,
    Policy,
    Route,
    Severity,
    WindowParameters,
)
from magnetis_dagster.catalog.overlay import CatalogueError, load_catalogue

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Collection",
    "Column",
    "ColumnType",
    "Evidence",
    "Kind",
    "PersonalData",
    "Policy",
    "Route",
    "Severity",
    "WindowParameters",
    "load_catalogue",
]
