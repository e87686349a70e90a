"""Load calls with dlt's REST API source into PostgreSQL, merged by id.

HOW: `range` requests the range as one window, `day` requests a window for each day.
"""

import os

os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"

import dlt
from _command_line import Arguments, run
from dlt.sources.rest_api import rest_api_source

FORMAT = "%Y%m%d%H%M%S"


def main(arguments: Arguments) -> int:
    windows = (
        [arguments.bounds()]
        if arguments.how == "range"
        else [arguments.bounds(day, day) for day in arguments.days()]
    )

    @dlt.resource(name="windows", selected=False)
    def windows_to_request() -> object:
        yield [
            {"begin": begin.strftime(FORMAT), "end": end.strftime(FORMAT)} for begin, end in windows
        ]

    source = rest_api_source(
        {
            "client": {
                "base_url": arguments.url,
                "auth": {
                    "type": "api_key",
                    "name": "x-api-key",
                    "api_key": arguments.key,
                    "location": "header",
                },
                "paginator": {
                    "type": "page_number",
                    "base_page": 1,
                    "total_path": "meta.last_page",
                },
            },
            "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
            "resources": [
                windows_to_request(),
                {
                    "name": "calls",
                    "endpoint": {
                        "path": "calls",
                        "params": {
                            "from": "{resources.windows.begin}",
                            "to": "{resources.windows.end}",
                            "limit": 250,
                            "analysis": 1,
                        },
                        "data_selector": "data",
                    },
                },
            ],
        }
    )
    pipeline = dlt.pipeline(
        "magnetis",
        destination=dlt.destinations.postgres(arguments.server("postgresql")),
        dataset_name="peer",
    )
    pipeline.run(source).raise_on_failed_jobs()
    with pipeline.sql_client() as client:
        found = client.execute_sql("SELECT count(*) FROM calls")
    assert found
    return int(found[0][0])


if __name__ == "__main__":
    run(main)
