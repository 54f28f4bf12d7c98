"""Compares the stored events with Mixpanel's own counts, day by day and event by event."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Literal

from mp_pipeline.days import format_names

Outcome = Literal["equal", "close", "warning", "error"]
"""How well a day agrees: ``close`` is within the tolerance, or only erased users are missing;
``warning`` and ``error`` are not."""

HOT_SHARDS = "$hotshard_events"
"""The name under which Mixpanel exports further events of a user with very many in a day."""

MAX_EVENTS, MAX_FRACTION = 5, 0.001
"""Difference of an event on a day, and fraction of its number, that are tolerated."""

MAX_DAY_FRACTION = 0.01
"""Difference of a day, as a fraction of its number, above which it is an error."""

_MIN_SHIFTED_DAYS = 3


@dataclass(frozen=True)
class EventCount:
    """The number of events of one name on a day.

    Attributes:
        event: The name.
        stored: The number of events stored.
        counted: The number that Mixpanel counts.
    """

    event: str
    stored: int
    counted: int

    @property
    def difference(self) -> int:
        """How many more are stored; negative if Mixpanel has more."""
        return self.stored - self.counted

    @property
    def is_tolerated(self) -> bool:
        """Whether the difference is within both tolerances."""
        return abs(self.difference) <= MAX_EVENTS and not _exceeds(
            self.stored, self.counted, MAX_FRACTION
        )


@dataclass(frozen=True)
class DayComparison:
    """A day's stored events beside Mixpanel's counts.

    Attributes:
        day: The day, in the project's time zone.
        events: The numbers of each event.
        erased: Lines of erased users that are not stored, which Mixpanel may still count.
    """

    day: date
    events: Sequence[EventCount]
    erased: int = 0

    @property
    def stored(self) -> int:
        """The number of events stored."""
        return sum(each.stored for each in self.events)

    @property
    def counted(self) -> int:
        """The number that Mixpanel counts."""
        return sum(each.counted for each in self.events)

    @property
    def difference(self) -> int:
        """How many more events are stored; negative if Mixpanel has more."""
        return self.stored - self.counted

    @cached_property
    def differences(self) -> list[EventCount]:
        """The events that differ, the largest difference first."""
        different = [each for each in self.events if each.difference]
        return sorted(different, key=lambda each: (-abs(each.difference), each.event))

    @property
    def outcome(self) -> Outcome:
        """How well the day agrees."""
        if not self.differences:
            return "equal"
        if self._is_explained_by_erasure:
            return "close"
        if _exceeds(self.stored, self.counted, MAX_DAY_FRACTION):
            return "error"
        return "close" if all(each.is_tolerated for each in self.differences) else "warning"

    @property
    def _is_explained_by_erasure(self) -> bool:
        """Whether no event is more here, and no more are missing than were erased."""
        return -self.difference <= self.erased and all(
            each.difference < 0 for each in self.differences
        )

    def __str__(self) -> str:
        text = f"{self.day} has {self.stored:,} events, Mixpanel counts {self.counted:,}"
        if self.differences:
            largest = self.differences[0]
            text += f" ({largest.event} {largest.difference:+,})"
        return text


def compare_day(
    day: date,
    stored: Mapping[str, int],
    counted: Mapping[str, Mapping[date, int]],
    names: Iterable[str] | None = None,
    erased: int = 0,
) -> DayComparison:
    """Compare a day.

    Args:
        day: The day.
        stored: The numbers of stored events by name.
        counted: Mixpanel's numbers by name and day; what is missing is 0.
        names: The names of the events that were loaded; None for all.
        erased: Lines of erased users that are not stored.

    Example:
        >>> day = date(2024, 1, 15)
        >>> comparison = compare_day(day, {"Search": 98}, {"Search": {day: 100}})
        >>> print(comparison, comparison.outcome)
        2024-01-15 has 98 events, Mixpanel counts 100 (Search -2) error
    """
    found = {*stored, *(counted if names is None else names)}
    return DayComparison(
        day,
        [
            EventCount(name, stored.get(name, 0), counted.get(name, {}).get(day, 0))
            for name in sorted(found)
        ],
        erased,
    )


def find_causes(comparisons: Sequence[DayComparison]) -> list[str]:
    """Return the known reasons that explain the differences, one sentence each.

    Args:
        comparisons: Days, in ascending order.
    """
    differences = [each for day in comparisons for each in day.differences]
    if not differences:
        return []
    causes = []
    if _are_shifted(comparisons):
        causes.append(
            "some days have more and others fewer, which balance: MIXPANEL_PROJECT_TIMEZONE is "
            "probably not the time zone of the project in Mixpanel"
        )
    if any(each.event == HOT_SHARDS for each in differences):
        causes.append(
            f"Mixpanel exports events of users with more than 200,000 in a day as {HOT_SHARDS}; "
            "mp_original_event_name has their names"
        )
    if erased := sum(day.erased for day in comparisons if day.differences):
        causes.append(f"{erased:,} lines of erased users are not stored, but may still be counted")
    events = [each for day in comparisons for each in day.events if each.event != HOT_SHARDS]
    stored = {each.event for each in events if each.stored}
    counted = {each.event for each in events if each.counted}
    if only_here := sorted(stored - counted):
        causes.append(
            f"only here: {format_names(only_here)} (renamed, merged or deleted in Mixpanel, or "
            "hidden from the service account by a data view)"
        )
    if only_there := sorted(counted - stored):
        causes.append(
            f"only at Mixpanel: {format_names(only_there)} (renamed or merged, or arrived after "
            "the load)"
        )
    return causes or [_likely_cause(differences)]


def _likely_cause(differences: Sequence[EventCount]) -> str:
    if all(each.difference < 0 for each in differences):
        return (
            "Mixpanel has more: events that arrived after the load, or duplicates that it has not "
            "compacted yet. Reload the days; if the difference stays, it is the duplicates"
        )
    if all(each.difference > 0 for each in differences):
        return (
            "more is stored: Mixpanel has deleted events since the load, or has compacted events "
            "that differ in their time alone"
        )
    return "some events are more, some fewer: events were changed in Mixpanel. Reload the days"


def _are_shifted(comparisons: Sequence[DayComparison]) -> bool:
    """Return whether most days differ and balance each other: midnight is at another time.

    Then each day gains the events of some hours and loses those of others, so that all days
    together differ by no more than one of them.
    """
    differences = [day.difference for day in comparisons if day.difference]
    return (
        len(differences) >= max(_MIN_SHIFTED_DAYS, len(comparisons) / 2)
        and min(differences) < 0 < max(differences)
        and abs(sum(differences)) <= max(map(abs, differences))
    )


def _exceeds(stored: int, counted: int, fraction: float) -> bool:
    return abs(stored - counted) > fraction * max(stored, counted)
