select
    day,
    count(*) as plays,
    count(distinct distinct_id) as listeners,
    sum(seconds_played) / 3600 as hours
from {{ ref('plays') }}
group by day
