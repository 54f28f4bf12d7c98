"""A backfill whose run, then everything, then the daemon is killed, with the server's commands.

The services are those of `deploy/`, with its settings; only the storage is Dagster's own SQLite,
and the daemon looks more often, so that the test does not wait long.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.deployment import DEPLOY, Deployment, Unit, without_postgres
from mp_pipeline_tests.support.graphql import Webserver
from mp_pipeline_tests.support.processes import environment, process
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, lines_of, unused_port
from mp_pipeline_tests.support.waiting import wait_until

FIRST = date(2024, 3, 10)
DAYS = [FIRST + timedelta(days=offset) for offset in range(6)]
NEXT_DAY = DAYS[-1] + timedelta(days=1)
SECONDS = 60


@dataclass
class Story:
    """What happened, for the tests to look at."""

    statuses: list[str] = field(default_factory=list)
    """Of the backfill's runs, oldest first."""
    """From the kill of a run's process to the run's failure in the UI."""
    after_all_was_killed: dict[str, list[str]] = field(default_factory=dict)
    """The days that were there, with what was wrong with each."""
    lost: str = ""
    """What the unit printed that marks lost runs."""
    backfill: str = ""
    next_run: str = ""
    partitions: dict[str, int] = field(default_factory=dict)
    database: Path = Path()


def quick_settings() -> str:
    """The server's settings with SQLite, one run at a time, and a daemon that looks every second.

    A run that kept its place in the queue would keep all others out.
    """
    settings = without_postgres((DEPLOY / "dagster.yaml").read_text())
    for pattern, replacement in {
        r"max_concurrent_runs: \d+": "max_concurrent_runs: 1",
        r"dequeue_interval_seconds: \d+": "dequeue_interval_seconds: 1",
        r"poll_interval_seconds: \d+": "poll_interval_seconds: 1",
    }.items():
        settings, times = re.subn(pattern, replacement, settings)
        assert times == 1, pattern
    return settings


class Services:
    """The three services in a directory: started, and killed, one by one or together."""

    def __init__(self, directory: Path, sample: FaultyServer) -> None:
        self.server = Deployment(directory, unused_port())
        self.webserver = Webserver(f"http://127.0.0.1:{self.server.port}")
        self.database = directory / "data/mixpanel.duckdb"
        self._sample = sample
        self._started: dict[Unit, tuple[ExitStack, subprocess.Popen[bytes]]] = {}
        home = directory / "home"
        home.mkdir()
        (home / "dagster.yaml").write_text(quick_settings())

    @property
    def _variables(self) -> dict[str, str]:
        directory = self.server.directory
        return credentials(self._sample) | {
            "DAGSTER_HOME": str(directory / "home"),
            # Dagster's default. If it looks while a failure is being written, it retries nothing.
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "5",
            "MP_PIPELINE_DATABASE": str(self.database),
            "MP_PIPELINE_STATE_DIRECTORY": str(directory / "state"),
        }

    def start(self, unit: Unit) -> None:
        """Start a service; the code server's unit waits until it answers."""
        stack = ExitStack()
        log = self.server.directory / f"{unit}.log"
        command = self.server.command(unit)
        running = stack.enter_context(process(command, self.server.directory, self._variables, log))
        self._started[unit] = stack, running

    def start_code_and_webserver(self) -> str:
        """Start all but the daemon, in their order; gives what is printed about lost runs."""
        printed = self._run("ExecStartPre")
        self.start("code")
        self._run("ExecStartPost")
        self.start("webserver")
        self.wait_until(self.webserver.is_up)
        return printed

    def _run(self, key: str) -> str:
        """Run what the code server's unit does before or after its start; gives its output."""
        return subprocess.run(
            self.server.command("code", key),
            cwd=self.server.directory,
            env=environment(**self._variables),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
        ).stdout

    @property
    def running(self) -> list[Unit]:
        return list(self._started)

    def kill(self, *units: Unit) -> None:
        """Kill services with all processes that they started."""
        for unit in units:
            os.killpg(self._started[unit][1].pid, signal.SIGKILL)
            self._started.pop(unit)[0].close()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, SECONDS, self.logs, every=0.25)

    def logs(self) -> str:
        logs = self.server.directory.glob("*.log")
        return "\n".join(f"{log.name}:\n{log.read_text()[-4000:]}" for log in logs)

    def wait_for_request(self, day: date, times: int = 1) -> None:
        def asked() -> bool:
            days = [request.query.get("from_date") for request in self._sample.requests]
            return days.count(str(day)) >= times

        self.wait_until(asked)

    def runs(self, backfill_id: str) -> list[dict[str, Any]]:
        """The runs of a backfill, oldest first."""
        return list(reversed(self.webserver.backfill(backfill_id)["runs"]))

    def wait_for_run(self, backfill_id: str, number: int, status: str) -> str:
        """Wait for a status of the n-th run of a backfill; gives the run's id."""

        def is_so() -> bool:
            statuses = [run["status"] for run in self.runs(backfill_id)]
            return len(statuses) > number and statuses[number] == status

        self.wait_until(is_so)
        run_id: str = self.runs(backfill_id)[number]["runId"]
        return run_id


def problems(database: Path) -> dict[str, list[str]]:
    """The days that are there, with what is wrong with each."""
    with StorageEngine.open_existing(database) as engine:
        days = engine.list_days("events")
        return {
            str(day.day): engine.count_rows([day.table_name])[0].problems
            + ([] if day.row_count else ["no rows"])
            for day in days
        }


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("killed")
    told = Story()
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as sample:
        services = Services(directory, sample)
        told.database = services.database
        try:
            tell(services, sample, told)
            yield told
        finally:
            services.kill(*services.running)


def tell(services: Services, sample: FaultyServer, told: Story) -> None:
    ui = services.webserver
    assert services.start_code_and_webserver() == ""
    backfill = ui.launch_backfill("events", [str(day) for day in DAYS])
    sample.faults += [
        Fault("stall", day=DAYS[2], seconds=SECONDS),
        Fault("stall", day=DAYS[4], seconds=SECONDS),
        Fault("stall", day=DAYS[5], seconds=2),
    ]

    # The process of the run is killed while it waits for the third day.
    services.start("daemon")  # which looks for backfills when it starts, then every 30 seconds
    services.wait_for_request(DAYS[2])
    first = services.wait_for_run(backfill, 0, "STARTED")
    os.kill(ui.run_pid(first), signal.SIGKILL)
    services.wait_for_run(backfill, 0, "FAILURE")

    # Everything is killed while the second attempt waits for the fifth day.
    services.wait_for_request(DAYS[4])
    services.wait_for_run(backfill, 1, "STARTED")
    services.kill("webserver", "daemon", "code")
    told.after_all_was_killed = problems(services.database)

    # The daemon alone is killed while the third attempt waits for the last day.
    told.lost = services.start_code_and_webserver()
    services.start("daemon")
    services.wait_for_request(DAYS[5])
    services.kill("daemon")
    services.wait_for_run(backfill, 2, "SUCCESS")
    told.statuses = [run["status"] for run in services.runs(backfill)]

    # The daemon finds what happened without it, and another run gets its turn.
    services.start("daemon")
    next_run = ui.launch_run("events", str(NEXT_DAY))
    services.wait_until(lambda: ui.run_status(next_run) in ("SUCCESS", "FAILURE"))
    told.next_run = ui.run_status(next_run)
    services.wait_until(lambda: ui.backfill(backfill)["status"] != "REQUESTED")
    told.backfill = ui.backfill(backfill)["status"]
    told.partitions = ui.partition_counts("events")


def test_a_killed_run_is_noticed_and_started_again(story: Story) -> None:
    assert story.statuses == ["FAILURE", "FAILURE", "SUCCESS"]


def test_days_are_whole_when_everything_is_killed(story: Story) -> None:
    there = story.after_all_was_killed
    assert {str(day) for day in DAYS[:2]} <= set(there) <= {str(day) for day in DAYS[:4]}
    assert [found for found in there.values() if found] == []


def test_lost_runs_are_marked_as_failed(story: Story) -> None:
    assert re.fullmatch(r"run [0-9a-f-]{36}: marked as failed\n", story.lost)


def test_the_backfill_is_complete_in_the_end(story: Story) -> None:
    assert story.backfill == "COMPLETED_SUCCESS"
    assert story.partitions == {"numMaterialized": len(DAYS) + 1, "numFailed": 0}


def test_no_run_keeps_its_place_in_the_queue(story: Story) -> None:
    assert story.next_run == "SUCCESS"


def test_every_day_is_whole_and_nothing_is_left(story: Story) -> None:
    found = problems(story.database)
    assert found == {str(day): [] for day in [*DAYS, NEXT_DAY]}
    with StorageEngine.open_existing(story.database) as engine:
        rows = {info.day: info.row_count for info in engine.list_days("events")}
        duplicates = dict(
            engine.execute_rows(
                "SELECT CAST(day AS VARCHAR), max(duplicates) FROM _load_log GROUP BY ALL"
            )
        )
        loading = engine.execute_rows(
            "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '\\_loading%' ESCAPE '\\'"
        )
    assert {day: rows[day] + duplicates[str(day)] for day in rows} == {
        day: lines_of(day) for day in rows
    }
    assert loading == []
