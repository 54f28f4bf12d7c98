"""Mixpanel's rate limits: queries an hour, a second, and at once."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from mp_pipeline.sample.errors import ApiError


class RateLimit:
    """Counts queries in sliding windows; None is no limit. Refused queries do not count.

    Args:
        project_id: The project, as the error message names it.
        per_hour: Queries in any 3,600 seconds.
        per_second: Queries in any second.
        concurrent: Queries that run at once.
        busy_message: What a query over `concurrent` is told; None: the same as over `per_hour`.
        clock: Gives the time in seconds.
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
        self._begun: deque[float] = deque()  # in the last hour
        self._running = 0
        self._lock = threading.Lock()

    def enter(self) -> None:
        """Begin a query; each one that begins has to `leave`.

        Raises:
            ApiError: A limit is reached; status 429, with the seconds to wait.
        """
        with self._lock:
            now = self._clock()
            while self._begun and self._begun[0] <= now - 3600:
                self._begun.popleft()
            if self._concurrent is not None and self._running >= self._concurrent:
                raise ApiError(429, self._busy_message or self._message(), retry_after=1)
            for most, seconds in ((self._per_hour, 3600), (self._per_second, 1)):
                wait = self._wait(most, seconds, now)
                if wait > 0:
                    raise ApiError(429, self._message(), retry_after=math.ceil(wait))
            if self._per_hour is not None or self._per_second is not None:
                self._begun.append(now)
            self._running += 1

    def leave(self) -> None:
        """End a query."""
        with self._lock:
            self._running -= 1

    def _wait(self, most: int | None, seconds: int, now: float) -> float:
        """Give the seconds until a window has room for one more query."""
        if most is None or len(self._begun) < most:
            return 0
        # The one that has to leave the window before another may enter.
        blocking = self._begun[-most] if most else now
        return blocking + seconds - now

    def _message(self) -> str:
        concurrent = "unlimited" if self._concurrent is None else self._concurrent
        per_hour = "unlimited" if self._per_hour is None else self._per_hour
        return (
            f"Query rate limit exceeded for project_id: {self._project_id}."
            f" {self._running + 1}/{concurrent} queries running concurrently"
            f" and {len(self._begun) + 1}/{per_hour} queries running in the last hour"
        )
