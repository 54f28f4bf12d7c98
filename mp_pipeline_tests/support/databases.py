"""What a database contains, and changes to it outside the pipeline."""

from pathlib import Path
from typing import Any

from mp_pipeline.storage import StorageEngine
from mp_pipeline.storage.layouts import layout_of

INTERNAL_TABLES = frozenset(
    {
        *("_metadata", "_tables", "_load_log", "_rejected"),
        *("_event_tables", "_event_columns", "_property_days", "_typed_days"),
        *("_collected_days", "_identity_pairs", "_user_days", "_identities"),
        *("_first_days", "_sessions", "_daily_metrics", "_daily_events", "_metric_days"),
        *("_profile_versions", "_profile_snapshots"),
        *("_suppressed", "_erasures", "_reconciliations"),
    }
)


def contents(storage: StorageEngine) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of all tables and views of a database, including internal ones.

    The names of those in another schema than the default one begin with the schema.
    """
    names = storage.execute_rows(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT temporary "
        "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal "
        "ORDER BY ALL"
    )
    return {
        name if schema == "main" else f"{schema}.{name}": storage.execute_rows(
            f'SELECT * FROM "{schema}"."{name}" ORDER BY ALL'
        )
        for schema, name in names
    }


def column(storage: StorageEngine, table: str, expression: str) -> list[Any]:
    """Return the sorted values of an expression over a table."""
    rows = storage.execute_rows(
        f"SELECT {expression} AS value FROM {rows_of(storage, table)} ORDER BY value"
    )
    return [value for (value,) in rows]


def rows_of(storage: StorageEngine, table: str) -> str:
    """Return the SQL for the rows of a table or day, in any layout."""
    with storage._session() as session:
        return layout_of(session).rows(session, [table])


def query_file(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on a database file."""
    with StorageEngine.open_existing(path) as engine:
        return engine.execute_rows(sql)


def query(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on the test's database, `test.duckdb` in the directory."""
    return query_file(directory / "test.duckdb", sql)


def query_column(directory: Path, sql: str) -> list[Any]:
    """Return the only column of a query on the test's database."""
    return [value for (value,) in query(directory, sql)]


def tamper(directory: Path, *statements: str) -> None:
    """Change the test's database with SQL, as a user might."""
    with StorageEngine(directory / "test.duckdb") as engine:
        for statement in statements:
            engine.connection.execute(statement).fetchall()
