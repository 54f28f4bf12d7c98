"""All events of a dataset without their properties, in a view that is faster than ``events``.

Its rows come from typed tables: those of other events are not read. Days that are not typed, or
were loaded again since, come from ``events``, so that the rows are always the same.
"""

import duckdb

from mp_pipeline.storage import catalog
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import literal, quoted
from mp_pipeline.storage.typed.names import schema_name
from mp_pipeline.storage.typed.registry import read_event_tables

_COLUMNS = "event_name, event_time, distinct_id, insert_id, day"


def fast_events(dataset: str) -> str:
    """Return the name of the view."""
    return f"_fast_{dataset.lower()}"


def create_fast_view(connection: duckdb.DuckDBPyConnection, dataset: str, events: str) -> None:
    """Create the view, or bring it up to date with the typed tables that there are.

    Args:
        connection: The database.
        dataset: The dataset.
        events: The SQL for its events, with their properties.
    """
    query = f"SELECT {_COLUMNS} FROM {events}"
    if typed := _typed_events(connection, dataset):
        # Which days are stale is known first. Without any, DuckDB reads nothing of ``events``.
        query = f"""
            WITH stale AS MATERIALIZED (
                SELECT day FROM ({catalog.LOAD_TIMES}) AS loaded
                FULL JOIN _typed_days AS typed USING (dataset, day)
                WHERE dataset = {literal(dataset.lower())}
                    AND typed.loaded_at IS DISTINCT FROM loaded.loaded_at
            )
            SELECT {_COLUMNS} FROM ({typed}) ANTI JOIN stale USING (day)
            UNION ALL {query} SEMI JOIN stale USING (day)
        """
    execute(connection, f"CREATE OR REPLACE VIEW {quoted(fast_events(dataset))} AS {query}")


def update_fast_view(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Bring the view up to date with the typed tables that there are, if it exists."""
    if catalog.find_kind(connection, fast_events(dataset)) is not None:
        create_fast_view(connection, dataset, catalog.events_of(connection, dataset))


def _typed_events(connection: duckdb.DuckDBPyConnection, dataset: str) -> str:
    """Return the query for the rows of all typed tables; empty if there are none to read."""
    if execute(connection, "SELECT current_database()") == [(schema_name(dataset),)]:
        return ""  # DuckDB cannot tell this schema from the database in a view
    return " UNION ALL ".join(
        f"SELECT {literal(event)} AS event_name, event_time, distinct_id, insert_id, day "
        f"FROM {table.sql}"
        for event, table in sorted(read_event_tables(connection, dataset).items())
    )
