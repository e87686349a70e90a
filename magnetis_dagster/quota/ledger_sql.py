"""Define the ledger's SQL statements.

Times come from `magnetis_ops.now()`, the database's clock, which all processes share.
"""

from magnetis_dagster.api_calls import LONGEST_CALL, NOT_SENT
from magnetis_dagster.quota.rules import LANES

KEY_STATE = """
    SELECT closed_until, trial_until, last_sent, lanes_last_sent, closed_signal
    FROM magnetis_ops.quota_keys WHERE key_fingerprint = %(key)s
"""
"""Whether a key is closed, and when its calls were sent last."""
LOCK_KEY = f"""
    WITH locked AS ({KEY_STATE} FOR UPDATE)
    SELECT locked.*,
           set_config('idle_in_transaction_session_timeout', '10s', true) AS stopped_after
    FROM locked
"""
"""The same under the key's row lock.

The server ends the session of a stopped process, or of a lost machine, after 10 s.
"""
ADD_KEY = """
    INSERT INTO magnetis_ops.quota_keys (key_fingerprint, connection)
    VALUES (%(key)s, %(connection)s) ON CONFLICT DO NOTHING
"""

_IS_LATE = f"""
    a.key_fingerprint = %(key)s AND a.settled_at - a.charged_at > interval '{LONGEST_CALL}'
"""
"""A call that was in flight longer than LONGEST_CALL; these few have an index of their own."""
_WAS_SENT = f"a.error IS DISTINCT FROM '{NOT_SENT}'"

CALENDAR_USAGE = f"""
    WITH moment AS MATERIALIZED (SELECT magnetis_ops.now() AS at),
         today AS (SELECT at, (at AT TIME ZONE %(zone)s)::date AS day FROM moment),
         start AS (SELECT at, day, day::timestamp AT TIME ZONE %(zone)s AS starts FROM today)
    SELECT s.at, d.used_elsewhere, d.schedule, d.settings, d.manual, d.backfill,
           (SELECT jsonb_object_agg(lane, number) FROM (
                SELECT late.lane, count(*) AS number FROM (
                    SELECT a.lane FROM magnetis_ops.api_calls AS a
                    WHERE a.key_fingerprint = %(key)s
                      AND a.charged_at >= s.starts - %(longest)s AND a.charged_at < s.starts
                      AND (a.settled_at IS NULL OR a.settled_at >= s.starts) AND {_WAS_SENT}
                    UNION ALL
                    SELECT a.lane FROM magnetis_ops.api_calls AS a
                    WHERE {_IS_LATE} AND a.settled_at >= s.starts
                      AND a.charged_at < s.starts - %(longest)s AND {_WAS_SENT}
                ) AS late GROUP BY late.lane) AS lanes) AS more
    FROM start AS s
    LEFT JOIN magnetis_ops.quota_days AS d ON d.key_fingerprint = %(key)s AND d.day = s.day
"""
"""Calls of the calendar day: those counted for it, and as `more` those charged before it began that
the API may have received in it."""

_COUNTED = f"""(
    SELECT a.lane, a.charged_at, coalesce(a.settled_at, a.charged_at + %(longest)s) AS until
    FROM magnetis_ops.api_calls AS a
    WHERE a.key_fingerprint = %(key)s
      AND a.charged_at > m.at - interval '24 hours' - %(longest)s
      AND coalesce(a.settled_at, a.charged_at + %(longest)s) > m.at - interval '24 hours'
    UNION ALL
    SELECT a.lane, a.charged_at, a.settled_at FROM magnetis_ops.api_calls AS a
    WHERE {_IS_LATE} AND a.settled_at > m.at - interval '24 hours'
      AND a.charged_at <= m.at - interval '24 hours' - %(longest)s
)"""
"""Calls that the API may have received in the 24 hours before `m.at`, including calls charged
earlier."""
ROLLING_USAGE = f"""
    WITH moment AS MATERIALIZED (SELECT magnetis_ops.now() AS at)
    SELECT m.at, d.used_elsewhere, 0 AS schedule, 0 AS settings, 0 AS manual, 0 AS backfill,
           (SELECT jsonb_object_agg(lane, number) FROM (
                SELECT a.lane, count(*) AS number FROM {_COUNTED} AS a GROUP BY a.lane
            ) AS counted) AS more
    FROM moment AS m
    LEFT JOIN magnetis_ops.quota_days AS d
           ON d.key_fingerprint = %(key)s AND d.day = (m.at AT TIME ZONE %(zone)s)::date
"""
"""Calls of the last 24 hours, all of them as `more`."""
EXPIRIES = f"""
    SELECT counted.until + interval '24 hours', counted.lane
    FROM (SELECT %(at)s::timestamptz AS at) AS m, LATERAL {_COUNTED} AS counted
"""
"""When each call of the last 24 hours stops counting, and its lane."""


def _grant(lane: str) -> str:
    return f"""
        WITH called AS (
            INSERT INTO magnetis_ops.api_calls
                (key_fingerprint, day, charged_at, collection, route, first_day, last_day, page,
                 run_id, backfill_id, lane, connection)
            SELECT %(key)s, (%(at)s::timestamptz AT TIME ZONE %(zone)s)::date, %(at)s,
                   %(collection)s, %(route)s, %(first_day)s::date, %(last_day)s::date, %(page)s,
                   %(run_id)s, %(backfill_id)s, '{lane}', %(connection)s
            RETURNING id, day
        ), counted AS (
            INSERT INTO magnetis_ops.quota_days AS q
                (key_fingerprint, day, daily_quota, connection, {lane})
            SELECT %(key)s, day, %(daily_quota)s, %(connection)s, 1 FROM called
            ON CONFLICT (key_fingerprint, day)
            DO UPDATE SET {lane} = q.{lane} + 1, daily_quota = excluded.daily_quota,
                connection = excluded.connection
        ), sent AS (
            UPDATE magnetis_ops.quota_keys SET last_sent = %(send_at)s,
                connection = %(connection)s,
                lanes_last_sent = lanes_last_sent
                    || jsonb_build_object('{lane}', %(send_at)s::timestamptz),
                trial_call = CASE WHEN %(trial)s THEN (SELECT id FROM called) ELSE trial_call END,
                trial_until = CASE WHEN %(trial)s THEN %(at)s::timestamptz + %(longest)s
                                   ELSE trial_until END
            WHERE key_fingerprint = %(key)s
        )
        SELECT id FROM called
    """


GRANT = {lane: _grant(lane) for lane in LANES}
"""Charge a call of a lane and return its id."""

RENEW = """
    WITH renewed AS (
        UPDATE magnetis_ops.api_calls AS a SET charged_at = greatest(a.charged_at, %(at)s)
        FROM magnetis_ops.quota_keys AS k
        WHERE a.id = %(id)s AND a.settled_at IS NULL AND k.key_fingerprint = %(key)s
          AND (k.closed_until IS NULL OR k.trial_call = a.id)
          AND CASE WHEN %(rolling)s THEN a.charged_at > %(at)s::timestamptz - interval '24 hours'
                   ELSE a.day = (%(at)s::timestamptz AT TIME ZONE %(zone)s)::date END
        RETURNING a.id
    ), trial AS (
        UPDATE magnetis_ops.quota_keys SET trial_until = %(at)s::timestamptz + %(longest)s
        WHERE key_fingerprint = %(key)s AND trial_call = (SELECT id FROM renewed)
    )
    SELECT id FROM renewed
"""
"""Renew a charge and return its id, unless it no longer counts in the current quota window.

If the key is closed, only the trial call is renewed.
"""

SETTLE = """
    WITH settled AS (
        UPDATE magnetis_ops.api_calls SET settled_at = magnetis_ops.now(), status = %(status)s,
            error = %(error)s, rows = %(rows)s, bytes = %(size)s, milliseconds = %(milliseconds)s
        WHERE id = %(id)s
        RETURNING charged_at, (settled_at AT TIME ZONE %(zone)s)::date AS today
    ), tried AS (
        UPDATE magnetis_ops.quota_keys SET trial_call = NULL, trial_until = NULL,
            closed_until = CASE WHEN %(open)s OR %(closes)s THEN NULL ELSE closed_until END
        WHERE key_fingerprint = %(key)s AND trial_call = %(id)s
        RETURNING key_fingerprint
    ), reopened AS (
        UPDATE magnetis_ops.quota_days SET used_elsewhere = 0
        WHERE key_fingerprint = (SELECT key_fingerprint FROM tried)
          AND day = (SELECT today FROM settled) AND %(open)s
    )
    SELECT charged_at FROM settled
"""
"""Record the outcome of a call; a trial call reopens the key if its outcome says so."""
COMMIT_WITHOUT_WAITING = "SET LOCAL synchronous_commit = off"
"""A crash that loses an outcome loses no charge, so this commit need not wait for the disk."""
CLOSE = """
    INSERT INTO magnetis_ops.quota_keys AS k
        (key_fingerprint, connection, closed_signal, closed_until)
    SELECT %(key)s, %(connection)s, %(signal)s::text,
           CASE WHEN %(retry_after)s::float8 IS NULL
                THEN ((coalesce(%(charged_at)s, at) AT TIME ZONE %(zone)s)::date + 1)::timestamp
                     AT TIME ZONE %(zone)s
                ELSE at + make_interval(secs => %(retry_after)s) END
    FROM (SELECT magnetis_ops.now() AS at) AS moment
    ON CONFLICT (key_fingerprint) DO UPDATE
        SET closed_until = greatest(k.closed_until, excluded.closed_until),
            trial_call = NULL, trial_until = NULL,
            closed_signal = CASE WHEN k.closed_until > excluded.closed_until
                                 THEN k.closed_signal ELSE excluded.closed_signal END
    RETURNING closed_until
"""
"""Close the key for a number of seconds, or until the next calendar day; never shorten a closing.
"""
USED_ELSEWHERE = """
    INSERT INTO magnetis_ops.quota_days AS q
        (key_fingerprint, day, daily_quota, connection, used_elsewhere)
    SELECT %(key)s, (%(at)s::timestamptz AT TIME ZONE %(zone)s)::date, %(daily_quota)s,
           %(connection)s, %(elsewhere)s
    ON CONFLICT (key_fingerprint, day) DO UPDATE SET used_elsewhere = excluded.used_elsewhere
"""
