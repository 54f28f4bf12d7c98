"""The internal tables: ``_metadata`` of the data model, the load log, the rejected lines.

Names that start with ``_`` are internal. ``_metadata`` describes the tables that are there now;
``_load_log`` is append-only and keeps every load; ``_rejected`` keeps, for each table that is
there now, the lines that its load could not store.
"""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb

from mp_pipeline.storage.connection import DAMAGE_ADVICE, is_damage
from mp_pipeline.storage.errors import SourceMismatchError, StorageError
from mp_pipeline.storage.models import (
    DayInfo,
    LoadReport,
    RowCounts,
    TableInfo,
    TableMetadata,
)
from mp_pipeline.storage.scratch import remove_leftovers
from mp_pipeline.storage.tables import day_table_name, quoted

LOADING_PREFIX = "_loading_"
SAMPLE_SOURCE = "sample"
"""The ``source`` of sample data, which never shares a database with real data."""

_INTERRUPTED = "Query interrupted"

_INTERNAL_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS _metadata (
        table_name VARCHAR PRIMARY KEY,
        type VARCHAR NOT NULL,
        fetched_at TIMESTAMP NOT NULL,
        from_date DATE,
        to_date DATE,
        row_count INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS _load_log (
        table_name VARCHAR NOT NULL,
        type VARCHAR NOT NULL,
        day DATE,
        run_id VARCHAR,
        source VARCHAR,
        started_at TIMESTAMP NOT NULL,
        finished_at TIMESTAMP NOT NULL,
        filter_events JSON,
        filter_where VARCHAR,
        bytes_read BIGINT NOT NULL,
        lines_read BIGINT NOT NULL,
        rows_stored BIGINT NOT NULL,
        duplicates BIGINT NOT NULL,
        rejected BIGINT NOT NULL,
        outside_day BIGINT NOT NULL,
        repaired BIGINT NOT NULL,
        gained BIGINT,
        lost BIGINT
    )
    """,
    # For databases from before these columns.
    "ALTER TABLE _load_log ADD COLUMN IF NOT EXISTS gained BIGINT",
    "ALTER TABLE _load_log ADD COLUMN IF NOT EXISTS lost BIGINT",
    """
    CREATE TABLE IF NOT EXISTS _rejected (
        table_name VARCHAR NOT NULL,
        day DATE,
        line_number BIGINT NOT NULL,
        reason VARCHAR NOT NULL,
        line VARCHAR NOT NULL
    )
    """,
)

# Loads under way in this process: a second connection must not take them for leftovers.
_loading_now: set[str] = set()


def run(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """Run one statement to its end and return its rows.

    Raises:
        StorageError: the database file is damaged; names it and says what to do.
        duckdb.Error: anything else that DuckDB has against it.
        KeyboardInterrupt: a signal handler ended it; what that raised, DuckDB does not say.
    """
    try:
        return connection.execute(sql, list(parameters)).fetchall()
    except duckdb.Error as error:
        file = _file(connection)
        if is_damage(error, file):
            raise StorageError(
                f"the database {file} is damaged: {error}. {DAMAGE_ADVICE}"
            ) from error
        raise
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:
            raise KeyboardInterrupt(_INTERRUPTED) from None
        raise


def _file(connection: duckdb.DuckDBPyConnection) -> Path:
    """Return the database's file, as far as DuckDB still says it."""
    try:
        # Another session: a transaction that has failed answers no more questions.
        with connection.cursor() as session:
            ((path,),) = session.execute(
                "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
            ).fetchall()
    except duckdb.Error:
        return Path("file")
    return Path(path or "in memory")


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the internal tables, and remove what a crashed load left behind.

    DuckDB lets one process write: a loading table that this process does not know is nobody's.

    Raises:
        StorageError: the database cannot be written, or is damaged; names it.
    """
    try:
        for ddl in _INTERNAL_TABLES:
            run(connection, ddl)
        for (name,) in run(
            connection,
            "SELECT table_name FROM duckdb_tables() "
            "WHERE starts_with(table_name, ?) AND NOT temporary",
            [LOADING_PREFIX],
        ):
            if name not in _loading_now:
                run(connection, f"DROP TABLE IF EXISTS {quoted(name)}")  # or published meanwhile
    except duckdb.Error as error:
        raise StorageError(f"cannot write the database {_file(connection)}: {error}") from error
    remove_leftovers(connection)


def claim_loading_table(name: str) -> None:
    """Protect a loading table of this process from ``prepare``."""
    _loading_now.add(name)


def drop_loading_table(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Remove a loading table, if it is still there, and its protection."""
    try:
        run(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
    finally:
        _loading_now.discard(name)


def find(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Return the type of the table or view of that name (names are case-insensitive), or None."""
    rows = run(
        connection,
        "SELECT table_type FROM information_schema.tables "
        "WHERE table_catalog = current_database() AND table_schema = current_schema() "
        "AND lower(table_name) = lower(?)",
        [name],
    )
    return str(rows[0][0]) if rows else None


def write_metadata(
    connection: duckdb.DuckDBPyConnection, table_name: str, metadata: TableMetadata, rows: int
) -> None:
    """Write the table's row in ``_metadata`` anew."""
    run(connection, "DELETE FROM _metadata WHERE lower(table_name) = lower(?)", [table_name])
    run(
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


def append_load(
    connection: duckdb.DuckDBPyConnection, report: LoadReport, metadata: TableMetadata
) -> None:
    """Append a load to the log."""
    run(
        connection,
        f"INSERT INTO _load_log VALUES ({', '.join('?' * 18)})",
        [
            report.table_name,
            report.type,
            report.day,
            report.run_id,
            report.source,
            to_utc(report.started_at),
            to_utc(report.finished_at),
            None if metadata.filter_events is None else json.dumps(metadata.filter_events),
            metadata.filter_where,
            report.bytes_read,
            report.lines_read,
            report.rows_stored,
            report.duplicates,
            report.rejected,
            report.outside_day,
            report.repaired,
            report.gained,
            report.lost,
        ],
    )


def forget_table(connection: duckdb.DuckDBPyConnection, table_name: str) -> None:
    """Delete what is kept of a table that is dropped; the load log keeps its history."""
    for internal in ("_metadata", "_rejected"):
        run(connection, f"DELETE FROM {internal} WHERE lower(table_name) = lower(?)", [table_name])


def keep_rejected(
    connection: duckdb.DuckDBPyConnection, table_name: str, day: date | None, rejected: str
) -> None:
    """Keep the rejected lines of a load, which are in the temporary table ``rejected``."""
    run(
        connection,
        f"INSERT INTO _rejected SELECT ?, ?, line_number, reason, line FROM {rejected}",
        [table_name, day],
    )


def read_metadata(connection: duckdb.DuckDBPyConnection, table_name: str) -> TableMetadata | None:
    """Return what was fetched into a table; its filters come from the load log."""
    rows = run(
        connection,
        """
        SELECT m.type, m.fetched_at, m.from_date, m.to_date, l.filter_events, l.filter_where
        FROM _metadata m LEFT JOIN _load_log l ON lower(l.table_name) = lower(m.table_name)
        WHERE lower(m.table_name) = lower(?)
        ORDER BY l.rowid DESC LIMIT 1
        """,
        [table_name],
    )
    if not rows:
        return None
    table_type, fetched_at, from_date, to_date, filter_events, filter_where = rows[0]
    return TableMetadata(
        type=table_type,
        fetched_at=as_utc(fetched_at),
        from_date=from_date and from_date.isoformat(),
        to_date=to_date and to_date.isoformat(),
        filter_events=None if filter_events is None else json.loads(filter_events),
        filter_where=filter_where,
    )


def list_tables(connection: duckdb.DuckDBPyConnection) -> list[TableInfo]:
    """Return the tables in ``_metadata``, by name."""
    return [
        TableInfo(name, table_type, row_count, as_utc(fetched_at))
        for name, table_type, row_count, fetched_at in run(
            connection,
            "SELECT table_name, type, row_count, fetched_at FROM _metadata ORDER BY table_name",
        )
    ]


def list_days(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[DayInfo]:
    """Return the days of a dataset, oldest first.

    A day table is an events table that covers one day and carries it in its name.
    """
    return [
        DayInfo(day, name, row_count, as_utc(fetched_at))
        for day, name, row_count, fetched_at in run(
            connection,
            """
            SELECT from_date, table_name, row_count, fetched_at FROM _metadata
            WHERE type = 'events' AND from_date = to_date
            AND lower(table_name) = lower(? || strftime(from_date, '_%Y%m%d'))
            ORDER BY from_date
            """,
            [dataset],
        )
    ]


def dataset_of_day_table(connection: duckdb.DuckDBPyConnection, table_name: str) -> str | None:
    """Return the dataset whose day a table holds, None if it is no day table of ours."""
    dataset = table_name[: -len("_20240115")]
    names = {day.table_name.lower() for day in list_days(connection, dataset)} if dataset else ()
    return dataset if table_name.lower() in names else None


def refresh_days_view(connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
    """Make the view over all days of a dataset anew, or drop it if there are none."""
    days = list_days(connection, dataset)
    if days:
        selects = " UNION ALL ".join(f"SELECT * FROM {quoted(day.table_name)}" for day in days)
        run(connection, f"CREATE OR REPLACE VIEW {quoted(dataset)} AS {selects}")
    else:
        run(connection, f"DROP VIEW IF EXISTS {quoted(dataset)}")


def count_rows(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> list[RowCounts]:
    """Count tables, and set beside each what ``_metadata`` and the load log say of it."""
    loads = {load.table_name.lower(): load for load in last_loads(connection, table_names)}
    counted = []
    for name in table_names:
        ((rows,),) = run(connection, f"SELECT count(*) FROM {quoted(name)}")
        in_metadata = run(
            connection, "SELECT row_count FROM _metadata WHERE lower(table_name) = lower(?)", [name]
        )
        recorded = in_metadata[0][0] if in_metadata else None
        counted.append(RowCounts(name, rows, recorded, loads.get(name.lower())))
    return counted


def last_loads(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> list[LoadReport]:
    """Return the latest row in the load log of each table that has one."""
    return _loads(
        connection,
        "WHERE lower(table_name) IN (SELECT unnest(?)) "
        "QUALIFY row_number() OVER (PARTITION BY lower(table_name) ORDER BY rowid DESC) = 1",
        [[name.lower() for name in table_names]],
    )


def list_loads(
    connection: duckdb.DuckDBPyConnection, dataset: str, run_ids: Sequence[str] | None
) -> list[LoadReport]:
    """Return the rows in the load log of a table, or of a dataset's day tables, oldest first.

    Args:
        connection: the database.
        dataset: the table, or the view over day tables.
        run_ids: only loads of these runs; None for all.
    """
    return _loads(
        connection,
        "WHERE lower(table_name) = lower(? || coalesce(strftime(day, '_%Y%m%d'), '')) "
        "AND (? IS NULL OR run_id IN (SELECT unnest(?))) ORDER BY rowid",
        [dataset, run_ids, run_ids],
    )


def _loads(
    connection: duckdb.DuckDBPyConnection, which: str, parameters: Sequence[Any]
) -> list[LoadReport]:
    rows = run(
        connection,
        """
        SELECT table_name, type, day, run_id, source, started_at, finished_at, bytes_read,
            lines_read, rows_stored, duplicates, rejected, outside_day, repaired, gained, lost
        FROM _load_log
        """
        + which,
        parameters,
    )
    return [
        LoadReport(name, type_, day, run_id, source, as_utc(started), as_utc(finished), *counts)
        for name, type_, day, run_id, source, started, finished, *counts in rows
    ]


def check_source(connection: duckdb.DuckDBPyConnection, dataset: str, source: str | None) -> None:
    """Refuse to mix sources: sample and real data in one database, two projects in one dataset.

    Raises:
        SourceMismatchError: says what the database holds and what to do.
    """
    if source is None:
        return
    tables = [table.name for table in list_tables(connection)]
    for load in last_loads(connection, tables):
        if load.source is None or load.source == source:
            continue
        same_dataset = load.table_name == dataset or (
            load.day is not None and load.table_name == day_table_name(dataset, load.day)
        )
        if same_dataset or SAMPLE_SOURCE in (source, load.source):
            raise SourceMismatchError(
                f"this database holds data of {load.source!r} (table {load.table_name}) and the "
                f"load is of {source!r}; give each source a database file of its own"
            )


def to_utc(moment: datetime) -> datetime:
    """Return a time as naive UTC, the way TIMESTAMP columns hold it (naive means UTC)."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def as_utc(moment: datetime) -> datetime:
    """Return a time read from a TIMESTAMP column as aware UTC."""
    return moment.replace(tzinfo=UTC)


def parse_date(text: str, name: str) -> date:
    """Return a YYYY-MM-DD text as a date.

    Raises:
        ValueError: names the field and the text.
    """
    try:
        parsed = date.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {text!r}, not a date (YYYY-MM-DD)") from error
    if parsed.isoformat() != text:
        raise ValueError(f"{name} is {text!r}, not a date (YYYY-MM-DD)")
    return parsed
