"""Options of a sandbox, all with defaults.

Equal options give equal data in every process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

SANDBOX_KEY = "sandbox-key"
"""The key of the whole organisation that the sandbox accepts by default. No real API accepts it."""
NETWORK_KEY = "sandbox-network-key"
"""The key of the first network."""
ACCOUNT_KEY = "sandbox-account-key"
"""The key of the first account."""
SANDBOX_KEYS = (SANDBOX_KEY, NETWORK_KEY, ACCOUNT_KEY)
"""All keys that the sandbox accepts by default."""

FAULTS = (
    "too_many",
    "error_500",
    "bad_gateway",
    "hang",
    "truncated",
    "empty",
    "dropped",
    "duplicated",
    "total_moved",
)
"""Faults that options enable with a probability; `app.py` implements them."""


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class SandboxOptions:
    """Size of the company group and its days, and behaviour of the server."""

    seed: int = 1
    keys: tuple[str, ...] = SANDBOX_KEYS
    scopes: Mapping[str, str] = field(
        default_factory=lambda: {NETWORK_KEY: "network:1", ACCOUNT_KEY: "account:1"}
    )
    """Scope by key: `network:2` is the second network, `account:3` the third account.

    Other keys read all rows.
    """
    daily_quota: int | None = 5000
    """API calls per key and local calendar day; None disables the limit."""
    accounts: int = 12
    numbers_per_account: int = 4
    calls_per_day: int = 120
    """Weekly mean for the whole group."""
    visits_per_call: int = 3
    first_day: date = date(2023, 1, 1)
    """No event is earlier."""
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Paris"))
    """Time zone of times in rows, of opening hours, and of the quota day."""
    query_zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    """Time zone of `from` and `to`."""
    latency: float = 0.0
    """Delay of every response in seconds."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Probability per request by fault."""
    fault_seed: int = 0
    lies: Mapping[str, int | None] = field(default_factory=dict)
    """Number by lie (`lies.py`), None for its default; applied in this order."""
    activity: bool = False
    """Whether rows change over time: calls and leads late, settings edited, numbers added."""
    clock: Callable[[], datetime] = utc_now
    """Events after this time are not returned. Events before it are complete, with their links."""
    cache_bytes: int = 256 * 2**20
    """Maximum size of cached days per process."""

    def __post_init__(self) -> None:
        """Validate faults and scopes."""
        unknown = set(self.faults) - set(FAULTS)
        if unknown or any(not 0 <= probability <= 1 for probability in self.faults.values()):
            raise ValueError(
                f"faults: expected probabilities between 0 and 1 for {', '.join(FAULTS)}; got "
                f"{dict(self.faults)}"
            )
        for key, scope in self.scopes.items():
            kind, _, number = scope.partition(":")
            if kind not in {"network", "account"} or not number.isdecimal() or int(number) < 1:
                raise ValueError(
                    f"scopes: expected network:NUMBER or account:NUMBER for each key; got {scope!r}"
                )
            if key not in self.keys and key not in SANDBOX_KEYS:
                raise ValueError("scopes: a key has a scope but is not among the keys")
