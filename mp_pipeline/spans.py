"""Days in a row, and the gaps between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Span:
    """Days in a row.

    Attributes:
        first: the first of them.
        last: the last of them; part of the span.
    """

    first: date
    last: date

    @property
    def days(self) -> int:
        """How many days it has."""
        return (self.last - self.first).days + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first} to {self.last}"


def spans(days: Sequence[date]) -> list[Span]:
    """Return the days that are there as spans.

    Args:
        days: the days, oldest first, each once.
    """
    found: list[Span] = []
    for day in days:
        if found and day - found[-1].last == _ONE_DAY:
            found[-1] = Span(found[-1].first, day)
        else:
            found.append(Span(day, day))
    return found


def gaps(days: Sequence[date]) -> list[Span]:
    """Return the days that are missing between the first and the last.

    Args:
        days: the days that are there, oldest first, each once.
    """
    return [
        Span(before.last + _ONE_DAY, after.first - _ONE_DAY)
        for before, after in pairwise(spans(days))
    ]
