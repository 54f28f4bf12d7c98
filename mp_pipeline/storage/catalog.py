"""Reading and writing the catalog: which tables exist, and to whom they belong.

Names are compared without regard to case, as DuckDB does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

import duckdb

from mp_pipeline.storage.errors import TableExistsError
from mp_pipeline.storage.load_log import latest_loads
from mp_pipeline.storage.models import (
    ColumnInfo,
    DayInfo,
    Origin,
    TableInfo,
    TableMetadata,
)
from mp_pipeline.storage.schema import OWN_COMMENT
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import EVENTS, literal, quoted
from mp_pipeline.storage.times import as_utc, to_utc

LOAD_TIMES = """
    SELECT lower(dataset) AS dataset, day, coalesce(finished_at, fetched_at) AS loaded_at
    FROM (SELECT *, lower(table_name) AS name FROM _tables WHERE day IS NOT NULL)
    LEFT JOIN (SELECT lower(table_name) AS name, fetched_at FROM _metadata) USING (name)
    LEFT JOIN (
        SELECT lower(table_name) AS name, arg_max(finished_at, rowid) AS finished_at
        FROM _load_log WHERE refused IS NULL GROUP BY ALL
    ) USING (name)
"""
"""The query for when each day was last loaded, as ``load_times`` returns it, of all datasets."""


@dataclass(frozen=True)
class Ownership:
    """What a table that this engine created belongs to.

    Attributes:
        dataset: The dataset; the name of the table itself if it is the only one.
        day: The day of a day table, None for others.
        owner: What the dataset belongs to, as the caller names it; None if not given.
    """

    dataset: str
    day: date | None
    owner: str | None


def find_kind(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Return ``BASE TABLE`` or ``VIEW`` for what has the name, None if nothing has it."""
    rows = execute(
        connection,
        # A lake lists its columns much faster than its tables.
        "SELECT max(kind) FROM (SELECT 'VIEW' AS kind, database_name, schema_name, view_name AS "
        "name FROM duckdb_views() UNION ALL SELECT 'BASE TABLE', database_name, schema_name, "
        "table_name FROM duckdb_columns()) WHERE database_name = current_database() "
        "AND schema_name = current_schema() AND lower(name) = lower(?)",
        [name],
    )
    return None if rows[0][0] is None else str(rows[0][0])


def read_columns(
    connection: duckdb.DuckDBPyConnection, names: Iterable[str]
) -> dict[str, dict[str, ColumnInfo]]:
    """Return the columns, in order and by name, of the tables or views that exist.

    The names of the tables in the result are in lower case.
    """
    found: dict[str, dict[str, ColumnInfo]] = {}
    for table, column, type_, nullable in execute(
        connection,
        "SELECT lower(table_name), column_name, data_type, is_nullable FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = current_schema() "
        "AND lower(table_name) IN (SELECT unnest(?)) ORDER BY column_index",
        [sorted({name.lower() for name in names})],
    ):
        found.setdefault(table, {})[column] = ColumnInfo(column, type_, nullable)
    return found


def find_ownership(connection: duckdb.DuckDBPyConnection, table_name: str) -> Ownership | None:
    """Return what a table belongs to; None if this engine did not create it."""
    rows = execute(
        connection,
        "SELECT dataset, day, owner FROM _tables WHERE lower(table_name) = lower(?)",
        [table_name],
    )
    return Ownership(*rows[0]) if rows else None


def find_dataset_owner(connection: duckdb.DuckDBPyConnection, dataset: str) -> str | None:
    """Return the recorded owner of a dataset, None if there is none."""
    rows = execute(
        connection,
        "SELECT owner FROM _tables WHERE lower(dataset) = lower(?) AND owner IS NOT NULL LIMIT 1",
        [dataset],
    )
    return str(rows[0][0]) if rows else None


def require_own(connection: duckdb.DuckDBPyConnection, name: str, kind: str) -> None:
    """Refuse to replace what this engine did not create.

    Args:
        connection: The database.
        name: The table or view.
        kind: ``BASE TABLE`` or ``VIEW``, which it must be if it exists.

    Raises:
        TableExistsError: It is something else.
    """
    found = find_kind(connection, name)
    if found is not None and not (found == kind and is_own(connection, name)):
        raise TableExistsError(
            f"the database contains a {'view' if found == 'VIEW' else 'table'} {name!r} that was "
            "not created by a load of this kind; rename or drop it"
        )


def require_owner(connection: duckdb.DuckDBPyConnection, dataset: str, owner: str | None) -> None:
    """Refuse to change a dataset that belongs to somebody else.

    Raises:
        TableExistsError: It does.
    """
    recorded = find_dataset_owner(connection, dataset)
    if None not in (recorded, owner) and recorded != owner:
        raise TableExistsError(
            f"{dataset!r} belongs to {recorded!r}, not to {owner!r}; give one of them another name"
        )


def has_days(connection: duckdb.DuckDBPyConnection, dataset: str) -> bool:
    """Return whether days of a dataset are recorded."""
    return execute(
        connection,
        "SELECT count(*) > 0 FROM _tables WHERE lower(dataset) = lower(?) AND day IS NOT NULL",
        [dataset],
    ) == [(True,)]


def find_comment(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Return the comment on a table or view, None if there is none."""
    rows = execute(
        connection,
        "SELECT comment FROM (SELECT database_name, schema_name, table_name AS name, comment "
        "FROM duckdb_tables() UNION ALL SELECT database_name, schema_name, view_name, comment "
        "FROM duckdb_views()) WHERE database_name = current_database() "
        "AND schema_name = current_schema() AND lower(name) = lower(?)",
        [name],
    )
    return None if not rows or rows[0][0] is None else str(rows[0][0])


def is_own(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Return whether this engine created the table or view of that name.

    It is recorded, and it has a comment: this engine's, or one that a user wrote over it. A table
    or view that a user created in the place of a dropped one has none.
    """
    recorded = execute(
        connection,
        "SELECT count(*) FROM _tables WHERE lower(table_name) = lower(?) "
        "OR (day IS NOT NULL AND lower(dataset) = lower(?))",
        [name, name],
    )
    return recorded != [(0,)] and find_comment(connection, name) is not None


def mark_as_own(
    connection: duckdb.DuckDBPyConnection, kind: str, name: str, comment: str | None = None
) -> None:
    """Mark a table or view as created by this engine.

    Args:
        connection: The database.
        kind: ``TABLE`` or ``VIEW``.
        name: Its name.
        comment: The comment that the table or view had before, which is kept.
    """
    text = literal(comment or OWN_COMMENT)
    execute(connection, f"COMMENT ON {kind} {quoted(name)} IS {text}")


def create_own_view(
    connection: duckdb.DuckDBPyConnection, name: str, query: str, needed_by: str
) -> None:
    """Create a view, or bring it up to date.

    Args:
        connection: The database.
        name: The name of the view.
        query: What it selects.
        needed_by: What needs it, for the error.

    Raises:
        TableExistsError: The name is taken by something that this engine did not create.
    """
    kind, comment = find_kind(connection, name), find_comment(connection, name)
    if kind is not None and (kind != "VIEW" or comment is None):
        raise TableExistsError(
            f"{needed_by} needs the name {name!r}, which another table or view has; rename or "
            "drop that"
        )
    execute(connection, f"CREATE OR REPLACE VIEW {quoted(name)} AS {query}")
    mark_as_own(connection, "VIEW", name, comment)


def record_table(
    connection: duckdb.DuckDBPyConnection,
    table_name: str,
    metadata: TableMetadata,
    rows: int,
    ownership: Ownership,
) -> None:
    """Record a table that was created or replaced."""
    execute(
        connection,
        "INSERT INTO _metadata VALUES (?, ?, ?, ?, ?, ?)",
        [
            table_name,
            metadata.type,
            to_utc(metadata.fetched_at),
            metadata.from_date,
            metadata.to_date,
            rows,
        ],
    )
    execute(
        connection,
        "INSERT INTO _tables VALUES (?, ?, ?, ?)",
        [table_name, ownership.dataset, ownership.day, ownership.owner],
    )


def forget_table(connection: duckdb.DuckDBPyConnection, table_name: str) -> None:
    """Delete the records of a table that is dropped or replaced; the load log is kept."""
    for internal in ("_metadata", "_tables", "_rejected"):
        execute(
            connection, f"DELETE FROM {internal} WHERE lower(table_name) = lower(?)", [table_name]
        )


def record_rejected(
    connection: duckdb.DuckDBPyConnection, table_name: str, day: date | None, rejected: str
) -> None:
    """Record the rejected lines of a load from the temporary table ``rejected``."""
    execute(
        connection,
        "INSERT INTO _rejected (table_name, day, line_number, reason, line, file) "
        f"SELECT ?, ?, line_number, reason, line, file FROM {rejected}",
        [table_name, day],
    )


def read_metadata(connection: duckdb.DuckDBPyConnection, table_name: str) -> TableMetadata | None:
    """Return what was fetched into a table, None if there is no record of it."""
    rows = execute(
        connection,
        "SELECT type, fetched_at, from_date, to_date FROM _metadata "
        "WHERE lower(table_name) = lower(?)",
        [table_name],
    )
    if not rows:
        return None
    table_type, fetched_at, from_date, to_date = rows[0]
    load = latest_loads(connection, [table_name]).get(table_name.lower())
    origin = Origin() if load is None else load.origin
    return TableMetadata(
        type=table_type,
        fetched_at=as_utc(fetched_at),
        from_date=from_date and from_date.isoformat(),
        to_date=to_date and to_date.isoformat(),
        filter_events=None if origin.filter_events is None else list(origin.filter_events),
        filter_where=origin.filter_where,
        filter_properties=None
        if origin.filter_properties is None
        else list(origin.filter_properties),
    )


def list_tables(connection: duckdb.DuckDBPyConnection) -> list[TableInfo]:
    """Return the tables in ``_metadata``, by name."""
    return [
        TableInfo(name, table_type, row_count, as_utc(fetched_at))
        for name, table_type, row_count, fetched_at in execute(
            connection,
            "SELECT table_name, type, row_count, fetched_at FROM _metadata ORDER BY table_name",
        )
    ]


def list_snapshots(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[str]:
    """Return the recorded tables of a dataset that is not split by day, by name."""
    return [
        name
        for (name,) in execute(
            connection,
            "SELECT table_name FROM _tables WHERE lower(dataset) = lower(?) AND day IS NULL "
            "ORDER BY table_name",
            [dataset],
        )
    ]


def list_days(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[DayInfo]:
    """Return the recorded days of a dataset, oldest first."""
    return [info for info, _ in _days_with_load_times(connection, dataset, None)]


def load_times(connection: duckdb.DuckDBPyConnection, dataset: str) -> dict[date, datetime]:
    """Return when each day of a dataset was last loaded."""
    days = _days_with_load_times(connection, dataset, None)
    return {info.day: loaded_at for info, loaded_at in days}


def events_of(connection: duckdb.DuckDBPyConnection, dataset: str) -> str:
    """Return the SQL for the events of a dataset; without any day, it has none."""
    if find_kind(connection, dataset) is not None:
        return quoted(dataset)
    columns = [f"NULL::{column.type} AS {column.name}" for column in EVENTS.columns]
    return f"(SELECT {', '.join([*columns, 'NULL::DATE AS day'])} WHERE false)"


def find_day(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date
) -> tuple[DayInfo, datetime] | None:
    """Return a recorded day of a dataset, and when it was last loaded; None if there is none."""
    return next(iter(_days_with_load_times(connection, dataset, day)), None)


def _days_with_load_times(
    connection: duckdb.DuckDBPyConnection, dataset: str, day: date | None
) -> list[tuple[DayInfo, datetime]]:
    """Return recorded days with their latest load, oldest first: all, or the one given."""
    rows = execute(
        connection,
        "SELECT t.day, m.table_name, m.row_count, m.fetched_at "
        "FROM _tables t JOIN _metadata m ON lower(t.table_name) = lower(m.table_name) "
        "WHERE lower(t.dataset) = lower(?) AND t.day IS NOT NULL "
        "AND t.day = coalesce(?::DATE, t.day) ORDER BY t.day",
        [dataset, day],
    )
    loads = latest_loads(connection, [name for _, name, *_ in rows])
    days = []
    for of_day, name, row_count, fetched_at in rows:
        load = loads.get(name.lower())
        origin = Origin() if load is None else load.origin
        info = DayInfo(of_day, name, row_count, as_utc(fetched_at), origin)
        days.append((info, info.fetched_at if load is None else load.finished_at))
    return days
