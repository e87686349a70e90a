"""Numbers and addresses in foreign text are masked in every spelling; other text stays readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spellings import NATIONAL, persons_in, spelled_addresses, spelled_numbers, spellings

from magnetis_dagster.catalog.masking import MASK, mask_id, mask_text
from magnetis_dagster.catalog.row_parser import mask_name
from magnetis_dagster.foreign_text import (
    addresses_in,
    display,
    mask,
)
from magnetis_dagster.plain_text import plain_text, with_positions
from magnetis_dagster.redaction import scrub

WHOLE = (
    *("06.12.34.56.78", "06_12_34_56_78", "06·12·34·56·78", "06 – 12 – 34 – 56 – 78"),
    *("06:12:34:56:78", "06,12,34,56,78", "0612 34 / 5678", "٠٦١٢٣٤٥٦٧٨", "０６１２３４５６７８"),
    *(
        "06—12—34—56—78",
        "＋33 6 12 34 56 78",
        "06\u00a012\u202f34\u200956\u200b78",
        "+(33) 6123 45678",
    ),
    *("+44 7700 900 123", "+1 (202) 555-0143", "00 49 30/901820"),
    *("%2B33612345678", "%252B33%25206%2012345678", "06&nbsp;12&nbsp;34&nbsp;56&nbsp;78"),
    *("06\\u00a012\\u00a034\\u00a056\\u00a078", "⓪⑥①②③④⑤⑥⑦⑧", "⁰⁶¹²³⁴⁵⁶⁷⁸", "02/2012/1999"),
    *("jean.dupont＠exemple.fr", "jean@exemple.fr", "jean%40exemple.fr", "jean&#64;exemple.fr"),
    *(
        "dupont (at) exemple.fr",
        "jean@\u200bexemple.fr",
        '"jean dupont"@exemple.fr',
        "d'anjou@exemple.fr",
    ),
    *(
        "jean(maison)@exemple.fr",
        "jean @ exemple.fr",
        "jean\\u0040exemple.fr",
        "jean[at]exemple[dot]fr",
    ),
)
READABLE = (
    *(
        "2026-11-28",
        "du 28/11/2026 au 01/12/2026",
        "2026-11-28 09:30:15",
        "2026-11-28T09:30:15+01:00",
    ),
    *("09:00-12:00, 14:00-18:00", "Bilan 44000 - Mois de 01/2023", "exercice 2025-2026"),
    *("page 12 of 40", "12345 rows", "version 1.13.4", "3.14.0rc1", "http://127.0.0.1:3000/runs"),
    *("b0981234-5678-4b2b-bf5c-70348741ed91", "ale-b0981234-5678-4b2b-bf5c-70348741ed91"),
    *("2 tickets @ 5 euros", "@nantes", "Mme Martin, portable", "100 % (25 sur 25)", "75011 Paris"),
    *("a & b", "C:\\users", "f(x) = {1, 2}", "é" * 100),
)


@pytest.mark.parametrize("text", WHOLE)
def test_a_number_or_an_address_is_masked_as_a_whole(text: str) -> None:
    assert mask_text(f"Alerte {text} (Nantes)") == f"Alerte {MASK} (Nantes)"
    assert mask_id(f"ale {text}") == f"ale {MASK}"
    assert scrub(f"from {text} !") in {"from [digits] !", "from [e-mail] !"}
    assert mask_name(text) == mask_name(f"n{text}") == "*"


@pytest.mark.parametrize(
    ("text", "shown"),
    {
        "tel:+33(0)612345678": f"tel:{MASK}",
        "6 12 34 56 (78)": f"{MASK})",
        "jean dupont (at) exemple.fr": f"jean {MASK}",
        "a@b.fr,c@d.fr;06 12 34 56 78": f"{MASK},{MASK};{MASK}",
        "0612345678@exemple.fr": MASK,
        "06 12 34 56 78@exemple.fr": MASK,
        "l'adresse 'jean@exemple.fr'": f"l'adresse '{MASK}'",
        "lead?tel=%2B33612345678&to=Jean": f"lead?tel={MASK}&to=Jean",
        "lead?to=jean%40exemple.fr": MASK,
        "2026-11-28 06 12 34 56 78": MASK,
        "06123456-7812-3456-7890-061234567890": MASK,
    }.items(),
)
def test_text_around_a_number_stays(text: str, shown: str) -> None:
    assert mask_text(text) == shown


@pytest.mark.parametrize("text", READABLE)
def test_other_text_stays_readable(text: str) -> None:
    assert mask_text(text) == scrub(text) == mask_id(text) == text


@given(
    national=NATIONAL,
    before=st.sampled_from(["", "Rappeler ", "commande 12 ", "x_", "(", "tel"]),
    after=st.sampled_from(["", " svp", ")", " 12", "_x", "€"]),
    data=st.data(),
)
def test_a_number_in_any_spelling_is_masked(
    national: str, before: str, after: str, data: st.DataObject
) -> None:
    text = f"{before}{data.draw(spellings(national))}{after}"
    for shown in (mask_text(text), mask_id(text), mask_name(text), scrub(text)):
        assert persons_in(shown, [national]) == set(), shown


def test_the_search_of_the_tests_finds_every_generated_person() -> None:
    """A test that finds nothing in a masked text would otherwise prove nothing."""
    for national, text in spelled_numbers(5_000):
        assert persons_in(f"a {text} b", [national]) == {national}, text
    for text in spelled_addresses(500):
        assert persons_in(text, []), text
    assert persons_in("2026-11-28 10:00, 12 rows of 63", ["639980012"]) == set()


PIECES = [
    *("%2B", "%25", "%C3%A9", "%E9", "%", "25", "&nbsp;", "&foo;", "&amp;", "\\u00a0", "\\ud83d"),
    *(" (at) ", "(dot)", "é", "１", "⑿", "\u200b", "+", "0", "@", "a", ".", " ", "(", "'", '"'),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_plain_text_has_positions(text: str) -> None:
    plain, starts, ends = with_positions(text)
    assert plain == plain_text(text)
    assert len(plain) == len(starts) == len(ends)
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert plain.encode().decode() == plain
    assert mask(text, 99, "#", "#") == text or list(addresses_in(plain))


@pytest.mark.parametrize(
    "piece",
    [
        *("1", "1 ", "@", "a", "a@", "+", "%25", "(", "'", '"@', " @", "2026-11-28 ", "é", "&amp;"),
        *("a.a", "@a.", "0-", "12:00", "\\u0031", "a(b)", " ( ", "\u200b", "\u33a1"),
    ],
)
def test_a_hostile_text_is_searched_in_linear_time(piece: str) -> None:
    """Quadratic time would take an hour."""
    mask(piece * (200_000 // len(piece)), 8, "", "")
    text = piece * (1_000_000 // len(piece))
    plain_text(text)
    for show in (mask_text, mask_id, scrub, mask_name):
        assert len(show(text)) <= 200


def test_what_the_limit_cuts_is_not_shown() -> None:
    masked = (8, "", MASK)
    for length in range(10, 60):
        shown = display("ab " + "06 12 34 56 78 " * 10, length, 200, masked)
        assert shown in {"", "ab"}, length
        assert "jean" not in display(" " * 40 + "ab jean.dupont@exemple.fr", length, 200, masked)
    assert display("first second", 8, 200, masked) == "first"
