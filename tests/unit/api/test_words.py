"""Redaction of messages from a server."""

import pytest
from exchange import CALL, KEY

from magnetis_dagster.api.error_mapping import error_for_response
from magnetis_dagster.redaction import scrub


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {KEY}.", "key [key]."),
        ("call from 0033612345678!", "call from [digits]!"),
        ("call from +33 6 12 34 56 78", "call from [digits]"),
        ("06.12.34.56.78 06-12-34-56-78", "[digits]"),
        ("(01) 23 45 67", "([digits]"),
        ("page 12345 of 3", "page 12345 of 3"),
        ("from <Jean.Martin+x@exemple.fr>,", "from <[e-mail]>,"),
        ("two\nlines\x1b[31m\x00", "two lines [31m"),
        ("é" * 300, "é" * 199 + "…"),
    ],
)
def test_scrub_masks_secrets_and_personal_data(text, shown):
    assert scrub(text, KEY) == shown


def test_truncation_leaves_no_half_of_a_key():
    for length in range(150, 250):
        assert KEY[:6] not in scrub("x " * (length // 2) + KEY * 200, KEY)
    assert KEY[:6] not in scrub("x" * 3_990 + KEY, KEY, 10_000)


def test_field_names_are_shown_and_their_messages_are_not():
    body = (
        b'{"message": "Invalid.", "errors": {"from": ["0612345678 is no date"], '
        b'"jean@exemple.fr": [], "%s": []}}' % KEY.encode()
    )
    text = str(error_for_response(CALL, 422, None, body, KEY))
    assert "Rejected parameters: from, [e-mail], [key]." in text
    assert "is no date" not in text


@pytest.mark.parametrize(
    "body",
    [None, b"", b"<html>0612345678</html>", b"[]", b'{"message": null}', b'{"message": {"a": 1}}'],
)
def test_an_error_body_of_any_form_is_accepted(body):
    assert "The server says" not in str(error_for_response(CALL, 500, None, body, KEY))
