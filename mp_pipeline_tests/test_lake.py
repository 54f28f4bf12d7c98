"""What only a lake has: many writers at once, earlier versions, maintenance, and its own errors."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mp_pipeline.storage import (
    Lake,
    StorageEngine,
    StorageError,
    TableMetadata,
)
from mp_pipeline_tests.support.databases import column
from mp_pipeline_tests.support.engines import UNVERIFIED, create_lake
from mp_pipeline_tests.support.postgres import Database, PostgresServer
from mp_pipeline_tests.support.processes import environment, storage_command
from mp_pipeline_tests.support.records import (
    DAY,
    DAYS,
    FETCHED_AT,
    NEXT_DAY,
    NOON,
    PROFILES,
    event,
    profile,
    window,
)
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

FETCHED = TableMetadata("events", FETCHED_AT)
ROWS = 20  # DuckLake keeps up to 10 rows in the catalog


@pytest.fixture
def lake(postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A lake that does not exist yet, whose catalog is in PostgreSQL."""
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return lake_of(postgres, tmp_path)


@pytest.fixture
def storage(lake: Lake) -> Iterator[StorageEngine]:
    """The lake, empty and open."""
    with StorageEngine(lake, config=UNVERIFIED) as engine:
        yield engine


@pytest.fixture
def local(tmp_path: Path) -> Iterator[StorageEngine]:
    """An empty lake whose catalog is in a file."""
    with StorageEngine(create_lake(tmp_path / "lake"), config=UNVERIFIED) as engine:
        yield engine


def name_of(database: Database) -> str:
    return (
        f"ducklake:postgres:host={database.host} port={database.port} "
        f"user={database.user} dbname={database.name}"
    )


def lake_of(database: Database, directory: Path) -> Lake:
    return Lake.parse(name_of(database), str(directory / "files"), directory / "tmp")


def load(storage: StorageEngine, *users: str, day: int = 0) -> None:
    """Load a day with events of each user."""
    records = [
        event(f"{user}-{number}", NOON + timedelta(days=day), distinct_id=user)
        for user in users
        for number in range(ROWS)
    ]
    list(storage.replace_events_days("events", [window(DAYS[day])], records, FETCHED))


def rows_of_days(storage: StorageEngine) -> dict[str, int]:
    """Return the rows of each day, which must be what was recorded, and have keys."""
    days = storage.list_days("events")
    counts = storage.count_rows([day.table_name for day in days])
    assert [count.problems for count in counts] == [[]] * len(days)
    problems = storage.schema_problems([day.table_name for day in days], "events")
    assert [found for found in problems.values() if found] == []
    stored = dict(storage.execute_rows("SELECT day, count(*) FROM events GROUP BY day"))
    assert stored == {day.day: day.row_count for day in days}
    return {str(day.day): day.row_count for day in days}


def files_of(lake: Lake) -> set[Path]:
    return set(Path(lake.data_path).rglob("*.parquet"))


LOAD = """
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
name, data_path, directory, worker, *days = sys.argv[1:]
with StorageEngine(Lake.parse(name, data_path, Path(directory))) as storage:
    print("open", flush=True)
    sys.stdin.readline()
    for number, text in enumerate(days):
        noon = datetime.fromisoformat(text).replace(hour=12, tzinfo=UTC)
        window = DayWindow(noon.date(), noon - timedelta(hours=12), noon + timedelta(hours=12))
        records = [
            {
                "event_name": "Search",
                "event_time": noon,
                "distinct_id": f"u{id}",
                "insert_id": f"{worker} {number} {id}",
                "properties": {},
            }
            for id in range(20)
        ]
        metadata = TableMetadata("events", datetime.now(UTC))
        while True:
            try:
                list(storage.replace_events_days("events", [window], records, metadata))
                break
            except StorageError as error:
                if "users were erased" not in str(error):
                    raise
        print(text, flush=True)
"""


class Worker:
    """A process that loads days, each of 20 events of the users u0 to u19."""

    def __init__(self, lake: Lake, name: str, *days: object) -> None:
        scratch = f"{lake.scratch}-{name}"
        self.log = Path(f"{scratch}.log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                storage_command(LOAD, lake, lake.data_path, scratch, name, *map(str, days)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(),
            )

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Begin to load."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> str:
        """Wait for the end, and return which days it has loaded since the last one read."""
        printed, _ = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, self.log.read_text()
        return printed


@pytest.fixture
def start(lake: Lake) -> Iterator[Any]:
    """Return a function that starts workers and waits until all have opened the lake."""
    workers: list[Worker] = []

    def start_workers(*days_of_each: list[Any], of: Lake = lake) -> list[Worker]:
        started = [Worker(of, f"w{number}", *days) for number, days in enumerate(days_of_each)]
        workers.extend(started)
        for worker in started:
            assert worker.read() == "open", worker.log.read_text()
        return started

    yield start_workers
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()


# Many writers


def test_processes_that_load_one_day_at_once(lake: Lake, start: Any) -> None:
    """DuckLake would not notice that several of them add the same day."""
    StorageEngine(lake).close()
    workers = start(*[[DAY, DAY]] * 4)
    for worker in workers:
        worker.go()
    for worker in workers:
        assert worker.finish() == f"{DAY}\n{DAY}\n"
    with StorageEngine(lake, read_only=True) as storage:
        assert rows_of_days(storage) == {str(DAY): ROWS}
        assert len(set(column(storage, "events", "left(insert_id, 4)"))) == 1
        assert len(storage.list_loads("events")) == 8


def test_processes_that_create_the_lake_and_load_days_at_once(lake: Lake, start: Any) -> None:
    days = [DAY + timedelta(days=number) for number in range(9)]
    workers = start(days[:3], days[3:6], days[6:])
    for worker in workers:
        worker.go()
    for worker in workers:
        worker.finish()
    with StorageEngine(lake, read_only=True) as storage:
        assert rows_of_days(storage) == {str(day): ROWS for day in days}
        assert len(storage.list_loads("events")) == 9


def test_a_worker_that_is_killed_while_it_publishes(
    storage: StorageEngine, lake: Lake, postgres: Database, start: Any
) -> None:
    load(storage, "u1")
    before = files_of(lake)
    (worker,) = start([NEXT_DAY])
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with postgres.connect() as blocker, postgres.connect() as observer:
        with blocker.transaction():
            blocker.execute("LOCK TABLE ducklake_snapshot IN EXCLUSIVE MODE")
            worker.go()
            wait_until(lambda: observer.execute(waiting).fetchone() == (1,))
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
        left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        wait_until(lambda: observer.execute(left).fetchone() == (0,))
    assert rows_of_days(storage) == {str(DAY): ROWS}
    (orphan,) = files_of(lake) - before
    load(storage, "u2", day=1)
    assert rows_of_days(storage) == {str(DAY): ROWS, str(NEXT_DAY): ROWS}
    assert storage.maintain(timedelta(days=7)).orphaned_files == 0
    two_days_ago = time.time() - 2 * 86_400
    os.utime(orphan, (two_days_ago, two_days_ago))
    assert storage.maintain(timedelta(days=7)).orphaned_files == 1
    assert not orphan.exists()
    assert rows_of_days(storage) == {str(DAY): ROWS, str(NEXT_DAY): ROWS}


def test_nobody_who_was_erased_comes_back_by_loads_meanwhile(
    storage: StorageEngine, start: Any
) -> None:
    workers = start([DAYS[0]] * 3, [DAYS[1]] * 3)
    for worker in workers:
        worker.go()
    assert workers[0].read() == str(DAY)
    storage.erase(["u7"])
    for worker in workers:
        worker.finish()
    assert rows_of_days(storage) == {str(DAY): ROWS - 1, str(NEXT_DAY): ROWS - 1}
    assert "u7" not in column(storage, "events", "distinct_id")


def test_loads_go_on_after_a_restart_of_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Any
) -> None:
    with PostgresServer() as server:
        monkeypatch.setenv("PGPASSWORD", server.admin.password)
        lake = lake_of(server.create_database(), tmp_path / "other")
        StorageEngine(lake).close()
        days = [DAY + timedelta(days=number) for number in range(8)]
        workers = start(days[:4], days[4:], of=lake)
        for worker in workers:
            worker.go()
        for worker in workers:
            assert worker.read() in map(str, days)
        server.restart()
        for worker in workers:
            worker.finish()
        with StorageEngine(lake, read_only=True) as storage:
            assert rows_of_days(storage) == {str(day): ROWS for day in days}
            assert [load.day for load in sorted_loads(storage)] == days


def sorted_loads(storage: StorageEngine) -> list[Any]:
    return sorted(storage.list_loads("events"), key=lambda load: str(load.day))


# Earlier versions and maintenance


def test_an_earlier_version_can_be_read_until_it_expires(local: StorageEngine) -> None:
    load(local, "u1")
    moment = local.execute_scalar("SELECT max(snapshot_time) FROM ducklake_snapshots('lake')")
    load(local, "u2")
    earlier = f"SELECT DISTINCT distinct_id FROM events AT (TIMESTAMP => TIMESTAMPTZ '{moment}')"
    assert local.execute_rows(earlier) == [("u1",)]
    assert local.maintain(timedelta(days=7)).expired_snapshots == 0
    assert local.execute_rows(earlier) == [("u1",)]
    before = local.read_lake_info()
    done = local.maintain(timedelta(0))
    assert before is not None
    assert done.before == before
    assert (done.expired_snapshots, done.after.snapshots) == (before.snapshots - 1, 1)
    assert done.removed_files > 0
    with pytest.raises(StorageError, match="snapshot"):
        local.execute(earlier)
    assert column(local, "events", "distinct_id") == ["u2"] * ROWS
    assert rows_of_days(local) == {str(DAY): ROWS}


def test_an_erasure_leaves_no_file_with_the_user(local: StorageEngine) -> None:
    load(local, "erased-user", "u2")
    load(local, "erased-user", "u2", day=1)
    local.replace_table("profiles", [profile("erased-user"), profile("u2")], PROFILES)
    local.type_events_day("events", DAY)
    local.update_identities("events")
    local.erase(["erased-user"])
    local.maintain(timedelta(0), rewrite=True)
    assert local.read_lake_info().snapshots == 1
    assert set(column(local, "events", "distinct_id")) == {"u2"}
    assert rows_of_days(local) == {str(DAY): ROWS, str(NEXT_DAY): ROWS}
    directory = Path(local.name.removeprefix("ducklake:") + ".files")
    files = sorted(directory.rglob("*.parquet"))
    assert files
    for file in files:
        assert "erased-user" not in str(duckdb.read_parquet(str(file)).fetchall())
    for (table,) in local.execute_rows(
        "SELECT table_name FROM duckdb_tables() "
        "WHERE database_name = '__ducklake_metadata_lake' AND table_name LIKE 'ducklake_inlined%'"
    ):
        rows = local.execute_rows(f"FROM __ducklake_metadata_lake.{table}")
        assert "erased-user" not in str(rows)


def test_a_duplicated_key_is_found(local: StorageEngine) -> None:
    load(local, "u1")
    local.execute_rows("INSERT INTO events SELECT * FROM events WHERE insert_id = 'u1-0'")
    assert local.schema_problems(["events_20240115"], "events") == {
        "events_20240115": ["1 values of insert_id occur more than once; reload it"]
    }
    (counts,) = local.count_rows(["events_20240115"])
    assert counts.problems[0].startswith(f"the table has {ROWS + 1} rows")
    load(local, "u1")
    assert rows_of_days(local) == {str(DAY): ROWS}
