"""Propose classes of personal data for received members that no declaration classifies.

Pure. A wrong `none` exposes personal data, so `none` requires many rows and values of a form that
cannot contain a phone number, an address or a name. A member without a proposal counts as personal.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from magnetis_dagster.catalog import Collection, PersonalData
from magnetis_dagster.catalog.conversions import as_text, is_blank, is_no_time
from magnetis_dagster.catalog.names import fold, split
from magnetis_dagster.privacy.classification import Member, classify
from magnetis_dagster.privacy.plan import CollectionPlan
from magnetis_dagster.probe.name_words import (
    BIRTH,
    CALLER,
    CATEGORY,
    CONTACT_ALONE,
    CONTACT_OF_PERSON,
    FREE_TEXT,
    NOT_THE_CONTACT,
    PERSON,
    PERSON_NAMES,
    RECORDING,
    SENSITIVE_STEMS,
    SENSITIVE_WORDS,
    VISITOR_IDS,
    VISITORS,
)
from magnetis_dagster.probe.rows import Name, Sample, is_phone

FEWEST_VALUES = 10
"""Present values from which on `none` may be proposed."""
FEWEST_CATEGORIES = 20
"""The same for texts of an enumeration."""
MOST_CATEGORIES = 6
"""Different texts of an enumeration."""
_CATEGORY = re.compile(r"[a-z]+(?:[_-][a-z0-9]+)*|[A-Z]+(?:[_-][A-Z0-9]+)*", re.ASCII)
_LONGEST_CATEGORY = 24
_MOST_CATEGORY_DIGITS = 3
_NUMBER_TYPES = (int, float, Decimal)
_MOST_DIGITS = 5
_SHORT_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,3})", re.ASCII)
"""A number as text. Five digits may be a postal code."""
_TIME = re.compile(
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]|[0-9]{2}/[0-9]{2}/[0-9]{4} )"
    r"(?P<clock>[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)(?:Z|[+-][0-9]{2}:?[0-9]{2})?",
    re.ASCII,
)
"""A time as text. A number may be Unix time or a phone number."""
_FEWEST_DIFFERENT = 2
"""Different numbers or codes. A member that is equal in all rows may be unused today."""
_FEWEST_CLOCKS = 3
"""Different times of day. Dates, perhaps of birth, have one or two: midnight, in UTC or not."""
_BOOLEANS = frozenset({"true", "false", "yes", "no", "oui", "non"})
_EMAIL = re.compile(r"[^\s@＠:/]+[@＠][^\s@＠/]+\.[^\s@＠/]+")
_LINK = re.compile(r"https?://\S+", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_DEEPEST = 5
_MOST_TEXTS = 100
"""Levels and scalars of a list or object that are examined."""

Proposal = tuple[PersonalData, str]
"""A class, and its reason in counts."""


@dataclass(slots=True)
class ClassProposals:
    """Proposed classes of the members of one collection."""

    members: dict[str, PersonalData] = field(default_factory=dict)
    """Class by dotted path."""
    reasons: list[str] = field(default_factory=list)
    unclassified: list[str] = field(default_factory=list)
    """Members without a class and without a proposal, safe to show."""


def propose_classes(
    sample: Sample,
    collection: Collection,
    plan: CollectionPlan,
    *,
    columns: Iterable[str] = (),
    undecided: Iterable[str] = (),
) -> ClassProposals:
    """Return a class for each undeclared member of a sample that one can be proposed for.

    `collection`: the declaration once the other proposals are accepted; its ids and times cannot be
    classified. `columns`: members that are proposed for columns. `undecided`: members with phone
    numbers that may belong to a column, whose class they then have. A member that `plan` or a
    column classifies is left out.
    """
    found, undecided = ClassProposals(), frozenset(undecided)
    decisions = _Decisions(collection, plan)
    proposed = {fold(path) for path in columns}
    objects = {fold(".".join(name[:size])) for name in sample.members for size in range(len(name))}
    for spellings in _by_folded_name(sample).values():
        name = next((each for each in spellings if each in sample.nameable), spellings[0])
        path, proposal = ".".join(name), None
        if fold(path) in proposed or any(map(sample.is_declared, spellings)):
            continue
        if any(map(decisions.include, spellings)):
            continue
        is_object = fold(path) in objects or decisions.are_below(name)
        values = [value for each in spellings for value in sample.members[each]]
        if name in sample.nameable and not is_object:
            evidence = _Evidence(name, values, sample, collection)
            proposal = evidence.propose(may_have_column=path in undecided)
        if proposal:
            found.members[path] = proposal[0]
            found.reasons.append(f"class of {path}: {proposal[0]} ({proposal[1]})")
        elif not is_object or any(value not in (None, {}) for value in values):
            found.unclassified.append(sample.shown(name))
    found.unclassified = sorted(set(found.unclassified))
    return found


def without_refused(
    members: Mapping[str, PersonalData], collection: Collection | None, plan: CollectionPlan
) -> dict[str, PersonalData]:
    """Return the members that a plan for `collection` accepts and does not classify yet.

    `collection`: None if a catalogue does not have it; its plan accepts no member then.
    """
    if collection is None:
        return {}
    decisions = _Decisions(collection, plan)
    return {
        path: data_class
        for path, data_class in members.items()
        if not decisions.include(split(path)) and not decisions.are_below(split(path))
    }


def _by_folded_name(sample: Sample) -> dict[str, list[Name]]:
    """Return the spellings of each member: the plan does not distinguish them."""
    names: defaultdict[str, list[Name]] = defaultdict(list)
    for name in sample.members:
        names[fold(".".join(name))].append(name)
    return names


class _Decisions:
    """The members of which a class is declared, or that cannot have one."""

    def __init__(self, collection: Collection, plan: CollectionPlan) -> None:
        self._root = classify(collection, plan)
        self._kept = {fold(path) for path in (*collection.key_paths, *collection.time_fields)}
        # a proposal in another spelling would replace the class in the plan
        self._planned = {fold(path) for path in plan.members}
        self._above = {each for path in plan.members for each in _prefixes(split(path))}

    def include(self, name: Name) -> bool:
        """Return whether the member is an id, an account or a time, or has a class.

        A class of an object is the class of its members.
        """
        if fold(".".join(name)) in self._kept or not self._planned.isdisjoint(
            (*_prefixes(name), fold(".".join(name)))
        ):
            return True
        node: Member | None = self._root
        for number, part in enumerate(name, start=1):
            node = node.child(part) if node else None
            if node is None or node.data_class is None:
                continue
            # an object where a scalar is declared none may contain anything
            if number == len(name) or node.is_json or node.data_class is not PersonalData.NONE:
                return True
        return False

    def are_below(self, name: Name) -> bool:
        """Return whether members below this one are declared."""
        node: Member | None = self._root
        for part in name:
            node = node.child(part) if node else None
        return (node is not None and bool(node.below)) or fold(".".join(name)) in self._above


def _prefixes(name: Name) -> Iterator[str]:
    """Yield the folded names of the objects that contain a member."""
    return (fold(".".join(name[:size])) for size in range(1, len(name)))


class _Evidence:
    """What the name and the values of one member show."""

    def __init__(
        self, name: Name, values: Sequence[Any], sample: Sample, collection: Collection
    ) -> None:
        self._sample = sample
        self._collection = collection
        self._present = [value for value in values if not is_blank(value)]
        self._texts = [list(_texts(value)) for value in self._present]
        self._last = _words(name[-1])
        self._above = [word for part in name[:-1] for word in _words(part)]
        self._words = {*self._above, *self._last}
        self._folded = "".join(self._last)
        self._whole = "".join([*self._above, *self._last])
        self._is_readable = all(map(_is_latin, name))

    def propose(self, *, may_have_column: bool) -> Proposal | None:
        """Return the class and its reason, or None.

        `may_have_column`: whether a column for phone numbers may be declared for the member.
        """
        if not self._present:
            return None
        if all(isinstance(value, bool) for value in self._present):
            return self._none("booleans")
        return (
            self._recording()
            or self._visitor()
            or self._free_text()
            or self._contact(may_have_column)
            or self._harmless()
        )

    def _recording(self) -> Proposal | None:
        links = [
            text for texts in self._texts for text in texts[:1] if _LINK.fullmatch(text.strip())
        ]
        if not self._is_most(len(links)):
            return None
        named = not RECORDING.isdisjoint(self._words) or _mentions(self._whole, RECORDING)
        by_path = [link for link in links if _mentions(_path_of(link), RECORDING)]
        if named or self._is_most(len(by_path)):
            return PersonalData.RECORDING_LINK, self._count("links", len(links))
        return None

    def _visitor(self) -> Proposal | None:
        count = self._number_of(_is_device)
        if self._is_most(count):
            return PersonalData.VISITOR, self._count("IP addresses or user agents", count)
        if self._folded in VISITOR_IDS or self._whole in VISITOR_IDS:
            return PersonalData.VISITOR, self._named()
        is_id = self._last[-1:] in (["id"], ["key"], ["token"], ["hash"], ["uuid"])
        if not VISITORS.isdisjoint(self._last) and (is_id or len(self._last) == 1):
            return PersonalData.VISITOR, self._named()
        if is_id and len(self._last) == 1 and not VISITORS.isdisjoint(self._above):
            return PersonalData.VISITOR, self._named()
        return None

    def _free_text(self) -> Proposal | None:
        last = self._last[-1] if self._last else ""
        if last in FREE_TEXT and (last != "description" or self._collection.is_events):
            count = self._number_of(lambda text: any(map(str.isalpha, text)))
            if self._is_most(count):
                return PersonalData.FREE_TEXT, self._count("text", count) + " and the name"
        return None

    def _contact(self, may_have_column: bool) -> Proposal | None:
        """Propose caller_number or contact, unless the person may be a recipient or an agent."""
        if not _has_contacts(self._collection) or _is_another_person(self._words, self._whole):
            return None
        persons = self._words & PERSON
        phones = self._number_of(is_phone)
        if self._is_most(phones):
            if may_have_column and not persons:
                return None
            kind = PersonalData.CALLER_NUMBER if self._is_caller() else PersonalData.CONTACT
            return kind, self._count("phone numbers", phones)
        addresses = self._number_of(_is_email)
        if self._is_most(addresses):
            return PersonalData.CONTACT, self._count("e-mail addresses", addresses)
        if (
            self._folded in PERSON_NAMES
            or (self._folded in CONTACT_ALONE and (not self._above or persons))
            or (persons and not CONTACT_OF_PERSON.isdisjoint(self._last))
        ):
            return PersonalData.CONTACT, self._named()
        return None

    def _is_caller(self) -> bool:
        """Return whether the name says caller and the number varies by row."""
        columns = self._collection.columns.values()
        different = len(set(map(tuple, self._texts)))
        return (
            any(each.personal_data is PersonalData.CALLER_NUMBER for each in columns)
            and len(self._present) > 1
            and different * 2 > len(self._present)
            and not CALLER.isdisjoint(self._words)
        )

    def _harmless(self) -> Proposal | None:
        """Propose none if every value has one form that contains no personal data."""
        texts = [value for value in self._present if isinstance(value, str)]
        are_texts = len(texts) == len(self._present)
        if are_texts and all(text.strip().lower() in _BOOLEANS for text in texts):
            return self._none("booleans")
        if are_texts and self._are_times(texts) and not _mentions(self._whole, BIRTH):
            return self._none("times") if self._is_readable else None
        different = len(set(map(as_text, self._present)))
        is_sensitive = _is_sensitive(self._words, self._whole) or not self._is_readable
        if is_sensitive or different < _FEWEST_DIFFERENT:
            return None
        if all(map(_is_short_number, self._present)):
            return self._none("numbers below six digits")
        if are_texts and self._are_categories(texts):
            return self._none(f"{different} different codes")
        return None

    def _are_times(self, texts: Sequence[str]) -> bool:
        given = [text for text in texts if not is_no_time(text)]
        clocks = {match["clock"] for text in given if (match := _TIME.fullmatch(text.strip()))}
        matches = all(_TIME.fullmatch(text.strip()) for text in given)
        return matches and len(clocks) >= _FEWEST_CLOCKS and None not in self._sample.moments(given)

    def _are_categories(self, texts: Sequence[str]) -> bool:
        counts = Counter(texts)
        return (
            len(texts) >= FEWEST_CATEGORIES
            and len(counts) <= MOST_CATEGORIES
            and min(counts.values()) > 1
            and all(map(_is_category, counts))
            and not CATEGORY.isdisjoint(self._last[-1:])
        )

    def _none(self, kind: str) -> Proposal | None:
        if len(self._present) < FEWEST_VALUES:
            return None
        return PersonalData.NONE, self._count(kind, len(self._present))

    def _is_most(self, count: int) -> bool:
        return count * 2 > len(self._present)

    def _number_of(self, test: Callable[[str], bool]) -> int:
        return sum(any(map(test, texts)) for texts in self._texts)

    def _count(self, kind: str, count: int) -> str:
        return f"{kind} in {count} of {len(self._sample)} rows"

    def _named(self) -> str:
        return f"by its name; in {len(self._present)} of {len(self._sample)} rows"


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield the scalars in a value, as text; a list or object has at most _MOST_TEXTS."""
    if isinstance(value, bool):
        return
    if isinstance(value, dict | list):
        if depth < _DEEPEST:
            below = value.values() if isinstance(value, dict) else value
            for each in [*below][:_MOST_TEXTS]:
                yield from _texts(each, depth + 1)
    elif (text := as_text(value)) is not None:
        yield text


def _words(name: str) -> list[str]:
    """Return the words of a member's name, in lower case without accents."""
    return [word.lower() for word in _WORD.findall(_without_accents(name))]


def _is_latin(name: str) -> bool:
    """Return whether the words of a name can be read."""
    plain = _without_accents(name)
    return plain.isascii() and any(map(str.isalpha, plain))


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(each for each in decomposed if not unicodedata.combining(each))


def _mentions(text: str, stems: Iterable[str]) -> bool:
    return any(stem in text for stem in stems)


def _is_sensitive(words: set[str], whole: str) -> bool:
    """Return whether a name says that even short values may identify a person."""
    return (
        not SENSITIVE_WORDS.isdisjoint(words)
        or _mentions(whole, SENSITIVE_STEMS)
        or whole.endswith(("id", "ids"))
    )


def _is_another_person(words: set[str], whole: str) -> bool:
    return not NOT_THE_CONTACT.isdisjoint(words) or _mentions(
        whole, (word for word in NOT_THE_CONTACT if len(word) > 4)
    )


def _has_contacts(collection: Collection) -> bool:
    """Return whether rows are about callers or contacts, and not only about recipients."""
    classes = {column.personal_data for column in collection.columns.values()}
    return collection.is_events or not classes.isdisjoint(
        {PersonalData.CALLER_NUMBER, PersonalData.CONTACT}
    )


def _path_of(link: str) -> str:
    try:
        return urlsplit(link.strip()).path.lower()
    except ValueError:
        return ""


def _is_email(text: str) -> bool:
    return len(text) <= 1_000 and _EMAIL.search(text) is not None


def _is_device(text: str) -> bool:
    """Return whether a text is an IP address or a user agent."""
    if text.startswith(("Mozilla/", "Opera/")):
        return True
    if "." not in text and ":" not in text:
        return False
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_short_number(value: Any) -> bool:
    """Return whether a value is a number of at most five digits, decimals included."""
    if isinstance(value, str):
        return _SHORT_NUMBER.fullmatch(value.strip()) is not None
    if isinstance(value, bool) or not isinstance(value, _NUMBER_TYPES):
        return False
    text = as_text(value) or ""
    return re.fullmatch(r"-?[0-9.]+", text) is not None and sum(map(str.isdigit, text)) <= (
        _MOST_DIGITS
    )


def _is_category(text: str) -> bool:
    return (
        len(text) <= _LONGEST_CATEGORY
        and _CATEGORY.fullmatch(text) is not None
        and sum(map(str.isdigit, text)) <= _MOST_CATEGORY_DIGITS
    )
