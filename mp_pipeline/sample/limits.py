"""Mixpanel's rate limits: queries per hour, per second, and at the same time."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mp_pipeline.sample.errors import ApiError


class RateLimit:
    """Counts queries in sliding windows. Rejected queries do not count. None means no limit.

    Args:
        project_id: The project that the error message names.
        per_hour: The queries allowed in any 3,600 seconds.
        per_second: The queries allowed in any second.
        concurrent: The queries allowed at the same time.
        busy_message: The error message for more than `concurrent` queries. None: the same as
            for more than `per_hour`.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        project_id: str,
        *,
        per_hour: int | None = None,
        per_second: int | None = None,
        concurrent: int | None = None,
        busy_message: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._project_id = project_id
        self._per_hour = per_hour
        self._windows = [
            _Window(name, limit, seconds)
            for name, limit, seconds in (("project", per_hour, 3600), ("burst", per_second, 1))
            if limit is not None
        ]
        self._concurrent = concurrent
        self._busy_message = busy_message
        self._clock = clock
        self._started: deque[float] = deque()  # start times in the last hour
        self._running = 0
        self._lock = threading.Lock()

    def enter(self, *, counted: bool = True) -> None:
        """Start a query. Call `leave` when it ends.

        Args:
            counted: Whether it counts per hour and per second. Otherwise only the queries at the
                same time are limited.

        Raises:
            ApiError: A limit is reached. Status 429, with the seconds to wait, the limits and what
                they still allow in its headers.
        """
        with self._lock:
            now = self._clock()
            while self._started and self._started[0] <= now - 3600:
                self._started.popleft()
            if self._concurrent is not None and self._running >= self._concurrent:
                raise self._refusal(1, now, self._busy_message)
            if counted and self._windows:
                wait = max(self._seconds_to_wait(window, now) for window in self._windows)
                if wait > 0:
                    raise self._refusal(math.ceil(wait), now)
                self._started.append(now)
            self._running += 1

    def leave(self) -> None:
        """End a query."""
        with self._lock:
            self._running -= 1

    def _refusal(self, wait: int, now: float, message: str | None = None) -> ApiError:
        """Return the error, with headers such as `RateLimit-Policy: "project";q=60;w=3600`."""
        headers = {"Retry_After": str(wait)}
        if self._windows:
            policies = (f'"{each.name}";q={each.limit};w={each.seconds}' for each in self._windows)
            left = (f'"{each.name}";r={self._count_left(each, now)}' for each in self._windows)
            headers |= {"RateLimit_Policy": ", ".join(policies), "RateLimit": ", ".join(left)}
        return ApiError(429, message or self._format_message(), **headers)

    def _seconds_to_wait(self, window: "_Window", now: float) -> float:
        """Return the seconds until a window has room for another query."""
        if len(self._started) < window.limit:
            return 0
        # The query that has to leave the window before another one may start.
        blocking = self._started[-window.limit] if window.limit else now
        return blocking + window.seconds - now

    def _count_left(self, window: "_Window", now: float) -> int:
        """Return how many more queries a window has room for."""
        return max(0, window.limit - sum(start > now - window.seconds for start in self._started))

    def _format_message(self) -> str:
        concurrent = "unlimited" if self._concurrent is None else self._concurrent
        per_hour = "unlimited" if self._per_hour is None else self._per_hour
        return (
            f"Query rate limit exceeded for project_id: {self._project_id}."
            f" {self._running + 1}/{concurrent} queries running concurrently"
            f" and {len(self._started) + 1}/{per_hour} queries running in the last hour"
        )


@dataclass(frozen=True)
class _Window:
    """A number of queries allowed in any period of so many seconds."""

    name: str
    limit: int
    seconds: int
