"""Lines in the log about a download: one every few seconds, and one at its end."""

import logging
import time

from mp_pipeline.mixpanel.rate_limits import RateLimiter

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

    def update(self, size: int, lines: int) -> None:
        """Log the bytes and lines so far, unless the last line in the log is recent."""
        now = time.monotonic()
        if now - self._logged >= _SECONDS_BETWEEN_LINES:
            self._logged = now
            self._write(self._numbers(size, lines))

    def finish(self, size: int, lines: int, attempts: int) -> None:
        """Log that the download is done, with its bytes, lines and attempts."""
        self._write(f"done, {self._numbers(size, lines)}, attempts: {attempts}")

    def _numbers(self, size: int, lines: int) -> str:
        rate = lines / max(self.seconds, 0.001)
        return f"{size:,} bytes, {lines:,} lines, {self.seconds:.1f} s, {rate:,.0f} lines/s"

    def _write(self, text: str) -> None:
        remaining = "" if self._rate_limiter is None else f", {self._rate_limiter.remaining}"
        _log.info("%s: %s%s", self._description, text, remaining)
