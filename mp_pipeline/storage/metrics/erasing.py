"""Erasing users from the tables of metrics."""

import duckdb

from mp_pipeline.storage.metrics.names import name_of
from mp_pipeline.storage.statements import execute

_TABLES = {
    "_sessions": (
        "sessions",
        "user_id IN ({users}) OR (dataset, user_id) IN "
        "(SELECT (dataset, user_id) FROM _identities WHERE distinct_id IN ({users}))",
    ),
    "_identity_pairs": ("identity_pairs", "id IN ({users}) OR other IN ({users})"),
    "_identities": ("identities", "distinct_id IN ({users}) OR user_id IN ({users})"),
    "_user_days": ("user_days", "distinct_id IN ({users})"),
    "_first_days": ("first_days", "distinct_id IN ({users})"),
    "_profile_versions": ("profile_history", "distinct_id IN ({users})"),
}
"""What clients know each table as, and the rows of users in it."""


def count_erased_rows(connection: duckdb.DuckDBPyConnection, users: str) -> dict[str, int]:
    """Return the rows to erase, by the name that clients know a table by.

    Args:
        connection: The database.
        users: A table whose column ``id`` contains the users.
    """
    return {
        name_of(dataset, what): rows
        for table, what, condition in _tables(users)
        for dataset, rows in execute(
            connection,
            f"SELECT dataset, count(*) FROM {table} WHERE {condition} GROUP BY ALL ORDER BY ALL",
        )
    }


def erase_rows(connection: duckdb.DuckDBPyConnection, users: str) -> None:
    """Delete the rows of users, in the caller's transaction.

    Args:
        connection: The database.
        users: As for ``count_erased_rows``.
    """
    for table, _, condition in _tables(users):
        if table == "_sessions":
            _expire_sessions(connection, condition, users)
        execute(connection, f"DELETE FROM {table} WHERE {condition}")


def _expire_sessions(connection: duckdb.DuckDBPyConnection, condition: str, users: str) -> None:
    """Make days stale whose sessions to erase are also those of an ID that stays."""
    execute(
        connection,
        f"""
        DELETE FROM _metric_days WHERE metric = 'sessions' AND (dataset, day) IN (
            SELECT (dataset, day) FROM _sessions WHERE ({condition}) AND (dataset, user_id) IN (
                SELECT (dataset, user_id) FROM _identities
                WHERE distinct_id NOT IN (SELECT id FROM {users})))
        """,
    )


def _tables(users: str) -> list[tuple[str, str, str]]:
    ids = f"SELECT id FROM {users}"
    return [
        (table, what, condition.format(users=ids)) for table, (what, condition) in _TABLES.items()
    ]
