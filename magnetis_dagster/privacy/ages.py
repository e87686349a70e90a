"""Ages of rows in calendar days, months or years, as written in the plan."""

import calendar
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

_AGE = re.compile(
    r"(?P<amount>[0-9]{1,4}) (?P<unit>day|month|year)s?(?P<since> since (?:last contact|the row))?"
)
_LONGEST_YEARS = 100


@dataclass(frozen=True, slots=True)
class Age:
    """An age in calendar days, months or years."""

    days: int = 0
    months: int = 0
    since_last_contact: bool = False
    """Whether the age counts from the last contact of the same person, not from the row."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the age in a text such as `3 years since last contact`.

        Raises: ValueError, which names the expected form.
        """
        match = _AGE.fullmatch(" ".join(text.lower().replace("_", " ").split()))
        amount = int(match["amount"]) if match else 0
        years = amount / {"day": 365, "month": 12, "year": 1}[match["unit"]] if match else 0
        if not match or not 0 < years <= _LONGEST_YEARS:
            raise ValueError(
                "expected an age such as 13 months, 180 days or 3 years since last contact, at "
                f"most {_LONGEST_YEARS} years; or never"
            )
        since = "contact" in (match["since"] or "")
        if match["unit"] == "day":
            return cls(days=amount, since_last_contact=since)
        return cls(months=amount * (12 if match["unit"] == "year" else 1), since_last_contact=since)

    def cutoff(self, today: date) -> date:
        """Return the last day that is old enough on `today`; never later for an earlier `today`.

        13 months before the 31st of March are the 28th or 29th of February.
        """
        if self.days:
            return max(today, date.min + timedelta(self.days)) - timedelta(self.days)
        year, month = divmod(today.year * 12 + today.month - 1 - self.months, 12)
        if year < 1:
            return date.min
        last = calendar.monthrange(year, month + 1)[1]
        return date(year, month + 1, min(today.day, last))
