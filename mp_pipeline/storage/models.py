"""Data structures of the storage engine's interface."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

TableType = Literal[
    "events", "profiles", "groups", "cohorts", "cohort_members", "annotations", "lexicon"
]
"""What a table contains. All but events are snapshots, which are replaced as a whole."""


@dataclass(frozen=True)
class TableMetadata:
    """Metadata for a fetch operation."""

    type: TableType
    """Type of data fetched."""

    fetched_at: datetime
    """When the fetch completed (a naive time is UTC)."""

    from_date: str | None = None
    """Start date for events (YYYY-MM-DD), None for snapshots."""

    to_date: str | None = None
    """End date for events (YYYY-MM-DD, inclusive), None for snapshots."""

    filter_events: list[str] | None = None
    """Event names filtered (if applicable)."""

    filter_where: str | None = None
    """WHERE clause filter (if applicable)."""

    filter_properties: list[str] | None = None
    """Names of the properties that were requested (if applicable)."""


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
    """A calendar day of a time zone, and when it begins and ends."""

    day: date
    """The calendar day."""

    start: datetime
    """When the day begins (timezone-aware)."""

    end: datetime
    """When the next day begins (timezone-aware, exclusive)."""

    def __post_init__(self) -> None:
        """Refuse naive times and an empty day."""
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"the window of {self.day} needs timezone-aware datetimes")
        if self.start >= self.end:
            raise ValueError(f"the window of {self.day} ends before it starts")


@dataclass(frozen=True)
class Origin:
    """Where the rows of a load came from, and how they were selected and dated.

    Two loads with equal origins can stand side by side in one dataset.
    """

    source: str | None = None
    """Name of the source, such as a project."""

    filter_events: tuple[str, ...] | None = None
    """Names of the events that were exported, None for all."""

    filter_where: str | None = None
    """Expression that filtered the export, None for none."""

    timezone: str | None = None
    """Time zone that sets day boundaries, None if an earlier version did not record it."""

    wall_clock_zone: str | None = None
    """Time zone whose wall clock the source's times show, ``UTC`` for true UTC; None as above."""

    filter_properties: tuple[str, ...] | None = None
    """Names of the properties that were requested, None for all."""


@dataclass(frozen=True)
class LoadReport:
    """What one load did: a row of the load log.

    ``lines_read = rows_stored + duplicates + rejected + outside_day + suppressed + erased`` always
    holds.
    """

    table_name: str
    """The table that was written."""

    type: TableType
    """Table type."""

    day: date | None
    """The day of a day table, None for others."""

    run_id: str | None
    """The run that loaded it, as the caller names it."""

    origin: Origin
    """Where the rows came from, and how they were selected and dated."""

    started_at: datetime
    """When the load began (UTC)."""

    finished_at: datetime
    """When the load was published (UTC)."""

    bytes_read: int
    """Size on disk of the files read, in bytes."""

    lines_read: int
    """Lines (or records) read, not counting blank ones."""

    rows_stored: int
    """Rows in the table."""

    duplicates: int
    """Lines dropped because a newer line has the same key."""

    rejected: int
    """Lines that cannot be stored; kept in ``_rejected`` with the reason."""

    outside_day: int
    """Events of another day than the requested ones."""

    repaired: int
    """Lines that were repaired: text that is not valid Unicode becomes U+FFFD."""

    gained: int | None
    """Rows whose key the table did not contain before; None if there was no table."""

    lost: int | None
    """Rows that the table contained before and whose key is gone; None if there was no table."""

    refused: str | None = None
    """Why the load was refused; None if it was not. Nothing of a refused load was stored: its
    counts are what it would have done."""

    suppressed: int = 0
    """Lines of users who were erased before."""

    erased: int = 0
    """Rows and rejected lines of it that were erased since."""

    @property
    def rows_before(self) -> int | None:
        """Rows that the table contained before; None if there was no table."""
        if self.gained is None or self.lost is None:
            return None
        return self.rows_stored + self.erased - self.gained + self.lost

    @property
    def source(self) -> str | None:
        """Name of the source, as the caller gives it."""
        return self.origin.source

    @property
    def seconds(self) -> float:
        """Duration of the load in seconds."""
        return (self.finished_at - self.started_at).total_seconds()

    @property
    def rows_per_second(self) -> int:
        """Rows stored per second."""
        return round(self.rows_stored / max(self.seconds, 0.001))


@dataclass(frozen=True)
class DayInfo:
    """A loaded day of a dataset."""

    day: date
    """The calendar day."""

    table_name: str
    """The table with its rows."""

    row_count: int
    """Number of rows."""

    fetched_at: datetime
    """When the day was fetched (UTC)."""

    origin: Origin
    """Where its rows came from, and how they were selected and dated."""


@dataclass(frozen=True)
class RowCounts:
    """What a table itself, ``_metadata`` and the load log say about its number of rows."""

    table_name: str
    """Table name."""

    rows: int | None
    """Rows in the table now, None if there is no such table."""

    metadata_row_count: int | None
    """``row_count`` in ``_metadata``, None if it has no row for the table."""

    last_load: LoadReport | None
    """The table's latest row in the load log, None if there is none."""

    @property
    def problems(self) -> list[str]:
        """What does not agree; empty if every line that was read is accounted for."""
        if self.rows is None:
            return [f"there is no table {self.table_name!r}; reload it"]
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
        elif load.lines_read != (
            self.rows
            + load.duplicates
            + load.rejected
            + load.outside_day
            + load.suppressed
            + load.erased
        ):
            problems.append(
                f"{load.lines_read} lines were read, but {self.rows} rows, {load.duplicates} "
                f"duplicates, {load.rejected} rejected, {load.outside_day} outside the day, "
                f"{load.suppressed} suppressed and {load.erased} erased are accounted for"
            )
        return problems


@dataclass(frozen=True)
class Reconciliation:
    """How a day compared with the source's own counts: a row of ``_reconciliations``."""

    day: date
    """The calendar day."""

    checked_at: datetime
    """When it was compared (UTC)."""

    loaded_at: datetime
    """When the load that was compared was published (UTC)."""

    stored: int
    """Number of events stored."""

    counted: int
    """Number of events that the source counts."""

    outcome: str
    """How well they agree, as the caller names it."""

    event_name: str | None
    """The event with the largest difference, None if none differs."""

    difference: int
    """How many more of that event are stored; negative if the source has more."""
