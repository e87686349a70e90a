"""Compute the keys of received values, with a cache: callers call more than once."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.privacy.caller_key import PrivacyKeys, read_email
from magnetis_dagster.privacy.phone import PhoneKind, PhoneReader

_EMAIL = re.compile(r"[^\s@<>\"'(),;:]{1,200}@[^\s@<>\"'(),;:]{1,200}")
_DIGITS = re.compile(r"[+＋﹢⁺]?[(\s]{0,2}\d(?:[^\w]{0,3}_{0,2}\d){6,19}")
"""Seven digits or more with any separators between them; `\\d` matches digits of all scripts."""
_MANY_DIGITS = re.compile(r"\d(?:\D{0,4}\d){6}")


@dataclass(frozen=True, slots=True)
class PersonKey:
    """The keys of one received value."""

    kind: PhoneKind
    """NUMBER also for an e-mail address."""
    accepted: tuple[str, ...] = field(default=(), repr=False)
    """One key per secret, the active one first; empty if the value identifies nobody."""

    @property
    def key(self) -> str | None:
        """The caller key to store; None for withheld and unparsable numbers and short codes."""
        return self.accepted[0] if self.accepted else None


_NO_ADDRESS = PersonKey(PhoneKind.UNPARSABLE)
_EMPTY = PersonKey(PhoneKind.WITHHELD)


class PersonKeys:
    """Computes the keys of one connection.

    `cached`: number of different texts of each kind whose result is kept.
    """

    def __init__(
        self,
        keys: PrivacyKeys,
        connection: str,
        phones: PhoneReader | None = None,
        *,
        cached: int = 65_536,
    ) -> None:
        self.connection = connection
        self._keys = keys
        # the cache of keys contains the results of the reader
        self._phones = phones or PhoneReader(cached=0)
        cache: Callable[..., Callable[..., PersonKey]] = lru_cache(cached)
        self._phone = cache(self._compute_phone) if cached else self._compute_phone
        self._email = cache(self._compute_email) if cached else self._compute_email
        self._persons = lru_cache(cached)(self._find_persons) if cached else self._find_persons

    def phone(self, received: object) -> PersonKey:
        """Return the keys of a received phone number. Never raises."""
        if received is None:
            return _EMPTY
        text = received if isinstance(received, str) else as_text(received)
        return self._phone(text) if text is not None else PersonKey(PhoneKind.UNPARSABLE)

    def email(self, received: object) -> PersonKey:
        """Return the keys of a received e-mail address. Never raises."""
        if received is None or received == "":
            return _EMPTY
        return self._email(received) if isinstance(received, str) else _NO_ADDRESS

    def persons_in(self, text: str) -> frozenset[str]:
        """Return all keys of the phone numbers and addresses in a text, in any spelling."""
        if "@" not in text and "＠" not in text and not _MANY_DIGITS.search(text):
            return frozenset()
        return self._persons(text)

    def _compute_phone(self, text: str) -> PersonKey:
        phone = self._phones.read(text)
        if phone.e164 is None:
            return PersonKey(phone.kind)
        return PersonKey(phone.kind, self._keys.of_phone(self.connection, phone.e164))

    def _compute_email(self, text: str) -> PersonKey:
        address = read_email(text)
        if address is None:
            return _EMPTY if not text.strip() else _NO_ADDRESS
        return PersonKey(PhoneKind.NUMBER, self._keys.of_email(self.connection, address))

    def _find_persons(self, text: str) -> frozenset[str]:
        found: set[str] = set()
        found.update(self.phone(text).accepted)
        for candidate in self._candidates(text):
            found.update(self.phone(candidate).accepted)
        for match in _EMAIL.finditer(text.replace("＠", "@")):
            found.update(self.email(match[0]).accepted)
        return frozenset(found)

    @staticmethod
    def _candidates(text: str) -> Iterator[str]:
        for match in _DIGITS.finditer(text):
            yield match[0]
