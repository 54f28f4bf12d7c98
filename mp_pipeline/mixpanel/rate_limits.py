"""Mixpanel's rate limits, shared by all threads, processes and runs of one or several machines.

Each request is counted before it is sent, in a store: a file of this machine, or a PostgreSQL
database that several machines share. If no request is left, the caller waits, and holds no lock
meanwhile. A killed process leaves no lock behind. When Mixpanel refuses a request and states its
limits, they are kept in the same store.

Source of the default limits: https://docs.mixpanel.com/reference/rate-limits
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import cast
from urllib.parse import quote, urlsplit

from pyrate_limiter import Decision, Rate, RateItem

from mp_pipeline.mixpanel.errors import (
    RateLimitStoreError,
    RateLimitWaitError,
    SharedRateLimitsError,
)
from mp_pipeline.mixpanel.local_store import LocalStore
from mp_pipeline.mixpanel.postgres_database import PostgresDatabase
from mp_pipeline.mixpanel.quotas import Quota
from mp_pipeline.mixpanel.stores import Clock, Learned, Pause, Records, Store
from mp_pipeline.mixpanel.windows import (
    Window,
    format_duration,
    per_hour,
    per_second,
    window_of,
)

_log = logging.getLogger(__name__)

_LEARNED_SECONDS = 7 * 24 * 60 * 60
_LONGEST_BACK_OFF_SECONDS = 60.0
_ORIGINS = {
    "configured": "configured",
    "default": "the default",
    "learned": "learned from Mixpanel",
}
_SLOT_POLL_SECONDS = 0.1
_QUIET_SECONDS = 2.0  # shorter waits are not logged
_SECONDS_BETWEEN_LINES = 300.0  # in the log
_LONGEST_PAUSE_SECONDS = 24 * 60 * 60.0  # a wrong Retry-After must not stop a machine for good

_CLOCK = Clock()
_NEVER = threading.Event()
_EXPORTS = (per_hour(), per_second())
_QUERIES = (per_hour(),)


@dataclass(frozen=True)
class RateLimits:
    """What a project's plan allows, and where requests are counted.

    A configured limit is never exceeded. Mixpanel's default applies until Mixpanel states another
    limit, which is remembered for 7 days.

    Attributes:
        store: Where requests are counted, by all who use a project. The state directory, for one
            machine: it is created, for its owner only, if it is missing, and must be on a local
            disk. A `PostgresDatabase`, for several machines: it needs the extra `cluster`.
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

    store: Path | PostgresDatabase
    exports: Sequence[Window] = _EXPORTS
    queries: Sequence[Window] = _QUERIES
    concurrent_queries: int | None = 5
    clock: Clock = _CLOCK

    def export_limiter(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limiter of a project's raw export at the host of a URL."""
        store = self._store("exports", url, project_id)
        return RateLimiter(store, "exports", self.exports, None, self.clock)

    def query_limiter(self, url: str, project_id: str) -> "RateLimiter":
        """Return the rate limiter of a project's profiles at the host of a URL."""
        store = self._store("queries", url, project_id)
        return RateLimiter(store, "queries", self.queries, self.concurrent_queries, self.clock)

    def _store(self, api: str, url: str, project_id: str) -> Store:
        host, project = (quote(text, safe="") for text in (urlsplit(url).netloc, project_id))
        name = f"{api}-{host.lower()}-{project}"
        if isinstance(self.store, Path):
            return LocalStore(self.store / f"{name}.sqlite", self.clock)
        try:
            from mp_pipeline.mixpanel.postgres_store import PostgresStore
        except ImportError as error:
            raise SharedRateLimitsError(
                f"counting requests in PostgreSQL at {self.store} (MP_PIPELINE_RATE_LIMITS) needs "
                f"another package: pip install 'mp-pipeline[cluster]' ({error})"
            ) from error
        return PostgresStore(self.store, name, self.clock)


class RateLimiter:
    """Keeps the requests for one project and API within their limits. Threads may share it.

    Args:
        store: Where requests are counted.
        noun: What requests are called in messages: "exports".
        windows: The limits; at least one.
        concurrent: The number of requests at once; None for no limit.
        clock: Waits.
    """

    def __init__(
        self,
        store: Store,
        noun: str,
        windows: Sequence[Window],
        concurrent: int | None,
        clock: Clock,
    ) -> None:
        self._store = store
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
            RateLimitStoreError: What Mixpanel stated cannot be read.
        """
        windows = self._store.transact(
            lambda records: self._effective_windows(records, _now(records)), _NEVER
        )
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
            RateLimitStoreError: Requests cannot be counted. None may be sent.
        """
        started: int | None = None
        next_line = 0.0
        while not stopped.is_set():
            try:
                turn = self._try(counted, stopped)
            except RateLimitStoreError:
                if stopped.is_set():
                    break
                raise
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
        """Note that Mixpanel refused a request with status 429, for all callers.

        Args:
            retry_after: The seconds in which Mixpanel wants no request, at most a day; None if it
                does not say. Then nobody sends one for `backoff` seconds, and for twice as long
                after each further refusal, up to a minute.
            quotas: The limits that Mixpanel states; empty if it states none.
            backoff: The first wait in seconds, if Mixpanel asks for none.

        Raises:
            RateLimitStoreError: It cannot be recorded.
        """
        self._store.transact(
            lambda records: self._record_refusal(records, retry_after, quotas, backoff), _NEVER
        )

    def _record_refusal(
        self,
        records: Records,
        retry_after: float | None,
        quotas: Sequence[Quota],
        backoff: float,
    ) -> None:
        now = _now(records)
        if quotas:
            self._learn(records, now, quotas)
        pauses = records.read_pauses()
        if retry_after is None:
            records.write_pauses(_back_off(pauses, now, backoff))
        elif retry_after > 0:
            until = now + round(min(retry_after, _LONGEST_PAUSE_SECONDS) * 1000)
            kept = [each for each in pauses if each.until > now or not each.is_requested]
            records.write_pauses([*kept, Pause(now, until, is_requested=True)])

    def _learn(self, records: Records, now: int, quotas: Sequence[Quota]) -> None:
        before = self._effective_windows(records, now)
        records.write_learned([Learned(each.seconds, each.requests, now) for each in quotas])
        for window in self._effective_windows(records, now):
            if window.origin == "learned" and window not in before:
                _log.info(
                    "Mixpanel allows %s %s per %s, which applies for 7 days",
                    f"{window.requests:,}",
                    self._noun,
                    window.name,
                )

    def _effective_windows(self, records: Records, now: int) -> list[Window]:
        """Return the limits that apply now.

        What Mixpanel stated replaces a default, and a configured limit that is higher.
        """
        oldest = now - _LEARNED_SECONDS * 1000
        learned: dict[float, Window] = {
            each.seconds: window_of(each.requests, each.seconds, "learned")
            for each in records.read_learned()
            if oldest <= each.learned <= now
        }
        windows = []
        for window in self._windows:
            stated = learned.pop(window.seconds, window)
            is_ceiling = window.origin == "configured" and window.requests <= stated.requests
            windows.append(window if is_ceiling else stated)
        return [*windows, *learned.values()]

    def _try(self, counted: bool, stopped: threading.Event) -> "Place | _Obstacle":
        """Count a request and return its place, or return why it must wait."""
        with ExitStack() as slot:
            found = self._store.transact(partial(self._enter, slot, counted), stopped)
            if isinstance(found, _Obstacle):
                return found
            return Place(self, slot.pop_all(), found if counted else None)

    def _enter(self, slot: ExitStack, counted: bool, records: Records) -> "int | _Obstacle":
        """Take a slot, count a request and return when, or return why it must wait."""
        slot.close()  # if the connection was lost after it was taken
        now = _now(records)
        if (pause := _find_pause(records.read_pauses(), now)) is not None:
            return pause
        if self._concurrent is not None:
            taken = self._store.take_slot(self._concurrent)
            if taken is None:
                reason = f"{self._concurrent} of {self._concurrent} concurrent {self._noun} running"
                return _Obstacle(now, round(_SLOT_POLL_SECONDS * 1000), reason)
            slot.enter_context(taken)
        obstacle = self._count(records, now) if counted else None
        return now if obstacle is None else obstacle

    def _count(self, records: Records, now: int) -> "_Obstacle | None":
        """Count a request, or return why it must wait."""
        windows = self._effective_windows(records, now)
        rates = _rates(windows)
        by_interval = {window.milliseconds: window for window in windows}
        with records.bucket(rates) as bucket:
            records.end_future(now)
            bucket.leak(now)
            item = RateItem(self._noun, now)
            # Only an asynchronous bucket returns an awaitable.
            decision = cast("Decision", bucket.put_decision(item))
            if (rate := decision.failing_rate) is None:
                longest = by_interval[rates[-1].interval]
                count = cast("int", bucket.count())
                self._remaining = max(0, rates[-1].limit - count), longest
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
            RateLimitStoreError: The count cannot be changed.
        """
        self._store.transact(lambda records: records.remove_request(counted_at), _NEVER)
        if self._remaining is not None:
            left, window = self._remaining
            self._remaining = min(left + 1, window.requests), window


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
            RateLimitStoreError: The count cannot be changed.
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


def _find_pause(pauses: Sequence[Pause], now: int) -> _Obstacle | None:
    """Return the pause that Mixpanel asked for or that follows a refusal, if there is one."""
    # One that was requested in the future is from before the clock was set back.
    pause = max(
        (each for each in pauses if each.asked <= now < each.until),
        key=attrgetter("until"),
        default=None,
    )
    if pause is None:
        return None
    who = (
        "Mixpanel asked for it"
        if pause.is_requested
        else "Mixpanel refused a request with status 429"
    )
    reason = f"{who} (until {_clock_time(pause.until)})"
    return _Obstacle(now, pause.until - now, reason, requested=pause.is_requested)


def _back_off(pauses: Sequence[Pause], now: int, first: float) -> list[Pause]:
    """Return the pauses when nobody may send a request for a while after a refusal.

    It is twice as long as the last one if that was just now.
    """
    last = next((each for each in pauses if not each.is_requested and each.asked <= now), None)
    if last is not None and last.until > now:
        return list(pauses)  # the request was sent before another one was refused
    longest = round(_LONGEST_BACK_OFF_SECONDS * 1000)
    is_recent = last is not None and now - last.until <= longest
    previous = last.until - last.asked if last is not None and is_recent else 0
    wait = min(max(round(first * 1000), 2 * previous), longest)
    requested = [each for each in pauses if each.is_requested]
    return [*requested, Pause(now, now + wait, is_requested=False)]


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


def _now(records: Records) -> int:
    return round(records.time() * 1000)


def _clock_time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%H:%M:%S} UTC"
