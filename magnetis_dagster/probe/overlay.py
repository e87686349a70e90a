"""Write the findings of a probe to the YAML file that MAGNETIS_CONFIG names."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from magnetis_dagster.catalog.overlay import read_overlay
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.private_files import write_private

HEAD = "# Changes to the catalogue (MAGNETIS_CONFIG); `magnetis probe --write` adds its findings."
REASON = "# magnetis probe: "
"""Prefix of a comment that explains a setting. Later runs keep it, unlike other comments."""


def write_overlay(path: Path, overlay: dict[str, Any], reasons: Sequence[str] = ()) -> bool:
    """Merge `overlay` into the YAML file at `path`; return whether the file changed.

    Every other key is kept. `reasons` become comments at the head; other comments are lost. The
    former file is kept as `<name>.bak`. A missing file is created even if the overlay is empty,
    since MAGNETIS_CONFIG names it. The file is replaced atomically.

    Raises: CatalogueError if the file is not YAML; PermanentError if it cannot be written.
    """
    path = path.resolve()
    former = read_overlay(path) if path.exists() else None
    merged = _merged(former or {}, overlay)
    if merged == former:
        return False
    comments = [HEAD, *(REASON + reason for reason in reasons)]
    if former is not None:
        comments += [
            line
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith(REASON)
        ]
    text = "\n".join(dict.fromkeys(comments)) + "\n"
    text += yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(fresh, text)
        if path.exists():
            shutil.copy2(path, path.with_name(f"{path.name}.bak"))
            shutil.copymode(path, fresh)
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise PermanentError(
            f"MAGNETIS_CONFIG names {path}, which cannot be written ({error.strerror})."
        ) from None
    return True


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = (
            _merged(below if isinstance(below, dict) else {}, value)
            if isinstance(value, dict)
            else value
        )
    return merged
