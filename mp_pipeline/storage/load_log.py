"""The load log, ``_load_log``: one row for each load, never deleted.

Only an erasure changes a row: it moves what it erased from the stored rows and rejected lines of
the load to ``erased``.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import duckdb

from mp_pipeline.storage.models import LoadReport, Origin
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.times import as_utc, to_utc

_COLUMNS = (
    "table_name, type, day, run_id, source, filter_events, filter_where, timezone, "
    "wall_clock_zone, filter_properties, started_at, finished_at, bytes_read, lines_read, "
    "rows_stored, duplicates, rejected, outside_day, repaired, gained, lost, refused"
)


def append_load(connection: duckdb.DuckDBPyConnection, report: LoadReport, dataset: str) -> None:
    """Append a load to the log.

    Args:
        connection: The database.
        report: The load.
        dataset: The dataset that the table belongs to.
    """
    origin = report.origin
    values = [
        dataset,
        report.table_name,
        report.type,
        report.day,
        report.run_id,
        origin.source,
        _encode_names(origin.filter_events),
        origin.filter_where,
        origin.timezone,
        origin.wall_clock_zone,
        _encode_names(origin.filter_properties),
        to_utc(report.started_at),
        to_utc(report.finished_at),
        report.bytes_read,
        report.lines_read,
        report.rows_stored,
        report.duplicates,
        report.rejected,
        report.outside_day,
        report.repaired,
        report.gained,
        report.lost,
        report.refused,
        report.suppressed,
        report.erased,
    ]
    placeholders = ", ".join("?" * len(values))
    execute(
        connection,
        f"INSERT INTO _load_log (dataset, {_COLUMNS}, suppressed, erased) VALUES ({placeholders})",
        values,
    )


def record_erased(
    connection: duckdb.DuckDBPyConnection, table_name: str, rows: int, rejected: int
) -> None:
    """Move erased rows and rejected lines to ``erased`` in the load that they are from."""
    execute(
        connection,
        "UPDATE _load_log SET rows_stored = rows_stored - ?, rejected = rejected - ?, "
        "erased = coalesce(erased, 0) + ? WHERE rowid = (SELECT max(rowid) FROM _load_log "
        "WHERE lower(table_name) = lower(?) AND refused IS NULL)",
        [rows, rejected, rows + rejected, table_name],
    )


def latest_loads(
    connection: duckdb.DuckDBPyConnection, table_names: Sequence[str]
) -> dict[str, LoadReport]:
    """Return the load that each table's rows are from, by lower-case table name."""
    loads = _select(
        connection,
        "WHERE refused IS NULL AND lower(table_name) IN (SELECT unnest(?)) "
        "QUALIFY row_number() OVER (PARTITION BY lower(table_name) ORDER BY rowid DESC) = 1",
        [[name.lower() for name in table_names]],
    )
    return {load.table_name.lower(): load for load in loads}


def find_load(
    connection: duckdb.DuckDBPyConnection, table_name: str, started_at: datetime
) -> LoadReport | None:
    """Return the load of a table that started at a moment, None if it is not in the log."""
    loads = _select(
        connection,
        "WHERE started_at = ? AND lower(table_name) = lower(?)",
        [to_utc(started_at), table_name],
    )
    return loads[0] if loads else None


def list_loads(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    run_ids: Sequence[str] | None,
    refused: bool,
) -> list[LoadReport]:
    """Return the loads of a table or of a dataset's days, oldest first.

    Args:
        connection: The database.
        dataset: The table, or the view over day tables.
        run_ids: Only loads of these runs; None for all.
        refused: Whether to return the loads that were refused, or those that were not.
    """
    return _select(
        connection,
        "WHERE lower(coalesce(dataset, table_name)) = lower(?) "
        "AND (? IS NULL OR run_id IN (SELECT unnest(?))) "
        f"AND refused IS {'NOT ' if refused else ''}NULL ORDER BY finished_at, rowid",
        [dataset, run_ids, run_ids],
    )


def _select(
    connection: duckdb.DuckDBPyConnection, clauses: str, parameters: Sequence[Any]
) -> list[LoadReport]:
    # Earlier versions did not record the last two.
    rows = execute(
        connection,
        f"SELECT {_COLUMNS}, coalesce(suppressed, 0), coalesce(erased, 0) FROM _load_log {clauses}",
        parameters,
    )
    return [
        LoadReport(
            name,
            type_,
            day,
            run_id,
            Origin(
                source,
                _decode_names(events),
                where,
                zone,
                wall_clock_zone,
                _decode_names(properties),
            ),
            as_utc(started),
            as_utc(finished),
            *counts,
        )
        for (
            name,
            type_,
            day,
            run_id,
            source,
            events,
            where,
            zone,
            wall_clock_zone,
            properties,
            started,
            finished,
            *counts,
        ) in rows
    ]


def _encode_names(names: tuple[str, ...] | None) -> str | None:
    return None if names is None else json.dumps(names)


def _decode_names(names: str | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(json.loads(names))
