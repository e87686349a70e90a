"""Caller keys: keyed, unambiguous, rotated; no error or repr contains a secret."""

import base64
import hashlib
import hmac
import pickle
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spellings import NATIONAL, spellings

from magnetis_dagster.privacy.caller_key import (
    PATTERN,
    InvalidPrivacyKey,
    PrivacyKeys,
    key_id,
    read_email,
)
from magnetis_dagster.privacy.key_file import (
    KEY_FILE,
    UnusableKeyFile,
    generate_key,
    load_or_create_key,
    read_key_file,
)
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.phone import PhoneKind

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"
OTHER = SECRET[::-1]
KEYS = PrivacyKeys.parse(f"1:{SECRET}")
E164 = "+33612345678"


def test_a_key_is_the_documented_hmac() -> None:
    message = b"8:magnetis,5:phone,12:+33612345678,"
    digest = hmac.new(SECRET.encode(), message, hashlib.sha256).digest()
    expected = "k1:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")
    assert KEYS.of_phone("magnetis", E164) == (expected,)
    assert PATTERN.fullmatch(expected)
    assert key_id(expected) == "1"
    assert key_id("k1:short") is None


def test_persons_connections_kinds_and_secrets_have_different_keys() -> None:
    found = {
        *KEYS.of_phone("magnetis", E164),
        *KEYS.of_phone("nord", E164),
        *KEYS.of_phone("magnetis", "+33612345679"),
        *KEYS.of_phone("magnetis5:phone", E164),
        *KEYS.of_email("magnetis", E164),
        *PrivacyKeys.parse(f"1:{OTHER}").of_phone("magnetis", E164),
    }
    assert len(found) == 6


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=2, unique=True))
def test_the_encoding_is_unambiguous(pairs: list[tuple[str, str]]) -> None:
    assert len({KEYS.of_phone(*pair) for pair in pairs}) == len(pairs)


def test_the_first_secret_is_active_and_the_others_are_accepted() -> None:
    rotated = PrivacyKeys.parse(f"2:{OTHER} , 1:{SECRET}\n")
    assert rotated.ids == ("2", "1")
    assert rotated.active == "2"
    new, old = rotated.of_phone("magnetis", E164)
    assert new.startswith("k2:")
    assert (old,) == KEYS.of_phone("magnetis", E164)


@pytest.mark.parametrize(
    ("text", "problem"),
    {
        "": "expected id:secret",
        " , ": "expected id:secret",
        SECRET: "key 1 of 1: expected id:secret",
        f":{SECRET}": "an id has 1 to 8 characters",
        f"K1:{SECRET}": "an id has 1 to 8 characters",
        f"123456789:{SECRET}": "an id has 1 to 8 characters",
        "1:": "key 1 of 1: expected id:secret",
        f"1:{SECRET[:31]}": "at least 32 random characters",
        f"1:{'abcdefg' * 10}": "at least 32 random characters",
        f"1:{SECRET} {SECRET}": "without spaces",
        f"1:{SECRET}é": "printable ASCII",
        f"1:{SECRET},1:{OTHER}": "one id occurs twice",
        f"1:{SECRET},2:{SECRET}": "one secret occurs twice",
        f"1:{SECRET},2:{OTHER[:9]}": "key 2 of 2: expected a secret",
    }.items(),
)
def test_a_bad_key_is_reported_without_its_value(text: str, problem: str) -> None:
    with pytest.raises(InvalidPrivacyKey, match=re.escape(problem)) as caught:
        PrivacyKeys.parse(text)
    assert SECRET[:12] not in str(caught.value)
    assert OTHER[:9] not in str(caught.value)


def test_a_secret_appears_in_no_repr_and_is_not_pickled() -> None:
    assert repr(KEYS) == "PrivacyKeys(ids=['1'])"
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)


def test_the_key_file_is_private_and_created_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: load_or_create_key(home), range(8)))
    assert {keys.of_phone("magnetis", E164) for keys in found} == {
        load_or_create_key(home).of_phone("magnetis", E164)
    }
    file = home / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in home.iterdir()] == [KEY_FILE]
    file.chmod(0o644)
    load_or_create_key(home)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"1:short\n", b"\xff\xfe", f"x{SECRET}".encode()])
def test_an_unusable_key_file_is_reported_with_its_name_and_kept(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / KEY_FILE
    file.write_bytes(content)
    with pytest.raises(UnusableKeyFile, match="Restore it from your copy") as caught:
        load_or_create_key(tmp_path)
    assert str(file) in str(caught.value)
    assert SECRET not in str(caught.value)
    assert file.read_bytes() == content
    with pytest.raises(UnusableKeyFile, match="No such file"):
        read_key_file(tmp_path / "missing")


def test_generated_keys_differ_and_are_valid() -> None:
    assert generate_key() != generate_key()
    assert PrivacyKeys.parse(generate_key("2024b")).active == "2024b"


@pytest.mark.parametrize(
    ("received", "address"),
    {
        "Jean.Dupont@Exemple.FR": "jean.dupont@exemple.fr",
        "Jean Dupont <jean@exemple.fr>": "jean@exemple.fr",
        "mailto:jean@exemple.fr?subject=x": "jean@exemple.fr",
        "jean＠exemple.fr.": "jean@exemple.fr",
        "jean": None,
        "": None,
        "@": None,
    }.items(),
)
def test_an_address_in_any_spelling_is_one_person(received: str, address: str | None) -> None:
    assert read_email(received) == address


@pytest.mark.parametrize("cached", [0, 100])
def test_received_values_have_the_key_of_their_person(cached: int) -> None:
    persons = PersonKeys(KEYS, "magnetis", cached=cached)
    assert persons.phone("06 12 34 56 78").accepted == KEYS.of_phone("magnetis", E164)
    assert persons.phone(33612345678.0) == persons.phone("tel:+33612345678")
    assert persons.phone("anonymous").key is None
    assert persons.phone("3949").kind is PhoneKind.SHORT_CODE
    assert persons.phone(["0612345678"]).kind is PhoneKind.UNPARSABLE
    assert persons.phone(None).kind is persons.email(None).kind is PhoneKind.WITHHELD
    assert persons.email("Jean <J@x.fr>").accepted == KEYS.of_email("magnetis", "j@x.fr")
    assert persons.email(7).kind is persons.email("jean").kind is PhoneKind.UNPARSABLE
    assert "k1:" not in repr(persons.phone("06 12 34 56 78"))


@given(
    national=NATIONAL,
    before=st.sampled_from(["", "Rappeler ", "commande 12 ", "Appel: ", "a-", "(", "x:"]),
    after=st.sampled_from(["", " svp", ", merci", ")", " 12", "\n"]),
    data=st.data(),
)
def test_a_number_is_found_in_a_text(
    national: str, before: str, after: str, data: st.DataObject
) -> None:
    persons = PersonKeys(KEYS, "magnetis", cached=0)
    text = f"{before}{data.draw(spellings(national))}{after}"
    assert persons.phone(f"0{national}").key in persons.persons_in(text)


def test_an_address_is_found_in_a_text_and_other_digits_are_nobody() -> None:
    persons = PersonKeys(KEYS, "magnetis")
    assert persons.email("j.d@x.fr").key in persons.persons_in("De : Jean <J.D@X.fr>, hier")
    for text in ("?to=jean%40exemple.fr&x=1", "jean [at] exemple (dot) fr", "Jean @ exemple.fr"):
        assert persons.email("jean@exemple.fr").key in persons.persons_in(text), text
    for text in ("?tel=%2B33612345678", "%200612345678", "06&nbsp;12&nbsp;34&nbsp;56&nbsp;78"):
        assert persons.phone("0612345678").key in persons.persons_in(text), text
    for text in ("2024-03-04", "75011 Paris", "12:34:56", "call-0c5ac87f-6d8b", "Tout le SEO"):
        assert persons.persons_in(text) == frozenset()
