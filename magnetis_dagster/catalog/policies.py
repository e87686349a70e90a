"""The kinds of policies on notification settings, and their parameters."""

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
    """Each account that is not deleted has an enabled alert of one of `types`."""

    types: tuple[Annotated[str, StringConstraints(to_lower=True, min_length=1)], ...] = Field(
        default=("lost_calls", "all_calls"), min_length=1
    )

    needs_accounts = True
    columns = (("enabled",), ("type",))
    across_collections = True


class HasRecipient(Policy):
    """Each row has a recipient."""

    columns = (("recipients",),)


class AllowedDomains(Policy):
    """Each recipient's e-mail address is in one of `domains`; phone numbers are not checked."""

    domains: tuple[Domain, ...] = ()

    columns = (("recipients",),)

    @model_validator(mode="after")
    def _require_a_domain(self) -> Self:
        if self.enabled and not self.domains:
            raise ValueError(
                "this policy is enabled but has no domains: set domains, such as "
                "[exemple.fr, '*.exemple.com']"
            )
        return self


class SaneThresholds(Policy):
    """Bounds are not negative, and `less_than` exceeds `more_than`."""

    columns = (("less_than", "more_than"),)


class LiveAccount(Policy):
    """No row's account is deleted."""

    needs_accounts = True


class HasOwner(Policy):
    """Each row has an account that is in `accounts`."""

    needs_accounts = True


KINDS: dict[str, type[Policy]] = {
    "missed_call_alert": MissedCallAlert,
    "has_recipient": HasRecipient,
    "allowed_domains": AllowedDomains,
    "sane_thresholds": SaneThresholds,
    "live_account": LiveAccount,
    "has_owner": HasOwner,
}
