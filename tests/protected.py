"""Plans and secrets for personal data in tests."""

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.privacy.caller_key import PrivacyKeys
from magnetis_dagster.privacy.plan import CLASSES, build_plan
from magnetis_dagster.privacy.protection import Protection

PRIVACY_KEY = "t:0123456789abcdefghijklmnopqrstuvwxyzABCD"
KEEP_ALL = {
    "payload": {"mask_after": "never"},
    "classes": {str(name): {"mask_after": "never"} for name in CLASSES},
}
"""A section `privacy` without ages: tests load days of any year."""


def protection(
    plan: object = KEEP_ALL, key: str = PRIVACY_KEY, catalogue: Catalogue | None = None
) -> Protection:
    """Return the protection with a section `privacy`; None is the default plan."""
    return Protection(
        build_plan(plan, "tests: privacy", catalogue or load_catalogue()), PrivacyKeys.parse(key)
    )


PROTECTION = protection()
