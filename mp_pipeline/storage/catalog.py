"""Reading and writing the catalog: which tables exist, and to whom they belong.

Names are compared without regard to case, as DuckDB does.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import duckdb

from mp_pipeline.storage.errors import StorageError, TableExistsError
from mp_pipeline.storage.load_log import latest_loads
from mp_pipeline.storage.models import (
    DayInfo,
    Origin,
    TableInfo,
    TableMetadata,
)
from mp_pipeline.storage.schema import (
    OWN_COMMENT,
    create_internal_tables,
    has_internal_tables,
    is_complete,
)
from mp_pipeline.storage.scratch import remove_leftovers
from mp_pipeline.storage.statements import database_path, execute, transaction
from mp_pipeline.storage.tables import EVENTS, literal, quoted
from mp_pipeline.storage.times import as_utc, to_utc

LOADING_PREFIX = "_loading_"

logger = logging.getLogger(__name__)

# Transactions that change the same catalog entries would fail: one publishes at a time.
catalog_lock = threading.RLock()
"""Held while the catalog of any database of this process is changed."""

# Staging tables of this process: another connection of it must not take them for leftovers.
_staging_tables: set[str] = set()


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


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the internal tables, and remove what killed processes left behind.

    DuckDB lets one process write, so a staging table that this process does not know is left over.

    Raises:
        StorageError: The database cannot be written, or is damaged.
    """
    try:
        if not is_complete(connection):
            _create_or_migrate(connection)
        for (name,) in execute(
            connection,
            "SELECT table_name FROM duckdb_tables() "
            "WHERE starts_with(table_name, ?) AND NOT temporary",
            [LOADING_PREFIX],
        ):
            if name not in _staging_tables:
                execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
    except duckdb.Error as error:
        path = database_path(connection)
        raise StorageError(f"cannot write the database {path}: {error}") from error
    remove_leftovers(connection)


def _create_or_migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the internal tables, or migrate a database of an earlier version: all or none."""
    is_earlier = has_internal_tables(connection)
    with transaction(connection):
        create_internal_tables(connection)
        for (dataset,) in execute(
            connection, "SELECT DISTINCT dataset FROM _tables WHERE day IS NOT NULL ORDER BY ALL"
        ):
            if find_kind(connection, dataset) == "VIEW" and is_own(connection, dataset):
                refresh_days_view(connection, dataset)
    if is_earlier:
        logger.warning(
            "%s was written by an earlier version of mp_pipeline: its internal tables and views "
            "were brought up to date. No data was changed",
            database_path(connection),
        )


def protect_staging_table(name: str) -> None:
    """Keep ``prepare`` from dropping a staging table of this process."""
    _staging_tables.add(name)


def drop_staging_table(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Drop a staging table if it exists, and end its protection."""
    try:
        execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
    finally:
        _staging_tables.discard(name)


def find_kind(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Return ``BASE TABLE`` or ``VIEW`` for what has the name, None if nothing has it."""
    rows = execute(
        connection,
        "SELECT table_type FROM information_schema.tables "
        "WHERE table_catalog = current_database() AND table_schema = current_schema() "
        "AND lower(table_name) = lower(?)",
        [name],
    )
    return str(rows[0][0]) if rows else None


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
    comment: str | None = None,
) -> None:
    """Record a table that was created or replaced, and mark it as this engine's."""
    mark_as_own(connection, "TABLE", table_name, comment)
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


def refresh_days_view(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Create the view over all days of a dataset again, or drop it if there are none.

    Its last column is the calendar day: a query of one day reads no other.

    A day whose table was dropped, or lacks a column of the data model, is left out with a warning:
    one such day must not make the others unusable.
    """
    days = dict(_day_tables(connection, dataset))
    intact = set(with_columns_of_events(connection, list(days)))
    if left_out := [name for name in days if name not in intact]:
        logger.warning(
            "the view %s leaves out %s: a table is missing, or its columns were changed. "
            "Reload that day",
            dataset,
            ", ".join(left_out),
        )
    if not intact:
        is_view = find_kind(connection, dataset) == "VIEW"
        if is_view and find_comment(connection, dataset) is not None:
            execute(connection, f"DROP VIEW {quoted(dataset)}")
        return
    columns = ", ".join(EVENTS.column_names)
    selects = " UNION ALL ".join(
        f"SELECT {columns}, DATE '{day}' AS day FROM {quoted(name)}"
        for name, day in days.items()
        if name in intact
    )
    comment = find_comment(connection, dataset)
    execute(connection, f"CREATE OR REPLACE VIEW {quoted(dataset)} AS {selects}")
    mark_as_own(connection, "VIEW", dataset, comment)


def _day_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[tuple[str, date]]:
    return execute(
        connection,
        "SELECT table_name, day FROM _tables WHERE lower(dataset) = lower(?) AND day IS NOT NULL "
        "ORDER BY day",
        [dataset],
    )


def with_columns_of_events(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> list[str]:
    """Return which of the tables exist and have all columns of an events table."""
    expected = [f"{column.name} {column.type}" for column in EVENTS.columns]
    return [
        name
        for (name,) in execute(
            connection,
            """
            SELECT name FROM (SELECT unnest(?) AS name) JOIN (
                SELECT lower(table_name) AS lower_name,
                    list(column_name || ' ' || data_type) AS columns
                FROM duckdb_columns()
                WHERE database_name = current_database() AND schema_name = current_schema()
                GROUP BY ALL
            ) ON lower_name = lower(name)
            WHERE list_has_all(columns, ?)
            """,
            [list(table_names), expected],
        )
    ]
