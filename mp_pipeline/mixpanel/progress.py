"""Lines in the log about a download: one every few seconds, and one at its end."""

import logging
import time

from mp_pipeline.mixpanel.paging import Paging
from mp_pipeline.mixpanel.rate_limits import RateLimiter
from mp_pipeline.mixpanel.windows import format_duration

_log = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Logs how far a download is.

    Args:
        description: What is downloaded.
        rate_limiter: Its remaining requests are logged, too; None for none.
    """

    def __init__(self, description: str, rate_limiter: RateLimiter | None) -> None:
        self._description = description
        self._rate_limiter = rate_limiter
        self._start = self._logged = time.monotonic()

    @property
    def seconds(self) -> float:
        """The seconds since the beginning."""
        return time.monotonic() - self._start

    def update(self, size: int, lines: int, paging: Paging | None = None) -> None:
        """Log the bytes and lines so far, unless the last line in the log is recent.

        With `paging`, the pages and the time left are logged, too.
        """
        now = time.monotonic()
        if now - self._logged >= _SECONDS_BETWEEN_LINES:
            self._logged = now
            self._write(self._numbers(size, lines) + self._outlook(paging))

    def finish(self, size: int, lines: int, attempts: int, paging: Paging | None = None) -> None:
        """Log that the download is done, with its bytes, lines, pages and attempts."""
        pages = "" if paging is None else f", pages: {paging.pages:,}"
        self._write(f"done, {self._numbers(size, lines)}{pages}, attempts: {attempts:,}")

    def _numbers(self, size: int, lines: int) -> str:
        rate = lines / max(self.seconds, 0.001)
        return f"{size:,} bytes, {lines:,} lines, {self.seconds:.1f} s, {rate:,.0f} lines/s"

    def _outlook(self, paging: Paging | None) -> str:
        """Return how many pages are done and, if that is known, how long the others take."""
        if paging is None:
            return ""
        if paging.total is None or not paging.distinct:
            return f", page {paging.pages:,}"
        left = self.seconds * max(0, paging.total - paging.distinct) / paging.distinct
        return f", page {paging.pages:,} of {paging.planned:,}, {format_duration(left)} left"

    def _write(self, text: str) -> None:
        remaining = "" if self._rate_limiter is None else f", {self._rate_limiter.remaining}"
        _log.info("%s: %s%s", self._description, text, remaining)
