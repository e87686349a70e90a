"""Reads named SQL statements from the files in `warehouse/sql/`.

A file is a list of blocks:

    -- name: delete_strays
    -- Delete the counts of stray rows for days that now have a complete read.
    DELETE FROM …

Values are bound as `:name`. `{placeholders}` stand for SQL that depends on the catalogue.
"""

import re
from functools import cache
from pathlib import Path

from sqlalchemy import TextClause, text

FOLDER = Path(__file__).parent / "sql"
_HEADER = re.compile(r"^-- name: (\w+)\n-- \S.*\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Queries:
    """The statements of one file. Indexing by name returns an executable statement."""

    def __init__(self, file: str, **placeholders: str) -> None:
        """`file` is the file's name without its suffix."""
        self._file = file
        self._placeholders = placeholders

    def fill(self, **placeholders: str) -> "Queries":
        """Return the same statements with their placeholders filled."""
        return Queries(self._file, **placeholders)

    def sql(self, name: str) -> str:
        """Return the text of one statement."""
        template = _read(self._file)[name]
        return template.format(**self._placeholders) if self._placeholders else template

    def __getitem__(self, name: str) -> TextClause:
        """Return one statement."""
        return text(self.sql(name))

    def names(self) -> list[str]:
        """Return the names of all statements, in the order of the file."""
        return list(_read(self._file))


@cache
def _read(file: str) -> dict[str, str]:
    source = (FOLDER / f"{file}.sql").read_text(encoding="utf-8")
    _, *blocks = _HEADER.split(source)
    return {
        name: _COMMENT.sub("", statement).strip()
        for name, statement in zip(blocks[::2], blocks[1::2], strict=True)
    }
