"""The scaffolder of MagnetisComponent. https://docs.dagster.io/guides/build/components

dg scaffold defs magnetis_dagster.MagnetisComponent magnetis --key-env MAGNETIS_API_KEY
"""

import re
from typing import Any

import dagster as dg
import yaml
from pydantic import BaseModel, Field

from magnetis_dagster.connection_names import NAME

_VARIABLE = re.compile(r"[A-Za-z_]\w*")


class MagnetisScaffoldParams(BaseModel):
    """Parameters of `dg scaffold defs`."""

    key_env: str = Field(
        default="MAGNETIS_API_KEY", description="Name of the variable that contains the API key."
    )
    connection: str | None = Field(
        default=None,
        description="Name of the connection: at most 30 characters of a-z, 0-9 and _. For projects "
        "with several keys.",
    )
    start_date: str | None = Field(
        default=None, description="First day of the history to load, such as 2024-01-31."
    )


class MagnetisScaffolder(dg.Scaffolder[MagnetisScaffoldParams]):
    """Writer of a defs.yaml that names the variable of the key, never the key."""

    @classmethod
    def get_scaffold_params(cls) -> type[MagnetisScaffoldParams]:
        """Return the model of the parameters."""
        return MagnetisScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[MagnetisScaffoldParams]) -> None:
        """Write defs.yaml, or append to it.

        Raises: ValueError if a parameter is not a name, or the format is not YAML.
        """
        params = request.params
        if not _VARIABLE.fullmatch(params.key_env):
            raise ValueError(
                "--key-env: expected the name of a variable such as MAGNETIS_API_KEY, not the key."
            )
        if params.connection and not NAME.fullmatch(params.connection):
            raise ValueError(
                "--connection: expected at most 30 characters of a-z, 0-9 and _, not a digit first."
            )
        if request.scaffold_format != "yaml":
            raise ValueError("--format python: not supported; use yaml.")
        attributes: dict[str, Any] = {}
        if params.connection:
            attributes["connection"] = params.connection
        attributes["api_key"] = f"{{{{ env.{params.key_env} }}}}"
        if params.start_date:
            attributes["start_date"] = params.start_date
        content = {
            "type": request.type_name,
            "attributes": attributes,
            "requirements": {"env": [params.key_env]},
        }
        path = request.target_path if request.append else request.target_path / "defs.yaml"
        with path.open("a" if request.append else "w", encoding="utf-8") as file:
            file.write("---\n" if request.append else "")
            yaml.safe_dump(content, file, sort_keys=False)
