"""Comparing tables with the data model, and with what was recorded of them."""

from collections.abc import Sequence

import duckdb

from mp_pipeline.storage.layout import Columns
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.load_log import latest_loads
from mp_pipeline.storage.models import ColumnInfo, RowCounts, TableType
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import LAYOUTS, TableLayout


def count_rows(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> list[RowCounts]:
    """Count the rows of tables, beside what ``_metadata`` and the load log say about them."""
    rows = layout_of(connection).count_rows(connection, table_names)
    recorded = dict(
        execute(
            connection,
            "SELECT lower(table_name), row_count FROM _metadata "
            "WHERE lower(table_name) IN (SELECT unnest(?))",
            [[name.lower() for name in table_names]],
        )
    )
    loads = latest_loads(connection, table_names)
    return [
        RowCounts(name, rows.get(name.lower()), recorded.get(name.lower()), loads.get(name.lower()))
        for name in table_names
    ]


def count_events(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the rows of tables of events by event name; leaves out tables that are not intact."""
    counts = layout_of(connection).count_events(connection, table_names)
    return {name: counts[name.lower()] for name in table_names if name.lower() in counts}


def count_rejected_lines(
    connection: duckdb.DuckDBPyConnection, table_name: str
) -> list[tuple[str, int]]:
    """Return why lines of a table were rejected, and how many each time; most first."""
    return [
        (str(reason), int(lines))
        for reason, lines in execute(
            connection,
            "SELECT reason, count(*) FROM _rejected WHERE lower(table_name) = lower(?) "
            "GROUP BY reason ORDER BY count(*) DESC, reason",
            [table_name],
        )
    ]


def schema_problems(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str], table_type: TableType
) -> dict[str, list[str]]:
    """Return how tables differ from the data model, none for a table that does not."""
    layout, table = layout_of(connection), LAYOUTS[table_type]
    columns = layout.columns(connection, table_names)
    keys = layout.key_problems(connection, table, table_names)
    return {
        name: [
            *_differences(columns.get(name.lower()), name, table),
            *filter(None, [keys.get(name.lower())]),
        ]
        for name in table_names
    }


def _differences(found: Columns | None, table_name: str, layout: TableLayout) -> list[str]:
    if found is None:
        return [f"there is no table {table_name!r}; reload it"]
    expected = {column.name: column for column in layout.columns}
    problems = [f"no column {name}" for name in expected if name not in found]
    problems += [f"unexpected column {name}" for name in found if name not in expected]
    problems += [
        f"column {name} is {_describe(found[name])}, not {_describe(column)}"
        for name, column in expected.items()
        if name in found and found[name] != column
    ]
    return problems


def _describe(column: ColumnInfo) -> str:
    return f"{column.type}{'' if column.nullable else ' NOT NULL'}"
