"""Generate an invented French company group.

`callers.py` generates people, their phone numbers and addresses.
"""

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

from magnetis_dagster.sandbox.callers import CALLERS, address_of, name_of, number_of
from magnetis_dagster.sandbox.options import SandboxOptions

CITIES = (
    "Nantes",
    "Rennes",
    "Angers",
    "Brest",
    "Quimper",
    "Vannes",
    "Laval",
    "Le Mans",
    "Cholet",
    "Lorient",
    "Saint-Nazaire",
    "Dinan",
)
CHANNELS = (
    # label, weight, utm_source, utm_medium, utm_campaign, has a click id
    ("Tout le SEO", 34, None, None, None, False),
    ("Google Ads", 26, "google", "cpc", "marque-ouest", True),
    ("Fiche Google", 18, "google", "organic", "fiche-etablissement", False),
    ("Facebook", 8, "facebook", "paid_social", "portes-ouvertes", False),
    ("Pages Jaunes", 6, "pagesjaunes", "referral", None, False),
    ("Affichage", 5, None, None, None, False),
    ("Courrier", 3, None, None, None, False),
)
EMAIL_CHANNEL = "Portails d'annonces"
TERMS = ("agence immobiliere", "estimation maison", "location appartement", "syndic copropriete")
SECTORS = ("Immobilier", "Immobilier tertiaire", "Gestion locative")
ALERT_TITLES = {
    "custom_calls": "Alerte sur appel personnalisé",
    "lost_calls": "Alerte sur appel manqué",
    "all_calls": "Alerte sur tous les appels",
}
COLLECTIONS = (
    *("entities", "networks", "accounts", "recipients", "numbers", "pools", "email_trackers"),
    *("reports", "email_alerts", "sms_alerts", "landing_pages", "sms_messages", "audio_files"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Source of a contact: one tracked number of one account."""

    account: Row
    number: Row
    recipient: Row
    channel: tuple[str, int, str | None, str | None, str | None, bool]
    weight: float
    """Share of contacts, relative to other origins."""
    miss: float
    """Factor for the share of missed calls: accounts differ in staff."""


class Group:
    """The rows of the snapshot collections, and the origins of events."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._random = random.Random(f"group:{options.seed}")  # noqa: S311 - invented data
        self._opened = datetime(2022, 3, 4, 9, 6, 9)  # noqa: DTZ001 - without a zone, like the API's times
        self._pace = 3600, 90 * 3600

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Rows by collection."""
        entity = self._row("ent", name="Groupe Armor Habitat")
        networks = [
            self._row("net", entity=reference(entity), name=name)
            for name in ("Agences en propre", "Franchises")
        ]
        rows: dict[str, list[Row]] = {"entities": [entity], "networks": networks}
        lines = self._options.numbers_per_account
        for index in range(self._options.accounts):
            _extend(rows, self.account(index, networks[index % 2], lines))
        for index, account in enumerate(rows.get("accounts", [])):
            _extend(rows, self._settings_and_content(index, account))
        return {name: rows.get(name, []) for name in COLLECTIONS}

    @cached_property
    def origins(self) -> list[Origin]:
        """One per tracked number with calls.

        Every fourth account has one number without calls.
        """
        accounts = {row["id"]: (index, row) for index, row in enumerate(self.rows["accounts"])}
        recipients = {row["id"]: row for row in self.rows["recipients"]}
        channels = {channel[0]: channel for channel in CHANNELS}
        lines = self._options.numbers_per_account
        origins = []
        for place, row in enumerate(self.rows["numbers"]):
            index, account = accounts[row["account"]["id"]]
            if index % 4 == 3 and lines > 1 and place % lines == lines - 1:
                continue
            channel, recipient = channels[row["channel_name"]], recipients[row["recipient"]["id"]]
            size, miss = 0.6 + index * 7 % 5 / 4, 0.7 + index * 3 % 5 / 4
            origins.append(Origin(account, row, recipient, channel, channel[1] * size, miss))
        return origins

    def at(self, moment: datetime, pick: random.Random) -> "Group":
        """Return a group that generates rows created shortly before `moment`."""
        other = Group(self._options)
        other._opened = moment.replace(tzinfo=None) - timedelta(minutes=10)
        other._pace, other._random = (10, 60), pick
        return other

    def person(self) -> tuple[str, str, str]:
        """Return name, phone number and e-mail address of an invented person."""
        person = self._random.randrange(CALLERS)
        return name_of(person), number_of(person), address_of(person)

    def account(self, index: int, network: Row, lines: int) -> dict[str, list[Row]]:
        """Return an account with its recipient, pool, tracked numbers and tracked address."""
        account = self._account_row(index, network)
        city = account["city"]
        name, number, _ = self.person()
        recipient = self._row("rec", account, country="FR", name=name, number=number)
        pool = self._row("poo", account, enabled=1, name=f"Site web {city}")
        pool["module"] = {"id": self._identifier("mod")}
        numbers = [self.number(account, recipient, pool, index, line) for line in range(lines)]
        pool["numbers"] = [each["number"] for each in numbers]
        tracker = self._row(
            "emt",
            account,
            channel_name=EMAIL_CHANNEL,
            email=f"suivi-{index + 1}@tracking.invalid",
            enabled=1,
            name=f"Portail {city}",
        )
        tracker["recipients"] = [self.person()[2]]
        return {
            "accounts": [account],
            "recipients": [recipient],
            "pools": [pool],
            "numbers": numbers,
            "email_trackers": [tracker],
        }

    def number(self, account: Row, recipient: Row, pool: Row, index: int, line: int) -> Row:
        """Return a tracked number of an account; the first two are on the website."""
        label = CHANNELS[line % len(CHANNELS)][0]
        if line >= 2:
            weights = [channel[1] for channel in CHANNELS]
            label = self._random.choices(CHANNELS, weights)[0][0]
        return self._row(
            "num",
            account,
            channel_name=label,
            country="FR",
            enabled=1,
            name=f"{label} - {account['city']}",
            number=f"0033985{index % 1000:03d}{line % 1000:03d}",
            pool=reference(pool),
            recipient=reference(recipient, "number"),
            type="geographic",
        )

    def alert(self, prefix: str, account: Row, kind: str, recipient: str) -> Row:
        """Return an alert by e-mail (`ale`) or SMS (`als`)."""
        return self._row(
            prefix,
            account,
            enabled=1,
            less_than=23 if kind == "custom_calls" else None,
            more_than=5 if kind == "custom_calls" else None,
            recipients=[recipient],
            title=ALERT_TITLES[kind],
            type=kind,
        )

    def _identifier(self, prefix: str) -> str:
        """Return an id in the vendor's format: prefix, hyphen, UUID."""
        return f"{prefix}-{uuid.UUID(int=self._random.getrandbits(128), version=4)}"

    def _next_creation_time(self) -> str:
        self._opened += timedelta(seconds=self._random.randrange(*self._pace))
        return f"{self._opened:%Y-%m-%d %H:%M:%S}"

    def _row(
        self,
        prefix: str,
        account: Row | None = None,
        *,
        created_at: str | None = None,
        **members: Any,
    ) -> Row:
        """Return a row with its id, its account and, by default, the next time of creation."""
        row: Row = {"id": self._identifier(prefix)}
        if account:
            row["account"] = reference(account)
        return row | {"created_at": created_at or self._next_creation_time()} | members

    def _account_row(self, index: int, network: Row) -> Row:
        city = CITIES[index % len(CITIES)]
        suffix = f" {index // len(CITIES) + 1}" if index >= len(CITIES) else ""
        return self._row("acc") | {
            "city": city,
            "country": "FR",
            "email": self.person()[2],
            "entity": network["entity"],
            "name": f"Armor Habitat {city}{suffix}",
            "network": reference(network),
            "plan": self._random.choice(("Essentiel", "Premium")),
            "sector": self._random.choice(SECTORS),
            "website": f"https://www.armor-habitat-{index + 1}.invalid",
            "zipcode": f"{44000 + index * 10}",
        }

    def _settings_and_content(self, index: int, account: Row) -> dict[str, list[Row]]:
        _, number, address = self.person()
        # each account has an alert on missed calls, by e-mail or SMS, as the policies require
        kinds = ("lost_calls", "custom_calls", "all_calls")
        email_alert = self.alert("ale", account, kinds[index % 3], address)
        sms_alert = self.alert("als", account, kinds[(index + 1) % 3], number)
        create = partial(self._row, account=account, created_at=self._next_creation_time())
        website = account["website"]
        report = create(
            "rep",
            enabled=1,
            frequency="monthly",
            recipients=[address],
            title=f"Bilan {account['city']}",
            type="account",
        )
        return {
            "reports": [report],
            "email_alerts": [email_alert],
            "sms_alerts": [sms_alert],
            "landing_pages": [
                create("lan", name="Estimation gratuite", url=f"{website}/estimation")
            ],
            "sms_messages": [create("sms", content="Bonjour, nous vous rappelons.", name="Rappel")],
            "audio_files": [create("aud", duration=12, name="Accueil", url=f"{website}/a.mp3")],
        }


def reference(row: Row, *more: str) -> Row:
    """Return the id, the name and these members of a row, for a row that refers to it."""
    return {name: row[name] for name in ("id", "name", *more)}


def _extend(rows: dict[str, list[Row]], added: dict[str, list[Row]]) -> None:
    for name, more in added.items():
        rows.setdefault(name, []).extend(more)
