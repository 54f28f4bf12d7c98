"""What Mixpanel allows a project, kept to by all threads, processes and runs on this machine.

Each request is counted in an SQLite file, one for each project and API, before it is sent. Who
finds nothing left waits, and holds no file meanwhile. A process that is killed leaves no lock
behind: the operating system releases them.

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

from mp_pipeline.mixpanel.errors import StateDirectoryError

_log = logging.getLogger(__name__)

_TABLE = "requests"
_LOCK_SECONDS = 30.0  # the file is held for milliseconds, unless a process is suspended
_LOCK_POLL_SECONDS = 0.01
_SLOT_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0  # shorter waits are not worth a line in the log
_LINE_SECONDS = 300.0  # between two lines in the log
_LONGEST_PAUSE = 24 * 60 * 60.0  # seconds; a wrong header must not stop a machine for good


@dataclass(frozen=True)
class Window:
    """At most so many requests in any so many seconds.

    Attributes:
        requests: How many.
        seconds: The length of the window.
        name: What it is called in messages: "hour".
        margin: Seconds by which the window is kept longer. Two requests arrive closer together
            than they were counted if the first was slower on its way (to resolve the name, connect
            and send): as long as that is within the margin, a server that counts arrivals agrees.
    """

    requests: int
    seconds: float
    name: str
    margin: float


def per_hour(requests: int) -> Window:
    """Return the window of any hour."""
    return Window(requests, 3600.0, "hour", margin=5.0)


def per_second(requests: int) -> Window:
    """Return the window of any second."""
    return Window(requests, 1.0, "second", margin=0.2)


class Clock:
    """The time, and waiting."""

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def wait(self, stopped: threading.Event, seconds: float) -> None:
        """Wait; no longer than until the event is set."""
        stopped.wait(seconds)


class TooLongError(Exception):
    """The wait would be longer than the caller wants; it never leaves this package.

    Attributes:
        seconds: How long it would be.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


_CLOCK = Clock()
_EXPORTS = (per_hour(60), per_second(3))
_QUERIES = (per_hour(60),)


@dataclass(frozen=True)
class RateLimits:
    """What a project's plan allows, and where this machine keeps count.

    Attributes:
        directory: Holds the counts; made, for its owner only, when it is missing. It has to be on a
            local disk, and those who share a project have to share it.
        exports: The windows of the raw export.
        queries: The windows of the profiles.
        concurrent_queries: The requests of profiles at once.
        clock: Tells the time.
    """

    directory: Path
    exports: Sequence[Window] = _EXPORTS
    queries: Sequence[Window] = _QUERIES
    concurrent_queries: int | None = 5
    clock: Clock = _CLOCK

    def of_exports(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limits of a project's raw export at the host of this URL."""
        path = self._path("exports", url, project_id)
        return RateLimiter(path, "exports", self.exports, None, self.clock)

    def of_queries(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limits of a project's profiles at the host of this URL."""
        path = self._path("queries", url, project_id)
        return RateLimiter(path, "queries", self.queries, self.concurrent_queries, self.clock)

    def _path(self, api: str, url: str, project_id: str) -> Path:
        host, project = (quote(text, safe="") for text in (urlsplit(url).netloc, project_id))
        return self.directory / f"{api}-{host.lower()}-{project}.sqlite"


class RateLimiter:
    """The rate limits of one project and API. Threads may share it.

    Args:
        path: The SQLite file; its locks stand beside it.
        noun: What a request is called in messages: "exports".
        windows: The limits; at least one.
        concurrent: Requests at once; None is no limit.
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
        self._left: int | None = None

    @property
    def left(self) -> str:
        """What was left behind this object's last request: `47 of 60 exports left this hour`."""
        most = self._rates[-1]
        left = most.limit if self._left is None else self._left
        return f"{left} of {most.limit} {self._noun} left this {self._names[most.interval]}"

    @contextmanager
    def request(
        self,
        what: str,
        stopped: threading.Event,
        *,
        max_wait: float | None = None,
        max_pause: float | None = None,
    ) -> Iterator[None]:
        """Wait until a request may be sent and count it; the ``with`` block sends it.

        Once `stopped` is set, the block is entered at once with nothing counted: it has to look.

        Args:
            what: The request, for the log.
            stopped: Ends the wait.
            max_wait: The longest wait, in seconds; None for any.
            max_pause: The longest wait that Mixpanel may have asked for, in seconds; None for any.

        Raises:
            TooLongError: The wait would be longer; nothing was counted.
            StateDirectoryError: The count cannot be kept; nothing may be sent.
        """
        with ExitStack() as held:
            self._wait_for_turn(held, what, stopped, max_wait, max_pause)
            yield

    def pause(self, seconds: float) -> None:
        """Let nobody on this machine send a request for so long, a day at most.

        Raises:
            StateDirectoryError: It cannot be written down.
        """
        with self._opened() as connection:
            now = self._now()
            until = now + round(min(seconds, _LONGEST_PAUSE) * 1000)
            connection.execute("DELETE FROM pause WHERE until <= ?", (now,))
            connection.execute("INSERT INTO pause VALUES (?, ?)", (now, until))

    def _wait_for_turn(
        self,
        held: ExitStack,
        what: str,
        stopped: threading.Event,
        max_wait: float | None,
        max_pause: float | None,
    ) -> None:
        begun: int | None = None
        next_line = 0.0
        while not stopped.is_set() and (obstacle := self._try(held)) is not None:
            begun = begun or obstacle.now
            waited, wait = (obstacle.now - begun) / 1000, obstacle.wait / 1000
            if (max_wait is not None and waited + wait > max_wait) or (
                obstacle.asked and max_pause is not None and wait > max_pause
            ):
                raise TooLongError(f"it has to wait {_duration(wait)}: {obstacle.reason}", wait)
            if max(waited, wait) > _QUIET_SECONDS and waited >= next_line:
                next_line = waited + _LINE_SECONDS
                _log.info("%s waits %s: %s", what, _duration(wait), obstacle.reason)
            self._clock.wait(stopped, min(wait, _LINE_SECONDS))

    def _try(self, held: ExitStack) -> "_Obstacle | None":
        """Count a request if it may be sent now, and hold its slot; else say what hinders it."""
        with self._opened() as connection:
            now = self._now()
            # A pause asked for in the future is one from before the clock was set back.
            (until,) = connection.execute(
                "SELECT max(until) FROM pause WHERE asked <= ?", (now,)
            ).fetchone()
            if until is not None and until > now:
                reason = f"Mixpanel asked for it with Retry-After (until {_clock_time(until)})"
                return _Obstacle(now, until - now, reason, asked=True)
            slot = self._free_slot()
            if slot is None:
                reason = f"{self._concurrent} of {self._concurrent} {self._noun} are under way"
                return _Obstacle(now, round(_SLOT_POLL_SECONDS * 1000), reason)
            with ExitStack() as slot_held:
                slot_held.enter_context(slot)
                obstacle = self._count(now)
                if obstacle is None:
                    held.push(slot_held.pop_all())
                return obstacle

    def _count(self, now: int) -> "_Obstacle | None":
        with closing(SQLiteBucket.init_from_file(self._rates, _TABLE, str(self._path))) as bucket:
            # Requests in the future are from before the clock was set back.
            bucket.conn.execute(
                f"UPDATE {_TABLE} SET item_timestamp = ? WHERE item_timestamp > ?",  # noqa: S608 - a constant
                (now, now),
            )
            bucket.leak(now)
            item = RateItem(self._noun, now)
            # Only an asynchronous bucket gives something to await.
            decision = cast("Decision", bucket.put_decision(item))
            if (rate := decision.failing_rate) is None:
                self._left = max(0, bucket.rates[-1].limit - bucket.count())
                return None
            wait = decision.retry_after_ms or 1
            reason = (
                f"{rate.limit} of {rate.limit} {self._noun} of this {self._names[rate.interval]} "
                f"are used (until {_clock_time(now + wait)})"
            )
            return _Obstacle(now, wait, reason)

    def _free_slot(self) -> ExitStack | None:
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
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Hold the file for this thread of this process alone."""
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
            raise StateDirectoryError(directory, _problem(error, self._path)) from error

    def _now(self) -> int:
        return round(self._clock.time() * 1000)


@dataclass(frozen=True)
class _Obstacle:
    """Why a request may not be sent yet; `now` and `wait` in milliseconds."""

    now: int
    wait: int
    reason: str
    asked: bool = False
    """Whether Mixpanel asked for the wait."""


def _milliseconds(window: Window) -> int:
    return math.ceil((window.seconds + window.margin) * 1000)


def _rates(windows: Sequence[Window]) -> list[Rate]:
    """Return the windows as the library takes them: each one longer, larger, and less dense.

    A window that a longer one makes meaningless is left out; of one that a shorter one makes
    meaningless, what the shorter one allows remains.
    """
    rates: list[Rate] = []
    for window in sorted(windows, key=_milliseconds):
        interval, limit = _milliseconds(window), window.requests
        if rates:
            limit = min(limit, rates[-1].limit * interval // rates[-1].interval)
        rates = [rate for rate in rates if rate.limit < limit and rate.interval < interval]
        rates.append(Rate(limit, interval))
    return rates


def _problem(error: Exception, path: Path) -> str:
    """Return what is wrong with the state directory, and what helps."""
    if isinstance(error, filelock.Timeout):
        return f"another process holds {error.lock_file} and does not go on"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"{path.name} is damaged ({error}): delete it, the count then begins anew"
    return str(error) or type(error).__name__


def _duration(seconds: float) -> str:
    """Return a duration in words: 12 min 30 s."""
    minutes, rest = divmod(max(1, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def _clock_time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%H:%M:%S} UTC"
