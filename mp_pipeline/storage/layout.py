"""The interface to where tables are: in a DuckDB file, or in a lake.

A day has a name, such as ``events_20240115``, in both. In a file it is a table; in a lake it is a
part of the table ``events``. See ``file_layout`` and ``lake_layout``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import duckdb

from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.models import ColumnInfo
from mp_pipeline.storage.tables import TableLayout

Columns = dict[str, ColumnInfo]
"""The columns of a table by name, in order."""


class Layout(ABC):
    """Where the tables of a database are. ``layouts.layout_of`` returns the one of a database.

    Names of tables are compared without regard to case; results have them in lower case. Changes
    belong to the transaction of the caller.
    """

    dataset_kind: str
    """What has the name of a dataset of days: ``VIEW`` or ``BASE TABLE``."""

    # Creating tables

    @abstractmethod
    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the internal tables, and remove what killed processes left behind.

        Raises:
            StorageError: The database cannot be written, or is damaged.
        """

    @abstractmethod
    def create_staging(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str
    ) -> None:
        """Create a table without its key, in which a load stages rows."""

    @abstractmethod
    def drop_staging(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Drop a staging table if it exists."""

    @abstractmethod
    def add_key(self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str) -> None:
        """Add the primary key to a staging table, if tables have keys."""

    # Reading tables

    @abstractmethod
    def existing(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> set[str]:
        """Return which of the tables, days or views exist."""

    @abstractmethod
    def intact_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> list[str]:
        """Return which of the tables or days exist and have all columns of events."""

    @abstractmethod
    def columns(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, Columns]:
        """Return the columns of the tables, days or views that exist."""

    @abstractmethod
    def rows(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> str:
        """Return the SQL for the rows of tables, days or views with the same columns."""

    @abstractmethod
    def count_rows(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, int]:
        """Return the number of rows of the tables or days that exist."""

    @abstractmethod
    def count_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        """Return the number of rows by event name, of the tables or days that are intact."""

    @abstractmethod
    def key_problems(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, names: Sequence[str]
    ) -> dict[str, str]:
        """Return what is wrong with the keys of tables or days, for those where anything is."""

    # Changing tables

    @abstractmethod
    def publishing(
        self, connection: duckdb.DuckDBPyConnection, name: str, dataset: str
    ) -> AbstractContextManager[None]:
        """Hold the locks to replace a table, or a day of a dataset, for a ``with`` block."""

    @abstractmethod
    def put(
        self,
        connection: duckdb.DuckDBPyConnection,
        staging: str,
        table: TableLayout,
        name: str,
        ownership: Ownership,
    ) -> None:
        """Replace a table or day by the rows of a staging table.

        Args:
            connection: The database.
            staging: The name of the staging table, quoted.
            table: Its columns.
            name: The table or day.
            ownership: What it belongs to.
        """

    @abstractmethod
    def remove(
        self, connection: duckdb.DuckDBPyConnection, name: str, ownership: Ownership | None
    ) -> None:
        """Drop a table or day if it exists."""

    @abstractmethod
    def delete_rows(self, connection: duckdb.DuckDBPyConnection, name: str, condition: str) -> None:
        """Delete the rows of a table or day that meet a condition."""

    @abstractmethod
    def show_days(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        """Make the days of a dataset, as they are recorded now, readable under its name."""

    @abstractmethod
    def create_typed_table(
        self, connection: duckdb.DuckDBPyConnection, name: str, columns: str
    ) -> None:
        """Create a table of events by day.

        Args:
            connection: The database.
            name: Its qualified name, quoted.
            columns: Its columns as SQL; one is ``day``.
        """

    @abstractmethod
    def change_type(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        column: str,
        type_: str,
        value: str,
    ) -> None:
        """Change the type of a column of such a table.

        Args:
            connection: The database.
            name: The qualified name of the table, quoted.
            column: The column, quoted.
            type_: The new type.
            value: The SQL expression for the new value.
        """
