"""One French company group: its accounts, numbers, people and settings. All of it is invented, and recognisable as such.

People, their phone numbers and addresses come from `callers.py`.
"""

import random
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
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
TERMS = ("agence immobiliere", "estimation maison", "location appartement", "syndic copropriete")
SECTORS = ("Immobilier", "Immobilier tertiaire", "Gestion locative")
Row = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where a contact comes from: one tracked number of one account."""

    account: Row
    number: Row
    recipient: Row
    channel: tuple[str, int, str | None, str | None, str | None, bool]
    weight: float
    """Share of the contacts, relative to the other origins."""
    miss: float
    """Factor on the share of calls that nobody answers: some accounts are staffed better than others."""


class Group:
    """The snapshot collections, as lists of rows, and the origins that events draw from."""

    def __init__(self, options: SandboxOptions) -> None:
        self._options = options
        self._random = random.Random(f"group:{options.seed}")  # noqa: S311 - invented data
        self._opened = datetime(2022, 3, 4, 9, 6, 9)  # noqa: DTZ001 - zone-less like the API's times

    def identifier(self, prefix: str) -> str:
        """Return an identifier like the vendor's: prefix, hyphen, UUID."""
        return f"{prefix}-{uuid.UUID(int=self._random.getrandbits(128), version=4)}"

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Rows by collection."""
        organization = self._organization()
        return {**organization, **self._settings_and_content(organization["accounts"])}

    @cached_property
    def origins(self) -> list[Origin]:
        """One per tracked number that is in use. Every fourth account has one that nobody calls any more."""
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

    def person(self) -> tuple[str, str, str]:
        """Return name, phone number and e-mail address of an invented person."""
        person = self._random.randrange(CALLERS)
        return name_of(person), number_of(person), address_of(person)

    def _created(self) -> str:
        self._opened += timedelta(hours=self._random.randrange(1, 90), seconds=self._random.randrange(3600))
        return f"{self._opened:%Y-%m-%d %H:%M:%S}"

    def _organization(self) -> dict[str, list[Row]]:
        options, pick = self._options, self._random.choice
        entity = {"id": self.identifier("ent"), "created_at": self._created(), "name": "Groupe Armor Habitat"}
        networks = [
            {"id": self.identifier("net"), "created_at": self._created(), "entity": _reference(entity), "name": name}
            for name in ("Agences en propre", "Franchises")
        ]
        rows: dict[str, list[Row]] = {"entities": [entity], "networks": networks}
        for name in ("accounts", "recipients", "numbers", "pools", "email_trackers"):
            rows[name] = []
        weights = [channel[1] for channel in CHANNELS]
        for index in range(options.accounts):
            city = CITIES[index % len(CITIES)]
            network = networks[index % 2]
            account = {
                "id": self.identifier("acc"),
                "city": city,
                "country": "FR",
                "created_at": self._created(),
                "email": self.person()[2],
                "entity": _reference(entity),
                "name": f"Armor Habitat {city}" + (f" {index // len(CITIES) + 1}" if index >= len(CITIES) else ""),
                "network": _reference(network),
                "plan": pick(("Essentiel", "Premium")),
                "sector": pick(SECTORS),
                "website": f"https://www.armor-habitat-{index + 1}.invalid",
                "zipcode": f"{44000 + index * 10}",
            }
            name, number, _ = self.person()
            recipient = {
                "id": self.identifier("rec"),
                "account": _reference(account),
                "country": "FR",
                "created_at": self._created(),
                "name": name,
                "number": number,
            }
            pool: Row = {
                "id": self.identifier("poo"),
                "account": _reference(account),
                "created_at": self._created(),
                "enabled": 1,
                "module": {"id": self.identifier("mod")},
                "name": f"Site web {city}",
                "numbers": [],
            }
            for line in range(options.numbers_per_account):
                channel = CHANNELS[line % len(CHANNELS)] if line < 2 else self._random.choices(CHANNELS, weights)[0]
                tracked = {
                    "id": self.identifier("num"),
                    "account": _reference(account),
                    "channel_name": channel[0],
                    "country": "FR",
                    "created_at": self._created(),
                    "enabled": 1,
                    "name": f"{channel[0]} - {city}",
                    "number": f"0033985{index % 1000:03d}{line % 1000:03d}",
                    "pool": _reference(pool),
                    "recipient": _reference(recipient, "number"),
                    "type": "geographic",
                }
                pool["numbers"].append(tracked["number"])
                rows["numbers"].append(tracked)
            rows["email_trackers"].append(
                {
                    "id": self.identifier("emt"),
                    "account": _reference(account),
                    "channel_name": "Portails d'annonces",
                    "created_at": self._created(),
                    "email": f"suivi-{index + 1}@tracking.invalid",
                    "enabled": 1,
                    "name": f"Portail {city}",
                    "recipients": [self.person()[2]],
                }
            )
            rows["accounts"].append(account)
            rows["recipients"].append(recipient)
            rows["pools"].append(pool)
        return rows

    def _settings_and_content(self, accounts: list[Row]) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {
            name: [] for name in ("reports", "email_alerts", "sms_alerts", "landing_pages", "sms_messages", "audio_files")
        }
        titles = {
            "custom_calls": "Alerte sur appel personnalisé",
            "lost_calls": "Alerte sur appel manqué",
            "all_calls": "Alerte sur tous les appels",
        }
        for index, account in enumerate(accounts):
            common = {"account": _reference(account)}
            _, number, address = self.person()
            kind = ("lost_calls", "custom_calls", "all_calls")[index % 3]
            for collection, prefix, told in (("email_alerts", "ale", address), ("sms_alerts", "als", number)):
                rows[collection].append(
                    {
                        "id": self.identifier(prefix),
                        **common,
                        "created_at": self._created(),
                        "enabled": 1,
                        "less_than": 23 if kind == "custom_calls" else None,
                        "more_than": 5 if kind == "custom_calls" else None,
                        "recipients": [told],
                        "title": titles[kind],
                        "type": kind,
                    }
                )
            made = {"created_at": self._created()}
            rows["reports"].append(
                {
                    "id": self.identifier("rep"),
                    **common,
                    **made,
                    "enabled": 1,
                    "frequency": "monthly",
                    "recipients": [address],
                    "title": f"Bilan {account['city']}",
                    "type": "account",
                }
            )
            page = f"{account['website']}/estimation"
            rows["landing_pages"].append(
                {"id": self.identifier("lan"), **common, **made, "name": "Estimation gratuite", "url": page}
            )
            rows["sms_messages"].append(
                {"id": self.identifier("sms"), **common, "content": "Bonjour, nous vous rappelons.", **made, "name": "Rappel"}
            )
            rows["audio_files"].append(
                {
                    "id": self.identifier("aud"),
                    **common,
                    **made,
                    "duration": 12,
                    "name": "Accueil",
                    "url": f"{account['website']}/a.mp3",
                }
            )
        return rows


def _reference(row: Row, *more: str) -> Row:
    return {name: row[name] for name in ("id", "name", *more)}
