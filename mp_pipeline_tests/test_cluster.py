"""A backfill on three workers, one of which is killed, with the settings and units of a cluster.

PostgreSQL, Redis, the services and the workers are processes, each machine has directories of its
own, and the settings are those of `deploy/cluster/`; only the daemon looks more often, and the
limits fit three workers.
"""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pytest

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.cluster import QUICK, Cluster, cluster_settings
from mp_pipeline_tests.support.graphql import RunInfo
from mp_pipeline_tests.support.postgres import Database, PostgresServer
from mp_pipeline_tests.support.processes import ONLY_LOAD
from mp_pipeline_tests.support.redis import RedisServer
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, lines_of

FIRST = date(2024, 3, 10)
DAYS = [FIRST + timedelta(days=offset) for offset in range(6)]
DAYS_PER_RUN = 2
LOST_DAY, KILLED_DAY = DAYS[1], DAYS[3]
STOPPED_DAY, CANCELED_DAY = DAYS[-1] + timedelta(days=1), DAYS[-1] + timedelta(days=2)
HOSTS = ("first", "second", "third")
PROJECT, WORKER, BACKFILL = "mp_pipeline/project", "mp_pipeline/worker", "dagster/backfill"
PROJECT_LIMIT = 2
SECONDS = 90
SETTINGS = {
    **QUICK,
    r"max_concurrent_runs: \d+": "max_concurrent_runs: 3",
    r"(So many runs at a time\.\n +)limit: \d+": rf"\1limit: {PROJECT_LIMIT}",
}


@dataclass
class Story:
    """What happened, for the tests to look at."""

    project: str = ""
    database: Path = Path()
    backfill: list[RunInfo] = field(default_factory=list)
    """The runs of the backfill, oldest first."""
    lost: RunInfo | None = None
    """The run whose worker was killed and stayed away, when it was killed."""
    killed: RunInfo | None = None
    """The run whose process alone was killed, when it was killed."""
    logs: dict[str, str] = field(default_factory=dict)
    """The messages of each run of the backfill, by its ID."""
    stopped: list[RunInfo] = field(default_factory=list)
    """The run whose worker was told to stop, and what Dagster made of it."""
    canceled: list[RunInfo] = field(default_factory=list)
    """The run that a user terminated, and what Dagster made of it."""
    backfill_status: str = ""
    partitions: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    directory = tmp_path_factory.mktemp("cluster")
    told = Story(database=directory / "mixpanel.duckdb")
    with (
        PostgresServer() as postgres,
        RedisServer() as redis,
        FaultyServer(events_per_day=EVENTS_PER_DAY) as sample,
        Cluster(
            directory,
            dagster_url(postgres.create_database()),
            redis.url,
            credentials(sample)
            | ONLY_LOAD
            | {
                "MP_PIPELINE_DATABASE": str(told.database),
                "MP_PIPELINE_DAYS_PER_RUN": str(DAYS_PER_RUN),
                "MIXPANEL_EXPORTS_PER_SECOND": "1000",
            },
            cluster_settings(SETTINGS),
        ) as cluster,
    ):
        told.project = sample.project_id
        tell(cluster, sample, told)
        yield told


def dagster_url(database: Database) -> str:
    return database.url.replace("postgresql:", "postgresql+psycopg2:", 1)


def tell(cluster: Cluster, sample: FaultyServer, told: Story) -> None:
    ui = cluster.webserver
    cluster.start_services()
    for host in HOSTS:
        cluster.start_worker(host)
    cluster.wait_until_ready()

    # While two runs wait for a day, the worker of one is killed, and the process of the other.
    for day in LOST_DAY, KILLED_DAY:
        sample.faults.append(Fault("stall", day=day, seconds=SECONDS))
    backfill = {BACKFILL: ui.launch_backfill("events", [str(day) for day in DAYS])}
    cluster.services.start("daemon")  # which looks for backfills when it starts
    told.lost = wait_for_request(cluster, sample, LOST_DAY, backfill)
    told.killed = wait_for_request(cluster, sample, KILLED_DAY, backfill)
    cluster.workers[told.lost.tags[WORKER]].kill("worker@")
    os.kill(ui.run_pid(told.killed.run_id), signal.SIGKILL)
    numbers = {"numMaterialized": len(DAYS), "numFailed": 0}
    cluster.wait_until(lambda: ui.partition_counts("events") == numbers, SECONDS)
    cluster.start_worker(told.lost.tags[WORKER].removeprefix("worker-1@"))

    # A worker is told to stop, as systemd does, while its run waits for its day.
    sample.faults.append(Fault("stall", day=STOPPED_DAY, seconds=SECONDS))
    ui.launch_run("events", str(STOPPED_DAY))
    stopped = {"dagster/partition": str(STOPPED_DAY)}
    run = wait_for_request(cluster, sample, STOPPED_DAY, stopped)
    cluster.workers[run.tags[WORKER]].send("worker@", signal.SIGTERM)

    # A user terminates a run that waits for its day.
    sample.faults.append(Fault("stall", day=CANCELED_DAY, seconds=SECONDS))
    run_id = ui.launch_run("events", str(CANCELED_DAY))
    canceled = {"dagster/partition": str(CANCELED_DAY)}
    wait_for_request(cluster, sample, CANCELED_DAY, canceled)
    ui.terminate_run(run_id)
    ui.wait_for_run(run_id)

    # Dagster finds all that was lost, and then that the backfill is complete.
    cluster.wait_until(lambda: statuses(ui.list_runs(**stopped))[1:] == ["SUCCESS"])
    cluster.wait_until(lambda: ui.backfill(backfill[BACKFILL])["status"] != "REQUESTED", SECONDS)
    told.backfill_status = ui.backfill(backfill[BACKFILL])["status"]
    told.partitions = ui.partition_counts("events")
    told.backfill = ui.list_runs(**backfill)
    told.logs = {run.run_id: "\n".join(ui.messages(run.run_id)) for run in told.backfill}
    told.stopped, told.canceled = ui.list_runs(**stopped), ui.list_runs(**canceled)


def wait_for_request(
    cluster: Cluster, sample: FaultyServer, day: date, tags: dict[str, str]
) -> RunInfo:
    """Wait until a day is requested, and return the run that did it."""

    def requested() -> bool:
        return any(request.query.get("from_date") == str(day) for request in sample.requests)

    cluster.wait_until(requested, SECONDS)
    runs = [run for run in cluster.webserver.list_runs(**tags) if loads(run, day)]
    return runs[-1]


def loads(run: RunInfo, day: date) -> bool:
    """Return whether a day is in the partitions of a run."""
    partition = run.tags.get("dagster/partition", "")
    first = run.tags.get("dagster/asset_partition_range_start", partition)
    last = run.tags.get("dagster/asset_partition_range_end", partition)
    return first <= str(day) <= last


def statuses(runs: list[RunInfo]) -> list[str]:
    return [run.status for run in runs]


def most_at_once(runs: list[RunInfo]) -> int:
    """Return how many of the runs were executed at the same time, at most."""
    times = [(run.started, run.ended) for run in runs if run.started and run.ended]
    return max(sum(start <= moment < end for start, end in times) for moment, _ in times)


def retry_of(story: Story, run: RunInfo | None) -> tuple[RunInfo, RunInfo]:
    """Return a run of the backfill as it ended, and the run that Dagster started in its place."""
    assert run is not None
    (ended,) = [each for each in story.backfill if each.run_id == run.run_id]
    (retry,) = [
        each for each in story.backfill if each.tags.get("dagster/parent_run_id") == run.run_id
    ]
    return ended, retry


def test_a_backfill_becomes_runs_of_some_days_that_all_workers_take(story: Story) -> None:
    first_attempts = [run for run in story.backfill if "dagster/parent_run_id" not in run.tags]
    assert len(first_attempts) == len(DAYS) / DAYS_PER_RUN
    assert {run.tags[WORKER] for run in story.backfill} == {f"worker-1@{host}" for host in HOSTS}


def test_the_queue_limits_the_runs_of_a_project(story: Story) -> None:
    assert {run.tags[PROJECT] for run in story.backfill} == {story.project}
    assert most_at_once(story.backfill) == PROJECT_LIMIT


def test_the_run_of_a_worker_that_is_gone_is_started_again_elsewhere(story: Story) -> None:
    lost, retry = retry_of(story, story.lost)
    assert (lost.status, retry.status) == ("FAILURE", "SUCCESS")
    worker = lost.tags[WORKER]
    assert re.search(rf"The worker {worker} has not answered for \d+ s\.", story.logs[lost.run_id])
    assert retry.tags[WORKER] != worker


def test_a_run_whose_process_is_killed_is_started_again(story: Story) -> None:
    killed, retry = retry_of(story, story.killed)
    assert (killed.status, retry.status) == ("FAILURE", "SUCCESS")
    reason = f"The worker {killed.tags[WORKER]} does not execute the run any more."
    assert reason in story.logs[killed.run_id]


def test_a_run_whose_worker_is_stopped_is_started_again(story: Story) -> None:
    assert statuses(story.stopped) == ["FAILURE", "SUCCESS"]
    before, after = (run.tags[WORKER] for run in story.stopped)
    assert before != after


def test_a_run_that_a_user_terminates_is_not_started_again(story: Story) -> None:
    assert statuses(story.canceled) == ["CANCELED"]


def test_the_backfill_is_complete_and_each_day_is_loaded_once(story: Story) -> None:
    assert story.backfill_status == "COMPLETED_SUCCESS"
    assert story.partitions == {"numMaterialized": len(DAYS) + 1, "numFailed": 0}
    expected = {day: lines_of(day) for day in (*DAYS, STOPPED_DAY)}
    with StorageEngine.open_existing(story.database) as engine:
        tables = engine.list_days("events")
        problems = [engine.count_rows([table.table_name])[0].problems for table in tables]
        loads = engine.execute_rows("SELECT day, rows_stored + duplicates FROM _load_log")
    assert problems == [[]] * len(expected)
    assert sorted(loads) == sorted(expected.items())
