"""Comparing tables with the data model, and with what was recorded of them."""

from collections.abc import Sequence

import duckdb

from mp_pipeline.storage.catalog import with_columns_of_events
from mp_pipeline.storage.load_log import latest_loads
from mp_pipeline.storage.models import ColumnInfo, RowCounts, TableType
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import LAYOUTS, quoted


def count_rows(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> list[RowCounts]:
    """Count the rows of tables, beside what ``_metadata`` and the load log say about them."""
    existing = _existing(connection, table_names)
    counts = " UNION ALL ".join(
        f"SELECT {number} AS number, count(*) AS rows FROM {quoted(name)}"
        for number, name in enumerate(table_names)
        if name.lower() in existing
    )
    rows = dict(execute(connection, counts)) if counts else {}
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
        RowCounts(name, rows.get(number), recorded.get(name.lower()), loads.get(name.lower()))
        for number, name in enumerate(table_names)
    ]


def count_events(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Count the rows of tables of events by event name; leaves out tables that are not intact."""
    counts: dict[str, dict[str, int]] = {
        name: {} for name in with_columns_of_events(connection, table_names)
    }
    selects = " UNION ALL ".join(
        f"SELECT {number} AS number, event_name, count(*) FROM {quoted(name)} GROUP BY event_name"
        for number, name in enumerate(counts)
    )
    names = list(counts)
    for number, event_name, events in execute(connection, selects) if counts else []:
        counts[names[number]][event_name] = events
    return counts


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
    columns = _columns(connection, table_names)
    keys = _primary_keys(connection, table_names)
    return {
        name: _differences(columns.get(name.lower()), keys.get(name.lower(), []), name, table_type)
        for name in table_names
    }


def _differences(
    found: dict[str, ColumnInfo] | None, key: list[str], table_name: str, table_type: TableType
) -> list[str]:
    if found is None:
        return [f"there is no table {table_name!r}; reload it"]
    layout = LAYOUTS[table_type]
    expected = {column.name: column for column in layout.columns}
    problems = [f"no column {name}" for name in expected if name not in found]
    problems += [f"unexpected column {name}" for name in found if name not in expected]
    problems += [
        f"column {name} is {_describe(found[name])}, not {_describe(column)}"
        for name, column in expected.items()
        if name in found and found[name] != column
    ]
    if key != list(layout.primary_key):
        problems.append(f"the primary key is {key or 'missing'}, not {layout.key}")
    return problems


def _existing(connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]) -> set[str]:
    return {
        name
        for (name,) in execute(
            connection,
            "SELECT lower(table_name) FROM information_schema.tables "
            "WHERE table_catalog = current_database() AND table_schema = current_schema() "
            "AND lower(table_name) IN (SELECT unnest(?))",
            [[name.lower() for name in table_names]],
        )
    }


def _columns(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> dict[str, dict[str, ColumnInfo]]:
    found: dict[str, dict[str, ColumnInfo]] = {}
    for table, column, type_, nullable in execute(
        connection,
        "SELECT lower(table_name), column_name, data_type, is_nullable FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = current_schema() "
        "AND lower(table_name) IN (SELECT unnest(?)) ORDER BY column_index",
        [[name.lower() for name in table_names]],
    ):
        found.setdefault(table, {})[column] = ColumnInfo(column, type_, nullable)
    return found


def _primary_keys(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> dict[str, list[str]]:
    return dict(
        execute(
            connection,
            "SELECT lower(table_name), constraint_column_names FROM duckdb_constraints() "
            "WHERE database_name = current_database() AND schema_name = current_schema() "
            "AND constraint_type = 'PRIMARY KEY' AND lower(table_name) IN (SELECT unnest(?))",
            [[name.lower() for name in table_names]],
        )
    )


def _describe(column: ColumnInfo) -> str:
    return f"{column.type}{'' if column.nullable else ' NOT NULL'}"
