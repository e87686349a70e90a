"""Imports a program, waits for a file, then runs the program: `python -m … FILE MODULE ARGUMENTS…`.

Importing Dagster takes seconds. `magnetis dev` starts webserver and daemon while the code servers start, and writes the
file, their workspace, when these are there.
"""

import importlib
import os
import sys
import time
from pathlib import Path

CHECK_SECONDS = 0.05


def main() -> None:
    """Run `main()` of MODULE once FILE exists; end without it if the process that started this one is gone."""
    _, file, module, *arguments = sys.argv
    parent = os.getppid()
    program = importlib.import_module(module)
    while not Path(file).exists():
        if os.getppid() != parent:
            return
        time.sleep(CHECK_SECONDS)
    sys.argv = [module, *arguments]
    program.main()


if __name__ == "__main__":
    main()
