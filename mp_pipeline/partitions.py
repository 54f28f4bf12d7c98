"""Days: which there are, which a run asks for, and when each begins and ends."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.settings import load_settings
from mp_pipeline.spans import Span, spans
from mp_pipeline.storage import DayWindow

daily_partitions = dg.DailyPartitionsDefinition(
    start_date=load_settings().mixpanel_start_date.isoformat(),
    timezone=load_settings().mixpanel_project_timezone,
)
"""A partition for each complete day of the project, from the first on."""

_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"


def requested_days(context: dg.AssetExecutionContext) -> list[date]:
    """Return the days that a run asks for, in order.

    Raises:
        Failure: the range is reversed, empty, or has days that are not complete or come before
            the first partition. Dagster itself would run it, and call it a success.
    """
    first, last = context.partition_key_range
    if first > last:
        raise dg.Failure(
            f"the range of days is reversed: it starts at {first} and ends at {last}; swap them",
            allow_retries=False,
        )
    complete = daily_partitions.get_partition_keys()
    if not complete:
        raise dg.Failure("no day is complete since MIXPANEL_START_DATE", allow_retries=False)
    days = days_between(date.fromisoformat(first), date.fromisoformat(last))
    missing = [
        day.isoformat() for day in days if not complete[0] <= day.isoformat() <= complete[-1]
    ]
    if missing:
        raise dg.Failure(
            f"{listed(missing)} cannot be asked for: days go from "
            f"{complete[0]} (MIXPANEL_START_DATE) to the last complete day, {complete[-1]}",
            allow_retries=False,
        )
    return days


def last_complete_days(count: int) -> list[date]:
    """Return the last complete days of the project, oldest first; fewer near its start."""
    return [date.fromisoformat(key) for key in daily_partitions.get_partition_keys()[-count:]]


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of a run for a range of days, of one day too, by their partition keys."""
    return {_RANGE_START: first, _RANGE_END: last}


def tagged_days(tags: Mapping[str, str]) -> str | None:
    """Return the days of a run in words, from its tags; None if it is for no days."""
    first, last = tags.get(_RANGE_START), tags.get(_RANGE_END)
    if first is None or last is None:
        return tags.get(_PARTITION)
    return first if first == last else f"{first} to {last}"


def day_window(day: date, zone: ZoneInfo) -> DayWindow:
    """Return when a calendar day of a time zone begins and ends: 23 to 25 hours apart."""
    return DayWindow(day, _midnight(day, zone), _midnight(day + timedelta(days=1), zone))


def days_between(first: date, last: date) -> list[date]:
    """Return the days from the first to the last, both included."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]


def in_requests(days: Sequence[date], most: int) -> list[Span]:
    """Return days as spans for a request each: without gaps, not too long.

    Args:
        days: the days, oldest first, each once.
        most: the days that a request may ask for.
    """
    return [
        Span(first, min(first + timedelta(days=most - 1), span.last))
        for span in spans(days)
        for first in days_between(span.first, span.last)[::most]
    ]


def listed(days: Sequence[str]) -> str:
    """Return days in words, the first five by name."""
    shown = ", ".join(days[:5])
    return f"{shown} and {len(days) - 5} more" if len(days) > 5 else shown


def listed_spans(days: Sequence[date]) -> str:
    """Return days, oldest first, in words: those in a row by the first and the last of them."""
    return listed([str(span) for span in spans(days)])


def export_dates(window: DayWindow, wall_clock_zone: str) -> tuple[date, date]:
    """Return the first and last date to export for a day of the project.

    The export's dates are UTC dates, of which a day in another zone touches two; in projects from
    before 2023, whose ``time`` is wall clock, they are the project's own days (Mixpanel's
    documentation of the raw export).
    """
    if wall_clock_zone != "UTC":
        return window.day, window.day
    last_moment = window.end - timedelta(microseconds=1)
    return window.start.astimezone(UTC).date(), last_moment.astimezone(UTC).date()


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
