"""Dagster's webserver with the guard, in one process. No port is open without the guard.

`python -m magnetis_dagster.dagster_support.webserver` has the options of `dagster-webserver`.
"""

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from magnetis_dagster.errors import MagnetisError
from magnetis_dagster.extras import require_extra
from magnetis_dagster.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def main() -> None:
    """Run the command line of `dagster-webserver` and serve its application through the guard."""
    try:
        require_extra("local", "Dagster's webserver", "dagster_webserver", "uvicorn")
        settings = Settings.load()
    except MagnetisError as error:
        sys.exit(str(error))
    import uvicorn
    from dagster_webserver import cli

    from magnetis_dagster.dagster_support.guard import Guard

    def serve(app: "ASGIApp", *, host: str, **options: Any) -> None:
        uvicorn.run(
            Guard(app, hosts=[*settings.ui_host_names, host], ui_url=settings.ui_url),
            host=host,
            **options,
        )

    # Dagster's command serves its application by `uvicorn.run(app, host=…, port=…)`
    cli.uvicorn = SimpleNamespace(run=serve)  # type: ignore[assignment, attr-defined]
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
