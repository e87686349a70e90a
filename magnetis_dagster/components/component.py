"""MagnetisComponent: the assets of one API key in any Dagster project.

https://docs.dagster.io/guides/build/components
"""

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import dagster as dg
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import ConfigDict, Field, SecretStr

from magnetis_dagster.components.scaffolder import MagnetisScaffolder

if TYPE_CHECKING:
    from magnetis_dagster.catalog import Collection
    from magnetis_dagster.connections import Connection
    from magnetis_dagster.defs.connection_assets import ConnectionAssets

_ENVIRONMENT = re.compile(r"\{\{\s*env(?:\.(\w+)|\(\s*['\"](\w+)['\"]\s*\))\s*\}\}")


_LITERAL = dg.EnvVar("")
"""A secret in defs.yaml. `build_defs` refuses it: Dagster would quote the line with it if the
resolution failed."""


class CollectionsModel(dg.Model):
    """The collections that are loaded. If both lists are empty: all enabled ones."""

    include: list[str] = Field(default=[], description="Collections to load; no others.")
    exclude: list[str] = Field(default=[], description="Collections not to load.")


def _resolve_secret(context: dg.ResolutionContext, value: Any) -> dg.EnvVar | SecretStr | None:
    """Return the variable that a template names, which is read when a run needs it.

    _LITERAL if the value is no template.
    """
    if value is None:
        return None
    if found := _ENVIRONMENT.fullmatch(str(value).strip()):
        return dg.EnvVar(found[1] or found[2])
    resolved = context.resolve_value(value)
    if resolved == value:
        return _LITERAL
    # a blank value must not count as unset: another key or database would be used instead
    return SecretStr(str(resolved or ""))


_Secret = Annotated[
    dg.EnvVar | SecretStr | None,
    dg.Resolver(_resolve_secret, model_field_type=str, inject_before_resolve=False),
]


@dg.scaffold_with(MagnetisScaffolder)
class MagnetisComponent(dg.Component, dg.Resolvable, dg.Model):
    """Every collection of the Magnetis call-tracking API in PostgreSQL, day by day.

    One instance loads the rows that one API key can access, within the key's daily quota. Fields
    that are not set have the values of the MAGNETIS_ variables (docs/configuration.md). The
    component sends no API request and needs no key before a run starts.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    connection: str = Field(
        default="magnetis",
        description="Name of the connection: at most 30 characters of a-z, 0-9 and _. Definitions "
        "and rows contain it. `magnetis` is the unnamed connection.",
    )
    api_key: Annotated[
        _Secret,
        Field(
            description="Template that names the variable of the API key, read when a run needs "
            'it. Default: "{{ env.MAGNETIS_API_KEY }}".'
        ),
    ] = None
    api_key_file: str | None = Field(
        default=None, description="File that contains the API key, instead of `api_key`."
    )
    api_url: str | None = Field(
        default=None, description="Origin of the API. Default: MAGNETIS_API_URL."
    )
    database_url: Annotated[
        _Secret,
        Field(
            description="Template that names the variable of the postgresql:// URL. Default: "
            "MAGNETIS_DATABASE_URL."
        ),
    ] = None
    daily_quota: int | None = Field(
        default=None, description="API calls per day. Default: MAGNETIS_DAILY_QUOTA (5,000)."
    )
    collections: CollectionsModel = Field(
        default=CollectionsModel(), description="Collections to load. Default: all."
    )
    key_prefix: list[str] | None = Field(
        default=None,
        description="First parts of the asset keys. Default: `magnetis`, then the connection "
        "unless it is the unnamed one.",
    )
    overlay: dict[str, Any] | str | None = Field(
        default=None,
        description="Changes of the catalogue: a mapping with the structure of MAGNETIS_CONFIG, "
        "or the path of such a file, relative to this one.",
    )
    start_date: str | None = Field(
        default=None,
        description="First partition day of events, such as 2024-01-31. Default: "
        "MAGNETIS_START_DATE.",
    )
    lookback_days: int | None = Field(
        default=None,
        description="Complete days that the daily schedule re-reads. Default: "
        "MAGNETIS_LOOKBACK_DAYS (7).",
    )
    scope: Literal["organization", "entity", "network", "account"] | None = Field(
        default=None,
        description="Where the key was created. The views `_distinct` prefer the widest scope.",
    )
    key_expires: str | None = Field(
        default=None,
        description="Last day of the key, such as 2027-03-31. A check warns 14 days before it.",
    )
    settings: dict[str, Any] = Field(
        default={},
        description="Other variables of the connection, in lower case and without MAGNETIS_, such "
        "as query_timezone or quota_floors.",
    )
    schedules: bool = Field(
        default=True, description="Whether to include the daily schedules and the nightly prune."
    )
    sensors: bool = Field(
        default=True, description="Whether to include the sensors for quota, repair and settings."
    )
    translation: Annotated[
        TranslationFn[Any] | None,
        TranslationFnResolver[Any](
            template_vars_for_translation_fn=lambda collection: {"collection": collection}
        ),
        Field(
            description="Attributes of the assets, such as `group_name`. Templates can use "
            "`collection` and `spec`."
        ),
    ] = None

    def get_asset_spec(self, collection: "Collection", spec: dg.AssetSpec) -> dg.AssetSpec:
        """Return the spec of a collection's asset; `spec` is the default one.

        Override it to change what `translation` cannot express:

            class OurComponent(MagnetisComponent):
                def get_asset_spec(self, collection, spec):
                    spec = super().get_asset_spec(collection, spec)
                    return spec.merge_attributes(tags={"cost_center": "marketing"})
        """
        return self.translation(spec, collection) if self.translation else spec

    def execute(
        self,
        context: dg.AssetExecutionContext,
        assets: "ConnectionAssets",
        collection: "Collection",
        days: list[date],
    ) -> Iterator[dg.AssetCheckResult]:
        """Load days of a collection and yield the results of its checks.

        `days`: the partitions of the step, local days in MAGNETIS_TIMEZONE. Logs a materialization
        for each committed day.

        Raises: dagster.Failure, or dagster.RetryRequested for errors that a retry may solve.

        Override it to add work before or after the load, in the same step:

            class OurComponent(MagnetisComponent):
                def execute(self, context, assets, collection, days):
                    yield from super().execute(context, assets, collection, days)
                    refresh_reports(collection.name, days)
        """
        from magnetis_dagster.defs.assets import load_days

        yield from load_days(context.op_execution_context, assets, collection, days)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the connection, without a default executor.

        Raises: SettingsError; CatalogueError. A missing key raises no error.

        Override it to add or remove definitions:

            class OurComponent(MagnetisComponent):
                def build_defs(self, context):
                    return dg.Definitions.merge(super().build_defs(context), our_dashboards())
        """
        from magnetis_dagster.defs.connection import connection_defs
        from magnetis_dagster.defs.connection_assets import ConnectionAssets
        from magnetis_dagster.defs.prune import Prune
        from magnetis_dagster.defs.retention import Retention
        from magnetis_dagster.defs.taken_days import taken_days

        # without its database, only runs fail
        known = self.database_url is None or bool(self._database_url())
        connection = self._connection(context.path, check=False)
        found = (taken_days(connection.settings, [connection]) if known else None) or {}
        assets = ConnectionAssets.of(connection, found.get(connection.name), self.get_asset_spec)

        def execute(
            step: dg.AssetExecutionContext, collection: "Collection", days: list[date]
        ) -> Iterator[dg.AssetCheckResult]:
            yield from self.execute(step, assets, collection, days)

        return dg.Definitions.merge(
            connection_defs(assets, execute, schedules=self.schedules, sensors=self.sensors),
            Prune.of_connection(connection).definitions(scheduled=self.schedules),
            Retention.of_connection(connection).definitions(scheduled=self.schedules),
        )

    def _connection(self, folder: Path, *, check: bool = True) -> "Connection":
        """Return the connection with its present settings and key. `folder`: that of defs.yaml.

        `check`: raise SettingsError if the address of its database is missing.
        """
        from magnetis_dagster.catalog import CatalogueError
        from magnetis_dagster.connections import declaration, named
        from magnetis_dagster.settings import Settings

        place = f"MagnetisComponent {self.connection}"
        for name in ("api_key", "database_url"):
            if getattr(self, name) == _LITERAL:
                raise CatalogueError(
                    f"{place}.{name}: expected a template such as "
                    '"{{ env.MAGNETIS_API_KEY }}": a secret does not belong in this file.'
                )
        key = self.api_key if isinstance(self.api_key, SecretStr) else None
        key_env = self.api_key.env_var_name if isinstance(self.api_key, dg.EnvVar) else None
        if self.api_key is None and self.api_key_file is None:
            key_env = "MAGNETIS_API_KEY"
        given = {
            "api_key_env": key_env,
            "api_key_file": self.api_key_file,
            "collections": self.collections.model_dump(),
            "overlay": folder / self.overlay if isinstance(self.overlay, str) else self.overlay,
            "api_url": self.api_url,
            "daily_quota": self.daily_quota,
            "start_date": self.start_date,
            "lookback_days": self.lookback_days,
            "scope": self.scope,
            "key_expires": self.key_expires,
            **self.settings,
        }
        declared = {name: value for name, value in given.items() if value is not None}
        return named(
            self.connection,
            declaration(self.connection, declared, place),
            config=Settings.load().config,
            place=place,
            overrides=self._database(place, check=check),
            key=key,
            key_prefix=self.key_prefix or (),
            load=lambda: self._connection(folder),
        )

    def _database(self, place: str, *, check: bool) -> dict[str, object]:
        from magnetis_dagster.settings import SettingsError

        if self.database_url is None:
            return {}
        if found := self._database_url():
            return {"database_url": SecretStr(found)}
        if check:
            # never another database: its rows would be mixed
            problem = "its value is empty"
            if isinstance(self.database_url, dg.EnvVar):
                problem = f"the variable {self.database_url.env_var_name} is not set"
            raise SettingsError(f"{place}.database_url: {problem}.")
        return {}

    def _database_url(self) -> str | None:
        from magnetis_dagster.connections import read_variable

        if isinstance(self.database_url, dg.EnvVar):
            found = read_variable(self.database_url.env_var_name)
            return found.strip() if found else None
        return self.database_url.get_secret_value().strip() if self.database_url else None
