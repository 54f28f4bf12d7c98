"""Changing the type of a column without changing a value.

Only DOUBLE to VARCHAR needs care, because JSON has two texts for one number: ``1`` and ``1.0``.
"""

from collections.abc import Mapping
from datetime import date

import duckdb

from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import day_table_name, literal, quoted
from mp_pipeline.storage.typed.models import TypedColumn, WidenedColumn
from mp_pipeline.storage.typed.names import pointer
from mp_pipeline.storage.typed.registry import EventTable
from mp_pipeline.storage.typed.types import double_as_text, is_whole, number_as_text


def widen_column(
    connection: duckdb.DuckDBPyConnection, dataset: str, table: EventTable, widened: WidenedColumn
) -> list[date]:
    """Change the type of a column, for all days.

    Returns:
        The days whose numbers may have another text in JSON: see ``restore_texts``.
    """
    column = widened.column
    name = quoted(column.column_name)
    using = name
    unclear: list[date] = []
    if (widened.old_type, column.type) == ("DOUBLE", "VARCHAR"):
        doubles, unclear = _days_by_text(connection, dataset, table, column)
        using = number_as_text(name)
        if doubles:
            days = ", ".join(f"DATE {literal(day.isoformat())}" for day in doubles)
            using = f"CASE WHEN day IN ({days}) THEN {double_as_text(name)} ELSE {using} END"
    layout_of(connection).change_type(connection, table.sql, name, column.type, using)
    return unclear


def restore_texts(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    table: EventTable,
    column: TypedColumn,
    day: date,
) -> None:
    """Copy the texts of a property from a day table into its column."""
    name = quoted(column.column_name)
    rows = layout_of(connection).rows(connection, [day_table_name(dataset, day)])
    execute(
        connection,
        f"UPDATE {table.sql} AS typed SET {name} = stored.text "
        "FROM (SELECT insert_id, json_extract_string(properties, ?) AS text "
        f"FROM {rows} WHERE event_name = ?) AS stored "
        f"WHERE typed.day = ? AND typed.insert_id = stored.insert_id AND typed.{name} IS NOT NULL",
        [pointer(column.property), column.event, day],
    )


def _days_by_text(
    connection: duckdb.DuckDBPyConnection, dataset: str, table: EventTable, column: TypedColumn
) -> tuple[list[date], list[date]]:
    """Return the days on which a DOUBLE column has no integers of JSON, and the unclear ones.

    On all other days, each whole number is an integer in JSON.
    """
    name = quoted(column.column_name)
    integers: Mapping[date, int] = dict(
        execute(
            connection,
            "SELECT day, sum(events) FROM _property_days WHERE dataset = lower(?) "
            "AND event_name = ? AND property = ? AND json_type = 'BIGINT' GROUP BY day",
            [dataset, column.event, column.property],
        )
    )
    doubles, unclear = [], []
    for day, whole, largest in execute(
        connection,
        f"SELECT day, count(*) FILTER ({is_whole(name)}), max(abs({name})) "
        f"FROM {table.sql} "
        f"WHERE {name} IS NOT NULL GROUP BY day",
    ):
        found = integers.get(day, 0)
        if found == 0 and largest < 2**63:  # longer integers are DOUBLE to json_type
            doubles.append(day)
        elif found != whole:
            unclear.append(day)
    return doubles, unclear
