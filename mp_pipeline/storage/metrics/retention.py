"""Retention as table macros: which users come back, by the time since their first event.

A user is born with the first birth event in the range of days. With a return event in a bucket, a
length of time since then, the user is retained there. The birth event itself is no return, another
one at the same moment is. Events after the range do not count, so a bucket that had not ended by
then for all users of its cohort is incomplete.
"""

import duckdb

from mp_pipeline.storage.metrics.collecting import IS_ACTIVITY
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.metrics.objects import create_macro
from mp_pipeline.storage.metrics.user_events import IS_SOMEBODY, USER, checked, from_events
from mp_pipeline.storage.tables import literal

_PARAMETERS = (
    "birth_event, return_event, from_day, to_day, unit := 'day', mode := 'on or after', "
    "last_bucket := 14, first_time := false, calendar := false, week_start := 1"
)
_LENGTH = "86400000000 * CASE unit WHEN 'month' THEN 30 WHEN 'week' THEN 7 ELSE 1 END"
"""The length of a bucket in microseconds, if buckets are not those of the calendar."""

_CONDITIONS = {
    "unit IN ('day', 'week', 'month')": "unit must be day, week or month",
    "mode IN ('on or after', 'on')": "mode must be 'on or after' or 'on'",
    "last_bucket >= 0": "last_bucket must not be negative",
    "week_start BETWEEN 1 AND 7": "week_start must be 1 (Monday) to 7 (Sunday)",
    "from_day::DATE <= to_day::DATE": "from_day is after to_day",
}


def create_retention_macros(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Create the macros ``retention`` and ``retention_average``."""
    create_macro(
        connection,
        name_of(dataset, "retention"),
        _PARAMETERS,
        f"""
        {_retention(dataset)}
        FROM {checked(dataset, "retention", _CONDITIONS, "FROM shown")} ORDER BY cohort, bucket
        """,
    )
    create_macro(
        connection,
        name_of(dataset, "retention_average"),
        _PARAMETERS,
        f"""
        {_retention(dataset)}
        SELECT bucket, count(*) AS cohorts,
            sum(retained * users) / sum(users * users) AS fraction
        FROM {checked(dataset, "retention_average", _CONDITIONS, "FROM shown WHERE complete")}
        GROUP BY bucket ORDER BY bucket
        """,
    )


def _retention(dataset: str) -> str:
    """Return the beginning of a query with ``shown``: a row for each cohort and bucket."""
    of_dataset = f"dataset = {literal(dataset.lower())}"
    is_birth = "(birth_event IS NULL OR event_name = birth_event)"
    is_return = "(return_event IS NULL OR event_name = return_event)"
    may_be_same = "(birth_event IS NULL OR return_event IS NULL OR birth_event = return_event)"
    return f"""
        WITH event AS MATERIALIZED (
            SELECT {USER} AS user, event_time, day, {is_birth} AS is_birth, {is_return} AS is_return
            {from_events(dataset)}
            WHERE {IS_SOMEBODY} AND {IS_ACTIVITY} AND ({is_birth} OR {is_return})
                AND day BETWEEN from_day AND to_day
        ), earlier AS (
            SELECT DISTINCT {USER} AS user {from_events(dataset)}
            WHERE first_time AND {IS_ACTIVITY} AND {is_birth} AND day < from_day
        ), born AS MATERIALIZED (
            SELECT user, min(event_time) AS born_at, {_unit_start("min(day)")} AS cohort
            FROM event WHERE is_birth GROUP BY user
        ), cohort_user AS MATERIALIZED (
            FROM born ANTI JOIN earlier USING (user)
        ), last_return AS MATERIALIZED (
            SELECT user, max(event_time) AS event_time, max(day) AS day
            FROM event WHERE is_return AND mode <> 'on' GROUP BY user
        ), returned AS (
            FROM last_return UNION ALL
            SELECT user, event_time, day FROM event WHERE is_return AND mode = 'on'
        ), at_birth AS (  -- who returned then, if the birth event itself is no return
            SELECT user, born_at FROM born WHERE mode = 'on' AND {may_be_same} UNION ALL
            SELECT user, born_at FROM born JOIN last_return USING (user)
            WHERE event_time = born_at AND {may_be_same}
        ), twin AS (
            SELECT user FROM at_birth JOIN event USING (user)
            WHERE event_time = born_at GROUP BY user HAVING count(*) > 1
        ), seen AS (
            SELECT born.cohort, born.user,
                CASE WHEN NOT calendar
                    THEN (epoch_us(event_time) - epoch_us(born_at)) // ({_LENGTH})
                WHEN unit = 'month' THEN date_diff('month', born.cohort, day)
                WHEN unit = 'week' THEN ({_unit_start("day")} - born.cohort) // 7
                ELSE day - born.cohort END AS bucket
            FROM cohort_user AS born JOIN returned USING (user)
            WHERE event_time > born_at OR (event_time = born_at
                AND (NOT {may_be_same} OR user IN (SELECT user FROM twin)))
        ), counted AS (
            SELECT cohort, bucket, count(DISTINCT user) AS users FROM seen GROUP BY ALL
        ), grid AS (
            SELECT cohort, users, last_born_at, unnest(range(0, last_bucket + 1)) AS bucket FROM (
                SELECT cohort, count(*) AS users, max(born_at) AS last_born_at
                FROM cohort_user GROUP BY cohort)
        ), range_end AS (
            SELECT max(day) + 1 AS day, max(ends_at) AS moment FROM _collected_days
            WHERE {of_dataset} AND loaded_at IS NOT NULL AND day <= to_day
        ), bucket AS (
            SELECT grid.*, coalesce(sum(counted.users), 0)::BIGINT AS retained
            FROM grid LEFT JOIN counted ON counted.cohort = grid.cohort
                AND (counted.bucket = grid.bucket
                    OR (mode <> 'on' AND counted.bucket > grid.bucket))
            GROUP BY ALL
        ), shown AS (
            SELECT cohort, bucket, users, retained, retained / users AS fraction,
                coalesce(CASE WHEN NOT calendar
                    THEN last_born_at + to_microseconds((bucket + 1) * {_LENGTH}) <= moment
                WHEN unit = 'month' THEN cohort + to_months((bucket + 1)::INTEGER) <= day
                WHEN unit = 'week' THEN cohort + to_days(7 * (bucket + 1)::INTEGER) <= day
                ELSE cohort + (bucket + 1)::INTEGER <= day END, false) AS complete
            FROM bucket CROSS JOIN range_end
        )
    """


def _unit_start(day: str) -> str:
    """Return the SQL expression for the first day of the unit that a day is in."""
    return (
        f"CASE unit WHEN 'month' THEN date_trunc('month', {day})::DATE "
        f"WHEN 'week' THEN {day} - ((isodow({day}) - week_start + 7) % 7)::INTEGER ELSE {day} END"
    )
