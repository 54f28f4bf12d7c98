"""What goes wrong around the pipeline: stopped runs, full disks, read-only places, damaged files.

Each is the real thing: a process that gets a signal, a limit of the system on the size of files,
directories and files without permission to write, bytes that are wrong. It ends with an error that
names the file, the days that were there are there, nothing is left, and the next run succeeds.
"""

import gzip
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from mp_pipeline.backfill import Backfill
from mp_pipeline.loads import Download
from mp_pipeline.mixpanel import DamagedDownloadError
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine, StorageError, TableMetadata
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import (
    Run,
    asset,
    daily,
    database,
    materialize,
    mixpanel,
    resources,
)
from mp_pipeline_tests.support.databases import contents, query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.processes import (
    COMMAND,
    environment,
    run_storage_code,
    storage_command,
)
from mp_pipeline_tests.support.project import events
from mp_pipeline_tests.support.records import DAY, FETCHED_AT, NEXT_DAY, event, export_line, window
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, insert_ids_of
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

FETCHED = TableMetadata("events", FETCHED_AT)
WHAT_TO_DO = "move it away: the next load creates a new one"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


def everything(directory: Path, *, read_only: bool = True) -> dict[str, list[tuple[Any, ...]]]:
    """All that a test's database holds."""
    with StorageEngine.open_existing(directory / "test.duckdb", read_only) as storage:
        return contents(storage)


def load(directory: Path, server: FaultyServer, **options: Any) -> Run:
    return materialize([events], resources(directory, server), **({"day": DAY} | options))


def assert_next_run_succeeds(directory: Path, server: FaultyServer) -> None:
    server.faults.clear()
    run = load(directory, server)
    assert run.error == ""
    assert set(query_column(directory, "SELECT insert_id FROM events")) == insert_ids_of(DAY)


# Runs that are stopped

MATERIALIZE = [
    *(sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mp_pipeline.definitions"),
    *("--select", "events", "--partition", str(DAY)),
]
BACKFILL = [COMMAND, "backfill", "--from", str(DAY), "--to", str(DAY)]


def slow() -> Fault:
    """An answer that takes many seconds to come."""
    return Fault("slow", after_bytes=100, seconds=0.2)


def large() -> Fault:
    """An answer that takes seconds to load: DuckDB refuses the line before the last."""
    line = export_line("i{}", text="x" * 100)
    lines = [line.replace("{}", str(number)) for number in range(60_000)]
    return Fault("body", body="\n".join([*lines[:-1], "not JSON", lines[-1]]).encode())


MOMENTS: dict[str, tuple[Callable[[], Fault], str]] = {
    "downloading": (slow, "test.downloads/*/*.part"),
    "loading": (large, "test.duckdb.wal"),
}
"""What the server does, and which file then shows that it is the moment."""


def stop(
    directory: Path, server: FaultyServer, command: list[str], moment: str, number: signal.Signals
) -> tuple[int, str]:
    """Send a signal to a run at a moment; return its exit code and what it printed."""
    fault, sign = MOMENTS[moment]
    server.faults.append(fault())
    variables = credentials(server) | {"MP_PIPELINE_DATABASE": str(directory / "test.duckdb")}
    with (
        tempfile.TemporaryDirectory(prefix="mp_pipeline-test-") as elsewhere,
        subprocess.Popen(
            command,
            cwd=elsewhere,  # where Dagster keeps files of its own
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            wait_for(process, directory, sign)
            process.send_signal(number)
            printed, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, printed


def wait_for(process: subprocess.Popen[str], directory: Path, pattern: str) -> None:
    """Wait until a process has made a file."""
    wait_until(lambda: any(directory.glob(pattern)), every=0.01, processes=[process])


@pytest.mark.parametrize(
    ("command", "moment", "says"),
    [
        (MATERIALIZE, "downloading", "Execution was interrupted"),
        (BACKFILL, "loading", "Stopped. To resume: mp-pipeline backfill --from 2024-01-15"),
    ],
    ids=["downloading", "loading"],
)
def test_a_run_that_is_terminated(
    server: FaultyServer, tmp_path: Path, command: list[str], moment: str, says: str
) -> None:
    assert load(tmp_path, server).success
    before = everything(tmp_path)
    code, printed = stop(tmp_path, server, command, moment, signal.SIGTERM)
    assert code == 1
    assert says in printed
    assert everything(tmp_path) == before  # without profiles: a backfill does not go on with them
    assert files_in(tmp_path) == {"test.duckdb"}
    assert_next_run_succeeds(tmp_path, server)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed(server: FaultyServer, tmp_path: Path, moment: str) -> None:
    assert load(tmp_path, server).success
    before = everything(tmp_path)
    code, _ = stop(tmp_path, server, MATERIALIZE, moment, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert everything(tmp_path, read_only=False) == before
    (left,) = (tmp_path / "test.downloads").iterdir()
    assert_next_run_succeeds(tmp_path, server)
    # It may belong to a run that is still going on, until it is a day old.
    assert files_in(tmp_path) == {"test.duckdb", *files_in_below(tmp_path, left)}
    yesterday = time.time() - 25 * 60 * 60
    os.utime(left, (yesterday, yesterday))
    assert load(tmp_path, server).success
    assert files_in(tmp_path) == {"test.duckdb"}


def files_in_below(directory: Path, below: Path) -> set[str]:
    return {str(below.relative_to(directory) / name) for name in files_in(below)}


def test_a_backfill_that_ends_before_its_first_step_is_a_failure() -> None:
    @dg.resource
    def broken() -> None:
        raise RuntimeError("the resource is broken")

    @dg.asset(name="profiles", required_resource_keys={"broken"})
    def needs_it() -> None:
        pass

    backfill = Backfill(Settings(), logging.NullHandler())
    backfill._definitions = dg.Definitions(
        assets=[needs_it],
        jobs=[dg.define_asset_job("profiles", selection=[needs_it])],
        resources={"broken": broken},
        loggers=backfill._definitions.loggers,
    )
    backfill.load_profiles()
    assert backfill.failures == ["the resource is broken"]


# Full disks

FULL_DISK = """
    import json, os, resource
    from pathlib import Path
    from mp_pipeline_tests.support.databases import contents
    from mp_pipeline_tests.support.records import *

    path, kind, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    fetched = TableMetadata("events", FETCHED_AT)
    text = [os.urandom(100).hex() for _ in range(3000)]  # which cannot be compressed
    bad = ["not JSON"] if kind == "refused lines" else []
    lines = [export_line(f"i{number}", text=each) for number, each in enumerate(text)]
    file = write_lines(path.parent.parent / "day.jsonl", *lines, *bad)
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window()], [event("old")], fetched))
        before = contents(storage)

    def load():
        records = (event(f"i{n}", properties={"text": each}) for n, each in enumerate(text))
        with StorageEngine(path) as storage:
            data = records if kind == "records" else [file]
            list(storage.replace_events_days("events", [window()], data, fetched))

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    room, outcomes = 0, []
    while not outcomes or outcomes[-1]["error"] is not None:
        error = None
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
        try:
            load()
        except StorageError as raised:
            error = str(raised)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        with StorageEngine(path) as storage:
            unchanged = contents(storage) == before
        files = [each.name for each in path.parent.iterdir()]
        outcomes.append({"error": error, "unchanged": unchanged, "files": files})
        room += step
    with StorageEngine.open_existing(path) as storage:
        rows = storage.execute_scalar("SELECT count(*) FROM events")
    json.dump({"outcomes": outcomes, "rows": rows}, sys.stdout)
"""


@pytest.mark.parametrize("kind", ["a file", "refused lines", "records"])
def test_a_disk_that_is_full_at_any_point_of_a_load(tmp_path: Path, kind: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "test.duckdb"
    done = run_storage_code(FULL_DISK, path, kind, 200_000, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    *failed, succeeded = answer["outcomes"]
    assert len(failed) > 2
    for outcome in failed:
        assert "File too large" in outcome["error"]
        assert str(path) in outcome["error"]
        assert "othing was changed" in outcome["error"]
        assert outcome["unchanged"]
        assert outcome["files"] == ["test.duckdb"]
    assert not succeeded["unchanged"]
    assert answer["rows"] == 3000
    assert files_in(tmp_path) == {"day.jsonl", "data/test.duckdb"}


NEW_ON_A_FULL_DISK = """
    import json, resource
    from pathlib import Path

    path = Path(sys.argv[1])
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    errors = []
    for room in range(0, 13_000, 1000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
        try:
            StorageEngine(path).close()
        except StorageError as error:
            errors.append(str(error))
            assert list(path.parent.iterdir()) == []
    json.dump(errors, sys.stdout)
"""


def test_a_disk_that_is_full_when_the_database_is_made(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "test.duckdb"
    done = run_storage_code(NEW_ON_A_FULL_DISK, path)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) > 10
    for error in errors:
        assert f"cannot create the database {path}" in error
        assert "File too large" in error
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window()], [event()], FETCHED))


BACKFILL_ON_A_FULL_DISK = """
    import resource, sys
    from mp_pipeline.cli import main

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    main(["backfill", "--from", sys.argv[1], "--to", sys.argv[1], "--no-profiles"])
"""


def test_a_disk_that_is_full_during_a_download(server: FaultyServer, tmp_path: Path) -> None:
    assert load(tmp_path, server).success
    before = everything(tmp_path)
    lines = [export_line(f"i{number}", text=os.urandom(100).hex()) for number in range(3000)]
    server.faults.append(Fault("body", body="\n".join(lines).encode()))
    variables = credentials(server) | {"MP_PIPELINE_DATABASE": str(tmp_path / "test.duckdb")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(BACKFILL_ON_A_FULL_DISK), str(DAY)],
        cwd=tmp_path,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "Failed: " in done.stdout
    assert f"no room for a download in {tmp_path / 'test.downloads'}" in done.stdout
    assert "Make room" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert everything(tmp_path) == before
    assert files_in(tmp_path) == {"test.duckdb"}
    assert_next_run_succeeds(tmp_path, server)


# Places without permission to write

AS_SOMEBODY_ELSE = """
    import os
    from pathlib import Path
    from mp_pipeline_tests.support.databases import contents
    from mp_pipeline_tests.support.records import *

    if os.geteuid() == 0:  # whom no permission stops
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    path = Path(sys.argv[1])
"""

LOAD = """
    try:
        with StorageEngine(path) as storage:
            fetched = TableMetadata("events", FETCHED_AT)
            list(storage.replace_events_days("events", [window()], [event("new")], fetched))
    except StorageError as error:
        print(error)
"""

READ = """
    with StorageEngine.open_existing(path) as storage:
        print(storage.execute_scalar(sys.argv[2]))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may reach, unlike those of pytest."""
    directory = Path(tempfile.mkdtemp(prefix="mp_pipeline-test-"))
    directory.chmod(0o755)
    yield directory
    for each in [directory, *directory.rglob("*")]:
        if each.is_dir():
            each.chmod(0o755)
    shutil.rmtree(directory)


@pytest.mark.parametrize(("directory_mode", "file_mode"), [(0o555, 0o666), (0o777, 0o444)])
def test_a_database_that_must_not_be_written(
    place: Path, directory_mode: int, file_mode: int
) -> None:
    path = place / "data" / "test.duckdb"
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window()], [event("old")], FETCHED))
    before = path.read_bytes()
    path.chmod(file_mode)
    path.parent.chmod(directory_mode)
    done = run_storage_code(AS_SOMEBODY_ELSE + LOAD + READ, path, "SELECT insert_id FROM events")
    assert done.returncode == 0, done.stderr
    error, insert_id = done.stdout.splitlines()
    assert str(path) in error
    assert "Permission denied" in error
    assert insert_id == "old"
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    path.parent.chmod(0o755)
    path.chmod(0o644)
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window()], [event("new")], FETCHED))


def test_a_foreign_database_that_must_not_be_written(place: Path) -> None:
    path = place / "test.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE own AS SELECT 42 AS answer").fetchall()
    path.chmod(0o666)
    place.chmod(0o555)
    done = run_storage_code(AS_SOMEBODY_ELSE + LOAD + READ, path, "SELECT answer FROM own")
    assert done.returncode == 0, done.stderr
    error, answer = done.stdout.splitlines()
    assert f"cannot write the database {path}" in error
    assert "Permission denied" in error
    assert answer == "42"
    assert list(place.iterdir()) == [path]


@pytest.mark.parametrize("name", ["test.duckdb", "data/test.duckdb"])
def test_a_directory_in_which_no_database_can_be_made(place: Path, name: str) -> None:
    place.chmod(0o555)
    done = run_storage_code(AS_SOMEBODY_ELSE + LOAD, place / name)
    assert done.returncode == 0, done.stderr
    (error,) = done.stdout.splitlines()
    assert str(place) in error
    assert "Permission denied" in error
    assert list(place.iterdir()) == []


# Damaged database files


def flipped(content: bytes, at: int) -> bytes:
    """Bytes of which eight are wrong."""
    return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + 8]) + content[at + 8 :]


def damaged_block(content: bytes) -> bytes:
    """A database in which the block is damaged where its tables are listed."""
    at = next(
        12288 + 262144 * number
        for number in range((len(content) - 12288) // 262144)
        if b"_load_log" in content[12288 + 262144 * number : 12288 + 262144 * (number + 1)]
    )
    return flipped(content, at + 100)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "other bytes": lambda content: random.Random(1).randbytes(len(content)),
    "empty": lambda _: b"",
    "text": lambda _: b"no database\n",
    "cut off in its header": lambda content: content[:5000],
    "cut off behind its header": lambda content: content[:12288],
    "cut off in its data": lambda content: content[: 12288 + 262144],
    "another beginning": lambda content: flipped(content, 8),
    "a damaged header": lambda content: flipped(content, 100),
    "a damaged header of its data": lambda content: flipped(flipped(content, 4104), 8200),
    "a damaged block": damaged_block,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database file with two days."""
    path = tmp_path_factory.mktemp("whole") / "test.duckdb"
    with StorageEngine(path) as storage:
        for day in (DAY, NEXT_DAY):
            moment = datetime(day.year, day.month, day.day, 12)
            records = [event(f"i{number}", event_time=moment) for number in range(1000)]
            list(storage.replace_events_days("events", [window(day)], records, FETCHED))
    return path.read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_database(tmp_path: Path, whole: bytes, damage: str) -> None:
    path = tmp_path / "test.duckdb"
    content = DAMAGE[damage](whole)
    path.write_bytes(content)

    def read() -> None:
        with StorageEngine.open_existing(path) as storage:
            storage.list_days("events")

    def write() -> None:
        with StorageEngine(path) as storage:
            list(storage.replace_events_days("events", [window()], [event()], FETCHED))

    for use in (read, write):
        with pytest.raises(StorageError) as caught:
            use()
        assert str(path) in str(caught.value)
        assert WHAT_TO_DO in str(caught.value)
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]
    path.rename(tmp_path / "away")
    write()


def test_a_run_that_finds_the_database_damaged(
    server: FaultyServer, tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "test.duckdb"
    content = DAMAGE["a damaged header"](whole)
    path.write_bytes(content)
    run = load(tmp_path, server)
    assert not run.success
    assert f"cannot open the database {path}" in run.error
    assert WHAT_TO_DO in run.error
    assert path.read_bytes() == content
    assert files_in(tmp_path) == {"test.duckdb"}
    path.rename(tmp_path / "away")
    assert_next_run_succeeds(tmp_path, server)


def test_a_command_that_finds_the_database_damaged(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "test.duckdb"
    path.write_bytes(DAMAGE["cut off in its data"](whole))
    done = subprocess.run(
        [COMMAND, "status"],
        cwd=tmp_path,
        env=environment(MP_PIPELINE_DATABASE=str(path)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert f"the database {path} is damaged" in done.stderr
    assert WHAT_TO_DO in done.stderr
    assert "Traceback" not in done.stderr


KILLED_BEFORE_ITS_CHECKPOINT = """
    import os, signal
    from mp_pipeline_tests.support.records import *

    storage = StorageEngine(sys.argv[1])
    fetched = TableMetadata("events", FETCHED_AT)
    list(storage.replace_events_days("events", [window()], [event("new")], fetched))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A database whose last load is in its write-ahead log alone."""
    path = tmp_path / "test.duckdb"
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window()], [event("old")], FETCHED))
    assert run_storage_code(KILLED_BEFORE_ITS_CHECKPOINT, path).returncode == -signal.SIGKILL
    assert Path(f"{path}.wal").stat().st_size > 1000
    return path


def test_a_load_is_there_although_the_process_was_killed_behind_it(crashed: Path) -> None:
    for read_only in (True, False):
        with StorageEngine.open_existing(crashed, read_only) as storage:
            assert storage.execute_rows("SELECT insert_id FROM events") == [("new",)]
    assert list(crashed.parent.iterdir()) == [crashed]


@pytest.mark.parametrize("damage", ["wrong bytes", "of another database"])
def test_a_damaged_write_ahead_log(crashed: Path, damage: str) -> None:
    log = Path(f"{crashed}.wal")
    if damage == "wrong bytes":
        content = log.read_bytes()
        log.write_bytes(flipped(content, len(content) // 2))
    else:
        crashed.unlink()
        other = crashed.with_name("other.duckdb")
        with StorageEngine(other) as storage:
            list(storage.replace_events_days("events", [window()], [event("old")], FETCHED))
        other.rename(crashed)
    before = (crashed.read_bytes(), log.read_bytes())
    for read_only in (True, False):
        with pytest.raises(StorageError) as caught:
            StorageEngine(crashed, read_only)
        assert f"{log} is damaged, or belongs to another database file" in str(caught.value)
        assert "move it away" in str(caught.value)
        assert (crashed.read_bytes(), log.read_bytes()) == before
    log.unlink()
    with StorageEngine(crashed) as storage:
        assert storage.execute_rows("SELECT insert_id FROM events") == [("old",)]
        list(storage.replace_events_days("events", [window()], [event("new")], FETCHED))


def test_a_write_ahead_log_that_was_cut_off_is_no_hindrance(crashed: Path) -> None:
    log = Path(f"{crashed}.wal")
    log.write_bytes(log.read_bytes()[:-10])
    with StorageEngine(crashed) as storage:
        assert storage.execute_rows("SELECT insert_id FROM events") == [("old",)]
        list(storage.replace_events_days("events", [window()], [event("new")], FETCHED))
    assert list(crashed.parent.iterdir()) == [crashed]


SHORT_OF_MEMORY = """
    storage = StorageEngine(sys.argv[1], config={"memory_limit": "50MB", "threads": 1})
    storage.execute_rows("CREATE TABLE sorted AS SELECT random() AS r, uuid() AS u "
                         "FROM range(100_000_000) ORDER BY r")
"""


def test_what_duckdb_put_on_disk_for_want_of_memory_goes_with_the_next_open(
    tmp_path: Path,
) -> None:
    path = tmp_path / "test.duckdb"
    with subprocess.Popen(storage_command(SHORT_OF_MEMORY, path), text=True) as process:
        try:
            wait_for(process, tmp_path, "test.duckdb.tmp/*storage*")
        finally:
            process.kill()
    assert list(tmp_path.glob("test.duckdb.tmp/*storage*"))
    with StorageEngine(path):
        pass
    assert list(tmp_path.iterdir()) == [path]


# Damaged downloads


def spoiled(spoil: Callable[[Path], object], downloads: Iterator[Download]) -> Iterator[Download]:
    """Downloads to whose files something happens before they are loaded."""
    for download in downloads:
        for path in download.paths:
            spoil(path)
        yield download


def flip(path: Path, at: float) -> None:
    """Flip a bit."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 0b100
    path.write_bytes(content)


def another_text(path: Path) -> None:
    """Change text within a gzip stream that stays whole, and the lines as many."""
    text = gzip.decompress(path.read_bytes()).replace(b"distinct_id", b"distinct-id", 1)
    path.write_bytes(gzip.compress(text))


SPOIL: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a wrong bit": lambda path: flip(path, 0.5),
    "another text": another_text,
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_damaged_download(server: FaultyServer, tmp_path: Path, spoil: str) -> None:
    assert load(tmp_path, server).success
    before = everything(tmp_path)
    directory = database(tmp_path).download_directory("by hand")

    def downloads() -> Iterator[Download]:
        return spoiled(SPOIL[spoil], mixpanel(server).export_events([(DAY, DAY)], directory))

    spoiling = asset(downloads, "events", partitions_def=daily)
    run = materialize([spoiling], resources(tmp_path, server), day=DAY)
    assert not run.success
    assert "events_2024-01-15.jsonl.gz" in run.error
    assert "Run it again" in run.error
    assert everything(tmp_path) == before
    assert files_in(tmp_path) == {"test.duckdb"}
    assert_next_run_succeeds(tmp_path, server)


def test_a_bit_anywhere_in_a_download_counts(server: FaultyServer, tmp_path: Path) -> None:
    chance = random.Random(1)
    (day,) = mixpanel(server).export_events([(DAY, DAY)], tmp_path)
    for download in (day, mixpanel(server).export_profiles(tmp_path)):
        (path,) = download.paths
        content = path.read_bytes()
        for _ in range(100):
            flip(path, chance.random())
            with pytest.raises(DamagedDownloadError, match=path.name):
                download.verify()
            path.write_bytes(content)
        download.verify()
