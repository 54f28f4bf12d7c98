"""Partitions: which days a run is for."""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from mp_pipeline.days import days_between, format_days

_PARTITION = "dagster/partition"
_RANGE_START = "dagster/asset_partition_range_start"
_RANGE_END = "dagster/asset_partition_range_end"


def requested_days(
    context: dg.AssetExecutionContext, partitions: dg.DailyPartitionsDefinition
) -> list[date]:
    """Return the days that a run is for, in ascending order.

    Args:
        context: The run's context.
        partitions: The asset's partitions.

    Raises:
        Failure: The range is reversed or empty, or contains days that are not complete or precede
            the first partition. Dagster itself would run it and report success.
    """
    first, last = context.partition_key_range
    if first > last:
        raise dg.Failure(
            f"the range of days is reversed: it starts at {first} and ends at {last}; swap them",
            allow_retries=False,
        )
    complete = partitions.get_partition_keys()
    if not complete:
        raise dg.Failure("no day is complete since MIXPANEL_START_DATE", allow_retries=False)
    days = days_between(date.fromisoformat(first), date.fromisoformat(last))
    out_of_range = [day for day in days if not complete[0] <= day.isoformat() <= complete[-1]]
    if out_of_range:
        raise dg.Failure(
            f"out of range: {format_days(out_of_range)}. Valid days are {complete[0]} "
            f"(MIXPANEL_START_DATE) to {complete[-1]}, the last complete day",
            allow_retries=False,
        )
    return days


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of a run for a range of partitions, which may be a single one.

    Args:
        first: The first partition key.
        last: The last partition key, inclusive.
    """
    return {_RANGE_START: first, _RANGE_END: last}


def describe_days(tags: Mapping[str, str]) -> str | None:
    """Return the partitions of a run as text, from its tags; None if it has none."""
    first, last = tags.get(_RANGE_START), tags.get(_RANGE_END)
    if first is None or last is None:
        return tags.get(_PARTITION)
    return first if first == last else f"{first} to {last}"
