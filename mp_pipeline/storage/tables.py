"""The tables of the data model: names, columns, keys, DDL."""

import re
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from mp_pipeline.storage.models import ColumnInfo, TableType

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class TableLayout:
    """Columns and primary key of a table of the data model."""

    type: TableType
    columns: tuple[ColumnInfo, ...]
    primary_key: str

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def create_without_key(self, table_name: str) -> str:
        """Return the DDL of the table without its primary key.

        A load adds the key once all rows are in place: filling a table that has its key takes half
        as long again. JSON is compressed with zstd, which takes half the space and two thirds of
        the load time of DuckDB's default (docs/performance.md).
        """
        columns = ", ".join(
            f"{column.name} {column.type}"
            f"{'' if column.nullable else ' NOT NULL'}"
            f"{' USING COMPRESSION zstd' if column.type == 'JSON' else ''}"
            for column in self.columns
        )
        return f"CREATE TABLE {quoted(table_name)} ({columns})"

    def add_key(self, table_name: str) -> str:
        """Return the DDL that adds the primary key."""
        return f"ALTER TABLE {quoted(table_name)} ADD PRIMARY KEY ({self.primary_key})"


EVENTS = TableLayout(
    type="events",
    columns=(
        ColumnInfo("event_name", "VARCHAR", nullable=False),
        ColumnInfo("event_time", "TIMESTAMP", nullable=False),
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
        ColumnInfo("insert_id", "VARCHAR", nullable=False),
        ColumnInfo("properties", "JSON", nullable=True),
    ),
    primary_key="insert_id",
)

PROFILES = TableLayout(
    type="profiles",
    columns=(
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
        ColumnInfo("properties", "JSON", nullable=True),
        ColumnInfo("last_seen", "TIMESTAMP", nullable=True),
    ),
    primary_key="distinct_id",
)

LAYOUTS: dict[TableType, TableLayout] = {"events": EVENTS, "profiles": PROFILES}


def quoted(identifier: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def check_table_name(name: str) -> None:
    """Refuse a name that the data model does not allow.

    Raises:
        ValueError: The name contains other characters than letters, digits and underscores, or
            starts with a digit or an underscore (reserved for internal tables).
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid table name: use letters, digits and underscores, "
            "and do not start with a digit"
        )
    if name.startswith("_"):
        raise ValueError(f"{name!r} is not a valid table name: a leading underscore is reserved")


def day_table_name(dataset: str, day: date) -> str:
    """Return the name of the table for one day of a dataset, such as ``events_20240115``.

    Example:
        >>> day_table_name("events", date(2024, 1, 15))
        'events_20240115'
    """
    return f"{dataset}_{day:%Y%m%d}"
