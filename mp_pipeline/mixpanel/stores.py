"""Where rate limiters record requests: in the state directory, or in a PostgreSQL database.

A store belongs to one rate limiter: one project's requests to one API at one host.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol, TypeVar

from pyrate_limiter import AbstractBucket, Rate

T = TypeVar("T")

LOCK_SECONDS = 30.0
"""The longest wait for a lock, which is held for milliseconds unless a process is suspended."""


class Clock:
    """Tells the time, and waits."""

    def time(self) -> float:
        """Return the seconds since 1970 by the clock of this machine."""
        return time.time()

    def shared_time(self, read: Callable[[], float]) -> float:
        """Return the seconds since 1970 by a clock that several machines share.

        Args:
            read: Reads that clock.
        """
        return read()

    def wait(self, stopped: threading.Event, seconds: float) -> None:
        """Wait, at most until the event is set."""
        stopped.wait(seconds)


class Pause(NamedTuple):
    """A time in which nobody may send a request; in milliseconds since 1970.

    Attributes:
        asked: When it began.
        until: When it ends.
        is_requested: Whether Mixpanel asked for it. Otherwise, it follows a refusal.
    """

    asked: int
    until: int
    is_requested: bool


class Learned(NamedTuple):
    """A limit that Mixpanel stated.

    Attributes:
        seconds: The length of its period.
        requests: The number of requests in it.
        learned: When Mixpanel stated it, in milliseconds since 1970.
    """

    seconds: int
    requests: int
    learned: int


class Records(Protocol):
    """What a store has recorded, while nobody else can read or change it."""

    def time(self) -> float:
        """Return the seconds since 1970, by the clock of all who use the store."""

    def bucket(self, rates: list[Rate]) -> AbstractBucket:
        """Return the requests; adding one fails if these rates do not allow it."""

    def end_future(self, now: int) -> None:
        """Date requests from the future to now, in milliseconds since 1970.

        They are from before the clock was set back. There must have been a bucket.
        """

    def remove_request(self, counted_at: int) -> None:
        """Remove one request that was counted at a time, in milliseconds since 1970."""

    def read_pauses(self) -> list[Pause]:
        """Return the pauses."""

    def write_pauses(self, pauses: Sequence[Pause]) -> None:
        """Replace the pauses."""

    def read_learned(self) -> list[Learned]:
        """Return the limits that Mixpanel stated."""

    def write_learned(self, limits: Sequence[Learned]) -> None:
        """Replace the limits that Mixpanel stated."""


class Store(Protocol):
    """What all who use a rate limiter share. What a killed process holds is released."""

    def transact(self, work: Callable[[Records], T], stopped: threading.Event) -> T:
        """Call a function with the records, which nobody else can use meanwhile.

        Args:
            work: The function. It is called again if the connection to the records is lost.
            stopped: Ends the wait for a connection.

        Returns:
            What the function returned.

        Raises:
            RateLimitStoreError: The records cannot be read or changed. They are as before.
        """

    def take_slot(self, slots: int) -> ExitStack | None:
        """Take one of a number of slots, within `transact`.

        Returns:
            What releases the slot when it is closed; None if all slots are taken.
        """
