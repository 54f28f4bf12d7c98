"""The workers of several machines keep within Mixpanel's rate limits together, in PostgreSQL."""

import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mp_pipeline.mixpanel import PostgresDatabase, RateLimits, SharedRateLimitsError
from mp_pipeline.mixpanel.errors import RateLimitWaitError
from mp_pipeline.mixpanel.rate_limits import RateLimiter
from mp_pipeline.mixpanel.stores import Clock
from mp_pipeline.mixpanel.windows import per_hour
from mp_pipeline.sample.limits import RateLimit
from mp_pipeline_tests.faults import FaultyServer
from mp_pipeline_tests.support.client import Log
from mp_pipeline_tests.support.postgres import Database, PostgresServer
from mp_pipeline_tests.support.processes import run_command, run_python
from mp_pipeline_tests.support.servers import (
    Pieces,
    Request,
    ScriptedServer,
    credentials,
    reply,
    unused_port,
)
from mp_pipeline_tests.support.servers import (
    server as server,
)
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

HOUR = 3600 + 5  # with the margin
NEVER = threading.Event()


class CommonClock:
    """Time that several processes share. It stands still, and jumps when all of them wait.

    Processes ask for it over HTTP.

    Args:
        names: The names of the processes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.now = self.begin = 1_700_000_000.0
        self._busy = set(names)
        self._ends: dict[str, float] = {}
        self._changed = threading.Condition()

    def answer(self, request: Request) -> Pieces:
        """Return the time, after a wait if the request is for one."""
        match request.path:
            case "/wait":
                self._wait(request.query["name"], float(request.query["seconds"]))
            case "/leave":
                self.leave(request.query["name"])
        return reply(repr(self.now).encode())

    def leave(self, name: str) -> None:
        """Go on without a process."""
        with self._changed:
            self._busy.discard(name)
            self._ends.pop(name, None)
            self._jump()

    def _wait(self, name: str, seconds: float) -> None:
        with self._changed:
            self._busy.discard(name)
            self._ends[name] = self.now + seconds
            self._jump()
            while name in self._ends:
                self._changed.wait()

    def _jump(self) -> None:
        if self._ends and not self._busy:
            self.now = min(self._ends.values())
            for name in [name for name, end in self._ends.items() if end <= self.now]:
                del self._ends[name]
                self._busy.add(name)
        self._changed.notify_all()


WORKER = """
    import logging, sys
    from datetime import date, timedelta
    from pathlib import Path

    import requests

    from mp_pipeline.mixpanel import MixpanelClient, PostgresDatabase, RateLimits
    from mp_pipeline.mixpanel.stores import Clock

    name, clock_url, export_url, database, directory, exports = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.INFO)

    def ask(what, **query):
        return float(requests.get(f"{clock_url}/{what}", query | {"name": name}).text)

    class CommonClock(Clock):
        def shared_time(self, _):
            return ask("time")

        def wait(self, _, seconds):
            ask("wait", seconds=seconds)

    with MixpanelClient(
        "1234567",
        "sample.account",
        "sample-secret",
        export_url=export_url,
        max_attempts=1,
        rate_limits=RateLimits(PostgresDatabase(database), clock=CommonClock()),
    ) as client:
        for number in range(int(exports)):
            day = date(2023, 1, 1) + timedelta(days=number)
            client.export_events(day, directory=Path(directory) / name).delete()
    ask("leave")
"""


@dataclass
class Workers:
    """Processes that export as fast as they may, from a server with Mixpanel's limits.

    Attributes:
        clock: Their clock.
        processes: The processes, by name.
        arrivals: The times at which their requests arrived at the server.
        statuses: What the server answered.
        directory: Where their logs are.
    """

    clock: CommonClock
    processes: dict[str, "subprocess.Popen[bytes]"]
    arrivals: list[float]
    server: FaultyServer
    directory: Path

    @property
    def statuses(self) -> list[int]:
        return [request.status for request in self.server.requests]

    def log(self) -> str:
        return "\n".join(path.read_text() for path in self.directory.glob("*.log"))

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait(PATIENCE)
        self.clock.leave(name)

    def join(self) -> None:
        for process in self.processes.values():
            assert process.wait(600) == 0, self.log()


@contextmanager
def running_workers(
    number: int,
    exports: int,
    database: Database,
    directory: Path,
    gates: dict[int, threading.Event] | None = None,
) -> Iterator[Workers]:
    """Start workers that export so many days each.

    Args:
        number: The number of workers.
        exports: The number of days.
        database: Where they count.
        directory: Where they download to.
        gates: Events for which the server waits before it answers the request of a number.
    """
    names = [str(each) for each in range(number)]
    clock = CommonClock(names)
    arrivals: list[float] = []

    def arrive() -> float:
        arrivals.append(clock.now)
        if gates and (gate := gates.get(len(arrivals))):
            assert gate.wait(PATIENCE)
        return clock.now

    with (
        FaultyServer(events_per_day=20) as server,
        ScriptedServer([clock.answer]) as clock_server,
    ):
        server.export_limit = RateLimit("7", per_hour=60, per_second=3, clock=arrive)
        workers = Workers(clock, {}, arrivals, server, directory)
        for name in names:
            arguments = (name, clock_server.url, server.export_url, database.url, directory)
            with (directory / f"{name}.log").open("wb") as log:
                workers.processes[name] = subprocess.Popen(
                    [
                        *(sys.executable, "-W", "error", "-c", textwrap.dedent(WORKER)),
                        *map(str, arguments),
                        str(exports),
                    ],
                    stderr=log,
                )
        try:
            yield workers
        finally:
            for process in workers.processes.values():
                process.kill()
                process.wait(PATIENCE)


def limiter_of(
    url: str, hourly: int | None = None, clock: Clock | None = None, project: str = "7"
) -> RateLimiter:
    limits = RateLimits(PostgresDatabase(url), [per_hour(hourly)], clock=clock or Clock())
    return limits.export_limiter("http://one.test", project)


# Several workers


def test_eight_workers_use_the_whole_quota_and_meet_no_429(
    postgres: Database, tmp_path: Path
) -> None:
    with running_workers(8, 18, postgres, tmp_path) as workers:
        workers.join()
    assert workers.statuses == [200] * (8 * 18)
    times = workers.arrivals
    # The whole quota of each second and of each hour is used: while there is work, no request comes
    # later than the margins of 1 and 5 seconds demand, within 10 milliseconds.
    bursts = [later - earlier for earlier, later in zip(times, times[3:60], strict=False)]
    assert all(1 < each < 2.01 for each in bursts)
    hours = [later - earlier for earlier, later in zip(times, times[60:], strict=False)]
    assert all(3600 < each < HOUR + 0.01 for each in hours)


def test_workers_go_on_after_a_restart_and_without_one_that_was_killed(tmp_path: Path) -> None:
    gates = {10: threading.Event(), 30: threading.Event()}
    with (
        PostgresServer() as server,
        running_workers(8, 10, server.create_database(), tmp_path, gates) as workers,
    ):
        wait_until(lambda: len(workers.arrivals) == 10, explain=workers.log)
        workers.kill("3")
        gates[10].set()
        wait_until(lambda: len(workers.arrivals) == 30, explain=workers.log)
        server.stop()
        gates[30].set()
        wait_until(lambda: "; trying again" in workers.log(), explain=workers.log)
        server.start()
        workers.join()
        log = workers.log()
    assert set(workers.statuses) == {200}
    assert 70 <= len(workers.statuses) <= 79
    hours = zip(workers.arrivals, workers.arrivals[60:], strict=False)
    # A place may have been counted twice when the server stopped, or for the one that was killed.
    assert all(later - earlier > 3600 for earlier, later in hours)
    assert workers.arrivals[-1] - workers.clock.begin < HOUR + 30
    assert f"in PostgreSQL at 127.0.0.1:{server.admin.port}/" in log
    for password in (server.admin.password, quote(server.admin.password, safe="")):
        assert password not in log


def test_workers_create_the_tables_at_once(postgres: Database) -> None:
    barrier = threading.Barrier(8)

    def count(number: int) -> None:
        limiter = limiter_of(postgres.url, project=str(number % 2))
        barrier.wait(PATIENCE)
        with limiter.acquire("export", NEVER, max_wait=0):
            pass

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, range(8)))
    for project in ("0", "1"):
        with (limiter := limiter_of(postgres.url, project=project)).acquire("export", NEVER):
            assert limiter.remaining == "55 of 60 exports left this hour"


def test_the_clocks_of_the_machines_may_differ(postgres: Database) -> None:
    class Wrong(Clock):
        def time(self) -> float:
            return super().time() - 86400

    with limiter_of(postgres.url, hourly=1, clock=Wrong()).acquire("export", NEVER, max_wait=0):
        pass
    with pytest.raises(RateLimitWaitError, match="1 of 1 exports used this hour") as caught:
        limiter_of(postgres.url, hourly=1).acquire("export", NEVER, max_wait=0)
    assert HOUR - 60 < caught.value.seconds <= HOUR


def test_a_slot_outlives_a_restart(postgres_server: PostgresServer, postgres: Database) -> None:
    limits = RateLimits(PostgresDatabase(postgres.url), concurrent_queries=1)
    limiter = limits.query_limiter("http://one.test", "7")
    with limiter.acquire("query", NEVER):
        with pytest.raises(RateLimitWaitError, match="1 of 1 concurrent queries running"):
            limiter.acquire("query", NEVER, max_wait=0)
        postgres_server.restart()
    with limiter.acquire("query", NEVER, max_wait=0):
        assert limiter.remaining == "58 of 60 queries left this hour"


def test_all_is_in_a_schema_of_its_own(postgres: Database) -> None:
    limiter = limiter_of(postgres.url)
    limiter.record_refusal(0)
    with limiter.acquire("export", NEVER):
        pass
    with postgres.connect() as connection:
        found = connection.execute("SELECT DISTINCT schemaname FROM pg_stat_user_tables")
        assert found.fetchall() == [("mp_pipeline_rate_limits",)]


# A database that cannot be used


def test_a_user_who_may_not_create_the_schema(postgres: Database) -> None:
    user = replace(postgres, user="worker", password="p@ss/word")
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE worker LOGIN PASSWORD 'p@ss/word'")
    try:
        with pytest.raises(SharedRateLimitsError, match="permission denied for database test_"):
            limiter_of(user.url).describe()
        with postgres.connect() as connection:
            connection.execute("CREATE SCHEMA mp_pipeline_rate_limits AUTHORIZATION worker")
        limiter = limiter_of(user.url)
        with limiter.acquire("export", NEVER):
            assert limiter.remaining == "59 of 60 exports left this hour"
    finally:
        with postgres.connect() as connection:
            connection.execute("DROP OWNED BY worker")
            connection.execute("DROP ROLE worker")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"password": "wr/ng"}, "password authentication failed for user"),
        ({"name": "nowhere"}, 'database "nowhere" does not exist'),
    ],
)
def test_a_wrong_url_says_what_is_wrong_and_where(
    postgres: Database, server: FaultyServer, tmp_path: Path, changes: Any, reason: str
) -> None:
    wrong = replace(postgres, **changes)
    with pytest.raises(SharedRateLimitsError, match=reason) as caught:
        limiter_of(wrong.url).describe()
    message = str(caught.value)
    assert f"PostgreSQL at 127.0.0.1:{wrong.port}/{wrong.name}: " in message
    assert message.endswith(SharedRateLimitsError.advice)
    env = credentials(server) | {"MP_PIPELINE_RATE_LIMITS": wrong.url}
    printed = run_command(tmp_path, "check", env=env, code=1)
    assert reason in printed
    assert "MP_PIPELINE_RATE_LIMITS" in printed
    for text in (message, printed, repr(caught.value)):
        assert wrong.password not in text
        assert quote(wrong.password, safe="") not in text
    assert "Traceback" not in printed
    assert server.requests == []


def test_a_server_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    database = Database("127.0.0.1", unused_port(), "worker", "p@ss/word", "limits")
    with caplog.at_level(logging.DEBUG), pytest.raises(SharedRateLimitsError) as caught:
        limiter_of(database.url).describe()
    for text in (str(caught.value), caplog.text):
        assert f"PostgreSQL at 127.0.0.1:{database.port}/limits: " in text
        assert "Connection refused" in text
        assert "p@ss" not in text
        assert "p%40ss" not in text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_stopping_ends_the_wait_for_the_server(log: Log) -> None:
    stopped = threading.Event()
    database = Database("127.0.0.1", unused_port(), "worker", "s3cret", "limits")
    with ThreadPoolExecutor(1) as thread:
        place = thread.submit(limiter_of(database.url).acquire, "export", stopped)
        log.wait_for("; trying again")
        stopped.set()
        assert place.result().counted_at is None


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cret@host/db",
        "user:s3cret@host/db",
        "host=db password=s3cret",
        "postgresql://user:s3cret@rest@host/db",
        "postgresql://user:s3cret/rest@host/db",
        "postgresql://user:s3cret?rest@host/db",
        "postgresql://user:s3cret#rest@host/db",
        "postgresql://user:s3cret%rest@host/db",
        "postgresql://user@host/db?password=s3cret",
    ],
)
def test_a_url_that_would_be_misread_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="postgresql://user:password@") as caught:
        PostgresDatabase(url)
    assert "s3cret" not in str(caught.value)


def test_an_unknown_option_is_named(postgres: Database) -> None:
    with pytest.raises(SharedRateLimitsError, match='invalid URI query parameter: "colour"'):
        limiter_of(f"{postgres.url}?colour=blue").describe()


def test_nothing_shows_the_password(postgres: Database) -> None:
    limits = RateLimits(PostgresDatabase(postgres.url))
    limiter = limits.export_limiter("http://one.test", "7")
    with limiter.acquire("export", NEVER) as place:
        for shown in (limits, limits.store, limiter, place):
            for text in (repr(shown), str(shown), f"{[shown]}"):
                assert postgres.password not in text
                assert quote(postgres.password, safe="") not in text
    assert str(limits.store) == f"127.0.0.1:{postgres.port}/{postgres.name}"


WITHOUT_PSYCOPG = """
    import sys
    sys.modules["psycopg"] = None
    from mp_pipeline.cli import main
    main(["check"])
"""


def test_the_package_that_is_missing_is_named(server: FaultyServer, tmp_path: Path) -> None:
    env = credentials(server) | {"MP_PIPELINE_RATE_LIMITS": "postgresql://me:s3cret@db.test/limits"}
    result = run_python(WITHOUT_PSYCOPG, tmp_path, **env)
    printed = result.stdout + result.stderr
    assert "pip install 'mp-pipeline[cluster]'" in printed
    assert "db.test/limits" in printed
    assert "s3cret" not in printed
    assert "Traceback" not in printed


def test_check_says_where_requests_are_counted(
    postgres: Database, server: FaultyServer, tmp_path: Path
) -> None:
    env = credentials(server) | {"MP_PIPELINE_RATE_LIMITS": postgres.url}
    printed = run_command(tmp_path, "check", env=env)
    where = f"PostgreSQL at 127.0.0.1:{postgres.port}/{postgres.name}"
    assert f"Requests are counted in {where}\n" in printed
    assert postgres.password not in printed
