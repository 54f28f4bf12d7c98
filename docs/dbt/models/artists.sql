select
    artist,
    count(*) as plays,
    count(distinct distinct_id) as listeners,
    avg(completed::int) as completed_fraction
from {{ ref('plays') }}
group by artist
