"""The suppression list: reloads must not bring back users who were erased.

Mixpanel may still return a user for 30 days after a deletion request. The list, ``_suppressed``,
contains salted hashes of IDs, not the IDs.
"""

import uuid
from collections.abc import Iterable

import duckdb

from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import TableLayout, quoted
from mp_pipeline.storage.user_ids import (
    ids_of_line,
    is_event_of,
    merged_ids_of_event,
    possible_ids_of_event,
)

# A migrated list has other salts than that of the lake.
_HASHED_IDS = (
    "SELECT DISTINCT id FROM ({ids}), (SELECT DISTINCT salt FROM _suppressed) "
    "WHERE sha256(salt || id) IN (SELECT hash FROM _suppressed)"
)


def suppress_ids(connection: duckdb.DuckDBPyConnection, ids: Iterable[str]) -> None:
    """Add IDs to the list."""
    salts = execute(connection, "SELECT salt FROM _suppressed LIMIT 1")
    salt = salts[0][0] if salts else uuid.uuid4().hex
    execute(
        connection,
        "INSERT INTO _suppressed SELECT sha256(?::VARCHAR || id) AS hash, ?, now()::TIMESTAMP "
        "FROM (SELECT unnest(?::VARCHAR[]) AS id) "
        "WHERE NOT EXISTS (FROM _suppressed s WHERE s.hash = sha256(?::VARCHAR || id))",
        [salt, salt, list(ids), salt],
    )


def count_suppressed_ids(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the length of the list."""
    return int(execute(connection, "SELECT count(*) FROM _suppressed")[0][0])


def delete_suppressed_rows(
    connection: duckdb.DuckDBPyConnection, table_name: str, layout: TableLayout
) -> int:
    """Delete the rows of suppressed users from a table, and return their number."""
    if not layout.has_users or not count_suppressed_ids(connection):
        return 0
    table = quoted(table_name)
    ids = f"SELECT DISTINCT distinct_id AS id FROM {table}"
    condition = "distinct_id IN (SELECT id FROM _found)"
    if layout.type == "events":
        ids += (
            f" UNION SELECT unnest({possible_ids_of_event()}) FROM {table}"
            f" UNION SELECT unnest({merged_ids_of_event()}) FROM {table}"
        )
        condition = is_event_of("_found")
    if not collect_suppressed(connection, ids):
        return 0
    return int(execute(connection, f"DELETE FROM {table} WHERE {condition}")[0][0])


def delete_suppressed_lines(connection: duckdb.DuckDBPyConnection, rejected: str) -> int:
    """Delete the lines of suppressed users from a table of rejected lines; return their number."""
    if not count_suppressed_ids(connection):
        return 0
    ids = ids_of_line("line")
    if not collect_suppressed(connection, f"SELECT DISTINCT unnest({ids}) AS id FROM {rejected}"):
        return 0
    condition = f"list_has_any({ids}, (SELECT list(id) FROM _found))"
    return int(execute(connection, f"DELETE FROM {rejected} WHERE {condition}")[0][0])


def collect_suppressed(connection: duckdb.DuckDBPyConnection, ids: str) -> bool:
    """Put those of the IDs that are on the list into ``_found``; return whether there are any."""
    execute(connection, f"CREATE OR REPLACE TEMP TABLE _found AS {_HASHED_IDS.format(ids=ids)}")
    return execute(connection, "SELECT count(*) FROM _found") != [(0,)]
