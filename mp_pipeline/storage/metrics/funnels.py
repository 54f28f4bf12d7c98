"""Funnels as table macros: ordered steps, counted as Mixpanel counts unique users.

A user enters with the first event of step 1 in the range of days. Each later step is its first
event since the step before, in the window after the entry, maybe after the range. Two steps that
are at most two seconds apart may come in either order. An event stands for one step only.
"""

import duckdb

from mp_pipeline.storage.metrics.collecting import IS_ACTIVITY
from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.metrics.objects import create_macro
from mp_pipeline.storage.metrics.user_events import IS_SOMEBODY, ROW, USER, checked, from_events

_POINTER = "'/' || replace(replace(property, '~', '~0'), '/', '~1')"
_SECONDS = "(epoch_us(reached_at) - epoch_us(previous_at)) / 1e6"

_CONDITIONS = {
    "len(steps) > 0": "name at least one step",
    "within BETWEEN INTERVAL 0 DAY AND INTERVAL 366 DAY": "within must be 0 to 366 days",
    "from_day::DATE <= to_day::DATE": "from_day is after to_day",
}


def create_funnel_macros(connection: duckdb.DuckDBPyConnection, dataset: str, events: str) -> None:
    """Create the macros ``funnel`` and ``funnel_by``.

    Args:
        connection: The database.
        dataset: The dataset.
        events: The SQL for its events, with their properties.
    """
    value = f"json_extract_string(properties, {_POINTER})"
    create_macro(
        connection,
        name_of(dataset, "funnel"),
        "steps, from_day, to_day, within := INTERVAL 7 DAY",
        f"""
        {_walk(dataset, "NULL::VARCHAR", from_events(dataset))}, reached AS (
            SELECT step, count(*) AS users, {_times()} FROM walk GROUP BY step
        ), shown AS (
            SELECT step, coalesce(users, 0) AS users, median_seconds, p90_seconds
            FROM (SELECT unnest(range(1, len(steps) + 1)) AS step) LEFT JOIN reached USING (step)
        )
        SELECT step, steps[step] AS event, users,
            users / nullif(first_value(users) OVER in_order, 0) AS from_start,
            users / nullif(lag(users) OVER in_order, 0) AS from_previous,
            median_seconds, p90_seconds
        FROM {checked(dataset, "funnel", _CONDITIONS, "FROM shown")}
        WINDOW in_order AS (ORDER BY step) ORDER BY step
        """,
    )
    create_macro(
        connection,
        name_of(dataset, "funnel_by"),
        "steps, from_day, to_day, property, within := INTERVAL 7 DAY",
        f"""
        {_walk(dataset, value, from_events(dataset, events))}, reached AS (
            SELECT value, step, count(*) AS users, {_times()} FROM walk GROUP BY value, step
        ), grid AS (
            SELECT value, users AS entered, unnest(range(1, len(steps) + 1)) AS step
            FROM reached WHERE step = 1
        ), shown AS (
            SELECT grid.*, coalesce(users, 0) AS users, median_seconds, p90_seconds
            FROM grid LEFT JOIN reached
                ON reached.step = grid.step AND reached.value IS NOT DISTINCT FROM grid.value
        )
        SELECT value, step, steps[step] AS event, users, users / entered AS from_start,
            users / nullif(lag(users) OVER (PARTITION BY value ORDER BY step), 0) AS from_previous,
            median_seconds, p90_seconds
        FROM {checked(dataset, "funnel_by", _CONDITIONS, "FROM shown")}
        ORDER BY entered DESC, value, step
        """,
    )


def _walk(dataset: str, value: str, from_first_steps: str) -> str:
    """Return the beginning of a query with ``walk``: a row for each step that a user reached.

    Args:
        dataset: The dataset.
        value: The SQL expression for the value by which a funnel is broken down.
        from_first_steps: What events of the first step are selected from; see ``from_events``.
    """
    repeats = "len(list_distinct(steps)) < len(steps)"
    return f"""
        WITH RECURSIVE later AS MATERIALIZED (
            SELECT {USER} AS user, list_position(steps[2:], event_name) AS place, event_time,
                CASE WHEN {repeats} THEN {ROW} END AS row
            {from_events(dataset)}
            WHERE {IS_SOMEBODY} AND {IS_ACTIVITY} AND list_contains(steps[2:], event_name)
                AND day BETWEEN from_day AND (to_day::DATE + within)::DATE + 1
        ), walk(step, user, value, entered_at, reached_at, previous_at, used) AS (
            SELECT 1, user, value, min(event_time), min(event_time), NULL::TIMESTAMP,
                CASE WHEN {repeats} THEN [arg_min(row, (event_time, row))] END
            FROM (
                SELECT {USER} AS user, {value} AS value, event_time,
                    CASE WHEN {repeats} THEN {ROW} END AS row
                {from_first_steps}
                WHERE {IS_SOMEBODY} AND {IS_ACTIVITY} AND event_name = steps[1]
                    AND day BETWEEN from_day AND to_day
            ) GROUP BY user, value
            UNION ALL
            SELECT walk.step + 1, walk.user, walk.value, any_value(entered_at),
                greatest(any_value(reached_at), min(event_time)), any_value(reached_at),
                CASE WHEN {repeats}
                    THEN list_append(any_value(used), arg_min(row, (event_time, row))) END
            FROM walk JOIN later ON later.user = walk.user
                AND place = list_position(steps[2:], steps[walk.step + 1])
                AND event_time >= reached_at - INTERVAL 2 SECOND
                AND event_time <= entered_at + within
                AND NOT ({repeats} AND list_contains(used, row))
            WHERE walk.step < len(steps)
            GROUP BY walk.step, walk.user, walk.value
        )
    """


def _times() -> str:
    """Return the SQL for the times from the step before."""
    return f"median({_SECONDS}) AS median_seconds, quantile_cont({_SECONDS}, 0.9) AS p90_seconds"
