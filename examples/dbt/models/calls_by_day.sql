select
    day,
    account_id,
    max(account_name) as account_name,
    count(*) as calls,
    count(*) filter (where status = 'missed') as missed,
    sum(duration_seconds) as duration_seconds
from {{ source('magnetis', 'calls_current') }}
group by day, account_id
