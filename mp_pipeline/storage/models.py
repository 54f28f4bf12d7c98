"""What goes into and comes out of the storage engine (data model, "Python Data Structures")."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

TableType = Literal["events", "profiles"]


@dataclass(frozen=True)
class TableMetadata:
    """Metadata for a fetch operation."""

    type: TableType
    """Type of data fetched."""

    fetched_at: datetime
    """When the fetch completed (naive means UTC)."""

    from_date: str | None = None
    """Start date for events (YYYY-MM-DD), None for profiles."""

    to_date: str | None = None
    """End date for events (YYYY-MM-DD, inclusive), None for profiles."""

    filter_events: list[str] | None = None
    """Event names filtered (if applicable)."""

    filter_where: str | None = None
    """WHERE clause filter (if applicable)."""


@dataclass(frozen=True)
class TableInfo:
    """Information about a table in the database."""

    name: str
    """Table name."""

    type: TableType
    """Table type."""

    row_count: int
    """Number of rows."""

    fetched_at: datetime
    """When data was fetched (UTC)."""


@dataclass(frozen=True)
class ColumnInfo:
    """Information about a column."""

    name: str
    """Column name."""

    type: str
    """DuckDB type (VARCHAR, TIMESTAMP, JSON, etc.)."""

    nullable: bool
    """Whether column allows NULL."""


@dataclass(frozen=True)
class TableSchema:
    """Schema of a table."""

    table_name: str
    """Table name."""

    columns: list[ColumnInfo]
    """Column definitions."""


@dataclass(frozen=True)
class DayWindow:
    """A calendar day of the project and the time that it covers."""

    day: date
    """The calendar day in the project's time zone."""

    start: datetime
    """When the day begins (aware)."""

    end: datetime
    """When the next day begins (aware); not part of the day."""

    def __post_init__(self) -> None:
        """Refuse naive times and a day without length."""
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"the window of {self.day} needs aware datetimes")
        if self.start >= self.end:
            raise ValueError(f"the window of {self.day} ends before it starts")


@dataclass(frozen=True)
class LoadReport:
    """What one load did: a row of the load log.

    ``lines_read = rows_stored + duplicates + rejected + outside_day`` always holds.
    """

    table_name: str
    """The table that was written."""

    type: TableType
    """Table type."""

    day: date | None
    """The day of a day table, None for others."""

    run_id: str | None
    """The run that loaded it, as the caller names it."""

    source: str | None
    """Where the data came from, as the caller names it."""

    started_at: datetime
    """When the load began (UTC)."""

    finished_at: datetime
    """When the load was published (UTC)."""

    bytes_read: int
    """Size on disk of the files read, in bytes."""

    lines_read: int
    """Lines (or records) in the input, blank ones not counted."""

    rows_stored: int
    """Rows in the table."""

    duplicates: int
    """Lines dropped because a newer one is the same event or profile."""

    rejected: int
    """Lines that could not be stored; kept in ``_rejected`` with the reason."""

    outside_day: int
    """Events that belong to another day than the requested one."""

    repaired: int
    """Lines that had to be mended to be read: text that is not valid Unicode becomes U+FFFD."""

    gained: int | None
    """Rows whose key the table did not hold before; None if there was no table."""

    lost: int | None
    """Rows that the table held before and whose key is gone; None if there was no table."""

    @property
    def seconds(self) -> float:
        """How long the load took, in seconds."""
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def rows_per_second(self) -> int:
        """Rows stored in each second of the load."""
        return round(self.rows_stored / max(self.seconds, 0.001))


@dataclass(frozen=True)
class DayInfo:
    """A day that is in the database."""

    day: date
    """The calendar day in the project's time zone."""

    table_name: str
    """The table that holds it."""

    row_count: int
    """Number of rows."""

    fetched_at: datetime
    """When the day was fetched (UTC)."""


@dataclass(frozen=True)
class RowCounts:
    """What the table itself, ``_metadata`` and the load log say of a table's rows."""

    table_name: str
    """Table name."""

    rows: int
    """Rows counted in the table now."""

    metadata_row_count: int | None
    """``row_count`` in ``_metadata``, None if it has no row for the table."""

    last_load: LoadReport | None
    """The table's latest row in the load log, None if it has none."""

    @property
    def problems(self) -> list[str]:
        """What does not agree, in words; empty if every line that was read is accounted for."""
        problems = []
        if self.metadata_row_count != self.rows:
            problems.append(
                f"the table has {self.rows} rows, _metadata says {self.metadata_row_count}"
            )
        load = self.last_load
        if load is None:
            problems.append("the load log has no load of the table")
        elif load.rows_stored != self.rows:
            problems.append(f"the table has {self.rows} rows, the load log says {load.rows_stored}")
        elif self.rows != load.lines_read - load.duplicates - load.rejected - load.outside_day:
            problems.append(
                f"{load.lines_read} lines were read, but {self.rows} rows, {load.duplicates} "
                f"duplicates, {load.rejected} rejected and {load.outside_day} outside the day "
                "are accounted for"
            )
        return problems
