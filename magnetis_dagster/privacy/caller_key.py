"""Compute caller keys: keyed hashes of phone numbers and e-mail addresses.

A caller key is `k<id>:` and the HMAC-SHA256 of the connection and the E.164 number, as base64url
without padding: 43 characters. So one person has different keys in two connections. Nobody without
the secret can compute or reverse a key. A hash without a secret can be reversed: all French mobile
numbers can be hashed in minutes.

base64url, because hexadecimal digits contain runs of digits that redaction mistakes for phone
numbers, and need 21 characters more for each key. Keys are case-sensitive.

The secrets come from MAGNETIS_PRIVACY_KEY, never from the database: `id:secret`, several separated
by commas or line breaks. The first one is active: new keys use it. The others are accepted for
comparison, so that a secret can be replaced.
"""

import hmac
import re
import unicodedata
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from typing import Final, NoReturn

from magnetis_dagster.errors import PermanentError

SHORTEST_SECRET = 32
"""Characters. The key file contains 43 characters (256 random bits); 32 hexadecimal digits contain
128 bits, the least that NIST SP 800-131A accepts for HMAC is 112."""
FEWEST_CHARACTERS = 8
"""Different characters in a secret. Fewer are a placeholder, such as `aaaa…`."""
PATTERN: Final = re.compile(r"k(?P<id>[a-z0-9]{1,8}):[A-Za-z0-9_-]{43}")
"""A caller key. Values that match it are never masked again."""

_ID = re.compile(r"[a-z0-9]{1,8}")
_EXPECTED = (
    "expected id:secret, such as 1:<43 random characters>, several separated by commas; the first "
    "is active"
)
_ADDRESS = re.compile(r"[^\s@<>\"'(),;:\[\]{}«»|`]+@[^\W_]+(?:[._-]+[^\W_]+)*")


class InvalidPrivacyKey(PermanentError):
    """MAGNETIS_PRIVACY_KEY is malformed or weak. The text never contains a secret."""


class PrivacyKeys:
    """The secrets that caller keys are computed with; the first one is active.

    Its repr contains the ids only. It cannot be pickled, so that no secret leaves the process.

    Raises: InvalidPrivacyKey if there is no secret, an id occurs twice, or a secret is weak.
    """

    __slots__ = ("_secrets", "ids")

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        given = list(secrets)
        self.ids = tuple(id_ for id_, _ in given)
        """The ids, active first."""
        _check(given)
        self._secrets = [(f"k{id_}:", secret.encode()) for id_, secret in given]

    @classmethod
    def parse(cls, text: str) -> "PrivacyKeys":
        """Return the secrets of MAGNETIS_PRIVACY_KEY. Raises: InvalidPrivacyKey."""
        parts = [part.strip() for part in re.split(r"[,\r\n]", text) if part.strip()]
        return cls((id_, secret) for id_, _, secret in (part.partition(":") for part in parts))

    @property
    def active(self) -> str:
        """The id of the secret that new keys use."""
        return self.ids[0]

    @property
    def digest_secret(self) -> bytes:
        """A secret for digests of rows, derived from the active one."""
        return self._compute("", "digest", "")[0].encode()

    def of_phone(self, connection: str, e164: str) -> tuple[str, ...]:
        """Return the caller keys of a number in E.164: one per secret, the active one first."""
        return self._compute(connection, "phone", e164)

    def of_email(self, connection: str, address: str) -> tuple[str, ...]:
        """Return the keys of an address from `read_email`: one per secret, the active one first."""
        return self._compute(connection, "email", address)

    def proofs(self) -> dict[str, str]:
        """Return by id a text that shows whether a secret is the same; never the secret."""
        computed = self._compute("", "proof", "")
        return dict(zip(self.ids, computed, strict=True))

    def _compute(self, *parts: str) -> tuple[str, ...]:
        # each part with its length: no two lists of parts give the same message
        message = b"".join(b"%d:%b," % (len(part), part) for part in map(str.encode, parts))
        return tuple(
            prefix + urlsafe_b64encode(hmac.digest(secret, message, "sha256"))[:43].decode()
            for prefix, secret in self._secrets
        )

    def __repr__(self) -> str:
        """Return the ids."""
        return f"PrivacyKeys(ids={list(self.ids)})"

    def __reduce__(self) -> NoReturn:
        """Raise TypeError."""
        raise TypeError("secrets cannot be pickled")


def key_id(caller_key: str) -> str | None:
    """Return the id of the secret of a caller key; None if the text is not a caller key."""
    match = PATTERN.fullmatch(caller_key)
    return match["id"] if match else None


def read_email(received: object) -> str | None:
    """Return the address in a received value, such as `Jean <j@x.fr>`, in lower case, or None.

    Lower case also before the `@`: no known provider distinguishes addresses by case, although
    RFC 5321 (section 2.4) allows it.
    """
    if not isinstance(received, str):
        return None
    match = _ADDRESS.search(unicodedata.normalize("NFKC", received[:1000]))
    return match[0].strip(".").casefold() if match else None


def _check(secrets: list[tuple[str, str]]) -> None:
    if not secrets:
        raise InvalidPrivacyKey(_EXPECTED)
    for number, (id_, secret) in enumerate(secrets, start=1):
        place = f"key {number} of {len(secrets)}: "
        if not secret or not _ID.fullmatch(id_):
            # the text before the colon may be a part of a secret
            raise InvalidPrivacyKey(
                f"{place}{_EXPECTED}; an id has 1 to 8 characters of a-z and 0-9"
            )
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise InvalidPrivacyKey(f"{place}expected a secret of printable ASCII without spaces")
        if len(secret) < SHORTEST_SECRET or len(set(secret)) < FEWEST_CHARACTERS:
            raise InvalidPrivacyKey(
                f"{place}expected a secret of at least {SHORTEST_SECRET} random characters. Create "
                "one with: openssl rand -base64 32"
            )
    for values, name in zip(zip(*secrets, strict=True), ("id", "secret"), strict=True):
        if len(set(values)) < len(values):
            raise InvalidPrivacyKey(f"expected different keys; one {name} occurs twice")
