"""The dictionary: views of all events and properties, and how a day differs from those before."""

from datetime import date, timedelta

import duckdb

from mp_pipeline.storage import catalog
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.typed.models import Drift, EventDescription, PropertyDescription

_EVENT_COLUMNS = "event_name, table_name, events, fraction, first_day, last_day, days, properties"
_PROPERTY_COLUMNS = (
    "event_name, property, table_name, column_name, column_type, filled, filled_fraction, "
    "json_types, first_day, last_day"
)

_VIEWS = {
    "event_dictionary": f"""
        WITH typed AS (
            SELECT dataset, event_name, schema_name || '.' || table_name AS table_name
            FROM _event_tables
        ), counted AS (
            SELECT dataset, event_name, sum(events)::BIGINT AS events,
                min(day) AS first_day, max(day) AS last_day, count(*) AS days
            FROM _property_days WHERE property IS NULL GROUP BY ALL
        ), described AS (
            SELECT dataset, event_name, count(DISTINCT property) AS properties
            FROM _property_days GROUP BY ALL
        )
        SELECT {_EVENT_COLUMNS}, dataset FROM (
            SELECT *, events / sum(events) OVER (PARTITION BY dataset) AS fraction
            FROM counted JOIN described USING (dataset, event_name)
            JOIN typed USING (dataset, event_name)
        ) ORDER BY dataset, events DESC, event_name
    """,
    "property_dictionary": f"""
        WITH counted AS (
            SELECT dataset, event_name, property, json_type, sum(events)::BIGINT AS events,
                min(day) AS first_day, max(day) AS last_day
            FROM _property_days GROUP BY ALL
        ), described AS (
            SELECT dataset, event_name, property,
                coalesce(sum(events) FILTER (json_type <> 'NULL'), 0)::BIGINT AS filled,
                map_from_entries(list((json_type, events) ORDER BY events DESC, json_type))
                    AS json_types,
                min(first_day) AS first_day, max(last_day) AS last_day
            FROM counted WHERE property IS NOT NULL GROUP BY ALL
        ), total AS (
            SELECT dataset, event_name, events FROM counted WHERE property IS NULL
        ), typed AS (
            SELECT dataset, event_name, schema_name || '.' || table_name AS table_name
            FROM _event_tables
        )
        SELECT {_PROPERTY_COLUMNS}, dataset FROM (
            SELECT described.*, filled / events AS filled_fraction, table_name, column_name,
                column_type
            FROM described JOIN total USING (dataset, event_name)
            JOIN typed USING (dataset, event_name)
            LEFT JOIN _event_columns USING (dataset, event_name, property)
        ) ORDER BY dataset, event_name, filled DESC, property
    """,
}

# Numbers are one kind of value: 1 and 1.5 are no change.
_DRIFT = """
    WITH observed AS (
        SELECT event_name, property, events, day, day = $day AS is_now,
            CASE WHEN json_type IN ('BIGINT', 'DOUBLE') THEN 'number'
                WHEN json_type = 'VARCHAR' THEN 'text' ELSE lower(json_type) END AS kind
        FROM _property_days
        WHERE dataset = lower($dataset) AND day BETWEEN $first_day AND $day
            AND json_type IS DISTINCT FROM 'NULL'
    ), events AS (
        SELECT event_name,
            coalesce(sum(events) FILTER (NOT is_now), 0) AS before,
            coalesce(sum(events) FILTER (is_now), 0) AS now,
            (SELECT count(DISTINCT day) FROM observed WHERE NOT is_now) AS days
        FROM observed WHERE property IS NULL GROUP BY event_name
    ), properties AS (
        SELECT event_name, property,
            coalesce(sum(events) FILTER (NOT is_now), 0) AS before,
            coalesce(sum(events) FILTER (is_now), 0) AS now,
            coalesce(list(DISTINCT kind ORDER BY kind) FILTER (NOT is_now), []) AS kinds_before,
            coalesce(list(DISTINCT kind ORDER BY kind) FILTER (is_now), []) AS kinds_now
        FROM observed WHERE property IS NOT NULL GROUP BY event_name, property
    ), changed AS (
        SELECT event_name, NULL AS property,
            CASE WHEN before = 0 AND now >= $min_events THEN 'new event'
                WHEN now = 0 AND before / days >= $min_events THEN 'vanished event' END AS change,
            [] AS kinds_before, [] AS kinds_now, NULL AS fraction_before, NULL AS fraction_now
        FROM events
        UNION ALL
        SELECT event_name, property,
            CASE WHEN p.before = 0 THEN 'new property'
                WHEN p.now = 0 AND p.before / e.before >= $min_fraction THEN 'vanished property'
                WHEN p.now > 0 AND NOT list_has_all(kinds_before, kinds_now) THEN 'new type'
            END,
            kinds_before, kinds_now, p.before / e.before, p.now / e.now
        FROM properties p JOIN events e USING (event_name)
        WHERE e.before >= $min_events AND e.now >= $min_events
    )
    FROM changed WHERE change IS NOT NULL
        AND EXISTS (FROM observed WHERE NOT is_now) AND EXISTS (FROM observed WHERE is_now)
    ORDER BY property IS NOT NULL, event_name, property
"""


def create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the views of the dictionary, or bring them up to date.

    Raises:
        TableExistsError: The name is taken by something else.
    """
    for name, query in _VIEWS.items():
        catalog.create_own_view(connection, name, query, "the dictionary")


def describe_events(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[EventDescription]:
    """Return the events of a dataset, most frequent first."""
    rows = execute(
        connection,
        f"SELECT {_EVENT_COLUMNS} FROM ({_VIEWS['event_dictionary']}) WHERE dataset = lower(?)",
        [dataset],
    )
    return [EventDescription(*row) for row in rows]


def describe_properties(
    connection: duckdb.DuckDBPyConnection, dataset: str, event: str | None
) -> list[PropertyDescription]:
    """Return the properties of an event, or of all events, most often filled first."""
    rows = execute(
        connection,
        f"SELECT {_PROPERTY_COLUMNS} FROM ({_VIEWS['property_dictionary']}) "
        "WHERE dataset = lower($dataset) AND ($event IS NULL OR event_name = $event)",
        {"dataset": dataset, "event": event},
    )
    return [PropertyDescription(*row) for row in rows]


def count_events_by_day(
    connection: duckdb.DuckDBPyConnection, dataset: str, first: date, last: date
) -> dict[str, dict[date, int]]:
    """Return the number of each event by day."""
    counts: dict[str, dict[date, int]] = {}
    for event, day, events in execute(
        connection,
        "SELECT event_name, day, events FROM _property_days WHERE dataset = lower(?) "
        "AND property IS NULL AND day BETWEEN ? AND ? ORDER BY ALL",
        [dataset, first, last],
    ):
        counts.setdefault(event, {})[day] = events
    return counts


def find_drift(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    day: date,
    *,
    days: int,
    min_events: int,
    min_fraction: float,
) -> list[Drift]:
    """Return how the events of a typed day differ from those of the days before."""
    rows = execute(
        connection,
        _DRIFT,
        {
            "dataset": dataset,
            "day": day,
            "first_day": day - timedelta(days),
            "min_events": min_events,
            "min_fraction": min_fraction,
        },
    )
    return [
        Drift(event, prop, change, tuple(before), tuple(now), *fractions)
        for event, prop, change, before, now, *fractions in rows
    ]
