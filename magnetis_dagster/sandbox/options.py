"""Options of a sandbox. Everything has a default, and equal options give equal data, in every process and on every day."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

SANDBOX_KEY = "sandbox-key"
"""The key of the whole organisation that the sandbox accepts by default; it opens nothing else."""
NETWORK_KEY = "sandbox-network-key"
"""The key of the first network."""
ACCOUNT_KEY = "sandbox-account-key"
"""The key of the first account."""
SANDBOX_KEYS = (SANDBOX_KEY, NETWORK_KEY, ACCOUNT_KEY)
"""All keys that the sandbox accepts by default."""
SCOPES = ("organisation", "network", "account")

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
"""Kinds of fault that can be asked for by probability; `app.py` says what each does."""


def utc_now() -> datetime:
    """Return the present moment, UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class SandboxOptions:
    """Shape of the company group, size of its days, and how the server behaves."""

    seed: int = 1
    keys: tuple[str, ...] = SANDBOX_KEYS
    scopes: Mapping[str, str] = field(
        default_factory=lambda: {NETWORK_KEY: "network:1", ACCOUNT_KEY: "account:1"}
    )
    """Key to what it may read: `network:2` is the second network, `account:3` the third account. Other keys read everything."""
    daily_quota: int | None = 5000
    """Calls a day for each key by the local calendar day; None: no limit."""
    accounts: int = 12
    numbers_per_account: int = 4
    calls_per_day: int = 120
    """Mean over a week, for the whole group."""
    visits_per_call: int = 3
    first_day: date = date(2023, 1, 1)
    """No event happened before."""
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("Europe/Paris"))
    """Zone of the zone-less times in rows, of opening hours, and of the quota day."""
    query_zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    """Zone in which `from` and `to` are read."""
    latency: float = 0.0
    """Seconds that every answer waits."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Kind of fault to its probability for each call."""
    fault_seed: int = 0
    lies: Mapping[str, int | None] = field(default_factory=dict)
    """Name of a lie (`lies.py`) to its number, None for the usual one; they are applied in this order."""
    activity: bool = False
    """Whether rows change by themselves as time passes: late changes of calls and leads, edited settings, new numbers."""
    clock: Callable[[], datetime] = utc_now
    """No event that began after it is returned. What did begin is already linked to what follows from it, and has its end."""
    cache_bytes: int = 256 * 2**20
    """Encoded days kept in memory, for each process."""

    def __post_init__(self) -> None:
        """Refuse what cannot be played."""
        unknown = set(self.faults) - set(FAULTS)
        if unknown or any(not 0 <= probability <= 1 for probability in self.faults.values()):
            raise ValueError(
                f"faults: expected probabilities between 0 and 1 for {', '.join(FAULTS)}; got {dict(self.faults)}"
            )
        for key, scope in self.scopes.items():
            kind, _, number = scope.partition(":")
            if kind not in SCOPES[1:] or not number.isdecimal() or int(number) < 1:
                raise ValueError(
                    f"scopes: expected network:NUMBER or account:NUMBER for each key; got {scope!r}"
                )
            if key not in self.keys and key not in SANDBOX_KEYS:
                raise ValueError("scopes: a key has a scope and is not among the keys")
