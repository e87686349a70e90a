"""Declarations of the API's collections, their model, and the row parser.

No HTTP, no SQL, no Dagster. `catalogue.yaml` and `policies.yaml` contain the declarations; the file
of MAGNETIS_CONFIG overrides them.
"""

from magnetis_dagster.catalog.model import (
    Catalogue,
    Collection,
    ColumnType,
    Contents,
    Evidence,
    Kind,
    PersonalData,
    Policy,
    Severity,
)
from magnetis_dagster.catalog.overlay import CatalogueError, load_catalogue

__all__ = [
    "Catalogue",
    "CatalogueError",
    "Collection",
    "ColumnType",
    "Contents",
    "Evidence",
    "Kind",
    "PersonalData",
    "Policy",
    "Severity",
    "load_catalogue",
]
