"""Limits of requests per period."""

import math
from dataclasses import dataclass
from typing import Literal

Origin = Literal["configured", "default", "learned"]

_PERIODS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


@dataclass(frozen=True)
class Window:
    """A number of requests that is allowed in any period of a given length.

    Attributes:
        requests: The number of requests.
        seconds: The length of the period.
        name: Its name in messages: "hour".
        margin: Seconds by which the period is extended. Two requests arrive closer together than
            they were counted if the first one took longer on its way (to resolve the name, connect
            and send). As long as the difference is within the margin, a server that counts arrivals
            agrees.
        origin: Whether the user configured it, it is Mixpanel's default, or Mixpanel stated it.
    """

    requests: int
    seconds: float
    name: str
    margin: float
    origin: Origin = "configured"

    @property
    def milliseconds(self) -> int:
        """The length of the period with its margin, in milliseconds."""
        return math.ceil((self.seconds + self.margin) * 1000)


def per_hour(requests: int | None = None) -> Window:
    """Return a limit of requests per hour: Mixpanel's default of 60 if none is configured."""
    return window_of(60, 3600, "default") if requests is None else window_of(requests, 3600)


def per_second(requests: int | None = None) -> Window:
    """Return a limit of requests per second: Mixpanel's default of 3 if none is configured."""
    return window_of(3, 1, "default") if requests is None else window_of(requests, 1)


def window_of(requests: int, seconds: int, origin: Origin = "configured") -> Window:
    """Return a limit of requests in a period of so many seconds."""
    name = _PERIODS.get(seconds) or format_duration(seconds)
    # A busy machine may take 0.3 seconds between counting a request and sending it.
    return Window(requests, float(seconds), name, 1.0 if seconds < 60 else 5.0, origin)


def format_duration(seconds: float) -> str:
    """Return a duration as text.

    Example:
        >>> format_duration(750)
        '12 min 30 s'
    """
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)
