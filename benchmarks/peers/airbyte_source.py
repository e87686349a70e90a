"""Read calls with airbyte-cdk's declarative source and count the records that it prints.

airbyte_manifest.yaml declares the source. HOW: `day` splits the range by P1D, `long` by P10Y. There
is no destination: nothing is stored.
"""

import json
import subprocess
import sys
from pathlib import Path

from _command_line import Arguments, run

STEPS = {"day": "P1D", "long": "P10Y"}
MANIFEST = Path(__file__).with_name("airbyte_manifest.yaml")


def main(arguments: Arguments) -> int:
    begin, end = (f"{moment:%Y%m%d%H%M%S}" for moment in arguments.bounds())
    config, catalog = Path("config.json"), Path("catalog.json")
    config.write_text(
        json.dumps(
            {
                "api_url": arguments.url,
                "api_key": arguments.key,
                "start": begin,
                "end": end,
                "step": STEPS[arguments.how],
            }
        )
    )
    stream = {
        "name": "calls",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh", "incremental"],
    }
    wanted = {
        "stream": stream,
        "sync_mode": "incremental",
        "destination_sync_mode": "append_dedup",
        "primary_key": [["id"]],
    }
    catalog.write_text(json.dumps({"streams": [wanted]}))
    command = [
        Path(sys.executable).with_name("source-declarative-manifest"),
        "read",
        "--config",
        config,
        "--catalog",
        catalog,
    ]
    with subprocess.Popen(
        [*command, "--manifest-path", MANIFEST], stdout=subprocess.PIPE
    ) as source:
        assert source.stdout
        rows = 0
        for line in source.stdout:
            if line.startswith(b'{"type":"RECORD"'):
                rows += 1
            elif b'"type":"TRACE"' in line and b'"ERROR"' in line:
                print(line.decode(), file=sys.stderr)
    if source.returncode:
        raise SystemExit("the source failed")
    return rows


if __name__ == "__main__":
    run(main)
