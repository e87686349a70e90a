"""Was every floor kept? Today's grants, played again by the policy from the rows of `magnetis_ops.api_calls`.

The ledger decides under a lock; this looks at what came of it. It claims a broken floor only where the rows prove one: calls used
elsewhere are left out, since nothing tells when each was made, and grants before `since` are counted but not judged, since the
settings of then are not known.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text

from magnetis_dagster.api_calls import LONGEST_CALL
from magnetis_dagster.database import guarded
from magnetis_dagster.quota.report import PREPARED
from magnetis_dagster.quota.rules import BACKFILL, DAY, QuotaPolicy, QuotaWindow, Usage, allowance

_CALLS = text("""
    SELECT lane, charged_at, least(coalesce(settled_at, charged_at + :longest), charged_at + :longest) AS until
    FROM magnetis_ops.api_calls
    WHERE key_fingerprint = :key AND charged_at >= :begun - :longest
      AND coalesce(settled_at, charged_at + :longest) >= :begun
    ORDER BY id
""")


@dataclass(frozen=True, slots=True)
class Grant:
    """One charged call."""

    lane: str
    charged_at: datetime
    until: datetime
    """The latest moment at which the API may have received it."""


@dataclass(frozen=True, slots=True)
class FloorsKept:
    """What the replay found."""

    judged: int
    """Calls of backfill that were judged."""
    broken: int
    """Those that were granted although only the others' floors were left."""
    first_broken: datetime | None = None


def replay(policy: QuotaPolicy, grants: Iterable[Grant], since: datetime) -> FloorsKept:
    """Judge the grants from `since` on. They come in the order in which they were given, earlier ones that count included."""
    counted: Counter[str] = Counter()
    ageing: list[tuple[datetime, str]] = []
    judged = broken = 0
    first_broken = None
    for grant in grants:
        while ageing and ageing[0][0] <= grant.charged_at:
            counted[heapq.heappop(ageing)[1]] -= 1
        if grant.lane == BACKFILL and grant.charged_at >= since:
            judged += 1
            if allowance(policy, Usage(at=grant.charged_at, by_lane=counted), BACKFILL) < 1:
                broken += 1
                first_broken = first_broken or grant.charged_at
        counted[grant.lane] += 1
        if policy.window is QuotaWindow.ROLLING:
            heapq.heappush(ageing, (grant.until + DAY, grant.lane))
    return FloorsKept(judged, broken, first_broken)


def floors_kept(
    engine: Engine, *, key_fingerprint: str, policy: QuotaPolicy, since: datetime, now: datetime
) -> FloorsKept:
    """Judge backfill's calls of the quota day of `now` (rolling: of the last 24 hours), from `since` on.

    Raises DatabaseUnavailable, DatabaseRefused.
    """
    judged_from = (
        now - DAY if policy.window is QuotaWindow.ROLLING else policy.day_start(policy.day_of(now))
    )
    counted_from = judged_from - DAY if policy.window is QuotaWindow.ROLLING else judged_from
    parameters = {"key": key_fingerprint, "begun": counted_from, "longest": LONGEST_CALL}
    with guarded(engine, "read today's calls"), engine.connect() as connection:
        if not connection.execute(PREPARED).one().prepared:
            return FloorsKept(0, 0)
        grants = [Grant(*row) for row in connection.execute(_CALLS, parameters)]
    return replay(policy, grants, max(since, judged_from))
