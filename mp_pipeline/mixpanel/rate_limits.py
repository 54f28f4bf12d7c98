"""Mixpanel's rate limits, shared by all threads, processes and runs on this machine.

Each request is counted in an SQLite file, one per project and API, before it is sent. If no request
is left, the caller waits, and holds no lock meanwhile. A killed process leaves no lock behind: the
operating system releases them. When Mixpanel refuses a request and states its limits, they are kept
in the same file.

Source of the default limits: https://docs.mixpanel.com/reference/rate-limits
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

import filelock
from pyrate_limiter import Decision, Rate, RateItem, SQLiteBucket

from mp_pipeline.mixpanel.errors import RateLimitWaitError, StateDirectoryError
from mp_pipeline.mixpanel.quotas import Quota
from mp_pipeline.mixpanel.windows import (
    Window,
    format_duration,
    per_hour,
    per_second,
    window_of,
)

_log = logging.getLogger(__name__)

_TABLE = "requests"
_OTHER_TABLES = (  # times in milliseconds since 1970
    "pause (asked INTEGER, until INTEGER)",
    "back_off (asked INTEGER, until INTEGER)",
    "quotas (seconds INTEGER, requests INTEGER, learned INTEGER)",
)
_LEARNED_SECONDS = 7 * 24 * 60 * 60
_LONGEST_BACK_OFF_SECONDS = 60.0
_ORIGINS = {
    "configured": "configured",
    "default": "the default",
    "learned": "learned from Mixpanel",
}
_LOCK_SECONDS = 30.0  # the file is locked for milliseconds, unless a process is suspended
_LOCK_POLL_SECONDS = 0.01
_SLOT_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0  # shorter waits are not logged
_SECONDS_BETWEEN_LINES = 300.0  # in the log
_LONGEST_PAUSE_SECONDS = 24 * 60 * 60.0  # a wrong Retry-After must not stop a machine for good


class Clock:
    """Tells the time, and waits."""

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def wait(self, stopped: threading.Event, seconds: float) -> None:
        """Wait, at most until the event is set."""
        stopped.wait(seconds)


_CLOCK = Clock()
_EXPORTS = (per_hour(), per_second())
_QUERIES = (per_hour(),)


@dataclass(frozen=True)
class RateLimits:
    """What a project's plan allows, and where this machine counts requests.

    A configured limit is never exceeded. Mixpanel's default applies until Mixpanel states another
    limit, which is remembered for 7 days.

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
        >>> from mp_pipeline.mixpanel.windows import per_hour, per_second
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
        self._windows = windows
        self._concurrent = concurrent
        self._clock = clock
        self._remaining: tuple[int, Window] | None = None

    @property
    def remaining(self) -> str:
        """What was left after this object's last request: `47 of 60 exports left this hour`."""
        longest = max(self._windows, key=attrgetter("milliseconds"))
        left, window = self._remaining or (longest.requests, longest)
        return f"{left} of {window.requests} {self._noun} left this {window.name}"

    def describe(self) -> str:
        """Return the limits and where they come from: `60 exports per hour (the default)`.

        Raises:
            StateDirectoryError: What Mixpanel stated cannot be read.
        """
        with self._open() as connection:
            windows = self._effective_windows(connection, self._now())
        limits = [
            f"{window.requests:,} {self._noun} per {window.name} ({_ORIGINS[window.origin]})"
            for window in windows
        ]
        if self._concurrent is not None:
            limits.append(f"{self._concurrent} {self._noun} at once")
        return ", ".join(limits)

    def acquire(
        self,
        description: str,
        stopped: threading.Event,
        *,
        counted: bool = True,
        max_wait: float | None = None,
        max_pause: float | None = None,
    ) -> "Place":
        """Wait until a request is allowed, and count it.

        Once `stopped` is set, this returns at once and counts nothing: the caller must check it.

        Args:
            description: What the request is for, in the log.
            stopped: Ends the wait.
            counted: Whether Mixpanel counts it. If not, it only takes a concurrent one's place.
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
            turn = self._try(counted)
            if isinstance(turn, Place):
                return turn
            started = started or turn.now
            waited, wait = (turn.now - started) / 1000, turn.wait / 1000
            if (max_wait is not None and waited + wait > max_wait) or (
                turn.requested and max_pause is not None and wait > max_pause
            ):
                raise RateLimitWaitError(
                    f"the rate limits require a wait of {format_duration(wait)}: {turn.reason}",
                    wait,
                )
            if max(waited, wait) > _QUIET_SECONDS and waited >= next_line:
                next_line = waited + _SECONDS_BETWEEN_LINES
                _log.info("%s waits %s: %s", description, format_duration(wait), turn.reason)
            self._clock.wait(stopped, min(wait, _SECONDS_BETWEEN_LINES))
        return Place(self, ExitStack(), None)

    def record_refusal(
        self, retry_after: float | None, quotas: Sequence[Quota] = (), *, backoff: float = 0.0
    ) -> None:
        """Note that Mixpanel refused a request with status 429, for all callers on this machine.

        Args:
            retry_after: The seconds in which Mixpanel wants no request, at most a day; None if it
                does not say. Then nobody sends one for `backoff` seconds, and for twice as long
                after each further refusal, up to a minute.
            quotas: The limits that Mixpanel states; empty if it states none.
            backoff: The first wait in seconds, if Mixpanel asks for none.

        Raises:
            StateDirectoryError: It cannot be recorded.
        """
        with self._open() as connection:
            now = self._now()
            if quotas:
                self._learn(connection, now, quotas)
            if retry_after is None:
                _back_off(connection, now, backoff)
            elif retry_after > 0:
                until = now + round(min(retry_after, _LONGEST_PAUSE_SECONDS) * 1000)
                connection.execute("DELETE FROM pause WHERE until <= ?", (now,))
                connection.execute("INSERT INTO pause VALUES (?, ?)", (now, until))

    def _learn(self, connection: sqlite3.Connection, now: int, quotas: Sequence[Quota]) -> None:
        before = self._effective_windows(connection, now)
        connection.execute("DELETE FROM quotas")
        connection.executemany(
            "INSERT INTO quotas VALUES (?, ?, ?)",
            [(quota.seconds, quota.requests, now) for quota in quotas],
        )
        for window in self._effective_windows(connection, now):
            if window.origin == "learned" and window not in before:
                _log.info(
                    "Mixpanel allows %s %s per %s, which applies for 7 days",
                    f"{window.requests:,}",
                    self._noun,
                    window.name,
                )

    def _effective_windows(self, connection: sqlite3.Connection, now: int) -> list[Window]:
        """Return the limits that apply now.

        What Mixpanel stated replaces a default, and a configured limit that is higher.
        """
        learned = {
            seconds: window_of(requests, seconds, "learned")
            for seconds, requests in connection.execute(
                "SELECT seconds, requests FROM quotas WHERE learned BETWEEN ? AND ?",
                (now - _LEARNED_SECONDS * 1000, now),
            )
        }
        windows = []
        for window in self._windows:
            stated = learned.pop(window.seconds, window)
            is_ceiling = window.origin == "configured" and window.requests <= stated.requests
            windows.append(window if is_ceiling else stated)
        return [*windows, *learned.values()]

    def _try(self, counted: bool) -> "Place | _Obstacle":
        """Count a request and return its place, or return why it must wait."""
        with self._open() as connection:
            now = self._now()
            if (pause := _find_pause(connection, now)) is not None:
                return pause
            slot = self._take_slot()
            if slot is None:
                reason = f"{self._concurrent} of {self._concurrent} concurrent {self._noun} running"
                return _Obstacle(now, round(_SLOT_POLL_SECONDS * 1000), reason)
            if not counted:
                return Place(self, slot, None)
            with slot:
                windows = self._effective_windows(connection, now)
                obstacle = self._count(now, windows)
                return Place(self, slot.pop_all(), now) if obstacle is None else obstacle

    def _count(self, now: int, windows: Sequence[Window]) -> "_Obstacle | None":
        """Count a request, or return why it must wait."""
        rates = _rates(windows)
        by_interval = {window.milliseconds: window for window in windows}
        with closing(SQLiteBucket.init_from_file(rates, _TABLE, str(self._path))) as bucket:
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
                longest = by_interval[rates[-1].interval]
                self._remaining = max(0, rates[-1].limit - bucket.count()), longest
                return None
            wait = decision.retry_after_ms or 1
            window = by_interval[rate.interval]
            reason = (
                f"{rate.limit} of {rate.limit} {self._noun} used this {window.name} "
                f"(until {_clock_time(now + wait)}); this limit is {_ORIGINS[window.origin]}"
            )
            return _Obstacle(now, wait, reason)

    def give_back(self, counted_at: int) -> None:
        """Remove a request from the count: Mixpanel does not count it.

        Args:
            counted_at: When it was counted, in milliseconds since 1970.

        Raises:
            StateDirectoryError: The count cannot be changed.
        """
        with self._open() as connection:
            connection.execute(
                f"DELETE FROM {_TABLE} WHERE rowid = "  # noqa: S608 - a constant
                f"(SELECT rowid FROM {_TABLE} WHERE item_timestamp = ? LIMIT 1)",
                (counted_at,),
            )
        if self._remaining is not None:
            left, window = self._remaining
            self._remaining = min(left + 1, window.requests), window

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
                    for table in _OTHER_TABLES:
                        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                    yield connection
        except (OSError, sqlite3.Error) as error:
            raise StateDirectoryError(
                f"cannot count requests to Mixpanel in the state directory {directory}: "
                f"{_describe(error, self._path)}. {StateDirectoryError.advice}"
            ) from error

    def _now(self) -> int:
        return round(self._clock.time() * 1000)


@dataclass(frozen=True)
class Place(AbstractContextManager["Place"]):
    """A request that may be sent: its slot among the concurrent ones, and its place in the count.

    The request must be sent and its answer read in a `with` block.

    Attributes:
        limiter: The rate limiter.
        slot: Releases the slot.
        counted_at: When the request was counted, in milliseconds since 1970; None if it was not.
    """

    limiter: RateLimiter
    slot: ExitStack
    counted_at: int | None

    def give_back(self) -> None:
        """Do not count the request: Mixpanel does not either.

        Raises:
            StateDirectoryError: The count cannot be changed.
        """
        if self.counted_at is not None:
            self.limiter.give_back(self.counted_at)

    def __exit__(self, *_: object) -> None:
        """Release the slot."""
        self.slot.close()


@dataclass(frozen=True)
class _Obstacle:
    """Why a request must wait; `now` and `wait` in milliseconds."""

    now: int
    wait: int
    reason: str
    requested: bool = False
    """Whether Mixpanel asked for the wait."""


def _find_pause(connection: sqlite3.Connection, now: int) -> _Obstacle | None:
    """Return the pause that Mixpanel asked for or that follows a refusal, if there is one."""
    # One that was requested in the future is from before the clock was set back.
    until, is_requested = connection.execute(
        "SELECT max(until), is_requested FROM ("  # the row of the largest: SQLite's own rule
        "SELECT *, true AS is_requested FROM pause UNION ALL SELECT *, false FROM back_off"
        ") WHERE asked <= ?",
        (now,),
    ).fetchone()
    if until is None or until <= now:
        return None
    who = "Mixpanel asked for it" if is_requested else "Mixpanel refused a request with status 429"
    reason = f"{who} (until {_clock_time(until)})"
    return _Obstacle(now, until - now, reason, requested=bool(is_requested))


def _back_off(connection: sqlite3.Connection, now: int, first: float) -> None:
    """Let nobody send a request for a while: for twice as long if that was the case just now."""
    found = connection.execute("SELECT asked, until FROM back_off WHERE asked <= ?", (now,))
    asked, until = found.fetchone() or (0, 0)
    if until > now:
        return  # the request was sent before another one was refused
    longest = round(_LONGEST_BACK_OFF_SECONDS * 1000)
    previous = until - asked if now - until <= longest else 0
    wait = min(max(round(first * 1000), 2 * previous), longest)
    connection.execute("DELETE FROM back_off")
    connection.execute("INSERT INTO back_off VALUES (?, ?)", (now, now + wait))


def _rates(windows: Sequence[Window]) -> list[Rate]:
    """Return the windows as the library needs them: each longer, larger and less dense.

    A window that a longer one makes meaningless is left out. A window that a shorter one makes
    meaningless is reduced to what the shorter one allows.
    """
    rates: list[Rate] = []
    for window in sorted(windows, key=attrgetter("milliseconds")):
        interval, limit = window.milliseconds, window.requests
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


def _clock_time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%H:%M:%S} UTC"
