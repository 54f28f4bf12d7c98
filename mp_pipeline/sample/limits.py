"""Mixpanel's rate limits: queries per hour, per second, and at the same time."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

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
        self._per_second = per_second
        self._concurrent = concurrent
        self._busy_message = busy_message
        self._clock = clock
        self._started: deque[float] = deque()  # start times in the last hour
        self._running = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Start a query. Call `leave` when it ends.

        Raises:
            ApiError: A limit is reached. Status 429, with the seconds to wait.
        """
        with self._lock:
            now = self._clock()
            while self._started and self._started[0] <= now - 3600:
                self._started.popleft()
            if self._concurrent is not None and self._running >= self._concurrent:
                raise ApiError(429, self._busy_message or self._format_message(), retry_after=1)
            for limit, seconds in ((self._per_hour, 3600), (self._per_second, 1)):
                wait = self._seconds_to_wait(limit, seconds, now)
                if wait > 0:
                    raise ApiError(429, self._format_message(), retry_after=math.ceil(wait))
            if self._per_hour is not None or self._per_second is not None:
                self._started.append(now)
            self._running += 1

    def leave(self) -> None:
        """End a query."""
        with self._lock:
            self._running -= 1

    def _seconds_to_wait(self, limit: int | None, seconds: int, now: float) -> float:
        """Return the seconds until a window has room for another query."""
        if limit is None or len(self._started) < limit:
            return 0
        # The query that has to leave the window before another one may start.
        blocking = self._started[-limit] if limit else now
        return blocking + seconds - now

    def _format_message(self) -> str:
        concurrent = "unlimited" if self._concurrent is None else self._concurrent
        per_hour = "unlimited" if self._per_hour is None else self._per_hour
        return (
            f"Query rate limit exceeded for project_id: {self._project_id}."
            f" {self._running + 1}/{concurrent} queries running concurrently"
            f" and {len(self._started) + 1}/{per_hour} queries running in the last hour"
        )
