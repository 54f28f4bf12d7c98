"""The tables of the data model: columns, keys, DDL.

``parsing.py`` says how a line of a file becomes a row of each of them.
"""

import re
from dataclasses import dataclass
from datetime import date
from functools import cached_property

from mp_pipeline.storage.models import ColumnInfo, TableType

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class TableLayout:
    """Columns and primary key of a table of the data model.

    Attributes:
        type: What the table contains.
        columns: The columns, in order.
        primary_key: The columns of the primary key.
        labels: The columns whose values are the same for all lines of a file, and come with the
            file (see ``LabeledFile``).
        time_field: The time in a record of the data model; None if such tables are loaded from
            files alone.
        has_users: Whether ``distinct_id`` is a user. In groups it is a group.
    """

    type: TableType
    columns: tuple[ColumnInfo, ...]
    primary_key: tuple[str, ...]
    labels: tuple[str, ...] = ()
    time_field: str | None = None
    has_users: bool = False

    @cached_property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def key(self) -> str:
        """The columns of the primary key as SQL."""
        return ", ".join(self.primary_key)

    def definition(self, *more: ColumnInfo, compressed: bool = True) -> str:
        """Return the columns as ``CREATE TABLE`` takes them, without the primary key.

        Args:
            more: Columns to add.
            compressed: Whether JSON is compressed with zstd, which takes half the space and two
                thirds of the load time of DuckDB's default (docs/performance.md).
        """
        zstd = " USING COMPRESSION zstd" if compressed else ""
        columns = ", ".join(
            f"{column.name} {column.type}"
            f"{'' if column.nullable else ' NOT NULL'}"
            f"{zstd if column.type == 'JSON' else ''}"
            for column in (*self.columns, *more)
        )
        return f"({columns})"


EVENTS = TableLayout(
    type="events",
    columns=(
        ColumnInfo("event_name", "VARCHAR", nullable=False),
        ColumnInfo("event_time", "TIMESTAMP", nullable=False),
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
        ColumnInfo("insert_id", "VARCHAR", nullable=False),
        ColumnInfo("properties", "JSON", nullable=True),
    ),
    primary_key=("insert_id",),
    time_field="event_time",
    has_users=True,
)

PROFILES = TableLayout(
    type="profiles",
    columns=(
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
        ColumnInfo("properties", "JSON", nullable=True),
        ColumnInfo("last_seen", "TIMESTAMP", nullable=True),
    ),
    primary_key=("distinct_id",),
    time_field="last_seen",
    has_users=True,
)

GROUPS = TableLayout(
    type="groups",
    columns=(
        *PROFILES.columns,
        ColumnInfo("data_group_id", "VARCHAR", nullable=False),
        ColumnInfo("group_key", "VARCHAR", nullable=False),
    ),
    primary_key=PROFILES.primary_key,
    labels=("data_group_id", "group_key"),
)

COHORTS = TableLayout(
    type="cohorts",
    columns=(
        ColumnInfo("id", "BIGINT", nullable=False),
        ColumnInfo("name", "VARCHAR", nullable=True),
        ColumnInfo("description", "VARCHAR", nullable=True),
        ColumnInfo("count", "BIGINT", nullable=True),
        ColumnInfo("visible", "BOOLEAN", nullable=True),
        ColumnInfo("created", "TIMESTAMP", nullable=True),
        ColumnInfo("properties", "JSON", nullable=True),
    ),
    primary_key=("id",),
)

COHORT_MEMBERS = TableLayout(
    type="cohort_members",
    columns=(
        ColumnInfo("cohort_id", "BIGINT", nullable=False),
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
    ),
    primary_key=("cohort_id", "distinct_id"),
    labels=("cohort_id",),
    has_users=True,
)

ANNOTATIONS = TableLayout(
    type="annotations",
    columns=(
        ColumnInfo("id", "BIGINT", nullable=False),
        ColumnInfo("date", "DATE", nullable=False),
        ColumnInfo("time", "TIMESTAMP", nullable=False),
        ColumnInfo("description", "VARCHAR", nullable=True),
        ColumnInfo("user_name", "VARCHAR", nullable=True),
        ColumnInfo("tags", "VARCHAR[]", nullable=True),
        ColumnInfo("properties", "JSON", nullable=True),
    ),
    primary_key=("id",),
)

LEXICON = TableLayout(
    type="lexicon",
    columns=(
        ColumnInfo("entity", "VARCHAR", nullable=False),
        ColumnInfo("name", "VARCHAR", nullable=False),
        ColumnInfo("display_name", "VARCHAR", nullable=True),
        ColumnInfo("description", "VARCHAR", nullable=True),
        ColumnInfo("properties", "JSON", nullable=True),
    ),
    primary_key=("entity", "name"),
)

LAYOUTS: dict[TableType, TableLayout] = {
    layout.type: layout
    for layout in (EVENTS, PROFILES, GROUPS, COHORTS, COHORT_MEMBERS, ANNOTATIONS, LEXICON)
}


def quoted(identifier: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


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
