"""Erasing users from typed tables, and from what the dictionary counts.

The rows to erase are collected from the day tables first: an event can be a user's through a
property, so its typed row is found by ``insert_id``. Rows of a stale day are found by
``distinct_id`` too.
"""

from datetime import date

import duckdb

from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import EVENTS, literal
from mp_pipeline.storage.typed import shapes
from mp_pipeline.storage.typed.names import schema_name
from mp_pipeline.storage.typed.registry import read_event_tables

_ERASED = "_erased_events"


def start_erasing(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the temporary table of the events to erase."""
    columns = ", ".join(f"{column.name} {column.type}" for column in EVENTS.columns)
    execute(
        connection,
        f"CREATE OR REPLACE TEMP TABLE {_ERASED} (dataset VARCHAR, day DATE, {columns})",
    )


def collect_events(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date, table: str, condition: str
) -> int:
    """Collect the events of a day table that meet a condition; return their number."""
    inserted = execute(
        connection,
        f"INSERT INTO {_ERASED} SELECT lower(?), ?, {', '.join(EVENTS.column_names)} "
        f"FROM {layout_of(connection).rows(connection, [table])} WHERE {condition}",
        [dataset, day],
    )
    return int(inserted[0][0])


def count_erased_rows(connection: duckdb.DuckDBPyConnection, users: str) -> dict[str, int]:
    """Return the rows to erase by typed table, such as ``event.song_played``.

    Args:
        connection: The database.
        users: A table whose column ``id`` contains the users.
    """
    counts = {
        name: execute(connection, f"SELECT count(*) FROM {table} WHERE {condition}")[0][0]
        for name, table, condition in _typed_tables(connection, users)
    }
    return {name: rows for name, rows in counts.items() if rows}


def erase_rows(connection: duckdb.DuckDBPyConnection, users: str) -> None:
    """Delete the typed rows of the collected events and of users, in the caller's transaction.

    Args:
        connection: The database.
        users: As for ``count_erased_rows``.
    """
    for _, table, condition in _typed_tables(connection, users):
        execute(connection, f"DELETE FROM {table} WHERE {condition}")
    for dataset, day in execute(
        connection, f"SELECT DISTINCT dataset, day FROM {_ERASED} ORDER BY ALL"
    ):
        _count_without(connection, dataset, day)
    execute(connection, f"DROP TABLE {_ERASED}")


def _count_without(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> None:
    """Subtract the collected events of a day from what is recorded of the typed day."""
    execute(
        connection,
        f"CREATE OR REPLACE TEMP TABLE {shapes.ROWS} AS "
        f"SELECT {', '.join(EVENTS.column_names)} FROM {_ERASED} WHERE dataset = ? AND day = ?",
        [dataset, day],
    )
    shapes.find_shapes(connection)
    execute(
        connection,
        f"UPDATE _property_days p SET events = p.events - s.events FROM {shapes.SHAPES} s "
        "WHERE p.dataset = ? AND p.day = ? AND p.event_name = s.event_name "
        "AND p.property IS NOT DISTINCT FROM s.property "
        "AND p.json_type IS NOT DISTINCT FROM s.json_type",
        [dataset, day],
    )
    execute(
        connection,
        "DELETE FROM _property_days WHERE dataset = ? AND day = ? AND events <= 0",
        [dataset, day],
    )
    execute(
        connection,
        f"UPDATE _typed_days SET events = events - (SELECT count(*) FROM {shapes.ROWS}) "
        "WHERE dataset = ? AND day = ?",
        [dataset, day],
    )
    shapes.drop_staged(connection)


def _typed_tables(connection: duckdb.DuckDBPyConnection, users: str) -> list[tuple[str, str, str]]:
    """Return the name, the SQL name and the condition of the rows to erase of each typed table."""
    found = []
    for (dataset,) in execute(
        connection, "SELECT DISTINCT dataset FROM _event_tables ORDER BY dataset"
    ):
        condition = (
            f"distinct_id IN (SELECT id FROM {users}) OR (day, insert_id) IN "
            f"(SELECT (day, insert_id) FROM {_ERASED} WHERE dataset = {literal(dataset)})"
        )
        tables = read_event_tables(connection, dataset)
        found += [
            (f"{schema_name(dataset)}.{table.name}", table.sql, condition)
            for table in sorted(tables.values(), key=lambda table: table.name)
        ]
    return found
