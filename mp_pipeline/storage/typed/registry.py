"""Which typed tables and columns a dataset has. A name once given stays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import quoted
from mp_pipeline.storage.typed.models import TypedColumn
from mp_pipeline.storage.typed.names import schema_name

FIXED_COLUMNS = {
    "day": "DATE",
    "event_time": "TIMESTAMP",
    "distinct_id": "VARCHAR",
    "insert_id": "VARCHAR",
}
"""The columns that each typed table starts with, and their types."""


@dataclass
class EventTable:
    """The typed table of an event.

    Attributes:
        event: The event, as Mixpanel names it.
        name: The table.
        columns: The columns of its properties, by the names that Mixpanel gives these.
    """

    event: str
    name: str
    columns: dict[str, TypedColumn] = field(default_factory=dict)


def qualified(connection: duckdb.DuckDBPyConnection, dataset: str, table: str | None = None) -> str:
    """Return the quoted name of a typed table, or of the schema, that nothing else can have.

    Without the database's name, a database that is called ``event`` would make it ambiguous.
    """
    ((database,),) = execute(connection, "SELECT current_database()")
    parts = [database, schema_name(dataset), *([] if table is None else [table])]
    return ".".join(map(quoted, parts))


def read_event_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> dict[str, EventTable]:
    """Return the typed tables of a dataset, by event."""
    tables = {
        event: EventTable(event, name)
        for event, name in execute(
            connection,
            "SELECT event_name, table_name FROM _event_tables WHERE dataset = lower(?)",
            [dataset],
        )
    }
    for event, prop, name, type_ in execute(
        connection,
        "SELECT event_name, property, column_name, column_type FROM _event_columns "
        "WHERE dataset = lower(?)",
        [dataset],
    ):
        table = tables[event]
        table.columns[prop] = TypedColumn(event, prop, table.name, name, type_)
    return tables


def record_tables(
    connection: duckdb.DuckDBPyConnection, dataset: str, tables: Iterable[EventTable]
) -> None:
    """Record new tables, without their columns."""
    schema = schema_name(dataset)
    rows = [(table.event, schema, table.name) for table in tables]
    _insert(connection, "_event_tables", dataset, rows)


def record_columns(
    connection: duckdb.DuckDBPyConnection, dataset: str, columns: Iterable[TypedColumn]
) -> None:
    """Record new columns."""
    _insert(
        connection,
        "_event_columns",
        dataset,
        [(each.event, each.property, each.column_name, each.type) for each in columns],
    )


def record_type(connection: duckdb.DuckDBPyConnection, dataset: str, column: TypedColumn) -> None:
    """Record the new type of a column."""
    execute(
        connection,
        "UPDATE _event_columns SET column_type = ? "
        "WHERE dataset = lower(?) AND event_name = ? AND property = ?",
        [column.type, dataset, column.event, column.property],
    )


def _insert(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    dataset: str,
    rows: Sequence[tuple[str, ...]],
) -> None:
    """Insert rows with one statement, which takes much less time than one for each row."""
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        values = ", ".join(["unnest(?::VARCHAR[])"] * len(columns))
        execute(connection, f"INSERT INTO {table} SELECT lower(?), {values}", [dataset, *columns])
