"""What a day has: its events, their properties, and the JSON types of these.

A property that occurs twice in one object counts as its first one, which is what DuckDB's ``->>``
returns.
"""

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import EVENTS

ROWS = "_typing_rows"
"""The temporary table with the rows of the day."""

SHAPES = "_typing_shapes"
"""The temporary table with the number of values of each property of each event, by JSON type.

All integers up to 64 bits are BIGINT. An event has a row without a property, too: the number of its
rows."""


_MANY_EVENTS = 50
"""From about so many events on, sorting a day takes less time than reading all of it per event."""


def stage_rows(connection: duckdb.DuckDBPyConnection, table: str | None) -> None:
    """Create ``ROWS``: if there are many events, sorted so that reading one skips the others.

    Args:
        connection: The database.
        table: The SQL for the rows of the day; None for no rows.
    """
    columns = ", ".join(
        column.name if table else f"NULL::{column.type} AS {column.name}"
        for column in EVENTS.columns
    )
    rows = "WHERE false"
    if table:
        rows = f"FROM {table}"
        ((events,),) = execute(connection, f"SELECT count(DISTINCT event_name) {rows}")
        if events >= _MANY_EVENTS:
            rows += " ORDER BY event_name, event_time"
    execute(connection, f"CREATE OR REPLACE TEMP TABLE {ROWS} AS SELECT {columns} {rows}")


def drop_staged(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop the temporary tables if they exist."""
    for name in (ROWS, SHAPES):
        execute(connection, f"DROP TABLE IF EXISTS temp.{name}")


def find_shapes(connection: duckdb.DuckDBPyConnection) -> None:
    """Create ``SHAPES`` from ``ROWS``.

    Many rows have the same names and types, so grouping them first leaves little to count; as JSON,
    because DuckDB groups texts faster than lists. Reading the names and types of all properties of
    a row takes less time than ``json_structure``, which also describes nested values.
    """
    execute(
        connection,
        f"""
        CREATE OR REPLACE TEMP TABLE {SHAPES} AS
        WITH grouped AS (
            SELECT event_name, to_json(json_keys(properties)) AS shown_names,
                to_json(json_type(properties, '$.*')) AS shown_types, count(*) AS events
            FROM {ROWS} GROUP BY ALL
        ), shapes AS MATERIALIZED (
            SELECT event_name, events, {_list("shown_names")} AS names,
                {_list("shown_types")} AS types, list_unique(names) < len(names) AS repeats
            FROM grouped
        ), values AS (
            SELECT event_name, events, unnest(names) AS name, unnest(types) AS type
            FROM shapes WHERE NOT repeats
            UNION ALL
            SELECT event_name, events, name, list_extract(types, list_position(names, name))
            FROM (SELECT *, unnest(list_distinct(names)) AS name FROM shapes WHERE repeats)
        )
        SELECT event_name, NULL AS property, NULL AS json_type, sum(events)::BIGINT AS events
        FROM shapes GROUP BY event_name
        UNION ALL
        SELECT event_name, name, replace(type, 'UBIGINT', 'BIGINT') AS json_type,
            sum(events)::BIGINT
        FROM values GROUP BY event_name, name, json_type
        """,
    )


def read_shapes(
    connection: duckdb.DuckDBPyConnection,
) -> dict[str, dict[str, dict[str, int]]]:
    """Return the number of values by event, property and JSON type, sorted by event."""
    shapes: dict[str, dict[str, dict[str, int]]] = {}
    for event, prop, json_type, events in execute(
        connection, f"SELECT * FROM {SHAPES} ORDER BY event_name, property NULLS FIRST"
    ):
        properties = shapes.setdefault(event, {})
        if prop is not None:
            properties.setdefault(prop, {})[json_type] = events
    return shapes


def _list(column: str) -> str:
    """Return the SQL that reads a list of texts from JSON."""
    return f"""from_json({column}, '["VARCHAR"]')"""
