"""Tables in a DuckDB file: one per day, with a primary key, and a view over all days."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import date

import duckdb

from mp_pipeline.storage import locks
from mp_pipeline.storage.catalog import (
    Ownership,
    find_comment,
    find_kind,
    is_own,
    mark_as_own,
    read_columns,
)
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.layout import Columns, Layout
from mp_pipeline.storage.progress import logged_progress
from mp_pipeline.storage.schema import (
    create_internal_tables,
    has_internal_tables,
    is_complete,
)
from mp_pipeline.storage.scratch import remove_leftovers
from mp_pipeline.storage.statements import database_name, execute, transaction
from mp_pipeline.storage.tables import EVENTS, TableLayout, quoted

_STAGING_PREFIX = "_loading_"

logger = logging.getLogger(__name__)

# Staging tables of this process: another connection of it must not take them for leftovers.
_staging_tables: set[str] = set()


class FileLayout(Layout):
    """Replaces tables by renaming: a crash leaves the old table or the new one, complete."""

    dataset_kind = "VIEW"

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the internal tables, and remove what killed processes left behind.

        DuckDB lets one process write, so a staging table that this process does not know is left
        over.
        """
        try:
            with locks.held(connection, locks.CHANGES):
                if not is_complete(connection):
                    self._create_or_migrate(connection)
                for (name,) in execute(
                    connection,
                    "SELECT table_name FROM duckdb_tables() "
                    "WHERE starts_with(table_name, ?) AND NOT temporary",
                    [_STAGING_PREFIX],
                ):
                    if name not in _staging_tables:
                        execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
        except duckdb.Error as error:
            path = database_name(connection)
            raise StorageError(f"cannot write the database {path}: {error}") from error
        remove_leftovers(connection)

    def _create_or_migrate(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the internal tables, or migrate a file of an earlier version: all or none."""
        is_earlier = has_internal_tables(connection)
        with transaction(connection):
            create_internal_tables(connection)
            for (dataset,) in execute(
                connection,
                "SELECT DISTINCT dataset FROM _tables WHERE day IS NOT NULL ORDER BY ALL",
            ):
                if find_kind(connection, dataset) == "VIEW" and is_own(connection, dataset):
                    self.show_days(connection, dataset)
        if is_earlier:
            logger.warning(
                "%s was written by an earlier version of mp_pipeline: its internal tables and "
                "views were brought up to date. No data was changed",
                database_name(connection),
            )

    def create_staging(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str
    ) -> None:
        """Create a table without its key, in which a load stages rows."""
        _staging_tables.add(name)
        execute(connection, f"CREATE TABLE {quoted(name)} {table.definition()}")

    def drop_staging(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Drop a staging table if it exists."""
        try:
            execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
        finally:
            _staging_tables.discard(name)

    def add_key(self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str) -> None:
        """Add the primary key to a staging table.

        Filling a table that has its key takes half as long again.
        """
        with logged_progress(connection, "building the key"):
            execute(connection, f"ALTER TABLE {quoted(name)} ADD PRIMARY KEY ({table.key})")

    def existing(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> set[str]:
        """Return which of the tables or views exist."""
        rows = execute(
            connection,
            "SELECT lower(table_name) FROM information_schema.tables "
            "WHERE table_catalog = current_database() AND table_schema = current_schema() "
            "AND lower(table_name) IN (SELECT unnest(?))",
            [[name.lower() for name in names]],
        )
        return {name for (name,) in rows}

    def intact_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> list[str]:
        """Return which of the tables exist and have all columns of events."""
        expected = [f"{column.name} {column.type}" for column in EVENTS.columns]
        rows = execute(
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
            [list(names), expected],
        )
        return [name for (name,) in rows]

    def columns(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, Columns]:
        """Return the columns of the tables or views that exist."""
        return read_columns(connection, names)

    def rows(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> str:  # noqa: ARG002 - a lake needs it
        """Return the SQL for the rows of tables or views with the same columns."""
        if len(names) == 1:
            return quoted(names[0])
        return f"({' UNION ALL '.join(f'SELECT * FROM {quoted(name)}' for name in names)})"

    def count_rows(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, int]:
        """Return the number of rows of the tables that exist."""
        names = sorted(self.existing(connection, names))
        counts = " UNION ALL ".join(
            f"SELECT {number} AS number, count(*) AS rows FROM {quoted(name)}"
            for number, name in enumerate(names)
        )
        found = execute(connection, counts) if counts else []
        return {names[number]: rows for number, rows in found}

    def count_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        """Return the number of rows by event name, of the tables that are intact."""
        names = self.intact_events(connection, names)
        counts: dict[str, dict[str, int]] = {name.lower(): {} for name in names}
        selects = " UNION ALL ".join(
            f"SELECT {number} AS number, event_name, count(*) FROM {quoted(name)} "
            "GROUP BY event_name"
            for number, name in enumerate(names)
        )
        for number, event_name, events in execute(connection, selects) if names else []:
            counts[names[number].lower()][event_name] = events
        return counts

    def key_problems(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, names: Sequence[str]
    ) -> dict[str, str]:
        """Return which tables lack their primary key."""
        keys = dict(
            execute(
                connection,
                "SELECT lower(table_name), constraint_column_names FROM duckdb_constraints() "
                "WHERE database_name = current_database() AND schema_name = current_schema() "
                "AND constraint_type = 'PRIMARY KEY' AND lower(table_name) IN (SELECT unnest(?))",
                [[name.lower() for name in names]],
            )
        )
        return {
            name: f"the primary key is {keys.get(name) or 'missing'}, not {table.key}"
            for name in self.existing(connection, names)
            if keys.get(name) != list(table.primary_key)
        }

    def publishing(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,  # noqa: ARG002 - a lake needs it
        dataset: str,  # noqa: ARG002 - a lake needs it
    ) -> AbstractContextManager[None]:
        """Hold the lock to replace a table: one transaction at a time changes the catalog."""
        return locks.held(connection, locks.CHANGES)

    def put(
        self,
        connection: duckdb.DuckDBPyConnection,
        staging: str,
        table: TableLayout,  # noqa: ARG002 - a lake needs it
        name: str,
        ownership: Ownership,  # noqa: ARG002 - a lake needs it
    ) -> None:
        """Replace a table by a staging table."""
        comment = find_comment(connection, name)
        execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
        execute(connection, f"ALTER TABLE {staging} RENAME TO {quoted(name)}")
        mark_as_own(connection, "TABLE", name, comment)

    def remove(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        ownership: Ownership | None,  # noqa: ARG002 - a lake needs it
    ) -> None:
        """Drop a table if it exists."""
        execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")

    def delete_rows(self, connection: duckdb.DuckDBPyConnection, name: str, condition: str) -> None:
        """Delete the rows of a table that meet a condition."""
        execute(connection, f"DELETE FROM {quoted(name)} WHERE {condition}")

    def show_days(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        """Create the view over all days of a dataset again, or drop it if there are none.

        Its last column is the calendar day: a query of one day reads no other.

        A day whose table was dropped, or lacks a column of the data model, is left out with a
        warning: one such day must not make the others unusable.
        """
        days = dict(_day_tables(connection, dataset))
        intact = set(self.intact_events(connection, list(days)))
        if left_out := [name for name in days if name not in intact]:
            logger.warning(
                "the view %s leaves out %s: a table is missing, or its columns were changed. "
                "Reload that day",
                dataset,
                ", ".join(left_out),
            )
        comment = find_comment(connection, dataset)
        if not intact:
            if find_kind(connection, dataset) == "VIEW" and comment is not None:
                execute(connection, f"DROP VIEW {quoted(dataset)}")
            return
        columns = ", ".join(EVENTS.column_names)
        selects = " UNION ALL ".join(
            f"SELECT {columns}, DATE '{day}' AS day FROM {quoted(name)}"
            for name, day in days.items()
            if name in intact
        )
        execute(connection, f"CREATE OR REPLACE VIEW {quoted(dataset)} AS {selects}")
        mark_as_own(connection, "VIEW", dataset, comment)

    def create_typed_table(
        self, connection: duckdb.DuckDBPyConnection, name: str, columns: str
    ) -> None:
        """Create a table of events by day."""
        execute(connection, f"CREATE TABLE {name} ({columns})")

    def change_type(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        column: str,
        type_: str,
        value: str,
    ) -> None:
        """Change the type of a column."""
        execute(
            connection,
            f"ALTER TABLE {name} ALTER COLUMN {column} TYPE {type_} USING CAST({value} AS {type_})",
        )


def _day_tables(connection: duckdb.DuckDBPyConnection, dataset: str) -> list[tuple[str, date]]:
    return execute(
        connection,
        "SELECT table_name, day FROM _tables WHERE lower(dataset) = lower(?) AND day IS NOT NULL "
        "ORDER BY day",
        [dataset],
    )
