"""Days: consecutive ones as spans, when each begins and ends, and how to print many of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from mp_pipeline.storage import DayWindow

ONE_DAY = timedelta(days=1)

_LISTED = 5  # items printed before "and N more"


@dataclass(frozen=True)
class Span:
    """Consecutive days.

    Attributes:
        first: The first day.
        last: The last day, inclusive.
    """

    first: date
    last: date

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.last - self.first).days + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def days_between(first: date, last: date) -> list[date]:
    """Return the days from the first to the last, inclusive."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def to_spans(days: Iterable[date]) -> list[Span]:
    """Group days into spans of consecutive days.

    Args:
        days: Days in ascending order, without duplicates.

    Example:
        >>> [str(span) for span in to_spans([date(2024, 1, 1), date(2024, 1, 2)])]
        ['2024-01-01 to 2024-01-02']
    """
    spans: list[Span] = []
    for day in days:
        if spans and day - spans[-1].last == ONE_DAY:
            spans[-1] = Span(spans[-1].first, day)
        else:
            spans.append(Span(day, day))
    return spans


def find_gaps(days: Iterable[date]) -> list[Span]:
    """Return the days that are missing between the first and the last.

    Args:
        days: Days in ascending order, without duplicates.

    Example:
        >>> [str(gap) for gap in find_gaps([date(2024, 1, 1), date(2024, 1, 3)])]
        ['2024-01-02']
    """
    return [
        Span(before.last + ONE_DAY, after.first - ONE_DAY)
        for before, after in pairwise(to_spans(days))
    ]


def split_into_requests(days: Iterable[date], max_days: int) -> list[Span]:
    """Group days into one span per export request.

    Args:
        days: Days in ascending order, without duplicates.
        max_days: Largest number of days in a request.
    """
    return [
        Span(first, min(first + timedelta(days=max_days - 1), span.last))
        for span in to_spans(days)
        for first in days_between(span.first, span.last)[::max_days]
    ]


def day_window(day: date, zone: ZoneInfo) -> DayWindow:
    """Return when a calendar day of a time zone begins and ends: 23 to 25 hours apart."""
    return DayWindow(day, _midnight(day, zone), _midnight(day + ONE_DAY, zone))


def export_dates(window: DayWindow, wall_clock_zone: str) -> Span:
    """Return the dates to request from the export for a day of the project.

    The export's dates are UTC dates, so a day in another zone touches two of them. In projects
    created before 2023, whose ``time`` is wall-clock time, they are the project's own days
    (https://docs.mixpanel.com/reference/raw-event-export).

    Args:
        window: The day.
        wall_clock_zone: The zone whose wall clock ``time`` shows; ``UTC`` if ``time`` is UTC.
    """
    if wall_clock_zone != "UTC":
        return Span(window.day, window.day)
    last_moment = window.end - timedelta(microseconds=1)
    return Span(window.start.astimezone(UTC).date(), last_moment.astimezone(UTC).date())


def format_days(days: Iterable[date]) -> str:
    """Return days as text, consecutive ones as a span: at most five items are listed.

    Args:
        days: Days in ascending order, without duplicates.
    """
    return format_names([str(span) for span in to_spans(days)])


def format_names(names: Sequence[str]) -> str:
    """Return names as text, at most five of them.

    Example:
        >>> format_names(["a", "b", "c", "d", "e", "f", "g"])
        'a, b, c, d, e and 2 more'
    """
    shown = ", ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
