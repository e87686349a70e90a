"""Escape text of other origin for Markdown, so that it is displayed literally.

Dagster's UI and chat programs render Markdown in descriptions and in MetadataValue.md, and request
the images in it from any server. Errors of runs, skip reasons and table cells are plain text.
"""

import re

_TOKEN = re.compile(r"(?P<code>\(?`[^`]+`[.,:;)]*(?!\S))|\S+")
"""A code span, which is inert already, or a word between two spaces."""
_ACTIVE = re.compile(r"[*\[\]<\\~`]|(?<![^\W_])_|_(?![^\W_])|&[#\w]+;|://|www\.|@", re.IGNORECASE)
"""Characters that can begin a link, an image, HTML, emphasis, a mention or an entity."""
_BEGINS_BLOCK = re.compile(r">|(?:[#+=-]+|[0-9]+[.)])$")
"""A first word that would turn the line into a quotation, a heading, a list or a rule."""
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def literal(text: str) -> str:
    """Return Markdown that displays `text` literally on one line; active words become code."""
    line = _UNPRINTABLE.sub(" ", text).strip()
    return _TOKEN.sub(_inert, line)


def _inert(token: re.Match[str]) -> str:
    word = token[0]
    if token["code"] or not (
        _ACTIVE.search(word) or (token.start() == 0 and _BEGINS_BLOCK.match(word))
    ):
        return word
    runs = [len(run) for run in re.findall("`+", word)]
    fence = "`" * (max(runs, default=0) + 1)
    padding = " " if runs else ""
    return f"{fence}{padding}{word}{padding}{fence}"
