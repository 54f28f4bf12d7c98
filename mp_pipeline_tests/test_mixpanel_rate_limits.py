"""Threads, processes and runs keep within Mixpanel's rate limits together.

By hand, in real time, with several processes that export as fast as they may, a server that
enforces 3 exports per second and 60 per "hour" of 30 seconds, and one JSON object of figures at the
end:

    python -m mp_pipeline_tests.test_mixpanel_rate_limits --minutes 3 [--postgres]
"""

import argparse
import itertools
import json
import logging
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from datetime import date, timedelta
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import (
    MixpanelClient,
    MixpanelError,
    PostgresDatabase,
    RateLimitError,
    RateLimits,
    ServerError,
    StateDirectoryError,
)
from mp_pipeline.mixpanel.quotas import Quota, parse_quotas, parse_requests_left
from mp_pipeline.mixpanel.stores import Clock
from mp_pipeline.mixpanel.windows import Window, per_hour, per_second
from mp_pipeline.sample.limits import RateLimit
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.client import (
    EVENT,
    PATIENCE,
    Log,
    client_of,
    join_downloads,
)
from mp_pipeline_tests.support.postgres import PostgresServer
from mp_pipeline_tests.support.processes import COMMAND, environment, run_command
from mp_pipeline_tests.support.rate_limits import AnyStore, text_of
from mp_pipeline_tests.support.servers import (
    Pieces,
    Reply,
    Request,
    ScriptedServer,
    credentials,
    reply,
)

DAY = date(2023, 1, 1)
HOUR = 3600 + 5  # with the margin


class SimulatedClock(Clock):
    """Time that stands still while a request is on its way, and jumps when everybody waits.

    A rate limiter asks for the time each time it tries to take a request, and the server when one
    arrives: so the clock knows how many are on their way.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = self.begin = now
        self._on_their_way = 0
        self._ends: list[float] = []
        self._changed = threading.Condition()

    def time(self) -> float:
        with self._changed:
            self._on_their_way += 1
            return self.now

    def shared_time(self, _: Callable[[], float]) -> float:
        return self.time()

    def arrived(self) -> float:
        with self._changed:
            self._on_their_way -= 1
            self._changed.notify_all()
            return self.now

    def wait(self, stopped: threading.Event, seconds: float) -> None:
        with self._changed:
            self._on_their_way -= 1
            end = self.now + seconds
            self._ends.append(end)
            self._changed.notify_all()
            while self.now < end and not stopped.is_set():
                if self._on_their_way == 0 and end == min(self._ends):
                    self.now = end
                else:
                    self._changed.wait(0.005)
            self._ends.remove(end)
            self._changed.notify_all()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=20) as running:
        yield running


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


def sample_client(
    server: FaultyServer, rate_limits: RateLimits, max_wait: float | None = None
) -> MixpanelClient:
    """Return a client of a sample server that keeps within rate limits."""
    return MixpanelClient(
        server.project_id,
        server.username,
        server.secret,
        export_url=server.export_url,
        query_url=server.query_url,
        backoff_seconds=0,
        rate_limits=rate_limits,
        max_rate_limit_wait_seconds=max_wait,
    )


def ranges(number: int, days: int = 1) -> list[tuple[date, date]]:
    """Return consecutive ranges of so many days each."""
    firsts = (DAY + timedelta(days=days * index) for index in range(number))
    return [(first, first + timedelta(days=days - 1)) for first in firsts]


def statuses(server: FaultyServer) -> list[int]:
    return [request.status for request in server.requests]


# Against a server that enforces Mixpanel's limits


@pytest.mark.parametrize(("requests", "days"), [(365, 1), (70, 7)])
def test_a_year_of_exports_meets_no_429(
    server: FaultyServer,
    clock: SimulatedClock,
    tmp_path: Path,
    store: AnyStore,
    requests: int,
    days: int,
) -> None:
    server.export_limit = RateLimit("7", per_hour=60, per_second=3, clock=clock.arrived)
    rate_limits = RateLimits(store, clock=clock)
    loaded = []
    with sample_client(server, rate_limits) as client:
        wanted = ranges(requests, days)
        for download in client.export_ranges(wanted, directory=tmp_path, prefetch=2):
            loaded.append((download.from_date, download.to_date))
            download.delete()
    assert loaded == wanted
    assert statuses(server) == [200] * requests
    hours = requests // 60
    assert hours * HOUR <= clock.now - clock.begin <= hours * HOUR + 30  # and no longer than needed


def test_profiles_meet_no_429(
    server: FaultyServer, clock: SimulatedClock, tmp_path: Path, store: AnyStore
) -> None:
    server.today = date(2023, 1, 2)  # with few users yet
    server.query_limit = RateLimit("7", per_hour=60, concurrent=5, clock=clock.arrived)
    rate_limits = RateLimits(store, clock=clock)

    def snapshot(number: int) -> int:
        with sample_client(server, rate_limits) as client:
            return client.export_profiles(directory=tmp_path / str(number), page_size=50).pages

    with ThreadPoolExecutor(8) as threads:
        pages = sum(threads.map(snapshot, range(70)))
    assert pages > 3 * 70
    assert statuses(server) == [200] * pages
    assert HOUR <= clock.now - clock.begin < 2 * HOUR  # only the first page of each counts


def test_snapshots_of_other_sizes_take_what_they_need(
    server: FaultyServer, clock: SimulatedClock, tmp_path: Path, store: AnyStore
) -> None:
    server.today = date(2023, 1, 2)
    server.query_limit = RateLimit("7", per_hour=60, concurrent=3, clock=clock.arrived)
    rate_limits = RateLimits(store, concurrent_queries=3, clock=clock)
    with sample_client(server, rate_limits) as client:
        download = client.export_profiles(directory=tmp_path, page_size=2)
    assert download.pages > 60
    assert download.complete
    assert statuses(server) == [200] * download.pages
    assert clock.now - clock.begin < 60


WORKER = """
    import sys, time
    from concurrent.futures import ThreadPoolExecutor
    from datetime import date
    from pathlib import Path

    from mp_pipeline.mixpanel import MixpanelClient, RateLimitError, RateLimits
    from mp_pipeline.mixpanel.windows import Window
    from mp_pipeline_tests.support.rate_limits import store_of

    url, state, directory, seconds, max_wait, windows = sys.argv[1:]
    client = MixpanelClient(
        "1234567",
        "sample.account",
        "sample-secret",
        export_url=url,
        rate_limits=RateLimits(store_of(state), exports=[Window(*each) for each in eval(windows)]),
        max_rate_limit_wait_seconds=eval(max_wait),
    )

    def export(name):
        attempts = []
        try:
            while time.monotonic() < end:
                download = client.export_events(date(2023, 1, 1), directory=Path(directory) / name)
                attempts.append(download.attempts)
        except RateLimitError:
            pass
        return attempts

    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + float(seconds)
    with ThreadPoolExecutor(2) as threads:
        for attempts in threads.map(export, ("first", "second")):
            print(*attempts)
"""


def start_workers(
    number: int,
    url: str,
    directory: Path,
    store: AnyStore,
    windows: Sequence[Window],
    *,
    seconds: float,
    max_wait: float | None,
) -> "list[subprocess.Popen[str]]":
    """Start processes with two threads each that export as fast as they may, all at once.

    A thread ends after so many seconds, or when it would have to wait longer than `max_wait`.
    """
    shown = [(each.requests, each.seconds, each.name, each.margin) for each in windows]
    workers = [
        start(WORKER, url, text_of(store), directory / f"{each}", seconds, max_wait, shown)
        for each in range(number)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return workers


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def attempts_of(process: "subprocess.Popen[str]") -> list[int]:
    """Return the numbers of attempts that a worker's exports took, once it is done."""
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return [int(line) for line in printed.split()]


def test_processes_and_threads_share_one_rate_limits(
    server: FaultyServer, tmp_path: Path, store: AnyStore
) -> None:
    workers = start_workers(
        3, server.export_url, tmp_path, store, [per_hour(20)], seconds=PATIENCE, max_wait=0
    )
    exports = [attempts for worker in workers for attempts in attempts_of(worker)]
    assert exports == [1] * 20
    assert statuses(server) == [200] * 20


def test_another_project_and_another_host_have_rate_limits_of_their_own(store: AnyStore) -> None:
    rate_limits = RateLimits(store, exports=[per_hour(1)], queries=[per_hour(1)])
    urls = ("http://one.test:1/export", "http://one.test:2/export", "http://two.test:1/export")
    all_of_them = [
        rate_limits.export_limiter(url, project) for url in urls for project in ("7", "8/../9")
    ]
    for each in [*all_of_them, rate_limits.query_limiter(urls[0], "7")]:
        with each.acquire("export", threading.Event(), max_wait=0):
            assert each.remaining.startswith("0 of 1 ")
    if isinstance(store, Path):
        assert {path.parent for path in store.rglob("*")} == {store}


# What Mixpanel asks for


def test_nobody_asks_before_retry_after_is_over(tmp_path: Path, store: AnyStore) -> None:
    clock = SimulatedClock(time.time())  # which other processes agree with
    times: list[float] = []

    def answer(_: Request) -> Pieces:
        times.append(clock.arrived())
        return reply(b"busy", 429, retry_after="600") if len(times) == 1 else reply(EVENT)

    with ScriptedServer([answer]) as loopback:
        rate_limits = RateLimits(store, clock=clock)
        account = {"project_id": "1234567", "max_attempts": 1, "rate_limits": rate_limits}
        with client_of(loopback, **account) as client, pytest.raises(RateLimitError, match="busy"):
            client.export_events(DAY, directory=tmp_path)
        clock.arrived()  # it asked for the time again, to note the pause
        (worker,) = start_workers(
            1, loopback.url, tmp_path, store, rate_limits.exports, seconds=PATIENCE, max_wait=0
        )
        assert attempts_of(worker) == []
        with client_of(loopback, **account) as client:
            assert client.export_events(DAY, directory=tmp_path).attempts == 1
    first, second = times
    assert second - first == pytest.approx(600, abs=0.001)


def test_a_longer_retry_after_than_allowed_costs_the_others_no_request(
    tmp_path: Path, store: AnyStore, clock: SimulatedClock
) -> None:
    with ScriptedServer([reply(b"", 429, retry_after="7200")]) as loopback:
        client = client_of(loopback, rate_limits=RateLimits(store, clock=clock))
        with pytest.raises(RateLimitError, match="asks to wait 7,200 seconds, more than the 3,600"):
            client.export_events(DAY, directory=tmp_path)
        with pytest.raises(RateLimitError, match=r"Mixpanel asked for it .* 0 attempts") as caught:
            client.export_events(DAY, directory=tmp_path)
        assert caught.value.retry_after == 7200
        assert len(loopback.requests) == 1


def test_refusals_without_retry_after_back_off_for_everybody(
    tmp_path: Path, store: AnyStore, clock: SimulatedClock
) -> None:
    times: list[float] = []

    def answer(_: Request) -> Pieces:
        times.append(clock.arrived())
        clock.arrived()  # the client asks for the time again, to note the refusal
        return reply(b"busy", 429)

    limits = RateLimits(store, clock=clock)
    with ScriptedServer([answer]) as loopback:
        for _ in range(9):
            # Each time another client, which knows of the refusals only from the state directory.
            client = client_of(loopback, rate_limits=limits, max_attempts=1, backoff_seconds=1)
            with pytest.raises(RateLimitError, match="busy"):
                client.export_events(DAY, directory=tmp_path)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.01)


def test_refusals_at_the_same_time_are_one(clock: SimulatedClock, store: AnyStore) -> None:
    limiter = RateLimits(store, clock=clock).export_limiter("http://one.test", "7")
    for _ in range(5):
        limiter.record_refusal(None, backoff=1)
        clock.arrived()
    with limiter.acquire("export", threading.Event()):
        assert clock.now - clock.begin == pytest.approx(1, abs=0.01)


# What Mixpanel states


@pytest.mark.parametrize(
    ("header", "quotas"),
    [
        ('"project";q=60;w=3600', [(60, 3600)]),
        ('"project";q=400;w=3600, "burst";q=3;w=1', [(400, 3600), (3, 1)]),
        ('"project";q=400;w=3600,"organization";q=100;w=3600', [(100, 3600)]),
        ("project;w=3600;q=60;pk=:cHJvamVjdA==:", [(60, 3600)]),
        ('"bytes";q=1000;w=60;qu="content-bytes", "x";q=5;qu="concurrent-requests"', []),
        ('"project";q=0;w=3600, "a";q=-1;w=60, "b";q=60;w=0, "c";q=1.5;w=60, "d";q="9";w=60', []),
        ('"project";q=60;w=999999999', []),
        ('"project";q=60', []),
        ('("a" "b");q=60;w=3600', [(60, 3600)]),
        ("60, 60;window=3600", []),
        ('"project";q=60;w=3600,', []),
        ("größer", []),
        ("", []),
        (None, []),
    ],
)
def test_policies(header: str | None, quotas: list[tuple[int, int]]) -> None:
    assert list(parse_quotas(header)) == [Quota(*each) for each in quotas]


@pytest.mark.parametrize(
    ("header", "left", "seconds"),
    [
        ('"project";r=0', 0, None),
        ('"project";r=0;t=30, "burst";r=2;t=900', 0, 30),
        ('"project";r=12;t=30', 12, None),
        ("r=0", None, None),
        (None, None, None),
    ],
)
def test_requests_left(header: str | None, left: int | None, seconds: int | None) -> None:
    assert parse_requests_left(header) == (left, seconds)


def refusing_once(clock: SimulatedClock, policy: str) -> list[Reply]:
    """Return the replies of a server that states a policy when it refuses the first request."""

    def refuse(_: Request) -> Pieces:
        clock.arrived()
        clock.arrived()  # the client asks for the time again, to note the refusal
        return reply(b"", 429, Retry_After="0", RateLimit_Policy=policy)

    def answer(_: Request) -> Pieces:
        clock.arrived()
        return reply(EVENT)

    return [refuse, answer]


@pytest.mark.parametrize(
    ("configured", "applies", "afterwards"),
    [
        (None, "4 exports per hour (learned from Mixpanel)", "60 exports per hour (the default)"),
        (2, "2 exports per hour (configured)", "2 exports per hour (configured)"),
        (90, "4 exports per hour (learned from Mixpanel)", "90 exports per hour (configured)"),
    ],
)
def test_the_limit_that_mixpanel_states_applies_for_a_week(
    clock: SimulatedClock,
    tmp_path: Path,
    store: AnyStore,
    configured: int | None,
    applies: str,
    afterwards: str,
) -> None:
    limits = RateLimits(store, [per_hour(configured)], clock=clock)
    with ScriptedServer(refusing_once(clock, '"project";q=4;w=3600')) as loopback:
        client = client_of(loopback, rate_limits=limits)
        for _ in client.export_ranges(ranges(5), directory=tmp_path, prefetch=0):
            pass
        exports, _ = client_of(loopback, rate_limits=limits).describe_rate_limits()
        assert exports == applies
        hours = 4 // int(applies.split()[0])
        assert hours * HOUR <= clock.now - clock.begin < hours * HOUR + 60
        clock.now += 8 * 24 * 3600
        assert client.describe_rate_limits()[0] == afterwards


def test_a_higher_limit_than_the_default_is_used(
    clock: SimulatedClock, tmp_path: Path, store: AnyStore, caplog: pytest.LogCaptureFixture
) -> None:
    limits = RateLimits(store, clock=clock)
    policy = '"project";q=100;w=3600, "burst";q=20;w=1'
    with (
        caplog.at_level(logging.INFO),
        ScriptedServer(refusing_once(clock, policy)) as loopback,
        client_of(loopback, rate_limits=limits) as client,
    ):
        for download in client.export_ranges(ranges(101), directory=tmp_path):
            download.delete()
        assert len(loopback.requests) == 102
    assert HOUR <= clock.now - clock.begin < HOUR + 30
    stated = "Mixpanel allows 100 exports per hour, which applies for 7 days"
    assert caplog.messages.count(stated) == 1
    (wait, *_) = [message for message in caplog.messages if "used this hour" in message]
    assert "100 of 100 exports used this hour" in wait
    assert wait.endswith("; this limit is learned from Mixpanel")


def test_a_limit_of_another_period_is_kept_too(clock: SimulatedClock, store: AnyStore) -> None:
    limiter = RateLimits(store, clock=clock).export_limiter("http://one.test", "7")
    limiter.record_refusal(0, [Quota(2, 60), Quota(500, 86400)])
    clock.arrived()
    for _ in range(3):
        with limiter.acquire("export", threading.Event()):
            clock.arrived()
    assert 60 < clock.now - clock.begin < 70
    assert limiter.remaining == "497 of 500 exports left this day"


# What Mixpanel does not count


@pytest.mark.parametrize("status", [401, 402, 429])
def test_refused_requests_give_their_place_back(
    tmp_path: Path, store: AnyStore, status: int
) -> None:
    limits = RateLimits(store, [per_hour(1)])
    refusal = reply(b"no", status, Retry_After="0")
    with ScriptedServer([refusal, refusal, reply(EVENT)]) as loopback:
        client = client_of(
            loopback, rate_limits=limits, max_attempts=1, max_rate_limit_wait_seconds=0
        )
        for _ in range(2):
            with pytest.raises(MixpanelError, match="no"):
                client.export_events(DAY, directory=tmp_path)
        assert client.export_events(DAY, directory=tmp_path).attempts == 1
        with pytest.raises(RateLimitError, match="1 of 1 exports used this hour"):
            client.export_events(DAY, directory=tmp_path)


def test_connections_that_never_opened_give_their_place_back(tmp_path: Path) -> None:
    limits = RateLimits(tmp_path / "state", [per_hour(1)])
    with ScriptedServer([reply(EVENT)]) as loopback:
        options = {"rate_limits": limits, "max_attempts": 2, "max_rate_limit_wait_seconds": 0}
        client = client_of(loopback, **options)
        port = loopback.port
    for _ in range(2):
        with pytest.raises(ServerError, match="NewConnectionError"):
            client.export_events(DAY, directory=tmp_path)
    (path,) = (tmp_path / "state").glob("exports-*.sqlite")
    assert str(port) in path.name
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM requests").fetchall() == [(0,)]


# Waiting


def test_a_wait_says_how_long_and_why(
    server: FaultyServer,
    clock: SimulatedClock,
    tmp_path: Path,
    store: AnyStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.export_limit = RateLimit("7", per_hour=2, clock=clock.arrived)
    rate_limits = RateLimits(store, exports=[per_hour(2), per_second(3)], clock=clock)
    with caplog.at_level(logging.INFO), sample_client(server, rate_limits) as client:
        for download in client.export_ranges(ranges(3), directory=tmp_path, prefetch=0):
            download.delete()
    lines = [message for message in caplog.messages if "waits" in message]
    used = "2 of 2 exports used this hour (until 23:13:25 UTC); this limit is configured"
    assert lines[0] == f"export of 2023-01-03 waits 1 h 5 s: {used}"
    assert lines[1] == f"export of 2023-01-03 waits 55 min 5 s: {used}"
    assert len(lines) == 13  # every five minutes
    done = [message for message in caplog.messages if "done" in message]
    assert [message.rpartition(", ")[2] for message in done] == [
        "1 of 2 exports left this hour",
        "0 of 2 exports left this hour",
        "1 of 2 exports left this hour",
    ]


def test_stopping_ends_a_wait_at_once(server: FaultyServer, tmp_path: Path, log: Log) -> None:
    """Otherwise the thread would wait for an hour."""
    rate_limits = RateLimits(tmp_path / "state", exports=[per_hour(1)])
    with sample_client(server, rate_limits) as client:
        downloads = client.export_ranges(ranges(2), directory=tmp_path, prefetch=1)
        next(downloads)
        assert log.wait_for("waits").startswith("export of 2023-01-02 waits 1 h")
        downloads.close()
        join_downloads()
    assert len(server.requests) == 1


def test_failed_attempts_count(server: FaultyServer, tmp_path: Path, store: AnyStore) -> None:
    server.faults.append(Fault("status", status=500))
    rate_limits = RateLimits(store, exports=[per_hour(2)])
    with sample_client(server, rate_limits, max_wait=0) as client:
        assert client.export_events(DAY, directory=tmp_path).attempts == 2
        with pytest.raises(
            RateLimitError, match=r"require a wait of 1 h .*2 of 2 exports used this hour"
        ):
            client.export_events(DAY, directory=tmp_path)
    assert statuses(server) == [500, 200]


# Processes that are killed


HOLDER = """
    import sys
    from pathlib import Path

    from mp_pipeline.mixpanel import MixpanelClient, RateLimits
    from mp_pipeline_tests.support.rate_limits import store_of

    url, state, directory = sys.argv[1:]
    limits = RateLimits(store_of(state), concurrent_queries=1)
    client = MixpanelClient("7", "user", "s3cret", query_url=url, rate_limits=limits)
    client.export_profiles(directory=Path(directory))
"""


def test_a_killed_process_leaves_no_slot_stuck(tmp_path: Path, store: AnyStore) -> None:
    arrived = threading.Event()

    def stall(_: Request) -> Pieces:
        arrived.set()
        yield b""
        threading.Event().wait()

    with ScriptedServer([stall, reply(b'{"results":[]}')]) as loopback:
        limits = RateLimits(store, concurrent_queries=1)
        client = client_of(loopback, rate_limits=limits, max_rate_limit_wait_seconds=0)
        with killed_at_the_end(start(HOLDER, loopback.url, text_of(store), tmp_path)):
            assert arrived.wait(PATIENCE)
            with pytest.raises(RateLimitError, match="wait of 1 s: 1 of 1 concurrent queries"):
                client.export_profiles(directory=tmp_path)
        assert client.export_profiles(directory=tmp_path).complete
        assert len(loopback.requests) == 2


STUCK = """
    import sys, threading

    from mp_pipeline.mixpanel import RateLimits
    from mp_pipeline.mixpanel.stores import Clock
    from mp_pipeline_tests.support.rate_limits import store_of

    class Stuck(Clock):
        def time(self):
            print("holds the lock", flush=True)
            sys.stdin.read()

        def shared_time(self, _):
            return self.time()

    limits = RateLimits(store_of(sys.argv[1]), clock=Stuck())
    limiter = limits.export_limiter("http://one.test", "7")
    limiter.acquire("export", threading.Event())
"""

BUSY = """
    import sys, threading

    from mp_pipeline.mixpanel.rate_limits import RateLimits
    from mp_pipeline.mixpanel.windows import per_hour
    from mp_pipeline_tests.support.rate_limits import store_of

    limits = RateLimits(store_of(sys.argv[1]), [per_hour(10**6)])
    limiter = limits.export_limiter("http://one.test", "7")
    while True:
        with limiter.acquire("export", threading.Event()):
            print("counted", flush=True)
"""


@contextmanager
def killed_at_the_end(process: "subprocess.Popen[str]") -> Iterator["subprocess.Popen[str]"]:
    with process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_a_process_killed_while_it_counts_hinders_nobody(store: AnyStore) -> None:
    limiter = RateLimits(store, [per_hour(10**6)]).export_limiter("http://one.test", "7")
    with killed_at_the_end(start(STUCK, text_of(store))) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds the lock\n"
    with limiter.acquire("export", threading.Event(), max_wait=0):
        counted = 1
    for _ in range(4):
        with start(BUSY, text_of(store)) as process:
            assert process.stdout is not None
            for _line in range(random.randint(1, 50)):
                assert process.stdout.readline() == "counted\n"
                counted += 1
            process.send_signal(signal.SIGKILL)
            counted += len(process.stdout.read().split())
    with limiter.acquire("export", threading.Event(), max_wait=0):
        left = int(limiter.remaining.split()[0])
    assert 10**6 - counted - 5 <= left < 10**6 - counted  # killed before they could say so: 4


# Broken state, and odd limits and clocks


def test_a_state_directory_that_cannot_be_used(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "state"
    with (
        sample_client(server, RateLimits(directory)) as client,
        pytest.raises(StateDirectoryError, match="MP_PIPELINE_STATE_DIRECTORY") as caught,
    ):
        client.export_events(DAY, directory=tmp_path)
    assert f"in the state directory {directory}: " in str(caught.value)
    assert server.requests == []


def test_a_damaged_count_is_named(server: FaultyServer, tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with sample_client(server, RateLimits(directory)) as client:
        client.export_events(DAY, directory=tmp_path)
        (path,) = directory.glob("*.sqlite")
        whole = path.read_bytes()
        for damaged in (b"no database" * 500, whole[:100] + b"\xff" * (len(whole) - 100)):
            path.write_bytes(damaged)
            with pytest.raises(StateDirectoryError, match=f"{path.name} is damaged .*delete it"):
                client.export_events(DAY, directory=tmp_path)
        path.unlink()
        client.export_events(DAY, directory=tmp_path)
    assert len(server.requests) == 2


def test_the_state_is_for_its_owner_only(server: FaultyServer, tmp_path: Path) -> None:
    directory = tmp_path / "new" / "state"
    with sample_client(server, RateLimits(directory)) as client:
        client.export_events(DAY, directory=tmp_path)
        client.export_profiles(directory=tmp_path)
    assert directory.stat().st_mode & 0o777 == 0o700
    files = list(directory.iterdir())
    assert len(files) >= 2
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize(
    ("hourly", "secondly"), [(1, 3), (3, 3), (5, 2), (60, 60), (20000, 1), (9014, 3)]
)
def test_any_combination_of_limits_is_kept(
    clock: SimulatedClock, store: AnyStore, hourly: int, secondly: int
) -> None:
    limits = [per_hour(hourly), per_second(secondly)]
    rate_limits = RateLimits(store, limits, clock=clock).export_limiter("http://one.test", "7")
    times = []
    for _ in range(10):
        with rate_limits.acquire("export", threading.Event()):
            times.append(clock.arrived())
    for limit in limits:
        for first, last in zip(times, times[limit.requests :], strict=False):
            assert last - first > limit.seconds
    # No longer than needed.
    waits = 9 // hourly * HOUR if hourly < 10 else 0
    assert times[-1] - times[0] <= waits + 9 // secondly * 2.1


def test_old_requests_are_forgotten(clock: SimulatedClock, tmp_path: Path) -> None:
    rate_limits = RateLimits(tmp_path, clock=clock).export_limiter("http://one.test", "7")
    for _ in range(5):
        with rate_limits.acquire("export", threading.Event()):
            clock.now = clock.arrived() + 4000
    assert rate_limits.remaining == "59 of 60 exports left this hour"
    (path,) = tmp_path.glob("*.sqlite")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM requests").fetchall() == [(1,)]
    connection.close()


def test_a_clock_that_is_set_back_costs_an_hour_at_most(
    clock: SimulatedClock, store: AnyStore
) -> None:
    rate_limits = RateLimits(store, [per_hour(1)], clock=clock).export_limiter(
        "http://one.test", "7"
    )
    with rate_limits.acquire("export", threading.Event()):
        rate_limits.record_refusal(600)
        clock.arrived()
        clock.arrived()
    clock.now -= 86400
    before = clock.now
    with rate_limits.acquire("export", threading.Event()):
        assert clock.now - before == pytest.approx(HOUR, abs=1)


# The command


def test_check_does_not_wait_for_the_rate_limits(server: FaultyServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    env = credentials(server) | {
        "MIXPANEL_EXPORTS_PER_HOUR": "1",
        "MP_PIPELINE_STATE_DIRECTORY": str(state),
    }
    with sample_client(server, RateLimits(state)) as client:
        client.export_events(DAY, directory=tmp_path)
    printed = run_command(tmp_path, "check", env=env, code=1)
    assert re.search(r"the rate limits require a wait of (1 h|\d+ min)", printed)
    assert "1 of 1 exports used this hour (until " in printed
    assert (
        "Rate limits: 1 exports per hour (configured), 3 exports per second (the default); "
        "60 queries per hour (the default), 5 queries at once\n"
    ) in printed
    (tmp_path / "file").touch()
    unusable = {"MP_PIPELINE_STATE_DIRECTORY": str(tmp_path / "file" / "state")}
    printed = run_command(tmp_path, "check", env=env | unusable, code=1)
    assert "Choose another state directory (MP_PIPELINE_STATE_DIRECTORY)" in printed
    assert "Traceback" not in printed
    assert len(server.requests) == 1


def test_a_backfill_says_that_it_waits(server: FaultyServer, tmp_path: Path) -> None:
    env = credentials(server) | {
        "MIXPANEL_EXPORTS_PER_HOUR": "1",
        "MP_PIPELINE_STATE_DIRECTORY": str(tmp_path / "state"),
    }
    process = subprocess.Popen(
        [COMMAND, "backfill", "--from", "2024-03-10", "--to", "2024-03-11"],
        cwd=tmp_path,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        # The first day is downloaded and loaded, and meanwhile the next one waits.
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
    assert any(line.startswith("export of 2024-03-11 waits ") for line in lines[:3])
    assert any("mp-pipeline backfill --from 2024-03-11" in line for line in lines)


# By hand


class ScaledLimit(RateLimit):
    """Mixpanel's export limits with an hour of `hour` seconds. Records when requests arrive."""

    def __init__(self, per_hour: int, per_second: int, hour: float) -> None:
        super().__init__("7", per_hour=per_hour, clock=lambda: time.monotonic() * 3600 / hour)
        self._seconds = RateLimit("7", per_second=per_second)
        self.arrivals: list[float] = []

    def enter(self, *, counted: bool = True) -> None:
        self.arrivals.append(time.monotonic())
        self._seconds.enter(counted=counted)
        super().enter(counted=counted)

    def most_in(self, seconds: float) -> int:
        """Return the largest number of requests that arrived within so many seconds."""
        times = sorted(self.arrivals)
        return max(sum(begin <= each < begin + seconds for each in times) for begin in times)


def main(minutes: float, *, in_postgres: bool) -> None:
    """Let four processes with two threads each export, and print what the server saw."""
    hour = 30.0
    windows = (Window(60, hour, "hour", margin=1), per_second(3))
    with (
        FaultyServer(events_per_day=20) as server,
        tempfile.TemporaryDirectory() as directory,
        PostgresServer() if in_postgres else nullcontext() as postgres,
    ):
        store: AnyStore = Path(directory) / "state"
        if postgres is not None:
            store = PostgresDatabase(postgres.create_database().url)
        limit = server.export_limit = ScaledLimit(per_hour=60, per_second=3, hour=hour)
        workers = start_workers(
            4,
            server.export_url,
            Path(directory),
            store,
            windows,
            seconds=minutes * 60,
            max_wait=None,
        )
        figures = {
            "exports by process": [len(attempts_of(worker)) for worker in workers],
            "requests": len(server.requests),
            "429": statuses(server).count(429),
            "most in a second (3 allowed)": limit.most_in(1),
            f"most in {hour:g} seconds (60 allowed)": limit.most_in(hour),
            "seconds": round(limit.arrivals[-1] - limit.arrivals[0], 1),
        }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--postgres", action="store_true", help="count in PostgreSQL")
    arguments = parser.parse_args()
    main(arguments.minutes, in_postgres=arguments.postgres)
