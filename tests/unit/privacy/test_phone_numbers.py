"""Phone numbers: every spelling of a number has one E.164 form; services and texts have none."""

import random

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spellings import NATIONAL, spellings

from magnetis_dagster.privacy.phone import TERRITORIES, WITHHELD, Phone, PhoneKind, PhoneReader

READER = PhoneReader(cached=0)

NUMBERS = {
    # France
    "06 12 34 56 78": "+33612345678",
    "06\u00a012\u202f34.56-78": "+33612345678",
    "0_6·12–34:56,78": "+33612345678",
    "06/12/34/56/78": "+33612345678",
    "+33 (0)6 12 34 56 78": "+33612345678",
    "(+33) 6 12 34 56 78": "+33612345678",
    "0033612345678": "+33612345678",
    "00 33 (0) 6 12 34 56 78": "+33612345678",
    "33612345678": "+33612345678",
    "+330612345678": "+33612345678",
    "612345678": "+33612345678",
    "００３３６１２３４５６７８": "+33612345678",
    "＋33612345678": "+33612345678",
    "٠٦١٢٣٤٥٦٧٨": "+33612345678",
    "\u202a+33 6 12 34 56 78\u202c": "+33612345678",
    "tel:+33-6-12-34-56-78;ext=12": "+33612345678",
    "TEL:612345678;phone-context=+33": "+33612345678",
    "sip:+33612345678@sip.example.com;user=phone": "+33612345678",
    '"Jean" <sip:0612345678@example.com>': "+33612345678",
    "06 12 34 56 78 poste 12": "+33612345678",
    "06.12.34.56.78 x12": "+33612345678",
    "06-12-34-56-78#4": "+33612345678",
    "0612345678 (ext. 3)": "+33612345678",
    "Tél. : 06 12 34 56 78": "+33612345678",
    "33612345678.0": "+33612345678",
    "0800 123 456": "+33800123456",
    "01 88 11 22 33": "+33188112233",
    # overseas, as dialled in France, with the code of France, with their own
    "0692 12 34 56": "+262692123456",
    "+33 693 12 34 56": "+262693123456",
    "+262 262 12 34 56": "+262262123456",
    "262692123456": "+262692123456",
    "0639 12 34 56": "+262639123456",
    "0590 12 34 56": "+590590123456",
    "0690123456": "+590690123456",
    "0594 12 34 56": "+594594123456",
    "0694 12 34 56": "+594694123456",
    "0596 12 34 56": "+596596123456",
    "+596 (0)696 12 34 56": "+596696123456",
    # elsewhere
    "+41 (0)44 668 18 00": "+41446681800",
    "41446681800": "+41446681800",
    "+39 06 698 12345": "+390669812345",
    "+39 (0)6 698 12345": "+390669812345",
    "0012125550123": "+12125550123",
    "+1 (212) 555-0123": "+12125550123",
    "+32 2 555 12 12": "+3225551212",
}
OTHERS = {
    PhoneKind.SHORT_CODE: ["15", "112", "1013", "3949", "39 49", "36105", "118 218", "+33 3949"],
    PhoneKind.UNPARSABLE: [
        "0612345678 / 0698765432",
        "0612345678+0698765432",
        "MAGNETIS",
        "12345678",
        "06 12 34 56",
        "+3361234567",
        "+33612345678901234",
        "+999 612345678",
        "0800 FLOWERS",
        "k1:" + "Ab9-" * 10 + "xyz",
        "7",
        "9" * 5000,
    ],
    PhoneKind.WITHHELD: [
        *sorted(WITHHELD),
        *map(str.upper, sorted(WITHHELD)),
        *("", "  ", "0", "00", "+", "0000000000", "-", "<unknown>", "Numero masque", "N.A."),
        "sip:anonymous@anonymous.invalid",
        '"Anonymous" <sip:anonymous@anonymous.invalid>',
        '"Unavailable" <sip:unavailable@unknown.invalid>',
    ],
}


@pytest.mark.parametrize(("received", "e164"), NUMBERS.items())
def test_a_number_in_any_spelling_has_one_e164_form(received: str, e164: str) -> None:
    assert READER.read(received) == Phone(PhoneKind.NUMBER, e164)
    assert READER.read(f" {received}\n") == Phone(PhoneKind.NUMBER, e164)


@pytest.mark.parametrize(
    ("kind", "received"), [(kind, each) for kind, texts in OTHERS.items() for each in texts]
)
def test_what_is_no_number_has_no_e164_form(kind: PhoneKind, received: str) -> None:
    assert READER.read(received) == Phone(kind)


@pytest.mark.parametrize(
    ("received", "kind"),
    [
        (612345678, PhoneKind.NUMBER),
        (33612345678.0, PhoneKind.NUMBER),
        (0, PhoneKind.WITHHELD),
        (-1, PhoneKind.WITHHELD),
        (None, PhoneKind.WITHHELD),
        (True, PhoneKind.UNPARSABLE),
        ({"number": "0612345678"}, PhoneKind.UNPARSABLE),
        (["0612345678"], PhoneKind.UNPARSABLE),
    ],
)
def test_other_json_values_are_read_too(received: object, kind: PhoneKind) -> None:
    phone = READER.read(received)
    assert phone.kind is kind
    assert phone.e164 in {None, "+33612345678"}


@given(national=NATIONAL, data=st.data())
def test_all_spellings_agree_with_the_library(national: str, data: st.DataObject) -> None:
    expected = READER.read(f"0{national}").e164
    assert expected is not None
    assert READER.read(data.draw(spellings(national))) == Phone(PhoneKind.NUMBER, expected)
    if national[:3] not in TERRITORIES:
        number = phonenumbers.parse(f"0{national}", "FR")
        format_ = phonenumbers.PhoneNumberFormat.E164
        assert phonenumbers.format_number(number, format_) == expected


@given(st.text() | st.from_regex(r"[+0-9 ()./ext-]{0,30}", fullmatch=True))
def test_no_text_fails_and_the_result_is_stable(text: str) -> None:
    phone = READER.read(text)
    assert (phone.e164 is not None) == (phone.kind is PhoneKind.NUMBER)
    if phone.e164:
        assert READER.read(phone.e164) == phone
        assert phone.e164[1:].isdecimal()
        assert len(phone.e164) <= 16


@pytest.mark.parametrize("prefix", TERRITORIES)
def test_territories_are_those_of_the_library(prefix: str) -> None:
    pick = random.Random(prefix)
    assert any(
        phonenumbers.is_valid_number(
            phonenumbers.parse(f"+{TERRITORIES[prefix]}{prefix}{pick.randrange(10**6):06}")
        )
        for _ in range(500)
    )


def test_the_region_and_the_withheld_texts_are_configurable() -> None:
    swiss = PhoneReader("CH", {*WITHHELD, "Numéro réservé"})
    assert swiss.read("044 668 18 00").e164 == "+41446681800"
    assert swiss.read("+33 6 12 34 56 78").e164 == "+33612345678"
    assert swiss.read("NUMERO RESERVE").kind is PhoneKind.WITHHELD
    assert READER.read("NUMERO RESERVE").kind is PhoneKind.UNPARSABLE


def test_no_repr_contains_the_number() -> None:
    assert "612345678" not in repr(READER.read("0612345678"))
