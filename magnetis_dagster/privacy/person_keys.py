"""Compute the keys of received values, with a cache: callers call more than once."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from magnetis_dagster.catalog.conversions import as_text
from magnetis_dagster.foreign_text import addresses_in, number_runs
from magnetis_dagster.plain_text import plain_text
from magnetis_dagster.privacy.caller_key import PrivacyKeys, read_email
from magnetis_dagster.privacy.phone import PhoneKind, PhoneReader

_NUMBER = re.compile(r"\+?[0-9]{9,15}")
_FEWEST_DIGITS = 9
"""Digits of a run that may contain a phone number."""
_GROUP = re.compile(r"[0-9]+")
_BEGINNINGS = "+0"
_WITH_FRANCE = 11
"""Digits of a French number with its country code, 33."""
_BARE_ADDRESS = re.compile(r"[^\W_][\w.+%'-]*@[^\W_]+(?:[.-][^\W_]+)*")
_BEFORE_VALUE = re.compile(r"^[^@]*[=&?/|](?=[^@])")
_DIGITS = range(9, 16)
"""Digits of a phone number with or without country code; E.164 allows 15."""


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


_NOBODY: frozenset[str] = frozenset()
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
        self._active = f"k{keys.active}:"
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

    def is_active(self, key: str) -> bool:
        """Return whether a key belongs to the active secret."""
        return key.startswith(self._active)

    def persons_in(self, text: str) -> frozenset[str]:
        """Return all keys of the phone numbers and addresses in a text, in any spelling."""
        if _NUMBER.fullmatch(text):
            # most texts with a number are nothing else
            return frozenset(self._phone(text).accepted)
        plain = plain_text(text)
        if "@" in plain or number_runs(_FEWEST_DIGITS).search(plain):
            return self._persons(plain)
        return _NOBODY

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

    def _find_persons(self, plain: str) -> frozenset[str]:
        found: set[str] = set()
        for candidate in _numbers_in(plain):
            found.update(self.phone(candidate).accepted)
        for start, end in addresses_in(plain):
            address = "".join(plain[start:end].split())
            found.update(self.email(address).accepted)
            # signs of a text around it
            if match := _BARE_ADDRESS.search(address):
                found.update(self.email(match[0]).accepted)
            # a local part may contain what precedes the value of a parameter: ?to=jean@exemple.fr
            found.update(self.email(_BEFORE_VALUE.sub("", address)).accepted)
        return frozenset(found)


def _numbers_in(plain: str) -> Iterator[str]:
    """Yield each part of a plain text that may be a phone number.

    A number may follow another one, such as an order number. So every sequence of groups of digits
    with a plausible length is a candidate if it begins like a phone number, with `+` or 0. Others
    are candidates as a whole only.
    """
    for run in number_runs(_FEWEST_DIGITS).finditer(plain):
        text = run[0]
        groups = [match.span() for match in _GROUP.finditer(text)]
        # digits next to letters are a part of an id or a hash, unless they begin like a number
        is_word = plain[run.start() - 1 : run.start()].isalpha() or (
            plain[run.end() : run.end() + 1].isalpha()
        )
        before = 0
        for first, (start, own_end) in enumerate(groups):
            begin = text.rfind("+", before, start)
            before = own_end
            if begin < 0:
                begin = start
            digits = 0
            for last in range(first, len(groups)):
                group_start, end = groups[last]
                digits += end - group_start
                if digits >= _DIGITS.stop:
                    break
                if digits in _DIGITS and (
                    text[begin] in _BEGINNINGS
                    or (digits == _WITH_FRANCE and text.startswith("33", begin))
                    or (not is_word and end - start == digits)
                    or (not is_word and first == 0 and end == groups[-1][1])
                ):
                    # forms write a space as `+`
                    yield text[begin] + text[begin + 1 : end].replace("+", " ")
