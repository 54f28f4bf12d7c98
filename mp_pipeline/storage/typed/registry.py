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
        schema: The schema, as ``qualified_schema`` returns it.
        name: The table.
        columns: The columns of its properties, by the names that Mixpanel gives these.
    """

    event: str
    schema: str
    name: str
    columns: dict[str, TypedColumn] = field(default_factory=dict)

    @property
    def sql(self) -> str:
        """The qualified name of the table, quoted."""
        return f"{self.schema}.{quoted(self.name)}"


def qualified_schema(connection: duckdb.DuckDBPyConnection, dataset: str) -> str:
    """Return the schema of a dataset's typed tables with its database, quoted.

    Without the database, one that is called ``event`` would make the name ambiguous.
    """
    ((database,),) = execute(connection, "SELECT current_database()")
    return f"{quoted(database)}.{quoted(schema_name(dataset))}"


def read_event_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> dict[str, EventTable]:
    """Return the typed tables of a dataset, by event."""
    schema = qualified_schema(connection, dataset)
    tables = {
        event: EventTable(event, schema, name)
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
