"""Spellings of a French number, for property tests."""

from hypothesis import strategies as st

NATIONAL = st.from_regex(r"[1-79][0-9]{8}", fullmatch=True)
"""A French number without its first 0."""

_FULL_WIDTH = str.maketrans("0123456789+", "０１２３４５６７８９＋")
_SEPARATORS = ["", " ", ".", "-", "/", "_", "\u00a0", "\u202f", "·", "–", "·", " - ", ":", ","]


@st.composite
def spellings(draw: st.DrawFn, national: str) -> str:
    """Return a spelling with the same separator between all groups, as people write numbers."""
    separator = draw(st.sampled_from(_SEPARATORS))
    prefix = draw(st.sampled_from(["0", "+33", "0033", "+33 (0)", "00 33 (0)", "(+33) ", "+33-"]))
    groups = draw(st.sampled_from([(1, 2, 2, 2, 2), (3, 3, 3), (9,), (1, 4, 4)]))
    parts, start = [], 0
    for length in groups:
        parts.append(national[start : start + length])
        start += length
    between = "" if prefix == "0" or prefix.endswith((")", " ", "-")) else separator
    extension = draw(st.sampled_from(["", "", "", " poste 12", " x3", "x1"]))
    text = prefix + between + separator.join(parts) + extension
    return text.translate(_FULL_WIDTH) if draw(st.booleans()) else text
