"""The sandbox, with one line on standard output per request; two_hosts.yml mounts it."""

import sys
from typing import Any

from magnetis_dagster.cli.app import main
from magnetis_dagster.sandbox.app import SandboxApp

answer = SandboxApp.__call__


async def counted(self: SandboxApp, scope: dict[str, Any], receive: Any, send: Any) -> None:
    sys.stdout.write(f"received {scope['path']}?{scope.get('query_string', b'').decode()}\n")
    sys.stdout.flush()
    await answer(self, scope, receive, send)


SandboxApp.__call__ = counted  # type: ignore[method-assign]
sys.exit(main())
