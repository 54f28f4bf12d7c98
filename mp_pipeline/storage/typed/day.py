"""Typing a day: its typed rows are made again from its day table, in one transaction.

A crash leaves the old rows. Days may be typed in any order, with the same values in the end.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime

import duckdb

from mp_pipeline.storage import catalog, locks
from mp_pipeline.storage.errors import TableNotFoundError
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.statements import database_name, execute, transaction
from mp_pipeline.storage.tables import day_table_name, quoted
from mp_pipeline.storage.times import as_utc, to_utc
from mp_pipeline.storage.typed import shapes
from mp_pipeline.storage.typed.dictionary import create_views
from mp_pipeline.storage.typed.fast_events import update_fast_view
from mp_pipeline.storage.typed.models import TypedColumn, TypedDayInfo, TypedDayReport
from mp_pipeline.storage.typed.names import schema_name
from mp_pipeline.storage.typed.plan import EventPlan, plan_day
from mp_pipeline.storage.typed.registry import (
    FIXED_COLUMNS,
    EventTable,
    qualified_schema,
    read_event_tables,
    record_columns,
    record_tables,
    record_type,
)
from mp_pipeline.storage.typed.rows import insert_rows, too_narrow_columns
from mp_pipeline.storage.typed.widening import restore_texts, widen_column


class _TooNarrowError(Exception):
    """Columns cannot store all values of the day."""

    def __init__(self, columns: list[TypedColumn]) -> None:
        super().__init__(columns)
        self.columns = columns


def type_day(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> TypedDayReport:
    """Make the typed rows of a day again.

    If the day was dropped, its typed rows are deleted.

    Raises:
        TableNotFoundError: The day is neither loaded nor typed.
        TableExistsError: The name of a view of the dictionary is taken.
    """
    started = time.monotonic()
    with locks.deriving(connection, locks.TYPING):
        try:
            loaded_at = _stage(connection, dataset, day)
            shapes.find_shapes(connection)
            report = _publish(connection, dataset, day, loaded_at)
        finally:
            shapes.drop_staged(connection)
    return replace(report, seconds=time.monotonic() - started)


def drop_typed_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Drop the typed tables of a dataset, and what is recorded of them."""
    with locks.deriving(connection, locks.TYPING), transaction(connection):
        for table in read_event_tables(connection, dataset).values():
            execute(connection, f"DROP TABLE IF EXISTS {table.sql}")
        for internal in ("_event_tables", "_event_columns", "_property_days", "_typed_days"):
            execute(connection, f"DELETE FROM {internal} WHERE dataset = lower(?)", [dataset])
        update_fast_view(connection, dataset)


def list_typed_days(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[TypedDayInfo]:
    """Return the typed days of a dataset, oldest first."""
    rows = execute(
        connection,
        "SELECT day, events, typed_at, loaded_at FROM _typed_days WHERE dataset = lower(?) "
        "ORDER BY day",
        [dataset],
    )
    loads = catalog.load_times(connection, dataset)
    return [
        TypedDayInfo(day, events, as_utc(typed_at), as_utc(loaded_at), loads.get(day))
        for day, events, typed_at, loaded_at in rows
    ]


def _stage(connection: duckdb.DuckDBPyConnection, dataset: str, day: date) -> datetime | None:
    """Stage the rows of a day; return when they were loaded, None if the day was dropped."""
    table = day_table_name(dataset, day)
    with transaction(connection):  # the day may be reloaded at the same time
        found = catalog.find_day(connection, dataset, day)
        loaded_at = None if found is None else found[1]
        layout = layout_of(connection)
        exists = bool(layout.existing(connection, [table]))
        if exists and loaded_at is not None:
            shapes.stage_rows(connection, layout.rows(connection, [table]))
            return loaded_at
    typed_days = {typed.day for typed in list_typed_days(connection, dataset)}
    if loaded_at is not None or day not in typed_days:
        raise TableNotFoundError(
            f"there is no table {table!r} in {database_name(connection)}; load the day first"
        )
    shapes.stage_rows(connection, None)
    return None


def _publish(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date, loaded_at: datetime | None
) -> TypedDayReport:
    """Replace the typed rows of a day, with columns that can store all of its values."""
    found = shapes.read_shapes(connection)
    schema = qualified_schema(connection, dataset)
    too_narrow: list[TypedColumn] = []
    while True:
        known = read_event_tables(connection, dataset)
        plans = plan_day(connection, schema, found, known, too_narrow)
        try:
            with transaction(connection):
                return _replace(connection, dataset, day, loaded_at, schema, known, plans)
        except _TooNarrowError as error:
            too_narrow += error.columns  # each becomes VARCHAR, which stores everything


def _replace(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    day: date,
    loaded_at: datetime | None,
    schema: str,
    known: Mapping[str, EventTable],
    plans: list[EventPlan],
) -> TypedDayReport:
    """Replace the typed rows of a day, in the caller's transaction.

    All tables are altered first: DuckDB 1.x refuses to alter one whose rows have changed in the
    same transaction.

    Raises:
        _TooNarrowError: Some columns cannot store all values of the day.
    """
    before = _replace_property_days(connection, dataset, day)
    _change_tables(connection, dataset, schema, plans)
    for event in before:
        execute(
            connection,
            f"DELETE FROM {known[event].sql} WHERE day = ?",
            [day],
        )
    inserted = [insert_rows(connection, day, plan) for plan in plans]
    if too_narrow := [
        column for plan in plans for column in too_narrow_columns(connection, day, plan)
    ]:
        raise _TooNarrowError(too_narrow)
    _record_day(connection, dataset, day, loaded_at, sum(inserted))
    events = {plan.table.event for plan in plans}
    return TypedDayReport(
        dataset=dataset,
        day=day,
        schema_name=schema_name(dataset),
        events=sum(inserted),
        tables=tuple(plan.table.name for plan in plans),
        new_events=tuple(plan.table.event for plan in plans if plan.is_new),
        vanished_events=tuple(event for event in before if event not in events),
        new_columns=tuple(column for plan in plans for column in plan.new),
        widened_columns=tuple(column for plan in plans for column in plan.widened),
        seconds=0.0,
    )


def _replace_property_days(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date
) -> list[str]:
    """Record what the day has; return the events that it had before."""
    where, values = "WHERE dataset = lower(?) AND day = ?", [dataset, day]
    before = execute(
        connection,
        f"SELECT event_name FROM _property_days {where} AND property IS NULL ORDER BY event_name",
        values,
    )
    execute(connection, f"DELETE FROM _property_days {where}", values)
    execute(
        connection,
        f"INSERT INTO _property_days SELECT lower(?), ?, * FROM {shapes.SHAPES}",
        values,
    )
    return [event for (event,) in before]


def _change_tables(
    connection: duckdb.DuckDBPyConnection, dataset: str, schema: str, plans: list[EventPlan]
) -> None:
    """Create and alter the tables of the day, and record that."""
    execute(connection, f"CREATE SCHEMA IF NOT EXISTS {schema}")
    unclear = []
    for plan in plans:
        added = [f"{quoted(column.column_name)} {column.type}" for column in plan.new]
        if plan.is_new:
            fixed = [f"{name} {type_}" for name, type_ in FIXED_COLUMNS.items()]
            columns = ", ".join(fixed + added)
            layout_of(connection).create_typed_table(connection, plan.table.sql, columns)
        else:
            for definition in added:
                execute(connection, f"ALTER TABLE {plan.table.sql} ADD COLUMN {definition}")
        for widened in plan.widened:
            days = widen_column(connection, dataset, plan.table, widened)
            record_type(connection, dataset, widened.column)
            unclear += [(plan.table, widened.column, day) for day in days]
    record_tables(connection, dataset, [plan.table for plan in plans if plan.is_new])
    record_columns(connection, dataset, [column for plan in plans for column in plan.new])
    if any(plan.is_new for plan in plans):  # a look at all views takes longer with each day
        create_views(connection)
        update_fast_view(connection, dataset)
    if not unclear:
        return
    current = {typed.day for typed in list_typed_days(connection, dataset) if not typed.is_stale}
    for table, column, day in unclear:
        if day in current:
            restore_texts(connection, dataset, table, column, day)


def _record_day(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    day: date,
    loaded_at: datetime | None,
    events: int,
) -> None:
    execute(
        connection, "DELETE FROM _typed_days WHERE dataset = lower(?) AND day = ?", [dataset, day]
    )
    if loaded_at is not None:
        execute(
            connection,
            "INSERT INTO _typed_days VALUES (lower(?), ?, ?, ?, ?)",
            [dataset, day, to_utc(loaded_at), to_utc(datetime.now(UTC)), events],
        )
