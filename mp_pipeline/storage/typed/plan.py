"""What the typed tables need before a day can be inserted: new tables, new and wider columns."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import quoted
from mp_pipeline.storage.typed.models import TypedColumn, WidenedColumn
from mp_pipeline.storage.typed.names import free_name
from mp_pipeline.storage.typed.registry import FIXED_COLUMNS, EventTable
from mp_pipeline.storage.typed.types import column_type, is_exact_as_double, wider

Shapes = Mapping[str, Mapping[str, Mapping[str, int]]]
"""The number of values by event, property and JSON type."""


@dataclass(frozen=True)
class EventPlan:
    """How the table of one event changes, and which columns the day fills.

    Attributes:
        table: The table.
        is_new: Whether it does not exist yet.
        columns: The columns that have values on the day, with their types after the change.
        new: Those of them that do not exist yet.
        widened: Those of them whose type changes.
        values: The number of values of each column, in the order of ``columns``.
    """

    table: EventTable
    is_new: bool
    columns: list[TypedColumn]
    new: list[TypedColumn]
    widened: list[WidenedColumn]
    values: list[int]


def plan_day(
    connection: duckdb.DuckDBPyConnection,
    schema: str,
    shapes: Shapes,
    known: Mapping[str, EventTable],
    too_narrow: Collection[TypedColumn],
) -> list[EventPlan]:
    """Return what has to change for a day.

    Args:
        connection: The database.
        schema: The schema of the tables, as ``qualified_schema`` returns it.
        shapes: What the day has.
        known: The tables that exist, by event.
        too_narrow: Columns that turned out not to fit some value.
    """
    taken = {table.name for table in known.values()}
    misfits = {(column.event, column.property) for column in too_narrow}
    plans = []
    for event, properties in shapes.items():
        table = known.get(event)
        is_new = table is None
        if table is None:
            table = EventTable(event, schema, free_name(event, taken))
            taken.add(table.name)
        plan = EventPlan(table, is_new, [], [], [], [])
        names = FIXED_COLUMNS.keys() | {each.column_name for each in table.columns.values()}
        for prop, json_types in properties.items():
            type_ = "VARCHAR" if (event, prop) in misfits else column_type(json_types)
            if type_ is None:
                continue
            column = table.columns.get(prop)
            if column is None:
                column = TypedColumn(event, prop, table.name, free_name(prop, names), type_)
                names.add(column.column_name)
                plan.new.append(column)
            elif wider(column.type, type_) != column.type:
                old, column = column, _widen(connection, table, column, type_)
                plan.widened.append(WidenedColumn(column, old.type))
            plan.columns.append(column)
            plan.values.append(
                sum(events for json_type, events in json_types.items() if json_type != "NULL")
            )
        plans.append(plan)
    return plans


def _widen(
    connection: duckdb.DuckDBPyConnection, table: EventTable, column: TypedColumn, type_: str
) -> TypedColumn:
    wide = wider(column.type, type_)
    if wide == "DOUBLE" and not _all_exact_as_double(connection, table, column):
        wide = "VARCHAR"
    return replace(column, type=wide)


def _all_exact_as_double(
    connection: duckdb.DuckDBPyConnection, table: EventTable, column: TypedColumn
) -> bool:
    """Return whether a BIGINT column can become DOUBLE without changing a number."""
    ((exact,),) = execute(
        connection,
        f"SELECT coalesce(bool_and({is_exact_as_double(quoted(column.column_name))}), true) "
        f"FROM {table.sql}",
    )
    return bool(exact)
