select
    day,
    event_time,
    insert_id,
    distinct_id,
    mp_country_code as country,
    song,
    artist ->> '$.name' as artist,
    seconds_played,
    completed
from {{ source('event', 'song_played') }}
