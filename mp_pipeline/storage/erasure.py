"""Erasing users: their rows in all tables, their rejected lines, and what the load log counts.

An erasure is planned from the data, then done in one transaction. IDs that the data links to the
given ones are erased too (see ``user_ids``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from mp_pipeline.storage import catalog, locks
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.load_log import record_erased
from mp_pipeline.storage.loading import MAX_REJECTED_LINE
from mp_pipeline.storage.metrics import erasing as metrics
from mp_pipeline.storage.statements import execute, repeated, transaction
from mp_pipeline.storage.suppression import suppress_ids
from mp_pipeline.storage.tables import LAYOUTS
from mp_pipeline.storage.typed import erasing as typed
from mp_pipeline.storage.user_ids import (
    DEVICE_PREFIX,
    MAX_IDS,
    ids_of_line,
    is_event_of,
    is_nobody,
    named_ids_of_event,
    not_nobody,
    possible_ids_of_event,
)

DEFAULT_MAX_IDS = MAX_IDS
"""IDs that one erasure may cover: as many as Mixpanel links to one user."""


@dataclass(frozen=True)
class UserId:
    """An ID that an erasure covers.

    Attributes:
        id: The ID.
        linked_to: The ID that the data links it to; None for an ID that was given.
        by: The property or column that links it; None for an ID that was given.
    """

    id: str
    linked_to: str | None
    by: str | None


@dataclass(frozen=True)
class ErasedTable:
    """What an erasure deletes from a table.

    Attributes:
        name: The table.
        rows: Rows of the users.
        rejected_lines: Rejected lines that name the users, or that are stored without their end
            and name nobody.
    """

    name: str
    rows: int
    rejected_lines: int


@dataclass(frozen=True)
class Erasure:
    """What an erasure deletes.

    Attributes:
        ids: The given IDs, then those that the data links to them.
        tables: The tables with something to delete.
        other_tables: Tables with a column ``distinct_id`` that this engine did not create. They are
            not changed.
    """

    ids: tuple[UserId, ...]
    tables: tuple[ErasedTable, ...]
    other_tables: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows to delete from all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def rejected_lines(self) -> int:
        """Rejected lines to delete."""
        return sum(table.rejected_lines for table in self.tables)


@dataclass(frozen=True)
class UserTable:
    """A table of the data model that contains users."""

    name: str
    has_events: bool
    ownership: catalog.Ownership

    @property
    def condition(self) -> str:
        """The SQL condition for the rows of the users in ``_users``."""
        if self.has_events:
            return is_event_of("_users")
        return "distinct_id IN (SELECT id FROM _users)"


def plan_erasure(connection: duckdb.DuckDBPyConnection, distinct_ids: Sequence[str]) -> Erasure:
    """Return what an erasure of users would delete. Only temporary tables are written.

    Raises:
        ValueError: There are no IDs, or one of them stands for no user.
    """
    if not distinct_ids:
        raise ValueError("no distinct_id to erase")
    for user_id in distinct_ids:
        if is_nobody(user_id):
            raise ValueError(
                f"{user_id!r} is no user's ID: broken tracking code sends it for many users"
            )
    layout, tables = layout_of(connection), user_tables(connection)
    _collect_links(connection, [table.name for table in tables if table.has_events])
    ids = _follow_links(connection, distinct_ids)
    typed.start_erasing(connection)
    found = []
    for table in tables:
        if table.has_events and table.ownership.day is not None:
            rows = typed.collect_events(
                connection,
                table.ownership.dataset,
                table.ownership.day,
                table.name,
                table.condition,
            )
        else:
            rows = _count(
                connection,
                f"FROM {layout.rows(connection, [table.name])} WHERE {table.condition}",
            )
        lines = _count(connection, f"FROM _rejected WHERE {_matching_lines()}", [table.name])
        if rows or lines:
            found.append(ErasedTable(table.name, rows, lines))
    derived = typed.count_erased_rows(connection, "_users")
    derived |= metrics.count_erased_rows(connection, "_users")
    found += [ErasedTable(name, rows, 0) for name, rows in derived.items()]
    own = {table.name for table in catalog.list_tables(connection)}
    own |= {table.ownership.dataset for table in tables}
    return Erasure(ids, tuple(found), tuple(_tables_with_users(connection, without=own)))


def erase(
    connection: duckdb.DuckDBPyConnection,
    distinct_ids: Sequence[str],
    max_ids: int = DEFAULT_MAX_IDS,
) -> Erasure:
    """Delete users from all tables of this engine, in one transaction.

    Raises:
        ValueError: As for ``plan_erasure``.
        StorageError: The data links more than ``max_ids`` IDs. Nothing was changed.
    """
    erased_at = datetime.now(UTC).replace(tzinfo=None)
    plan: Erasure | None = None

    def change() -> Erasure:
        nonlocal plan
        with locks.all_held(connection), transaction(connection):
            recorded = execute(connection, "FROM _erasures WHERE erased_at = ?", [erased_at])
            if plan is None or not recorded:  # otherwise the answer to the commit was lost
                plan = plan_erasure(connection, distinct_ids)
                _erase(connection, plan, max_ids, erased_at)
        return plan

    return repeated(connection, change)


def _erase(
    connection: duckdb.DuckDBPyConnection, plan: Erasure, max_ids: int, erased_at: datetime
) -> None:
    if len(plan.ids) > max_ids:
        raise StorageError(
            f"the data links {len(plan.ids):,} IDs to the given ones, more than {max_ids:,}: "
            "they may be of several people. Nothing was erased. Look at them with a dry run, "
            "then raise the limit (--max-ids)"
        )
    erased = {table.name: table for table in plan.tables}
    for table in user_tables(connection):
        if table.name not in erased:
            continue
        found = erased[table.name]
        name = [table.name]
        layout_of(connection).delete_rows(connection, table.name, table.condition)
        execute(connection, f"DELETE FROM _rejected WHERE {_matching_lines()}", name)
        execute(
            connection,
            "UPDATE _metadata SET row_count = row_count - ? WHERE table_name = ?",
            [found.rows, table.name],
        )
        record_erased(connection, table.name, found.rows, found.rejected_lines)
    typed.erase_rows(connection, "_users")
    metrics.erase_rows(connection, "_users")
    suppress_ids(connection, [user_id.id for user_id in plan.ids])
    execute(
        connection,
        "INSERT INTO _erasures VALUES (?, ?, ?, ?, ?, ?)",
        [
            erased_at,
            sum(user_id.linked_to is None for user_id in plan.ids),
            sum(user_id.linked_to is not None for user_id in plan.ids),
            len(plan.tables),
            plan.rows,
            plan.rejected_lines,
        ],
    )


def user_tables(connection: duckdb.DuckDBPyConnection) -> list[UserTable]:
    """Return the tables of this engine that contain users, by name."""
    tables = [table for table in catalog.list_tables(connection) if LAYOUTS[table.type].has_users]
    existing = layout_of(connection).existing(connection, [table.name for table in tables])
    return [
        UserTable(
            table.name,
            has_events=table.type == "events",
            ownership=catalog.find_ownership(connection, table.name)
            or catalog.Ownership(table.name, day=None, owner=None),
        )
        for table in tables
        if table.name.lower() in existing
    ]


def _tables_with_users(connection: duckdb.DuckDBPyConnection, without: set[str]) -> list[str]:
    return [
        name
        for (name,) in execute(
            connection,
            "SELECT table_name FROM duckdb_columns() JOIN duckdb_tables() "
            "USING (database_name, schema_name, table_name) "
            "WHERE database_name = current_database() AND column_name = 'distinct_id' "
            "AND schema_name = current_schema() AND NOT duckdb_tables.temporary "
            "ORDER BY table_name",
        )
        if name not in without and not name.startswith("_")
    ]


def _collect_links(connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> None:
    """Put the links between IDs into ``_links``: ``id`` is the same person as ``other``."""
    execute(
        connection,
        "CREATE OR REPLACE TEMP TABLE _links (id VARCHAR, other VARCHAR, name VARCHAR)",
    )
    execute(
        connection,
        "CREATE OR REPLACE TEMP TABLE _devices (device VARCHAR, id VARCHAR, since TIMESTAMP)",
    )
    for name in tables:
        table = layout_of(connection).rows(connection, [name])
        execute(
            connection,
            f"""
            INSERT INTO _links SELECT DISTINCT ids[1].id, other.id, other.name
            FROM (
                SELECT ids, unnest(ids[2:]) AS other FROM (
                    SELECT list_filter({named_ids_of_event()}, lambda named:
                        named.id IS NOT NULL AND {not_nobody("named.id")}) AS ids
                    FROM {table}
                    WHERE event_name = '$merge' OR len(list_filter({possible_ids_of_event()},
                        lambda id: id <> distinct_id)) > 0
                )
            )
            WHERE ids[1].id <> other.id
            """,
        )
        execute(
            connection,
            f"""
            INSERT INTO _devices SELECT device, arg_min(distinct_id, event_time), min(event_time)
            FROM (
                SELECT json_extract_string(properties, '/$device_id') AS device,
                    distinct_id, event_time
                FROM {table}
            )
            WHERE {not_nobody("device")} AND {not_nobody("distinct_id")}
                AND distinct_id NOT IN (device, '{DEVICE_PREFIX}' || device)
                AND NOT starts_with(distinct_id, '{DEVICE_PREFIX}')
            GROUP BY device
            """,
        )
    execute(
        connection,
        f"""
        INSERT INTO _links SELECT id, unnest([device, '{DEVICE_PREFIX}' || device]), '$device_id'
        FROM (SELECT device, arg_min(id, since) AS id FROM _devices GROUP BY device)
        """,
    )


def _follow_links(
    connection: duckdb.DuckDBPyConnection, distinct_ids: Sequence[str]
) -> tuple[UserId, ...]:
    """Put the given IDs and all that are linked to them into ``_users``, and return them."""
    execute(
        connection,
        "CREATE OR REPLACE TEMP TABLE _users AS "
        "SELECT DISTINCT unnest(?::VARCHAR[]) AS id, NULL::VARCHAR AS linked_to, "
        "NULL::VARCHAR AS name, 0 AS distance",
        [list(distinct_ids)],
    )
    distance = 0
    while True:
        distance += 1
        added = execute(
            connection,
            """
            INSERT INTO _users
            SELECT other, min(id), arg_min(name, id), ? FROM (
                SELECT id, other, name FROM _links
                UNION ALL SELECT other, id, name FROM _links
            )
            WHERE id IN (SELECT id FROM _users WHERE distance = ?)
                AND other NOT IN (SELECT id FROM _users)
            GROUP BY other
            """,
            [distance, distance - 1],
        )[0][0]
        if not added:
            break
    return tuple(
        UserId(*row)
        for row in execute(
            connection, "SELECT id, linked_to, name FROM _users ORDER BY distance, id"
        )
    )


def _matching_lines() -> str:
    """Return the SQL condition for the rejected lines of a table, whose name is a parameter."""
    ids = ids_of_line("line")
    return (
        f"lower(table_name) = lower(?) AND (list_has_any({ids}, (SELECT list(id) FROM _users)) "
        f"OR (length(line) = {MAX_REJECTED_LINE} AND len({ids}) = 0))"
    )


def _count(
    connection: duckdb.DuckDBPyConnection, clauses: str, parameters: Sequence[object] = ()
) -> int:
    return int(execute(connection, f"SELECT count(*) {clauses}", parameters)[0][0])
