"""A backfill into a lake by several workers, while a worker and servers fail.

`python -m mp_pipeline_tests.lake_story` runs it on real parts: PostgreSQL, Redis, an S3 server, the
sample project with its rate limits, and workers with directories of their own; if root runs it, the
workers also have networks of their own. In the middle, a worker is killed, the object storage is
away for 20 seconds, and PostgreSQL is restarted. Then the lake must have each day once, as the
sample project has it. It takes some minutes (`--help`).

Needs `pip install -e '.[test,cluster,lake,test-lake]'`.
"""

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import requests
from rich.console import Console
from rich.table import Table

from mp_pipeline.cluster.run_launcher import WORKER_TAG
from mp_pipeline.days import format_days
from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline.storage import S3, Lake, Maintenance, QueryError, StorageEngine, StorageError
from mp_pipeline_tests.support.cluster import QUICK, Cluster, cluster_settings
from mp_pipeline_tests.support.graphql import Webserver
from mp_pipeline_tests.support.networks import Network
from mp_pipeline_tests.support.postgres import Database, PostgresServer
from mp_pipeline_tests.support.processes import ONLY_LOAD
from mp_pipeline_tests.support.redis import RedisServer
from mp_pipeline_tests.support.s3 import REGION, S3Server
from mp_pipeline_tests.support.servers import credentials
from mp_pipeline_tests.support.waiting import wait_until

FIRST = date(2024, 1, 1)
BUCKET = "mixpanel"
DATA_PATH = f"s3://{BUCKET}/lake/"
EXPORTS_PER_HOUR, EXPORTS_PER_SECOND = 600, 3
PREFETCH = 4  # a worker alone could exceed the limit
OUTAGE_SECONDS = 20
LOOK_SECONDS = 3
PATIENCE = 1800
_REPEATED = re.compile("(?:is repeated|waiting up to .* for the lake).*?: ([^'\"]*)")
_IS_PARTIAL = """
    SELECT day, count(*), count(DISTINCT insert_id) FROM events GROUP BY day ORDER BY day
"""


@dataclass(frozen=True)
class Parts:
    """The servers of the story."""

    postgres: PostgresServer
    s3: S3Server
    sample: SampleServer
    cluster: Cluster
    lake: Lake

    @property
    def requested_days(self) -> int:
        """The number of days that the sample project has exported."""
        requests_ = self.sample.requests
        return len({each.query.get("from_date") for each in requests_ if each.status == 200})


class Report:
    """What has happened, with the seconds since the beginning."""

    def __init__(self) -> None:
        self.table = Table("seconds", "what")
        self.problems: list[str] = []
        self._begin = time.monotonic()

    def add(self, what: str) -> None:
        """Add a line, and print it at once."""
        seconds = f"{time.monotonic() - self._begin:.0f}"
        self.table.add_row(seconds, what)
        sys.stdout.write(f"{seconds:>6} s  {what}\n")
        sys.stdout.flush()

    def require(self, condition: bool, what: str, otherwise: object = "") -> None:
        """Add a line, and a problem if the condition is not true."""
        if condition:
            self.add(what)
        else:
            self.problems.append(f"NOT {what}: {otherwise}")
            self.add(self.problems[-1])


@dataclass
class Reader:
    """Reads the lake again and again, as somebody on another machine does.

    Attributes:
        looks: How often it has read the lake.
        refused: How often the lake could not be read.
        partial: What it saw of days that were not complete.
    """

    lake: Lake
    expected: Mapping[date, list[str]]
    looks: int = 0
    refused: int = 0
    partial: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Read while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._read, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _read(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            try:
                with StorageEngine(self.lake, read_only=True) as engine:
                    days = engine.execute_rows(_IS_PARTIAL)
            except (FileNotFoundError, QueryError, StorageError):
                self.refused += 1
                continue
            self.looks += 1
            for day, rows, ids in days:
                if not rows == ids == len(self.expected[day]):
                    self.partial.append(f"{day}: {rows} rows, {ids} IDs")


def main() -> None:
    """Run the story, and exit with 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("--days", type=int, default=120, help="sample days to load")
    parser.add_argument("--events", type=int, default=2500, help="events per day")
    parser.add_argument("--days-per-run", type=int, default=10, help="days per run")
    parser.add_argument("--workers", type=int, default=3, help="workers")
    parser.add_argument("--no-faults", action="store_true", help="let nothing fail")
    parser.add_argument("--small", action="store_true", help="a trial: 20 days of 100 events")
    options = parser.parse_args()
    if options.small:
        options.days, options.events, options.days_per_run = 20, 100, 5
    report = Report()
    days = [FIRST + timedelta(days=number) for number in range(options.days)]
    expected = {day: ids_of(day, options.events) for day in days}
    events = sum(map(len, expected.values()))
    report.add(f"the sample project has {events:,} events on {len(days)} days")
    with (
        tempfile.TemporaryDirectory(prefix="mp_pipeline_story_") as directory,
        running_parts(Path(directory), options) as parts,
    ):
        report.add("all servers are running")
        tell(parts, report, expected, options)
    Console().print(report.table)
    sys.exit("\n".join(report.problems) or 0)


class _Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def ids_of(day: date, events_per_day: int) -> list[str]:
    """Return the insert IDs of a day, sorted, each once."""
    events = events_of_day(day, events_per_day=events_per_day)
    return sorted({event["properties"]["$insert_id"] for event in events})


@contextmanager
def running_parts(directory: Path, options: argparse.Namespace) -> Iterator[Parts]:
    """Start the servers and the workers; all end with the block."""
    with ExitStack() as stack:
        network = stack.enter_context(Network()) if Network.is_possible() else None
        address = "127.0.0.1" if network is None else network.host
        postgres = stack.enter_context(PostgresServer(address))
        redis = stack.enter_context(RedisServer(address))
        s3 = stack.enter_context(S3Server(address))
        sample = stack.enter_context(
            SampleServer(
                host=address,
                events_per_day=options.events,
                exports_per_hour=EXPORTS_PER_HOUR,
                exports_per_second=EXPORTS_PER_SECOND,
            )
        )
        s3.create_bucket(BUCKET)
        catalog = postgres.create_database()
        os.environ["PGPASSWORD"] = catalog.password
        lake = Lake.parse(
            lake_name(catalog),
            DATA_PATH,
            directory / "reader",
            S3(s3.url, REGION, s3.key_id, s3.secret),
        )
        variables = {
            **credentials(sample),
            **ONLY_LOAD,
            **s3.variables,
            "MIXPANEL_EXPORTS_PER_HOUR": str(EXPORTS_PER_HOUR),
            "MIXPANEL_EXPORTS_PER_SECOND": str(EXPORTS_PER_SECOND),
            "MIXPANEL_PREFETCH": str(PREFETCH),
            "MP_PIPELINE_DATABASE": str(lake),
            "MP_PIPELINE_DATA_PATH": DATA_PATH,
            "MP_PIPELINE_RATE_LIMITS": postgres.create_database().url,
            "MP_PIPELINE_DAYS_PER_RUN": str(options.days_per_run),
            # Dagster's default. If it looks while a failure is being written, it retries nothing.
            "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": "5",
        }
        dagster_url = postgres.create_database().url.replace(":", "+psycopg2:", 1)
        settings = cluster_settings(QUICK)
        cluster = stack.enter_context(
            Cluster(directory, dagster_url, redis.url, variables, settings)
        )
        cluster.start_services()
        for number in range(options.workers):
            host = f"host{number + 1}"
            prefix = () if network is None else network.add(host)
            downloads = str(directory / host / "downloads")
            cluster.start_worker(host, prefix, MP_PIPELINE_DOWNLOAD_DIRECTORY=downloads)
        cluster.wait_until_ready()
        cluster.services.start("daemon")
        yield Parts(postgres, s3, sample, cluster, lake)


def lake_name(catalog: Database) -> str:
    """Return the name of the lake whose catalog is in a database."""
    parameters = f"dbname={catalog.name} host={catalog.host} port={catalog.port}"
    return f"ducklake:postgres:{parameters} user={catalog.user}"


def tell(
    parts: Parts,
    report: Report,
    expected: Mapping[date, list[str]],
    options: argparse.Namespace,
) -> None:
    """Load all days while parts fail, and verify what is in the lake."""
    ui, days = parts.cluster.webserver, list(expected)
    begin = time.monotonic()
    backfill = ui.launch_backfill("events", [str(day) for day in days])
    report.add("the backfill is launched")
    reader = Reader(parts.lake, expected)
    with reader.running():
        if not options.no_faults:
            let_parts_fail(parts, report, len(days), {"dagster/backfill": backfill})
        wait(parts, report, lambda: backfill_status(ui, backfill) not in ("", "REQUESTED"))
    seconds = time.monotonic() - begin
    report.add(f"the backfill took {seconds:.0f} s: {backfill_status(ui, backfill)}")
    describe_runs(ui, report, backfill)
    describe_requests(parts.sample, report, len(days))
    report.require(
        not reader.partial,
        f"no partial day was visible ({reader.looks} looks, {reader.refused} without an answer)",
        reader.partial,
    )
    with StorageEngine(parts.lake) as engine:
        verify(engine, report, expected)
        maintain(engine, report)
        verify(engine, report, expected)


def let_parts_fail(parts: Parts, report: Report, days: int, tags: dict[str, str]) -> None:
    """Kill a worker, stop the object storage, and restart PostgreSQL, one after another."""
    cluster = parts.cluster
    wait(parts, report, lambda: parts.requested_days >= days // 4)
    wait(parts, report, lambda: bool(working(cluster.webserver, tags)))
    worker = working(cluster.webserver, tags)[-1]
    cluster.workers[worker].kill("worker@")
    report.add(f"{worker} is killed, with its run ({parts.requested_days} days were requested)")

    wait(parts, report, lambda: parts.requested_days >= days // 2)
    parts.s3.stop()
    report.add(f"the object storage is stopped ({parts.requested_days} days were requested)")
    time.sleep(OUTAGE_SECONDS)
    parts.s3.start()
    report.add("the object storage is started")
    cluster.workers[worker].start("worker@")
    report.add(f"{worker} is started")

    wait(parts, report, lambda: parts.requested_days >= days * 3 // 4)
    parts.postgres.restart()
    report.add(f"PostgreSQL is restarted ({parts.requested_days} days were requested)")


def wait(parts: Parts, report: Report, condition: Callable[[], bool]) -> None:
    """Wait for a condition; processes that end are started again, as systemd does."""
    cluster = parts.cluster

    def look() -> bool:
        for machine in (cluster.services, *cluster.workers.values()):
            for unit in machine.restart_ended():
                report.add(f"{unit} of {machine.directory.name} had ended and is started again")
        return condition()

    wait_until(look, PATIENCE, cluster.logs, every=0.5)


def working(ui: Webserver, tags: dict[str, str]) -> list[str]:
    """Return the workers that execute a run."""
    return [
        run.tags[WORKER_TAG]
        for run in ui.list_runs(**tags)
        if run.status == "STARTED" and WORKER_TAG in run.tags
    ]


def backfill_status(ui: Webserver, backfill: str) -> str:
    """Return the status of a backfill, empty if Dagster cannot tell at the moment."""
    try:
        return str(ui.backfill(backfill)["status"])
    except (AssertionError, KeyError, ValueError, requests.RequestException):
        return ""  # PostgreSQL is being restarted


def describe_runs(ui: Webserver, report: Report, backfill: str) -> None:
    """Report how the runs of a backfill ended, and what was repeated within them."""
    runs = ui.list_runs(**{"dagster/backfill": backfill})
    workers = Counter(run.tags.get(WORKER_TAG, "no worker") for run in runs)
    report.add(f"{len(runs)} runs: {dict(Counter(run.status for run in runs))}, {dict(workers)}")
    repeated: Counter[str] = Counter()
    for run in runs:
        messages = ui.messages(run.run_id)
        if run.status != "SUCCESS":
            report.add(f"failed run {run.run_id[:8]}: {reason(messages)}")
        found = (_REPEATED.search(message) for message in messages)
        repeated.update(each[1].strip() for each in found if each)
    report.add(f"{repeated.total()} repetitions within runs")
    for message, times in repeated.most_common():
        report.add(f"{times} times repeated: {message}")
    report.require(
        backfill_status(ui, backfill) == "COMPLETED_SUCCESS",
        "the backfill is complete",
        backfill_status(ui, backfill),
    )


def reason(messages: list[str]) -> str:
    """Return why a run failed, as its log says."""
    lines = [each for each in messages if "Steps failed" in each or "worker" in each]
    return " ".join((lines or messages)[-1].split())[:300]


def describe_requests(sample: SampleServer, report: Report, days: int) -> None:
    """Report the exports, and require that none was refused."""
    statuses = Counter(request.status for request in sample.requests)
    report.require(
        statuses.keys() <= {200},
        f"no 429 in {statuses[200]} exports of {days} days",
        dict(statuses),
    )


def verify(engine: StorageEngine, report: Report, expected: Mapping[date, list[str]]) -> None:
    """Require that the lake has each day once, as the sample project has it."""
    stored: dict[date, list[str]] = {day: [] for day in expected}
    for day, insert_id in engine.execute_rows("SELECT day, insert_id FROM events ORDER BY ALL"):
        stored.setdefault(day, []).append(insert_id)
    wrong = [day for day in stored if stored[day] != expected.get(day)]
    rows = sum(map(len, stored.values()))
    report.require(
        not wrong,
        f"each of {len(stored)} days is there once, {rows:,} rows, as the sample has them",
        format_days(wrong) if wrong else "",
    )
    tables = [table.table_name for table in engine.list_days("events")]
    problems = [problem for counts in engine.count_rows(tables) for problem in counts.problems]
    report.require(
        not problems and len(tables) == len(expected),
        f"all lines of {len(tables)} days are accounted for",
        problems,
    )


def maintain(engine: StorageEngine, report: Report) -> None:
    """Maintain the lake, and remove its orphaned files, which maintenance keeps for a day."""
    begin = time.monotonic()
    done = engine.maintain(timedelta(days=7))
    report.add(f"maintenance took {time.monotonic() - begin:.1f} s: {describe(done)}")
    orphans = engine.execute_rows(
        "CALL ducklake_delete_orphaned_files('lake', older_than => now()::TIMESTAMPTZ)"
    )
    report.add(f"{len(orphans)} orphaned files were removed at once: {orphans}")


def describe(done: Maintenance) -> str:
    """Return what maintenance has done as one line of text."""
    return (
        f"{done.before.files} files of {done.before.bytes:,} bytes and {done.before.snapshots} "
        f"snapshots before; {done.merged_files} files merged, {done.removed_files} removed, "
        f"{done.orphaned_files} orphaned, {done.flushed_rows} rows moved to files; "
        f"{done.after.files} files of {done.after.bytes:,} bytes after"
    )


if __name__ == "__main__":
    main()
