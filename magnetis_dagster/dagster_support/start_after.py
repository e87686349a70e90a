"""Import a program, wait for a file, then run the program: `python -m … FILE MODULE ARGUMENTS…`.

Importing Dagster takes seconds. So `magnetis dev` starts all its processes together, and writes the
file, their workspace, when the code servers are ready.
"""

import importlib
import os
import sys
import time
from pathlib import Path

CHECK_SECONDS = 0.05


def main() -> None:
    """Run `main()` of MODULE when FILE exists; exit if the parent process ends before."""
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
