"""The embedded server after a crash in a container."""

import subprocess
import sys

import pytest

from magnetis_dagster.database import embedded

WITHOUT_INIT = """
import ctypes, os, signal, sys
from pathlib import Path
import psutil, psycopg
from magnetis_dagster.database import embedded

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
home = Path(sys.argv[1])
child = os.fork()
if not child:
    embedded.start(home)
    os._exit(0)
os.waitpid(child, 0)
postmaster = psutil.Process(int((home / "postgres" / "postmaster.pid").read_text().split()[0]))
postmaster.kill()
while postmaster.status() != psutil.STATUS_ZOMBIE:
    pass
assert not embedded.address(home)[1]
with psycopg.connect(embedded.start(home)) as connection:
    print(connection.execute("SELECT pg_backend_pid()").fetchone()[0])
assert psutil.Process(postmaster.pid).status() == psutil.STATUS_ZOMBIE
assert embedded.address(home)[1]
embedded.stop(home)
"""


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="only Linux allows a process to adopt orphans, like the first process of a container",
)
def test_a_killed_server_that_remains_as_a_zombie_is_restarted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Without an init process in a container, the killed server remains."""
    home = tmp_path_factory.mktemp("unreaped")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_INIT, home],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout) > 0
    assert not embedded.address(home)[1]
