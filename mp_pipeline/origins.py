"""The settings that days were loaded with, grouped and as text."""

from collections.abc import Sequence
from datetime import date

from mp_pipeline.storage import DayInfo, Origin


def group_by_origin(days: Sequence[DayInfo]) -> dict[Origin, list[date]]:
    """Return the days of each origin.

    Args:
        days: The days of a dataset in ascending order.
    """
    groups: dict[Origin, list[date]] = {}
    for day in days:
        groups.setdefault(day.origin, []).append(day.day)
    return groups


def describe_origin(origin: Origin) -> str:
    """Return the settings of a load as text.

    Example:
        >>> describe_origin(Origin("sample", ("Search",), None, "UTC", "UTC"))
        'source sample, events Search, time zone UTC'
    """
    parts = [f"source {origin.source or 'not recorded'}", *_filters(origin)]
    parts.append(f"time zone {origin.timezone or 'not recorded'}")
    if origin.wall_clock_zone not in (None, "UTC"):
        parts.append("local timestamps")
    return ", ".join(parts)


def describe_filters(origin: Origin) -> str:
    """Return the filters of a load as text; empty if there are none.

    Example:
        >>> describe_filters(Origin(filter_properties=("$email", "plan")))
        'properties $email, plan'
    """
    return ", ".join(_filters(origin))


def _filters(origin: Origin) -> list[str]:
    filters = []
    if origin.filter_events is not None:
        filters.append(f"events {', '.join(origin.filter_events)}")
    if origin.filter_where is not None:
        filters.append(f"where {origin.filter_where}")
    if origin.filter_properties is not None:
        filters.append(f"properties {', '.join(origin.filter_properties)}")
    return filters
