"""Data structures of typed tables and of the dictionary."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal


@dataclass(frozen=True)
class TypedColumn:
    """A column of a typed table."""

    event: str
    """The event, as Mixpanel names it."""

    property: str
    """The property, as Mixpanel names it."""

    table_name: str
    """The table, such as ``song_played``."""

    column_name: str
    """The column, such as ``mp_city``."""

    type: str
    """DuckDB type: BIGINT, DOUBLE, BOOLEAN, JSON or VARCHAR."""


@dataclass(frozen=True)
class WidenedColumn:
    """A column whose type became wider, because a value did not fit the old one."""

    column: TypedColumn
    """The column, with its new type."""

    old_type: str
    """Its type before."""


@dataclass(frozen=True)
class TypedDayReport:
    """What typing one day did."""

    dataset: str
    """The dataset that the day belongs to."""

    day: date
    """The day."""

    schema_name: str
    """The schema of the typed tables, such as ``event``."""

    events: int
    """Number of events, which is the number of typed rows of the day."""

    tables: tuple[str, ...]
    """The tables that have rows of the day."""

    new_events: tuple[str, ...]
    """Events that had no table before."""

    vanished_events: tuple[str, ...]
    """Events that had typed rows of the day before, and have none any more."""

    new_columns: tuple[TypedColumn, ...]
    """Columns that were added, those of new tables included."""

    widened_columns: tuple[WidenedColumn, ...]
    """Columns whose type became wider."""

    seconds: float
    """Duration in seconds."""


@dataclass(frozen=True)
class TypedDayInfo:
    """A typed day, and the load that its rows were made from."""

    day: date
    """The day."""

    events: int
    """Number of typed rows."""

    typed_at: datetime
    """When the rows were made (UTC)."""

    loaded_at: datetime
    """When the load that they were made from was published (UTC)."""

    reloaded_at: datetime | None
    """When the day table was last loaded (UTC); None if the day was dropped."""

    @property
    def is_stale(self) -> bool:
        """Whether the day was reloaded or dropped since."""
        return self.loaded_at != self.reloaded_at


@dataclass(frozen=True)
class EventDescription:
    """An event in the dictionary."""

    event: str
    """The event, as Mixpanel names it."""

    table_name: str
    """The table with its schema: ``event.song_played``."""

    events: int
    """Number of events over all typed days."""

    fraction: float
    """Fraction of all events, 0 to 1."""

    first_day: date
    """The first typed day with such an event."""

    last_day: date
    """The last one."""

    days: int
    """Number of days with such an event."""

    properties: int
    """Number of properties."""


@dataclass(frozen=True)
class PropertyDescription:
    """A property of an event in the dictionary."""

    event: str
    """The event, as Mixpanel names it."""

    property: str
    """The property, as Mixpanel names it."""

    table_name: str
    """The table with its schema."""

    column_name: str | None
    """The column; None if the property was always null."""

    column_type: str | None
    """DuckDB type of the column, None as above."""

    filled: int
    """Number of events in which it has a value."""

    filled_fraction: float
    """The same as a fraction of the events, 0 to 1."""

    json_types: Mapping[str, int]
    """Number of values of each JSON type, most frequent first; ``NULL`` is JSON's null."""

    first_day: date
    """The first typed day with the property."""

    last_day: date
    """The last one."""


Change = Literal["new event", "vanished event", "new property", "vanished property", "new type"]


@dataclass(frozen=True)
class Drift:
    """How the events of a day differ from those of the days before."""

    event: str
    """The event, as Mixpanel names it."""

    property: str | None
    """The property, None if the whole event is new or vanished."""

    change: Change
    """What changed."""

    types_before: tuple[str, ...]
    """Kinds of values before: ``number``, ``text``, ``boolean``, ``object``, ``array``."""

    types_now: tuple[str, ...]
    """Kinds of values on the day."""

    fraction_before: float | None
    """Fraction of the events that had a value before, 0 to 1; None if the whole event changed."""

    fraction_now: float | None
    """The same on the day."""
