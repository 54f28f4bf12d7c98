"""Mixpanel's rate limits, shared by all threads, processes and runs on this machine.

Each request is counted in an SQLite file, one per project and API, before it is sent. If no request
is left, the caller waits, and holds no lock meanwhile. A killed process leaves no lock behind: the
operating system releases them.

Source of the default limits: https://docs.mixpanel.com/reference/rate-limits
"""

import logging
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import filelock
from pyrate_limiter import Decision, Rate, RateItem, SQLiteBucket

from mp_pipeline.mixpanel.errors import RateLimitWaitError, StateDirectoryError

_log = logging.getLogger(__name__)

_TABLE = "requests"
_LOCK_SECONDS = 30.0  # the file is locked for milliseconds, unless a process is suspended
_LOCK_POLL_SECONDS = 0.01
_SLOT_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0  # shorter waits are not logged
_SECONDS_BETWEEN_LINES = 300.0  # in the log
_LONGEST_PAUSE_SECONDS = 24 * 60 * 60.0  # a wrong Retry-After must not stop a machine for good


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
    """

    requests: int
    seconds: float
    name: str
    margin: float


def per_hour(requests: int) -> Window:
    """Return a limit of requests per hour."""
    return Window(requests, 3600.0, "hour", margin=5.0)


def per_second(requests: int) -> Window:
    """Return a limit of requests per second."""
    return Window(requests, 1.0, "second", margin=0.2)


class Clock:
    """Tells the time, and waits."""

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def wait(self, stopped: threading.Event, seconds: float) -> None:
        """Wait, at most until the event is set."""
        stopped.wait(seconds)


_CLOCK = Clock()
_EXPORTS = (per_hour(60), per_second(3))
_QUERIES = (per_hour(60),)


@dataclass(frozen=True)
class RateLimits:
    """What a project's plan allows, and where this machine counts requests.

    Attributes:
        directory: The state directory, where requests are counted. It is created, for its owner
            only, if it is missing. It must be on a local disk, and all who use a project on this
            machine must share it.
        exports: The limits of the raw export.
        queries: The limits of the profiles.
        concurrent_queries: The number of requests for profiles at once; None for no limit.
        clock: Tells the time.

    Example:
        >>> from pathlib import Path
        >>> from mp_pipeline.mixpanel import MixpanelClient, RateLimits
        >>> from mp_pipeline.mixpanel.rate_limits import per_hour, per_second
        >>> limits = RateLimits(
        ...     Path("state"), exports=[per_hour(120), per_second(3)], concurrent_queries=2
        ... )
        >>> client = MixpanelClient("12345", "reader", "the secret", rate_limits=limits)
    """

    directory: Path
    exports: Sequence[Window] = _EXPORTS
    queries: Sequence[Window] = _QUERIES
    concurrent_queries: int | None = 5
    clock: Clock = _CLOCK

    def export_limiter(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limiter of a project's raw export at the host of a URL."""
        path = self._path("exports", url, project_id)
        return RateLimiter(path, "exports", self.exports, None, self.clock)

    def query_limiter(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limiter of a project's profiles at the host of a URL."""
        path = self._path("queries", url, project_id)
        return RateLimiter(path, "queries", self.queries, self.concurrent_queries, self.clock)

    def _path(self, api: str, url: str, project_id: str) -> Path:
        host, project = (quote(text, safe="") for text in (urlsplit(url).netloc, project_id))
        return self.directory / f"{api}-{host.lower()}-{project}.sqlite"


class RateLimiter:
    """Keeps the requests for one project and API within their limits. Threads may share it.

    Args:
        path: The SQLite file. Its locks are files beside it.
        noun: What requests are called in messages: "exports".
        windows: The limits; at least one.
        concurrent: The number of requests at once; None for no limit.
        clock: Tells the time.
    """

    def __init__(
        self,
        path: Path,
        noun: str,
        windows: Sequence[Window],
        concurrent: int | None,
        clock: Clock,
    ) -> None:
        self._path = path
        self._noun = noun
        self._rates = _rates(windows)
        self._names = {_milliseconds(window): window.name for window in windows}
        self._concurrent = concurrent
        self._clock = clock
        self._remaining: int | None = None

    @property
    def remaining(self) -> str:
        """What was left after this object's last request: `47 of 60 exports left this hour`."""
        largest = self._rates[-1]
        left = largest.limit if self._remaining is None else self._remaining
        return f"{left} of {largest.limit} {self._noun} left this {self._names[largest.interval]}"

    def acquire(
        self,
        description: str,
        stopped: threading.Event,
        *,
        max_wait: float | None = None,
        max_pause: float | None = None,
    ) -> ExitStack:
        """Wait until a request is allowed, and count it.

        Once `stopped` is set, this returns at once and counts nothing: the caller must check it.

        Args:
            description: What the request is for, in the log.
            stopped: Ends the wait.
            max_wait: The longest wait, in seconds; None for any.
            max_pause: The longest wait that Mixpanel asked for, in seconds; None for any.

        Returns:
            A context manager. The request must be sent and its answer read in its block.

        Raises:
            RateLimitWaitError: The wait would be longer. Nothing was counted.
            StateDirectoryError: Requests cannot be counted. None may be sent.
        """
        started: int | None = None
        next_line = 0.0
        while not stopped.is_set():
            turn = self._try()
            if isinstance(turn, ExitStack):
                return turn
            started = started or turn.now
            waited, wait = (turn.now - started) / 1000, turn.wait / 1000
            if (max_wait is not None and waited + wait > max_wait) or (
                turn.requested and max_pause is not None and wait > max_pause
            ):
                raise RateLimitWaitError(
                    f"the rate limits require a wait of {_duration(wait)}: {turn.reason}", wait
                )
            if max(waited, wait) > _QUIET_SECONDS and waited >= next_line:
                next_line = waited + _SECONDS_BETWEEN_LINES
                _log.info("%s waits %s: %s", description, _duration(wait), turn.reason)
            self._clock.wait(stopped, min(wait, _SECONDS_BETWEEN_LINES))
        return ExitStack()

    def pause(self, seconds: float) -> None:
        """Allow no request on this machine for so long, but at most for a day.

        Raises:
            StateDirectoryError: The pause cannot be recorded.
        """
        with self._open() as connection:
            now = self._now()
            until = now + round(min(seconds, _LONGEST_PAUSE_SECONDS) * 1000)
            connection.execute("DELETE FROM pause WHERE until <= ?", (now,))
            connection.execute("INSERT INTO pause VALUES (?, ?)", (now, until))

    def _try(self) -> "ExitStack | _Obstacle":
        """Count a request and return what holds its slot, or return why it must wait."""
        with self._open() as connection:
            now = self._now()
            # A pause that was requested in the future is from before the clock was set back.
            (until,) = connection.execute(
                "SELECT max(until) FROM pause WHERE asked <= ?", (now,)
            ).fetchone()
            if until is not None and until > now:
                reason = f"Mixpanel asked for it with Retry-After (until {_clock_time(until)})"
                return _Obstacle(now, until - now, reason, requested=True)
            slot = self._take_slot()
            if slot is None:
                reason = f"{self._concurrent} of {self._concurrent} concurrent {self._noun} running"
                return _Obstacle(now, round(_SLOT_POLL_SECONDS * 1000), reason)
            with slot:
                obstacle = self._count(now)
                return slot.pop_all() if obstacle is None else obstacle

    def _count(self, now: int) -> "_Obstacle | None":
        """Count a request, or return why it must wait."""
        with closing(SQLiteBucket.init_from_file(self._rates, _TABLE, str(self._path))) as bucket:
            # Requests in the future are from before the clock was set back.
            bucket.conn.execute(
                f"UPDATE {_TABLE} SET item_timestamp = ? WHERE item_timestamp > ?",  # noqa: S608 - a constant
                (now, now),
            )
            bucket.leak(now)
            item = RateItem(self._noun, now)
            # Only an asynchronous bucket returns an awaitable.
            decision = cast("Decision", bucket.put_decision(item))
            if (rate := decision.failing_rate) is None:
                self._remaining = max(0, bucket.rates[-1].limit - bucket.count())
                return None
            wait = decision.retry_after_ms or 1
            reason = (
                f"{rate.limit} of {rate.limit} {self._noun} used this "
                f"{self._names[rate.interval]} (until {_clock_time(now + wait)})"
            )
            return _Obstacle(now, wait, reason)

    def _take_slot(self) -> ExitStack | None:
        """Return what holds one of the slots; None if all are taken."""
        held = ExitStack()
        if self._concurrent is None:
            return held
        for number in range(1, self._concurrent + 1):
            try:
                held.enter_context(self._lock(f"slot-{number}").acquire(blocking=False))
            except filelock.Timeout:
                continue
            return held
        return None

    def _lock(self, name: str) -> filelock.FileLock:
        return filelock.FileLock(f"{self._path}.{name}.lock", mode=0o600)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file, locked for this thread of this process alone."""
        directory = self._path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock("count")
            with lock.acquire(timeout=_LOCK_SECONDS, poll_interval=_LOCK_POLL_SECONDS):
                self._path.touch(mode=0o600)
                with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS pause (asked INTEGER, until INTEGER)"
                    )
                    yield connection
        except (OSError, sqlite3.Error) as error:
            raise StateDirectoryError(
                f"cannot count requests to Mixpanel in the state directory {directory}: "
                f"{_describe(error, self._path)}. {StateDirectoryError.advice}"
            ) from error

    def _now(self) -> int:
        return round(self._clock.time() * 1000)


@dataclass(frozen=True)
class _Obstacle:
    """Why a request must wait; `now` and `wait` in milliseconds."""

    now: int
    wait: int
    reason: str
    requested: bool = False
    """Whether Mixpanel asked for the wait."""


def _milliseconds(window: Window) -> int:
    return math.ceil((window.seconds + window.margin) * 1000)


def _rates(windows: Sequence[Window]) -> list[Rate]:
    """Return the windows as the library needs them: each longer, larger and less dense.

    A window that a longer one makes meaningless is left out. A window that a shorter one makes
    meaningless is reduced to what the shorter one allows.
    """
    rates: list[Rate] = []
    for window in sorted(windows, key=_milliseconds):
        interval, limit = _milliseconds(window), window.requests
        if rates:
            limit = min(limit, rates[-1].limit * interval // rates[-1].interval)
        rates = [rate for rate in rates if rate.limit < limit and rate.interval < interval]
        rates.append(Rate(limit, interval))
    return rates


def _describe(error: Exception, path: Path) -> str:
    """Return what is wrong with the state directory, and what helps."""
    if isinstance(error, filelock.Timeout):
        return f"another process holds {error.lock_file} and is not releasing it"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"{path.name} is damaged ({error}): delete it, and the count starts again"
    return str(error) or type(error).__name__


def _duration(seconds: float) -> str:
    """Return a duration as text: 12 min 30 s."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _clock_time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%H:%M:%S} UTC"
