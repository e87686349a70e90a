"""Install the built wheel into an environment of its own, without the network.

The environment has the packages of the environment that runs the tests, but not the editable
installation of the project: Python ignores the .pth files of a folder that a .pth file adds.
"""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        found = sysconfig.get_path("purelib", vars={"base": str(self.folder)})
        return Path(found)

    def variables(self, home: Path) -> dict[str, str]:
        """Return the variables of an activated environment, with HOME and without settings."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAGNETIS_", "DAGSTER_", "PYTHON"))
        }
        return {
            **inherited,
            "DAGSTER_DISABLE_TELEMETRY": "1",
            "HOME": str(home),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "VIRTUAL_ENV": str(self.folder),
        }

    def add_to_path(self, folder: Path) -> None:
        """Let this environment import the packages in `folder`, like an editable installation."""
        (self.packages / f"{folder.parent.name}.pth").write_text(f"{folder}\n")


def run(
    *command: object, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 240
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder`; return its path."""
    build = ("-m", "hatchling", "build", "--target", "wheel", "--directory", folder)
    built = run(sys.executable, *build, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Environment:
    """Create an environment and install the wheel into it, without its dependencies."""
    venv.create(folder, symlinks=True)
    environment = Environment(folder)
    (environment.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    uv = Path(sys.executable).with_name("uv")
    options = ("--offline", "--no-deps", "--no-cache", "--python", environment.python)
    installed = run(uv, "pip", "install", *options, wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return environment
