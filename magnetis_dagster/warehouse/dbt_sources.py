"""Describes the tables and views of the catalogue as sources of a dbt project.

The file needs dbt 1.10 or later. https://docs.getdbt.com/reference/source-properties
"""

from typing import Any

import yaml

from magnetis_dagster.catalog import Catalogue, Collection, PersonalData
from magnetis_dagster.warehouse.schema import DATA_SCHEMA, tables_of, type_name
from magnetis_dagster.warehouse.views import distinct_name, view_name

_HEAD = """\
# Written by `magnetis dbt-sources`; run it again after a change of the catalogue.
#
# `meta.primary_key` names the columns that identify a row. dbt's own `unique` tests one column
# only. To test several, use `unique_combination_of_columns` of the package dbt_utils. The database
# enforces the key of the tables, so test copies of them and your own models.
#
# `meta.personal_data` marks columns according to the GDPR, article 4: `personal` identifies or
# reaches a person, `pseudonym` distinguishes one person from another without a name.
#
# Freshness is declared for events only: `last_seen_at` of a snapshot changes only if a row does.

"""

WARN_AFTER_HOURS = 36
"""A daily load may be late by half a day."""
ERROR_AFTER_HOURS = 72

_NAMES = {
    "account_name": "Name of the account: as received with the row, otherwise from `accounts`.",
    "network_name": "Name of the network: as received with the row, otherwise from `networks`.",
    "entity_name": "Name of the entity: as received with the row, otherwise from `entities`.",
}
"""Columns that the views add. The views of the collections that they come from lack some."""
_LACKS = {
    "accounts": {"account_name"},
    "networks": {"account_name", "network_name"},
    "entities": set(_NAMES),
}
_OF_READS = {"first_seen_at", "last_seen_at", "changed_at"}
_NOT_IN_VIEWS = {"payload", "deleted_at", "masked", "payload_masked", "mentioned_keys"}
_ORDER = [PersonalData.NONE, PersonalData.PSEUDONYM, PersonalData.PERSONAL]
"""Classes of personal data, the least personal one first."""

Properties = dict[str, Any]


def dbt_sources(
    catalogue: Catalogue, *, source: str = DATA_SCHEMA, schema: str = DATA_SCHEMA
) -> Properties:
    """Return the content of a `sources.yml` with all tables and views of enabled collections.

    `source` is the name for dbt's function `source`. `schema` contains the tables.
    """
    tables = [
        table for collection in catalogue.enabled for table in _tables_of_collection(collection)
    ]
    description = "Collections of the Magnetis call-tracking API, loaded by magnetis_dagster."
    declared = {"name": source, "schema": schema, "description": description, "tables": tables}
    return {"version": 2, "sources": [declared]}


def to_yaml(sources: Properties) -> str:
    """Return the text of a `sources.yml`, which begins with comments for its readers."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the name is PyYAML's
            return True  # tables and views share columns

    return _HEAD + yaml.dump(sources, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _tables_of_collection(collection: Collection) -> list[Properties]:
    """Return the table, its history if it is a snapshot, and its views."""
    found = []
    columns: list[Properties] = []
    key: list[str] = []
    for table in reversed(tables_of(collection)):  # the history first, so that the table remains
        key = [str(column.name) for column in table.primary_key]
        columns = [
            _column(
                str(column.name),  # SQLAlchemy's names are a subclass, which YAML rejects
                type_name(column.type),
                column.comment or "",
                _personal_data(collection, column.name),
            )
            for column in table.columns
        ]
        description = (
            table.comment if table.name == collection.name else f"Versions of `{collection.name}`."
        )
        found.append(_table(collection, str(table.name), description or "", key, columns))
    columns = _view_columns(collection, columns)
    current, distinct = view_name(collection), distinct_name(collection)
    about_current = f"Rows of `{collection.name}` that the API still returns, without `payload`."
    about_distinct = (
        f"Rows of `{current}` with each id once: from the connection with the widest scope that "
        "has it."
    )
    return [
        *reversed(found),
        _table(collection, current, about_current, key, columns),
        _table(collection, distinct, about_distinct, ["id"], columns),
    ]


def _table(
    collection: Collection,
    name: str,
    description: str,
    key: list[str],
    columns: list[Properties],
) -> Properties:
    config: Properties = {"meta": {"kind": str(collection.kind), "primary_key": key}}
    if collection.is_events:
        config["loaded_at_field"] = "last_seen_at"
        config["freshness"] = {
            "warn_after": {"count": WARN_AFTER_HOURS, "period": "hour"},
            "error_after": {"count": ERROR_AFTER_HOURS, "period": "hour"},
        }
    return {"name": name, "description": description, "config": config, "columns": columns}


def _view_columns(collection: Collection, columns: list[Properties]) -> list[Properties]:
    """Return the columns of the collection's views (views.py), from those of its table."""
    found = [column for column in columns if column["name"] not in _NOT_IN_VIEWS]
    own = {column["name"] for column in columns}
    present = own | _LACKS.get(collection.name, set())
    found += [
        _column(name, "text", about, PersonalData.NONE)
        for name, about in _NAMES.items()
        if name not in present
    ]
    for column in list(found):
        name, local = column["name"], f"{column['name']}_local"
        is_time = column["data_type"] == "timestamp with time zone" and name not in _OF_READS
        if is_time and local not in own:
            about = f"`{name}` in MAGNETIS_TIMEZONE, without a zone."
            found.append(column | {"name": local, "description": about} | _WITHOUT_ZONE)
    return found


_WITHOUT_ZONE = {"data_type": "timestamp without time zone"}


def _column(name: str, data_type: str, description: str, personal: PersonalData) -> Properties:
    column: Properties = {"name": name, "data_type": data_type, "description": description}
    if personal is not PersonalData.NONE:
        column["config"] = {"meta": {"personal_data": str(personal)}}
    return column


def _personal_data(collection: Collection, name: str) -> PersonalData:
    """Return the degree of a column; `payload` has the degree of the most personal one."""
    degrees = {each: column.personal_data.degree for each, column in collection.columns.items()}
    if name == "payload":
        return max(degrees.values(), key=_ORDER.index, default=PersonalData.NONE)
    if name == "mentioned_keys" or name in collection.key_columns.values():
        return PersonalData.PSEUDONYM
    return degrees.get(name, PersonalData.NONE)
