"""The internal tables: their DDL, and databases of earlier versions.

Names that start with ``_`` are internal:

- ``_metadata`` (data model): the tables that exist now;
- ``_tables``: which dataset, day and owner each of these tables belongs to;
- ``_load_log``: every load;
- ``_rejected``: the rejected lines of each table that exists now;
- ``_event_tables``, ``_event_columns``: the typed tables of events, and their columns;
- ``_property_days``: the properties that each typed day has, by JSON type;
- ``_typed_days``: the load that each typed day was made from;
- ``_collected_days``: the load that the pairs and users of each day were collected from;
- ``_identity_pairs``: the pairs of IDs that each day says are the same person; ``''`` is nobody;
- ``_user_days``: the IDs that are active on each day;
- ``_identities``: the user of each ID that is, or was, one of several, or nobody's;
- ``_first_days``: the first day of each of these IDs;
- ``_sessions``: the sessions of each day;
- ``_daily_metrics``, ``_daily_events``: active users of each day, and its events by name;
- ``_metric_days``: the load and the timeout that sessions and metrics of each day were made with;
- ``_profile_versions``: the versions of profiles;
- ``_profile_snapshots``: the snapshots that these were made from;
- ``_suppressed``: hashes of the IDs of users who were erased;
- ``_erasures``: every erasure, without the IDs;
- ``_reconciliations``: the latest comparison of each day with the source's own counts.
"""

from collections.abc import Callable

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import quoted

OWN_COMMENT = "Maintained by mp_pipeline"
"""Comment on the tables and views of the storage engine. One without a comment is the user's own,
even if it has the name of one that was dropped by hand."""

_TABLES = {
    "_metadata": """
        table_name VARCHAR PRIMARY KEY,
        type VARCHAR NOT NULL,
        fetched_at TIMESTAMP NOT NULL,
        from_date DATE,
        to_date DATE,
        row_count INTEGER NOT NULL
    """,
    "_tables": """
        table_name VARCHAR NOT NULL,
        dataset VARCHAR NOT NULL,
        day DATE,
        owner VARCHAR
    """,
    "_load_log": """
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
        lost BIGINT,
        dataset VARCHAR,
        timezone VARCHAR,
        wall_clock_zone VARCHAR,
        filter_properties JSON,
        refused VARCHAR,
        suppressed BIGINT,
        erased BIGINT
    """,
    "_rejected": """
        table_name VARCHAR NOT NULL,
        day DATE,
        line_number BIGINT NOT NULL,
        reason VARCHAR NOT NULL,
        line VARCHAR NOT NULL,
        file VARCHAR
    """,
    "_event_tables": """
        dataset VARCHAR NOT NULL,
        event_name VARCHAR NOT NULL,
        schema_name VARCHAR NOT NULL,
        table_name VARCHAR NOT NULL
    """,
    "_event_columns": """
        dataset VARCHAR NOT NULL,
        event_name VARCHAR NOT NULL,
        property VARCHAR NOT NULL,
        column_name VARCHAR NOT NULL,
        column_type VARCHAR NOT NULL
    """,
    "_property_days": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        event_name VARCHAR NOT NULL,
        property VARCHAR,
        json_type VARCHAR,
        events BIGINT NOT NULL
    """,
    "_typed_days": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        loaded_at TIMESTAMP NOT NULL,
        typed_at TIMESTAMP NOT NULL,
        events BIGINT NOT NULL
    """,
    "_collected_days": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        ends_at TIMESTAMP NOT NULL,
        loaded_at TIMESTAMP,
        users_hash UBIGINT,
        changed_at TIMESTAMP NOT NULL
    """,
    "_identity_pairs": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        id VARCHAR NOT NULL,
        other VARCHAR NOT NULL,
        since TIMESTAMP NOT NULL
    """,
    "_user_days": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        distinct_id VARCHAR NOT NULL,
        events BIGINT NOT NULL
    """,
    "_identities": """
        dataset VARCHAR NOT NULL,
        distinct_id VARCHAR NOT NULL,
        user_id VARCHAR NOT NULL,
        ids BIGINT NOT NULL,
        changed_at TIMESTAMP
    """,
    "_first_days": """
        dataset VARCHAR NOT NULL,
        distinct_id VARCHAR NOT NULL,
        day DATE NOT NULL
    """,
    "_sessions": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        session_id VARCHAR NOT NULL,
        user_id VARCHAR NOT NULL,
        started_at TIMESTAMP NOT NULL,
        ended_at TIMESTAMP NOT NULL,
        events BIGINT NOT NULL,
        first_event VARCHAR NOT NULL,
        last_event VARCHAR NOT NULL
    """,
    "_daily_metrics": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        events BIGINT NOT NULL,
        dau BIGINT NOT NULL,
        wau BIGINT NOT NULL,
        mau BIGINT NOT NULL,
        new_users BIGINT NOT NULL,
        returning_users BIGINT NOT NULL,
        sessions BIGINT,
        median_session_seconds DOUBLE
    """,
    "_daily_events": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        event_name VARCHAR NOT NULL,
        events BIGINT NOT NULL,
        users BIGINT NOT NULL
    """,
    "_metric_days": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        metric VARCHAR NOT NULL,
        loaded_at TIMESTAMP NOT NULL,
        made_at TIMESTAMP NOT NULL,
        session_timeout INTERVAL
    """,
    "_profile_versions": """
        dataset VARCHAR NOT NULL,
        distinct_id VARCHAR NOT NULL,
        properties JSON USING COMPRESSION zstd,
        last_seen TIMESTAMP,
        valid_from TIMESTAMP NOT NULL,
        valid_to TIMESTAMP
    """,
    "_profile_snapshots": """
        dataset VARCHAR NOT NULL,
        taken_at TIMESTAMP NOT NULL,
        loaded_at TIMESTAMP NOT NULL,
        profiles BIGINT NOT NULL
    """,
    "_reconciliations": """
        dataset VARCHAR NOT NULL,
        day DATE NOT NULL,
        checked_at TIMESTAMP NOT NULL,
        loaded_at TIMESTAMP NOT NULL,
        stored BIGINT NOT NULL,
        counted BIGINT NOT NULL,
        outcome VARCHAR NOT NULL,
        event_name VARCHAR,
        difference BIGINT NOT NULL
    """,
    "_suppressed": """
        hash VARCHAR NOT NULL,
        salt VARCHAR NOT NULL,
        erased_at TIMESTAMP NOT NULL
    """,
    "_erasures": """
        erased_at TIMESTAMP NOT NULL,
        requested_ids BIGINT NOT NULL,
        linked_ids BIGINT NOT NULL,
        tables BIGINT NOT NULL,
        rows BIGINT NOT NULL,
        rejected_lines BIGINT NOT NULL
    """,
}

INTERNAL_TABLES = tuple(_TABLES)
"""The names of the internal tables."""

_ADDED_COLUMNS = {
    "_load_log": {
        "gained": "BIGINT",
        "lost": "BIGINT",
        "dataset": "VARCHAR",
        "timezone": "VARCHAR",
        "wall_clock_zone": "VARCHAR",
        "filter_properties": "JSON",
        "refused": "VARCHAR",
        "suppressed": "BIGINT",
        "erased": "BIGINT",
    },
    "_rejected": {"file": "VARCHAR"},
    "_metric_days": {"session_timeout": "INTERVAL"},
}
"""Columns that earlier versions do not have; NULL means that they were not recorded."""

# In earlier versions only the tables of datasets have a day. It ends their names.
_DATASET_OF_LOAD = "CASE WHEN day IS NOT NULL THEN left(table_name, -length('_20240115')) END"
_TABLES_FROM_LOADS = f"""
    SELECT m.table_name, coalesce(l.dataset, m.table_name) AS dataset, l.day,
        NULL::VARCHAR AS owner
    FROM _metadata m LEFT JOIN (
        SELECT lower(table_name) AS name, {_DATASET_OF_LOAD} AS dataset, day
        FROM _load_log
        QUALIFY row_number() OVER (PARTITION BY lower(table_name) ORDER BY rowid DESC) = 1
    ) l ON l.name = lower(m.table_name)
"""


def create_internal_tables(
    connection: duckdb.DuckDBPyConnection, define: Callable[[str], str] = str
) -> None:
    """Create the internal tables, or bring those of an earlier version up to date.

    Args:
        connection: The database.
        define: Returns columns as the database can have them.
    """
    existing = _columns(connection)
    for name, columns in _TABLES.items():
        if name not in existing:
            execute(connection, f"CREATE TABLE IF NOT EXISTS {name} ({define(columns)})")
    if "_metadata" not in existing:
        return
    for name, column, type_ in _missing_columns(existing):
        execute(connection, f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column} {type_}")
    if "_tables" not in existing:
        execute(
            connection,
            f"UPDATE _load_log SET dataset = {_DATASET_OF_LOAD} WHERE dataset IS NULL",
        )
        execute(connection, f"INSERT INTO _tables {_TABLES_FROM_LOADS}")
        _adopt_tables_and_views(connection)


def shadow_internal_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Complete the internal tables of an earlier version for this session.

    A database that is open for reading cannot be changed. Temporary views and tables add what is
    missing.
    """
    existing = _columns(connection)
    if "_metadata" not in existing:
        return
    database = _current_database(connection)
    for name, columns in _TABLES.items():
        if name not in existing and name != "_tables":
            execute(connection, f"CREATE TEMP TABLE IF NOT EXISTS {name} ({columns})")
    for name in {name for name, _, _ in _missing_columns(existing)}:
        added = ", ".join(
            f"{_DATASET_OF_LOAD if column == 'dataset' else f'NULL::{type_}'} AS {column}"
            for table, column, type_ in _missing_columns(existing)
            if table == name
        )
        execute(
            connection,
            f"CREATE OR REPLACE TEMP VIEW {name} AS "
            f"SELECT rowid, *, {added} FROM {quoted(database)}.main.{name}",
        )
    if "_tables" not in existing:
        execute(connection, f"CREATE OR REPLACE TEMP VIEW _tables AS {_TABLES_FROM_LOADS}")


def is_complete(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the internal tables are those of this version."""
    existing = _columns(connection)
    return set(_TABLES) <= set(existing) and not list(_missing_columns(existing))


def has_internal_tables(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the storage engine has written to the database."""
    return "_metadata" in _columns(connection)


def _adopt_tables_and_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Mark the tables and views that an earlier version created."""
    for kind, name in execute(
        connection,
        """
        SELECT CASE table_type WHEN 'VIEW' THEN 'VIEW' ELSE 'TABLE' END, table_name
        FROM information_schema.tables t
        WHERE table_catalog = current_database() AND table_schema = current_schema()
        AND CASE table_type
            WHEN 'VIEW' THEN EXISTS (
                FROM _tables WHERE day IS NOT NULL AND lower(dataset) = lower(t.table_name))
            ELSE EXISTS (FROM _tables o WHERE lower(o.table_name) = lower(t.table_name)) END
        """,
    ):
        execute(connection, f"COMMENT ON {kind} {quoted(name)} IS '{OWN_COMMENT}'")


def _missing_columns(existing: dict[str, set[str]]) -> list[tuple[str, str, str]]:
    return [
        (name, column, type_)
        for name, added in _ADDED_COLUMNS.items()
        for column, type_ in added.items()
        if name in existing and column not in existing[name]
    ]


def _columns(connection: duckdb.DuckDBPyConnection) -> dict[str, set[str]]:
    """Return the columns of the internal tables that exist."""
    rows = execute(
        connection,
        "SELECT table_name, list(column_name) FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = current_schema() "
        "AND starts_with(table_name, '_') GROUP BY table_name",
    )
    return {name: set(columns) for name, columns in rows}


def _current_database(connection: duckdb.DuckDBPyConnection) -> str:
    return str(execute(connection, "SELECT current_database()")[0][0])
