"""Read the phone number or e-mail address that a person is searched by."""

from collections.abc import Iterable

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.caller_key import read_email
from magnetis_dagster.privacy.person_keys import PersonKeys
from magnetis_dagster.privacy.phone import PhoneKind


class UnknownIdentifier(PermanentError):
    """A given text is no phone number or e-mail address. The error never quotes it."""


def keys_of(identifiers: Iterable[str], persons: PersonKeys) -> frozenset[str]:
    """Return the caller keys, of all secrets, of phone numbers and e-mail addresses.

    Raises: UnknownIdentifier, which names the position of the text.
    """
    found: set[str] = set()
    for position, text in enumerate(identifiers, start=1):
        if "@" in text or "＠" in text:
            address = read_email(text)
            keys = persons.email(address).accepted if address else ()
            problem = "expected an e-mail address such as name@example.com"
        else:
            person = persons.phone(text)
            keys = person.accepted
            problem = "expected a phone number such as 0612345678 or +33612345678"
            if person.kind is PhoneKind.SHORT_CODE:
                problem = "this is the number of a service, not of a person"
        if not keys:
            raise UnknownIdentifier(f"Identifier {position}: {problem}. Nothing was changed.")
        found.update(keys)
    return frozenset(found)
