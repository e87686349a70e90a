"""Load calls with a tap of the Singer SDK, piped into meltanolabs-target-postgres.

HOW is `range`: a stream requests everything from its start date. With `--config FILE` this program
is the tap itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
import requests
from _command_line import Arguments, run
from singer_sdk import Stream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import APIKeyAuthenticator
from singer_sdk.pagination import PageNumberPaginator
from singer_sdk.streams import RESTStream


class Pages(PageNumberPaginator):
    """Page numbers up to the last page that the API announces."""

    def has_more(self, response: requests.Response) -> bool:
        """Return whether another page follows."""
        meta = response.json()["meta"]
        return bool(meta["current_page"] < meta["last_page"])


def reference(*names: str) -> th.ObjectType:
    return th.ObjectType(*(th.Property(name, th.StringType) for name in names))


class Calls(RESTStream[int]):
    """Calls received."""

    name = "calls"
    path = "/calls"
    primary_keys = ("id",)
    replication_key = "start_at"
    records_jsonpath = "$.data[*]"
    schema = th.PropertiesList(
        th.Property("id", th.StringType, required=True),
        th.Property("account", reference("id", "name")),
        th.Property("analysis", th.ObjectType(additional_properties=True)),
        th.Property("number", reference("id", "number")),
        th.Property("recipient", reference("id", "number")),
        th.Property("visit", reference("id")),
        th.Property("duration", th.IntegerType),
        th.Property("waiting_time", th.IntegerType),
        th.Property("start_at", th.DateTimeType),
        th.Property("end_at", th.DateTimeType),
        *(
            th.Property(name, th.StringType)
            for name in ("caller_name", "caller_number", "channel_name", "status", "gclid")
        ),
        *(
            th.Property(f"utm_{name}", th.StringType)
            for name in ("source", "medium", "campaign", "term", "content")
        ),
    ).to_dict()

    @property
    def url_base(self) -> str:
        """Origin of the API."""
        return str(self.config["api_url"])

    @property
    def authenticator(self) -> APIKeyAuthenticator:
        """The key, in its header."""
        return APIKeyAuthenticator(key="x-api-key", value=self.config["api_key"], location="header")

    def get_new_paginator(self) -> Pages:
        """Page numbers from 1 on."""
        return Pages(start_value=1)

    def get_url_params(self, context: Any, next_page_token: int | None) -> dict[str, Any]:  # noqa: ARG002
        """Return the window and the page."""
        window = {"from": self.config["start_date"], "to": self.config["end_date"]}
        return window | {"limit": 250, "analysis": 1, "page": next_page_token or 1}


class MagnetisTap(Tap):
    """The tap."""

    name = "tap-magnetis"
    config_jsonschema = th.PropertiesList(
        *(
            th.Property(name, th.StringType, required=True)
            for name in ("api_url", "api_key", "start_date", "end_date")
        )
    ).to_dict()

    def discover_streams(self) -> Iterable[Stream]:
        """Return its only stream."""
        return [Calls(self)]


def main(arguments: Arguments) -> int:
    begin, end = (f"{moment:%Y%m%d%H%M%S}" for moment in arguments.bounds())
    tap = Path("tap.json")
    tap.write_text(
        json.dumps(
            {
                "api_url": arguments.url,
                "api_key": arguments.key,
                "start_date": begin,
                "end_date": end,
            }
        )
    )
    target = Path("target.json")
    target.write_text(
        json.dumps(
            {
                "sqlalchemy_url": arguments.server("postgresql+psycopg"),
                "default_target_schema": "peer",
                "use_copy": True,
            }
        )
    )
    quiet = os.environ | {"SINGER_SDK_LOGLEVEL": "WARNING", "TAP_MAGNETIS_LOGLEVEL": "WARNING"}
    loader = [Path(sys.executable).with_name("target-postgres"), "--config", target]
    with (
        subprocess.Popen(
            [sys.executable, __file__, "--config", tap], stdout=subprocess.PIPE, env=quiet
        ) as reading,
        subprocess.Popen(
            loader, stdin=reading.stdout, stdout=subprocess.DEVNULL, env=quiet
        ) as loading,
    ):
        assert reading.stdout
        reading.stdout.close()
        if reading.wait() or loading.wait():
            raise SystemExit("the tap or the target failed")
    with psycopg.connect(arguments.database) as connection:
        found = connection.execute("SELECT count(*) FROM peer.calls").fetchone()
    assert found
    return int(found[0])


if __name__ == "__main__":
    if sys.argv[1] == "--config":
        MagnetisTap.cli()
    else:
        run(main)
