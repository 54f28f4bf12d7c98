"""Inserting the rows of one event, and finding numbers that their columns could not store."""

from datetime import date

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import quoted
from mp_pipeline.storage.typed import shapes
from mp_pipeline.storage.typed.models import TypedColumn
from mp_pipeline.storage.typed.names import pointer
from mp_pipeline.storage.typed.plan import EventPlan
from mp_pipeline.storage.typed.registry import FIXED_COLUMNS
from mp_pipeline.storage.typed.types import NUMBERS, changes_as_double, may_have_changed, value


def insert_rows(connection: duckdb.DuckDBPyConnection, day: date, plan: EventPlan) -> int:
    """Insert the rows of one event; return their number."""
    names = [*FIXED_COLUMNS, *(quoted(column.column_name) for column in plan.columns)]
    values = [
        value(f"texts[{number}]", column.type) for number, column in enumerate(plan.columns, 1)
    ]
    ((rows,),) = execute(
        connection,
        f"""
        INSERT INTO {plan.table.sql} ({", ".join(names)})
        SELECT {", ".join(["?", "event_time", "distinct_id", "insert_id", *values])} FROM (
            SELECT *, json_extract_string(properties, ?::VARCHAR[]) AS texts
            FROM {shapes.ROWS} WHERE event_name = ?)
        """,
        [day, [pointer(column.property) for column in plan.columns], plan.table.event],
    )
    return int(rows)


def too_narrow_columns(
    connection: duckdb.DuckDBPyConnection, day: date, plan: EventPlan
) -> list[TypedColumn]:
    """Return the columns of an event in which a number was lost or changed."""
    expected = {
        column: values
        for column, values in zip(plan.columns, plan.values, strict=True)
        if column.type in NUMBERS
    }
    if not expected:
        return []
    found = ", ".join(
        f"count({quoted(column.column_name)})"
        if column.type == "BIGINT"
        else may_have_changed(quoted(column.column_name))
        for column in expected
    )
    (results,) = execute(
        connection,
        f"SELECT {found} FROM {plan.table.sql} WHERE day = ?",
        [day],
    )
    return [
        column
        for (column, values), result in zip(expected.items(), results, strict=True)
        if (
            result != values
            if column.type == "BIGINT"
            else result and _has_changed(connection, column)
        )
    ]


def _has_changed(connection: duckdb.DuckDBPyConnection, column: TypedColumn) -> bool:
    """Return whether a number of the day is another one as DOUBLE."""
    ((changed,),) = execute(
        connection,
        f"SELECT coalesce(bool_or({changes_as_double('text')}), false) FROM ("
        "SELECT json_extract_string(properties, ?) AS text "
        f"FROM {shapes.ROWS} WHERE event_name = ?)",
        [pointer(column.property), column.event],
    )
    return bool(changed)
