"""What only a lake has: many writers at once, earlier versions, maintenance, and its own errors."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from time import time as clock
from typing import Any

import duckdb
import pytest

from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import (
    S3,
    DatabaseLockedError,
    Lake,
    SourceMismatchError,
    StorageEngine,
    StorageError,
    TableMetadata,
)
from mp_pipeline.storage.extensions import load_extension
from mp_pipeline_tests.support.databases import column
from mp_pipeline_tests.support.engines import UNVERIFIED, create_lake, lake_in
from mp_pipeline_tests.support.postgres import Database, PostgresServer
from mp_pipeline_tests.support.processes import (
    ONLY_LOAD,
    environment,
    run_command,
    storage_command,
)
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
from mp_pipeline_tests.support.servers import Pieces, Request, ScriptedServer, reply
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

FETCHED = TableMetadata("events", FETCHED_AT)
EMPTY_BUCKET = b'<?xml version="1.0"?><ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>'
TABLE = f"events_{DAY:%Y%m%d}"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
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


def make_old(path: Path) -> None:
    """Have a file or directory be changed last two days ago."""
    two_days_ago = clock() - 2 * 86_400
    os.utime(path, (two_days_ago, two_days_ago))


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


def test_processes_that_load_one_day_at_once(
    storage: StorageEngine, postgres: Database, start: Any
) -> None:
    """DuckLake would not notice that several of them add the same day."""
    load(storage, "u1", day=1)  # the first load of all has the lake for itself
    workers = start(*[[DAY]] * 4)
    with postgres.connect() as blocker, postgres.connect() as observer, blocker.transaction():
        blocker.execute("LOCK TABLE ducklake_snapshot IN EXCLUSIVE MODE")
        for worker in workers:
            worker.go()
        wait_until(lambda: observer.execute(WAITING).fetchone() == (len(workers),))
    for worker in workers:
        assert worker.finish() == f"{DAY}\n"
    assert rows_of_days(storage) == {str(DAY): ROWS, str(NEXT_DAY): ROWS}
    assert len(set(column(storage, TABLE, "left(insert_id, 4)"))) == 1
    assert len(storage.list_loads("events")) == 5


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
    with postgres.connect() as blocker, postgres.connect() as observer:
        with blocker.transaction():
            blocker.execute("LOCK TABLE ducklake_snapshot IN EXCLUSIVE MODE")
            worker.go()
            wait_until(lambda: observer.execute(WAITING).fetchone() == (1,))
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
        left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        wait_until(lambda: observer.execute(left).fetchone() == (0,))
    assert rows_of_days(storage) == {str(DAY): ROWS}
    (orphan,) = files_of(lake) - before
    load(storage, "u2", day=1)
    assert rows_of_days(storage) == {str(DAY): ROWS, str(NEXT_DAY): ROWS}
    assert storage.maintain(timedelta(days=7)).orphaned_files == 0
    make_old(orphan)
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
        for worker, its_days in zip(workers, (days[:4], days[4:]), strict=True):
            # DuckDB's extension sometimes aborts the process: then the run is executed again.
            if worker.process.wait(PATIENCE) == -signal.SIGABRT:
                (worker,) = start(its_days, of=lake)
                worker.go()
            worker.finish()
        with StorageEngine(lake, read_only=True) as storage:
            assert rows_of_days(storage) == {str(day): ROWS for day in days}
            assert {load.day for load in storage.list_loads("events")} == set(days)


@pytest.mark.parametrize("second", [DAY, NEXT_DAY])
def test_two_first_loads_at_once_cannot_mix_sources(local: StorageEngine, second: date) -> None:
    """Both are staged before one of them is published."""
    started = [
        local.replace_events_days(
            "events",
            [window(day)],
            [event("1", datetime.combine(day, time(12)))],
            FETCHED,
            source=name,
        )
        for name, day in (("project 1", DAY), ("project 2", second))
    ]
    next(started[0])
    with pytest.raises(SourceMismatchError, match="contains data of 'project 1'"):
        next(started[1])
    assert column(local, "events", "day") == [DAY]


def test_old_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    lake = create_lake(tmp_path / "lake")
    lake.scratch.mkdir()
    names = ("mp_pipeline-loading-1", "mp_pipeline-spilled-1", "mp_pipeline-spilled-2", "duckdb-1")
    left, spilled, recent, other = (lake.scratch / name for name in names)
    for directory in (left, spilled, recent, other):
        directory.mkdir()
    for directory in (left, spilled, other):
        make_old(directory)
    StorageEngine(lake, config=UNVERIFIED).close()
    assert set(lake.scratch.iterdir()) == {recent, other}


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
    info = local.read_lake_info()
    assert info is not None
    assert info.snapshots == 1
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


# Opening


@pytest.mark.parametrize(
    ("catalog", "problem"),
    [
        ("postgres:host=127.0.0.1 port=1 dbname=x", "port 1 failed: Connection refused"),
        ("postgres:dbname=x password=hunter2", "must not contain a password: set PGPASSWORD"),
        ("postgres:dbname=x sslpassword=hunter2", "must not contain a password"),
        ("postgres:no parameters", "parameters of PostgreSQL such as dbname=mixpanel host=db"),
        ("postgresql:dbname=x password=hunter2", "is neither ducklake:postgres:… nor the file"),
        ("md:hunter2", "is neither ducklake:postgres:… nor the file"),
        ("/tmp", "is a directory, not the file of a catalog"),
        ("", "does not name a lake"),
    ],
)
def test_a_lake_that_cannot_be_reached_or_named(tmp_path: Path, catalog: str, problem: str) -> None:
    with pytest.raises((StorageError, ValueError), match=re.escape(problem)) as caught:
        StorageEngine(Lake.parse(f"ducklake:{catalog}", str(tmp_path), tmp_path / "tmp"))
    assert "hunter2" not in str(caught.value)


def test_a_catalog_in_postgresql_needs_a_data_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a place for its data files"):
        Lake.parse("ducklake:postgres:dbname=x", None, tmp_path)


def test_a_lake_needs_a_data_path_of_its_own(tmp_path: Path) -> None:
    with StorageEngine(create_lake(tmp_path / "lake"), config=UNVERIFIED) as storage:
        load(storage, "u1")
        data_path = storage.name.removeprefix("ducklake:") + ".files"
    second = Lake.parse(f"ducklake:{tmp_path / 'second.ducklake'}", data_path, tmp_path / "tmp")
    with pytest.raises(StorageError, match="each lake needs a place of its own"):
        StorageEngine(second)
    with pytest.raises(ValueError, match="needs a directory or s3://bucket/prefix/"):
        Lake.parse("ducklake:x", "gs://bucket/prefix/", tmp_path)


def test_s3_without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="set MP_PIPELINE_S3_KEY_ID and MP_PIPELINE_S3_SECRET"):
        StorageEngine(replace(lake_in(tmp_path), data_path="s3://bucket/lake/"))


def test_a_wrong_password(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        StorageEngine(lake)
    assert "hunter2" not in str(caught.value)


def test_reading_a_lake_that_does_not_exist(lake: Lake, tmp_path: Path) -> None:
    for missing in (lake, lake_in(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match="materialize an asset first"):
            StorageEngine(missing, read_only=True)


def test_a_file_catalog_takes_one_process(tmp_path: Path) -> None:
    lake = create_lake(tmp_path / "lake")
    hold = """
    from pathlib import Path
    with StorageEngine(Lake.parse(sys.argv[1], None, Path(sys.argv[2]))):
        print("open", flush=True)
        sys.stdin.read()
    """
    command = storage_command(hold, lake, lake.scratch)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseLockedError, match="takes one process; one in PostgreSQL takes"):
            StorageEngine(lake, lock_timeout=0.1)
        assert holder.stdin is not None
        holder.stdin.close()
    StorageEngine(lake).close()


def test_an_extension_that_is_not_there_names_its_package() -> None:
    with (
        closing(duckdb.connect()) as connection,
        pytest.raises(StorageError, match=r"install the package duckdb-extension-no-such-one=="),
    ):
        load_extension(connection, "no_such_one")


def refuse_files(request: Request) -> Pieces:
    """Reply as an S3 server that lists an empty bucket, and refuses all else."""
    return reply(EMPTY_BUCKET) if request.method == "GET" else reply(b"no", 403)


def test_secrets_are_shown_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer([refuse_files]) as server:
        s3 = S3(server.url, "eu-west-1", "the-key-id", "the-secret")
        lake = replace(lake_in(tmp_path / "lake"), data_path="s3://bucket/lake/", s3=s3)
        resource = MixpanelDuckDBResource(
            database=str(lake),
            data_path=lake.data_path,
            s3_key_id="the-key-id",
            s3_secret="the-secret",
        )
        shown = [repr(lake), str(lake), repr(resource), str(resource.location)]
        with StorageEngine(lake) as storage:
            shown.append(repr(storage))
            with pytest.raises(StorageError, match="HTTP code 403") as caught:
                load(storage, "u1")
    assert "the-key-id" in server.requests[0].headers["authorization"]
    shown += [str(caught.value), caplog.text]
    assert not [text for text in shown if "the-secret" in text or "the-key-id" in text]


# The command line


def test_the_check_writes_a_data_file(tmp_path: Path) -> None:
    with ScriptedServer([refuse_files]) as server:
        env = ONLY_LOAD | {
            "MP_PIPELINE_DATABASE": f"ducklake:sqlite:{tmp_path / 'lake.sqlite'}",
            "MP_PIPELINE_DATA_PATH": "s3://bucket/lake/",
            "MP_PIPELINE_S3_ENDPOINT": server.url,
            "MP_PIPELINE_S3_KEY_ID": "the-key-id",
            "MP_PIPELINE_S3_SECRET": "the-secret",
        }
        printed = run_command(tmp_path, "check", code=1, env=env)
    assert "403" in printed
    assert "the-secret" not in printed
    assert "Everything works" not in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "ducklake:postgres:password=hunter2"], "must not contain a password"),
        (["--to", "data/hunter2"], "--to must name a lake"),
        (["--to", "ducklake:x", "--data-path", "gs://b/"], "must be a directory or s3://bucket"),
    ],
)
def test_a_target_that_is_no_lake(tmp_path: Path, arguments: list[str], problem: str) -> None:
    printed = run_command(tmp_path, "migrate", *arguments, code=2)
    assert problem in " ".join(printed.split())
    assert "hunter2" not in printed
    assert list(tmp_path.iterdir()) == []


def test_the_commands_on_a_lake(lake: Lake, tmp_path: Path, postgres: Database) -> None:
    env = ONLY_LOAD | {
        "MP_PIPELINE_DATABASE": str(lake),
        "MP_PIPELINE_DATA_PATH": lake.data_path,
        "COLUMNS": "200",
    }
    printed = run_command(
        tmp_path, "backfill", "--from", "2024-03-10", "--to", "2024-03-11", env=env
    )
    assert "events_20240310: " in printed
    assert f"Database: {lake}" in printed
    printed += run_command(tmp_path, "check", env=env)
    with StorageEngine(lake, read_only=True) as storage:
        assert rows_of_days(storage).keys() == {"2024-03-10", "2024-03-11"}
        user = storage.execute_scalar("SELECT max(distinct_id) FROM events")
        rows = storage.execute_scalar("SELECT count(*) FROM events")
    printed += run_command(tmp_path, "erase", "--distinct-id", user, "--rewrite", env=env)
    assert f"Rewrote {lake}." in printed
    status = run_command(tmp_path, "status", env=env)
    assert re.search(r"lake: 1 snapshot since .* UTC, \d+ files, [\d,]+ bytes", status)
    with StorageEngine(lake, read_only=True) as storage:
        assert user not in column(storage, "events", "distinct_id")
        assert sum(rows_of_days(storage).values()) < rows
    printed += status + run_command(tmp_path, "backup", "copy.duckdb", code=1, env=env)
    assert "Back up its catalog with the tools of that database, such as pg_dump" in printed
    assert postgres.password not in printed
