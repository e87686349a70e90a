"""What may be demanded of the settings: the kinds of policies and their parameters. `policies.yaml` holds those that are shipped.

How a policy is judged is the warehouse's (`warehouse/policy_queries.py`), how it is shown is Dagster's (`defs/policies.py`).
"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from magnetis_dagster.catalog.model import Policy

_DOMAIN = re.compile(r"(\*\.)?([^\s@*.,;:/<>\"']+\.)+[^\s@*.,;:/<>\"']+")


def _domain(value: str) -> str:
    if not _DOMAIN.fullmatch(value):
        raise ValueError("expected a domain such as exemple.fr, or *.exemple.fr for all below it")
    return value.lower()


Domain = Annotated[str, AfterValidator(_domain)]


class MissedCallAlert(Policy):
    """Every account that is not deleted has an enabled alert of one of `types` in one of the collections."""

    types: tuple[Annotated[str, StringConstraints(to_lower=True, min_length=1)], ...] = Field(
        default=("lost_calls", "all_calls"), min_length=1
    )

    needs_accounts = True
    columns = (("enabled",), ("type",))
    across_collections = True


class HasRecipient(Policy):
    """No row without a recipient."""

    columns = (("recipients",),)


class AllowedDomains(Policy):
    """No e-mail address among the recipients whose domain is not one of `domains`; phone numbers are not judged."""

    domains: tuple[Domain, ...] = ()

    columns = (("recipients",),)

    @model_validator(mode="after")
    def _names_a_domain(self) -> Self:
        if self.enabled and not self.domains:
            raise ValueError(
                "this policy is enabled and allows no domain: give domains, such as [exemple.fr, '*.exemple.com']"
            )
        return self


class SaneThresholds(Policy):
    """`less_than` and `more_than` are not negative, and the first is above the second where both are there."""

    columns = (("less_than", "more_than"),)


class LiveAccount(Policy):
    """No row whose account is deleted."""

    needs_accounts = True


class HasOwner(Policy):
    """No row without an account, or with one that `accounts` does not know."""

    needs_accounts = True


KINDS: dict[str, type[Policy]] = {
    "missed_call_alert": MissedCallAlert,
    "has_recipient": HasRecipient,
    "allowed_domains": AllowedDomains,
    "sane_thresholds": SaneThresholds,
    "live_account": LiveAccount,
    "has_owner": HasOwner,
}
"""By the word that a declaration calls its kind."""
