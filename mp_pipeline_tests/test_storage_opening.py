import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mp_pipeline.storage import DatabaseLockedError, StorageEngine, StorageError
from mp_pipeline_tests.support.processes import run_storage_code, storage_command
from mp_pipeline_tests.support.records import EVENTS, event
from mp_pipeline_tests.support.waiting import PATIENCE

HOLD = """
    with StorageEngine(sys.argv[1], read_only=sys.argv[2] == "reader"):
        print("open", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one event."""
    path = tmp_path / "a.duckdb"
    with StorageEngine(path) as storage:
        storage.create_events_table("events", [event()], EVENTS)
    return path


@contextmanager
def holder(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the database open until it reads a line."""
    with subprocess.Popen(
        storage_command(HOLD, path, kind), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def test_parent_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "directories" / "a.duckdb"
    with StorageEngine(path) as storage:
        assert storage.path == path
        storage.create_events_table("events", [event()], EVENTS)
    assert path.is_file()


def test_a_path_may_be_text(tmp_path: Path) -> None:
    with StorageEngine(str(tmp_path / "a.duckdb")) as storage:
        assert storage.path == tmp_path / "a.duckdb"


def test_data_is_there_at_the_next_opening(path: Path) -> None:
    with StorageEngine(path) as storage:
        assert storage.execute_scalar("SELECT count(*) FROM events") == 1
        assert storage.get_metadata("events") == EVENTS


def test_opening_twice_in_one_process(path: Path) -> None:
    with StorageEngine(path) as first, StorageEngine(path) as second:
        second.create_events_table("more", [event()], EVENTS)
        assert first.table_exists("more")


def test_opening_during_a_load_does_not_disturb_it(path: Path) -> None:
    def open_it_again(_: int) -> None:
        with StorageEngine(path) as another:
            assert not another.table_exists("more")

    with StorageEngine(path) as storage:
        records = [event(f"i{number}") for number in range(4)]
        assert storage.create_events_table("more", records, EVENTS, open_it_again, 2) == 4
        assert storage.execute_scalar("SELECT count(*) FROM more") == 4


def test_closing_twice(path: Path) -> None:
    storage = StorageEngine(path)
    storage.close()
    storage.close()
    storage.cleanup()


def test_a_closed_database_is_free_for_other_processes(path: Path) -> None:
    StorageEngine(path).close()
    finished = run_storage_code("StorageEngine(sys.argv[1], lock_timeout=0).close()", path)
    assert finished.returncode == 0, finished.stderr


def test_the_context_manager_closes_on_exceptions(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), StorageEngine(path) as storage:
        raise ZeroDivisionError
    with pytest.raises(StorageError, match="closed"):
        storage.execute_scalar("SELECT 1")


def test_a_closed_engine_says_so(path: Path) -> None:
    storage = StorageEngine(path)
    storage.close()
    uses: list[Any] = [
        lambda: storage.connection,
        lambda: storage.execute("SELECT 1"),
        lambda: storage.execute_df("SELECT 1"),
        lambda: storage.execute_rows("SELECT 1"),
        lambda: storage.table_exists("events"),
        lambda: storage.list_tables(),
        lambda: storage.get_schema("events"),
        lambda: storage.get_metadata("events"),
        lambda: storage.drop_table("events"),
        lambda: storage.create_events_table("more", [event()], EVENTS),
    ]
    for use in uses:
        with pytest.raises(StorageError, match=r"a\.duckdb is closed"):
            use()


def test_repr_shows_file_mode_and_state(path: Path) -> None:
    with StorageEngine(path) as storage:
        assert repr(storage) == f"<StorageEngine {path} read-write>"
    assert repr(storage) == f"<StorageEngine {path} read-write, closed>"
    with StorageEngine.open_existing(path) as storage:
        assert repr(storage) == f"<StorageEngine {path} read-only>"
    with StorageEngine.memory() as storage:
        assert repr(storage) == "<StorageEngine memory read-write>"


def test_memory_databases_are_apart() -> None:
    with StorageEngine.memory() as first, StorageEngine.memory() as second:
        assert first.path is None
        first.create_events_table("events", [event()], EVENTS)
        assert first.table_exists("events")
        assert not second.table_exists("events")


def test_an_ephemeral_database_is_gone_at_close() -> None:
    storage = StorageEngine.ephemeral()
    assert storage.path is not None
    storage.create_events_table("events", [event()], EVENTS)
    assert storage.path.is_file()
    storage.cleanup()
    assert not storage.path.parent.exists()


def test_ephemeral_databases_are_apart() -> None:
    with StorageEngine.ephemeral() as first, StorageEngine.ephemeral() as second:
        assert first.path != second.path


@pytest.mark.parametrize("last_line", ["", "sys.exit(3)", "raise ValueError('deliberate')"])
def test_an_ephemeral_database_is_gone_at_exit(last_line: str) -> None:
    code = f"""
        storage = StorageEngine.ephemeral()
        storage.execute("CREATE TABLE own AS SELECT 42 AS answer")
        print(storage.path, storage.path.is_file())
        {last_line}
    """
    finished = run_storage_code(code)
    path, was_there = finished.stdout.split()
    assert was_there == "True"
    assert not Path(path).parent.exists()
    assert finished.stderr == "" or "deliberate" in finished.stderr


def test_an_ephemeral_database_is_gone_when_nobody_has_it() -> None:
    code = """
        storage = StorageEngine.ephemeral()
        path = storage.path
        del storage
        print(path.parent.exists())
    """
    finished = run_storage_code(code)
    assert (finished.stdout, finished.stderr) == ("False\n", "")


def test_open_existing_needs_a_file(tmp_path: Path) -> None:
    for read_only in (True, False):
        with pytest.raises(FileNotFoundError, match=r"missing\.duckdb"):
            StorageEngine.open_existing(tmp_path / "missing.duckdb", read_only)
    with pytest.raises(FileNotFoundError, match=r"missing\.duckdb"):
        StorageEngine(tmp_path / "missing.duckdb", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_open_existing_reads_unless_told_otherwise(path: Path) -> None:
    with StorageEngine.open_existing(path) as storage:
        assert storage.execute_scalar("SELECT count(*) FROM events") == 1
        with pytest.raises(StorageError, match="read-only"):
            storage.create_events_table("more", [event()], EVENTS)
        with pytest.raises(StorageError, match="read-only"):
            storage.drop_table("events")
    with StorageEngine.open_existing(path, read_only=False) as storage:
        assert storage.create_events_table("more", [event()], EVENTS) == 1
        assert [table.name for table in storage.list_tables()] == ["events", "more"]


def test_reading_changes_nothing_in_the_file(path: Path) -> None:
    before = path.read_bytes()
    with StorageEngine(path, read_only=True) as storage:
        storage.list_tables()
        storage.execute_rows("SELECT * FROM events")
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, and no database.\n" * 500)
    with pytest.raises(StorageError, match=r"notes\.txt"):
        StorageEngine(path, read_only=read_only)
    assert path.read_text().startswith("These are notes")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open the database"):
        StorageEngine(tmp_path)


def test_configuration_reaches_duckdb(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "a.duckdb", config={"threads": 1}) as storage:
        assert storage.execute_scalar("SELECT current_setting('threads')") == 1
    with pytest.raises(StorageError, match="no_such_option"):
        StorageEngine(tmp_path / "b.duckdb", config={"no_such_option": 1})


def test_a_locked_database_names_the_process_that_holds_it(path: Path) -> None:
    with holder(path, "writer") as process:
        for read_only in (False, True):
            with pytest.raises(DatabaseLockedError, match=rf"PID {process.pid}\b") as locked:
                StorageEngine(path, read_only, lock_timeout=0.3)
            assert str(path) in str(locked.value)
            assert "waited 0.3 s" in str(locked.value)


def test_a_writer_does_not_come_between_readers(path: Path) -> None:
    with (
        holder(path, "reader") as process,
        pytest.raises(DatabaseLockedError, match=rf"PID {process.pid}\b"),
    ):
        StorageEngine(path, lock_timeout=0)


def test_waiting_for_a_process_that_closes_in_time(path: Path) -> None:
    with holder(path, "writer") as process:
        code = """
            import logging
            logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
            with StorageEngine(sys.argv[1], lock_timeout=600) as storage:
                print(storage.execute_scalar("SELECT count(*) FROM events"))
        """
        with subprocess.Popen(
            storage_command(code, path), stdout=subprocess.PIPE, text=True
        ) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline().startswith(f"waiting, up to 600 s, for {path}: ")
            process.communicate("close\n", timeout=PATIENCE)
            *_, last_line = waiting.communicate(timeout=PATIENCE)[0].splitlines()
            assert last_line == "1"


def test_a_database_is_free_when_its_holder_was_killed(path: Path) -> None:
    with holder(path, "writer") as process:
        process.kill()
        process.wait(10)
        with StorageEngine(path, lock_timeout=0) as storage:
            assert storage.execute_scalar("SELECT count(*) FROM events") == 1


def test_a_reader_beside_a_reader(path: Path) -> None:
    with holder(path, "reader"), StorageEngine.open_existing(path) as storage:
        assert storage.execute_scalar("SELECT count(*) FROM events") == 1


def test_reading_beside_an_open_writer_of_this_process(path: Path) -> None:
    with (
        StorageEngine(path),
        pytest.raises(DatabaseLockedError, match=f"this process .PID {os.getpid()}"),
    ):
        StorageEngine(path, read_only=True, lock_timeout=0)


def test_the_first_opening_of_a_plain_duckdb_file_keeps_its_tables(tmp_path: Path) -> None:
    path = tmp_path / "own.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE own AS SELECT 42 AS answer").fetchall()
    with StorageEngine(path) as storage:
        assert storage.execute_scalar("SELECT answer FROM own") == 42
        assert storage.create_events_table("events", [event()], EVENTS) == 1
