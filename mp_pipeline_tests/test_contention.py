"""Several processes at one database: loads, readers, and programs that keep the file open."""

import json
import logging
import queue
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mp_pipeline.sample import events_of_day
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline.storage.connection import connect
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import database, materialize, resources
from mp_pipeline_tests.support.databases import INTERNAL_TABLES, contents, query, query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.processes import (
    COMMAND,
    ONLY_LOAD,
    environment,
    run_command,
    storage_command,
)
from mp_pipeline_tests.support.project import checks, events
from mp_pipeline_tests.support.records import (
    DAY,
    DAY_AFTER,
    FETCHED_AT,
    NEXT_DAY,
    epoch,
    event,
    export_line,
    window,
    write_lines,
)
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, insert_ids_of
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until

DATABASE = "test.duckdb"
EIGHT_DAYS = [DAY + timedelta(days=number) for number in range(8)]

FETCHED = TableMetadata("events", FETCHED_AT)
VERSIONS = {"a": 1500, "b": 1000}
"""The names of the events of each version of a day, and how many there are."""
COLLIDING = 10
"""Different events of a version that share their ids, so that these are changed."""

Seen = dict[date, tuple[str, int]]
"""The version of each day, and its rows."""


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


# Loads


@contextmanager
def backfill(
    directory: Path, server: FaultyServer, *options: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that loads into the test's database."""
    with subprocess.Popen(
        [COMMAND, "backfill", *options],
        cwd=directory,
        env=environment(
            **credentials(server), **ONLY_LOAD, MP_PIPELINE_DATABASE=DATABASE, **variables
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def only(day: date) -> list[str]:
    """The options that load one day of events."""
    return ["--from", str(day), "--to", str(day), "--no-profiles"]


def finished(process: subprocess.Popen[str]) -> str:
    """What a process printed, when it has ended well."""
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, printed
    return printed


def hold_back(server: FaultyServer, **which: Any) -> Fault:
    """Have answers of the server trickle, for minutes, until they are let go."""
    answer = Fault("slow", after_bytes=20, seconds=0.5, **which)
    server.faults.append(answer)
    return answer


def let_go(answer: Fault) -> None:
    answer.seconds = 0.0


def ids_by_names(day: date, names: str) -> set[str]:
    """The insert ids of a day's events of those names."""
    return {
        each["properties"]["$insert_id"]
        for each in events_of_day(day, events_per_day=EVENTS_PER_DAY)
        if each["event"] in names.split(",")
    }


def assert_whole(directory: Path, days: Sequence[date], loads: Sequence[date]) -> None:
    """Check that the days are there, that all that is kept of them agrees, and nothing else is."""
    with StorageEngine.open_existing(directory / DATABASE) as storage:
        found = storage.list_days("events")
        tables = [day.table_name for day in found]
        assert [day.day for day in found] == list(days)
        for counts in storage.count_rows(tables):
            assert counts.problems == []
            assert counts.rows
        assert not any(storage.schema_problems(tables, "events").values())
        assert storage.execute_rows(
            "SELECT day, count(*) FROM events GROUP BY day ORDER BY day"
        ) == [(day.day, day.row_count) for day in found]
        assert storage.execute_rows("SELECT day FROM _load_log ORDER BY day") == [
            (day,) for day in sorted(loads)
        ]
        assert storage.execute_scalar("SELECT count(DISTINCT run_id) FROM _load_log") == len(loads)
        # One process at a time has the file: a load begins when the one before has ended.
        assert (
            storage.execute_rows(
                "SELECT * FROM (SELECT lag(finished_at) OVER (ORDER BY started_at) AS before, "
                "started_at FROM _load_log) WHERE started_at < before"
            )
            == []
        )
        others = set(contents(storage)) - set(tables)
    assert others - {"profiles"} == INTERNAL_TABLES | {"events"}
    assert files_in(directory) == {DATABASE}


def test_eight_processes_load_a_day_each_at_the_same_time(
    server: FaultyServer, tmp_path: Path
) -> None:
    answers = hold_back(server, times=len(EIGHT_DAYS))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(backfill(tmp_path, server, *only(day))) for day in EIGHT_DAYS
        ]
        wait_until(lambda: len(server.requests) == len(EIGHT_DAYS), processes=processes)
        assert files_in(tmp_path) & {DATABASE} == set()
        let_go(answers)
        printed = [finished(process) for process in processes]
    for day, words in zip(EIGHT_DAYS, printed, strict=True):
        assert f"events_{day:%Y%m%d}: {len(insert_ids_of(day)):,} rows from" in words
        assert set(
            query_column(tmp_path, f"SELECT insert_id FROM events_{day:%Y%m%d}")
        ) == insert_ids_of(day)
    assert_whole(tmp_path, EIGHT_DAYS, loads=EIGHT_DAYS)
    assert len(server.requests) == len(EIGHT_DAYS)


WRITER = """
    import sys
    from pathlib import Path

    from mp_pipeline.storage.connection import connect

    path, name, rows = sys.argv[1:]
    for number in range(int(rows)):
        with connect(Path(path), lock_timeout=60) as connection:
            connection.execute("INSERT INTO written VALUES (?, ?)", [name, number])
"""


def writer(path: Path, name: str, rows: int) -> list[str]:
    """The command of a process that opens a database for each row that it writes."""
    return [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(rows)]


def test_what_others_commit_while_a_database_is_opened_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / DATABASE
    with connect(path, lock_timeout=0) as connection:
        connection.execute("CREATE TABLE written (name VARCHAR, number INTEGER)")
    changes = iter(["first", "second"])

    def connect_after_a_change(*arguments: Any, **options: Any) -> duckdb.DuckDBPyConnection:
        if (name := next(changes, None)) is not None:
            subprocess.run(writer(path, name, 1), check=True)
        return duckdb_connect(*arguments, **options)

    duckdb_connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", connect_after_a_change)
    with connect(path, lock_timeout=60) as connection:
        assert next(changes, None) is None
        assert connection.execute("SELECT name FROM written").fetchall() == [
            ("first",),
            ("second",),
        ]


def test_processes_that_open_a_database_in_turn_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with connect(path, lock_timeout=0) as connection:
        connection.execute("CREATE TABLE written (name VARCHAR, number INTEGER)")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(writer(path, name, 60))) for name in "abc"
        ]
        assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]
    with connect(path, lock_timeout=0) as connection:
        assert connection.execute(
            "SELECT name, count(DISTINCT number) FROM written GROUP BY ALL ORDER BY ALL"
        ).fetchall() == [("a", 60), ("b", 60), ("c", 60)]


def test_two_processes_load_the_same_day_at_the_same_time(
    server: FaultyServer, tmp_path: Path
) -> None:
    names = ["Page View", "Search,Song Played"]
    options = [*only(DAY), "--allow-shrink"]  # each load replaces all rows of the other
    answers = hold_back(server, times=2)
    with (
        backfill(tmp_path, server, *options, MIXPANEL_EVENTS=names[0]) as first,
        backfill(tmp_path, server, *options, MIXPANEL_EVENTS=names[1]) as second,
    ):
        wait_until(lambda: len(server.requests) == 2, processes=[first, second])
        let_go(answers)
        for process in (first, second):
            assert f"events_{DAY:%Y%m%d}: " in finished(process)
    loads = query(tmp_path, "SELECT filter_events, rows_stored FROM _load_log ORDER BY rowid")
    asked_for = [",".join(json.loads(filter_events)) for filter_events, _ in loads]
    assert sorted(asked_for) == names
    assert [rows for _, rows in loads] == [len(ids_by_names(DAY, each)) for each in asked_for]
    # The day is what the last one loaded, all of it and nothing else.
    assert set(query_column(tmp_path, "SELECT insert_id FROM events")) == ids_by_names(
        DAY, asked_for[1]
    )
    assert_whole(tmp_path, [DAY], loads=[DAY, DAY])


def test_nobody_holds_the_database_while_waiting_for_mixpanel(
    server: FaultyServer, tmp_path: Path
) -> None:
    def asked_for(what: str) -> bool:
        return any(what in (each.query.get("from_date"), each.path) for each in server.requests)

    waits = {
        str(DAY): hold_back(server, day=DAY),
        str(NEXT_DAY): hold_back(server, day=NEXT_DAY),
        "/api/query/engage": hold_back(server, path="/engage"),
    }
    others = EIGHT_DAYS[2:5]
    with backfill(tmp_path, server, "--from", str(DAY), "--to", str(NEXT_DAY)) as process:
        for (what, answer), day in zip(waits.items(), others, strict=True):
            wait_until(partial(asked_for, what), processes=[process])
            # Long enough for what the process loads just now, not for what it waits for.
            here = resources(tmp_path, server, lock_timeout=20)
            assert materialize([events, *checks[:2]], here, day=day).error == ""
            assert process.poll() is None
            let_go(answer)
        finished(process)
    assert query(tmp_path, "SELECT count(*) > 0 FROM profiles") == [(True,)]
    with StorageEngine.open_existing(tmp_path / DATABASE) as storage:
        assert [each.day for each in storage.list_days("events")] == EIGHT_DAYS[:5]
    assert files_in(tmp_path) == {DATABASE}


AT_THE_LAST_MOMENT = """
    import subprocess

    def make_it_first(event, arguments):
        if event == "os.link":
            subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)

    sys.addaudithook(make_it_first)
    with StorageEngine(sys.argv[1]) as storage:
        print(storage.execute_scalar("SELECT answer FROM theirs"))
"""
MAKE_IT = """
import duckdb, sys
duckdb.connect(sys.argv[1]).execute("CREATE TABLE theirs AS SELECT 42 AS answer").fetchall()
"""


def test_a_database_that_another_process_has_just_made_is_not_made_anew(tmp_path: Path) -> None:
    made = subprocess.run(
        storage_command(AT_THE_LAST_MOMENT, tmp_path / DATABASE, MAKE_IT),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (made.stdout, made.stderr) == ("42\n", "")
    assert query(tmp_path, "SELECT answer FROM theirs") == [(42,)]
    assert files_in(tmp_path) == {DATABASE}


# A program that is none of ours has the file open

FOREIGN = """
    import duckdb, sys
    connection = duckdb.connect("test.duckdb")
    print("open", flush=True)
    sys.stdin.read()
"""


@contextmanager
def foreign_program(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that has the test's database open until it is told to end."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FOREIGN)],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def end(program: subprocess.Popen[str]) -> None:
    program.communicate("", timeout=PATIENCE)
    assert program.returncode == 0


def held_by(program: subprocess.Popen[str]) -> str:
    """How a message names a program that holds the file, as a pattern."""
    return rf"(?i:/\S*python\S*) \(PID {program.pid}\) holds it"


class Heard(logging.Handler):
    """Hands the records of a logger to whoever waits for them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put(record.getMessage())


@contextmanager
def heard(logger_name: str) -> Iterator["queue.SimpleQueue[str]"]:
    logger = logging.getLogger(logger_name)
    handler, level = Heard(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def load_a_day(
    directory: Path, server: FaultyServer, day: date
) -> dict[str, list[tuple[Any, ...]]]:
    """Load a day here, and return all that the database holds then."""
    assert materialize([events], resources(directory, server), day=day).error == ""
    return everything(directory)


def everything(directory: Path) -> dict[str, list[tuple[Any, ...]]]:
    with StorageEngine.open_existing(directory / DATABASE) as storage:
        return contents(storage)


def test_a_load_waits_for_a_foreign_program_and_logs_for_whom(
    server: FaultyServer, tmp_path: Path
) -> None:
    with (
        ThreadPoolExecutor(1) as other_thread,
        foreign_program(tmp_path) as program,
        heard("mp_pipeline.storage.connection") as messages,
    ):
        here = resources(tmp_path, server, lock_timeout=PATIENCE)
        run_here = other_thread.submit(materialize, [events], here, day=DAY)
        message = messages.get(timeout=PATIENCE)
        assert message.startswith(f"waiting, up to {PATIENCE:g} s, for ")
        assert re.search(held_by(program), message)
        assert not run_here.done()
        end(program)
        assert run_here.result(timeout=PATIENCE).error == ""
    assert set(query_column(tmp_path, "SELECT insert_id FROM events")) == insert_ids_of(DAY)


def test_the_command_waits_for_a_foreign_program_and_prints_for_whom(
    server: FaultyServer, tmp_path: Path
) -> None:
    load_a_day(tmp_path, server, DAY)
    with (
        foreign_program(tmp_path) as program,
        backfill(tmp_path, server, *only(NEXT_DAY), MP_PIPELINE_LOCK_TIMEOUT="45") as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"export of {NEXT_DAY}: done, ")
        line = process.stdout.readline()
        assert line.startswith("waiting, up to 45 s, for ")
        assert re.search(held_by(program), line)
        end(program)
        assert f"events_{NEXT_DAY:%Y%m%d}: " in finished(process)
    assert_whole(tmp_path, [DAY, NEXT_DAY], loads=[DAY, NEXT_DAY])


def test_the_command_gives_up_and_names_the_foreign_program(
    server: FaultyServer, tmp_path: Path
) -> None:
    before = load_a_day(tmp_path, server, DAY)
    variables = {"MP_PIPELINE_DATABASE": DATABASE, "MP_PIPELINE_LOCK_TIMEOUT": "0.5"}
    with foreign_program(tmp_path) as program:
        printed = run_command(
            tmp_path,
            "backfill",
            *("--from", str(DAY), "--to", str(DAY_AFTER), "--no-profiles"),
            env=credentials(server) | variables,
            code=1,
        )
        assert program.poll() is None
        end(program)
    assert re.search(rf"Failed: .*{DATABASE} is in use: {held_by(program)}", printed)
    assert "waited 0.5 s. Close that program" in printed
    assert f"To resume: mp-pipeline backfill --from {DAY} --to {DAY_AFTER} --no-profiles" in printed
    assert "Traceback" not in printed
    assert everything(tmp_path) == before
    assert files_in(tmp_path) == {DATABASE}


# Readers beside loads


def insert_id(number: int) -> str:
    """The id of a version's event; the first ones, which are different events, share theirs."""
    return f"i{max(number, COLLIDING)}"


def version_file(directory: Path, name: str, day: date) -> Path:
    """A version of a day as Mixpanel's export has it."""
    begin = epoch(datetime.combine(day, time_of_day()))
    lines = [
        export_line(insert_id(number), name, time=begin + number)
        for number in range(VERSIONS[name])
    ]
    return write_lines(directory / f"{day}-{name}.jsonl.gz", *lines)


def version_records(name: str, day: date) -> Iterator[dict[str, Any]]:
    """A version of a day as records of the data model."""
    begin = datetime.combine(day, time_of_day())
    for number in range(VERSIONS[name]):
        time = begin + timedelta(seconds=number)
        yield event(insert_id(number), event_name=name, event_time=time)


def replace_day(storage: StorageEngine, name: str, day: date, data: Any) -> None:
    list(
        storage.replace_events_days(
            "events", [window(day)], data, FETCHED, run_id=name, batch_size=250
        )
    )


def versions() -> Iterator[tuple[str, date]]:
    """What to load, for ever: all days in one version, then in the other; more and more days."""
    for turn in count():
        for day in EIGHT_DAYS[: 1 + turn // 2]:
            yield "ab"[turn % 2], day


def load_until_told(directory: Path) -> None:
    """What the other process does: load versions, one opening each, until its input ends."""
    with ThreadPoolExecutor(1) as other_thread:
        told = other_thread.submit(sys.stdin.read)
        for name, day in versions():
            file = version_file(directory, name, day)
            time.sleep(0.3)  # the database is free as long as a day downloads
            with database(directory, lock_timeout=PATIENCE).get_engine() as storage:
                replace_day(storage, name, day, [file])
            if told.done():
                return


@contextmanager
def loading_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", __name__, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(storage: StorageEngine) -> Seen:
    """Read the days in one transaction, and check that they are whole and that all agrees."""
    storage.connection.begin()
    try:
        counts = storage.execute_rows(
            "SELECT event_time::DATE AS day, event_name, count(*) FROM events GROUP BY ALL"
        )
        recorded = storage.execute_rows("SELECT from_date, row_count FROM _metadata")
        last_loads = storage.execute_rows(
            "SELECT day, arg_max(run_id, rowid), arg_max(rows_stored, rowid) FROM _load_log "
            "GROUP BY day"
        )
    finally:
        storage.connection.rollback()
    seen = {day: (name, rows) for day, name, rows in counts}
    assert len(seen) == len(counts)
    assert all(VERSIONS[name] == rows for name, rows in seen.values())
    assert dict(recorded) == {day: rows for day, (_, rows) in seen.items()}
    assert {day: (name, rows) for day, name, rows in last_loads} == seen
    return seen


def read_again_and_again(
    opened: Callable[[], AbstractContextManager[StorageEngine]],
    still_loading: Callable[[], bool],
    reads: int,
) -> list[Seen]:
    """Open and read that often, and until six changes and the third day were seen."""
    seen: list[Seen] = []
    until = time.monotonic() + PATIENCE
    changes = 0
    while len(seen) < reads or changes < 6 or len(seen[-1]) < 3:
        assert still_loading()
        assert time.monotonic() < until, f"{len(seen)} reads, {changes} changes"
        with opened() as storage:
            seen.append(read(storage))
        changes += len(seen) > 1 and seen[-1] != seen[-2]
        time.sleep(0.03)  # a reader that never pauses would keep the loads out
    return seen


def test_a_reader_sees_whole_days_while_another_process_loads(tmp_path: Path) -> None:
    resource = database(tmp_path, lock_timeout=PATIENCE)
    with resource.get_engine() as storage:
        replace_day(storage, "b", DAY, version_records("b", DAY))
    with loading_process(tmp_path) as process:
        seen = read_again_and_again(
            lambda: resource.get_engine(read_only=True), lambda: process.poll() is None, reads=50
        )
        printed, _ = process.communicate("", timeout=PATIENCE)
        assert process.returncode == 0, printed
    assert {version for days in seen for version in days.values()} == set(VERSIONS.items())
    assert set(seen[-1]) >= set(EIGHT_DAYS[:3])


def test_a_reader_sees_whole_days_while_a_thread_loads(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with StorageEngine(path) as storage:
        replace_day(storage, "b", DAY, version_records("b", DAY))
    stopped = threading.Event()

    def load() -> None:
        for name, day in versions():
            file = version_file(tmp_path, name, day)
            with StorageEngine(path) as storage:
                replace_day(storage, name, day, [file])
            if stopped.is_set():
                return

    with ThreadPoolExecutor(1) as other_thread:
        loading = other_thread.submit(load)
        try:
            seen = read_again_and_again(
                lambda: StorageEngine(path), lambda: not loading.done(), reads=50
            )
        finally:
            stopped.set()
        loading.result(timeout=PATIENCE)
    assert {version for days in seen for version in days.values()} == set(VERSIONS.items())


def test_a_transaction_sees_the_days_as_they_were_when_it_began(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    by_name = "SELECT event_name, count(*) FROM events GROUP BY ALL"
    with StorageEngine(path) as storage, StorageEngine(path) as reader:
        replace_day(storage, "a", DAY, [version_file(tmp_path, "a", DAY)])
        reader.connection.begin()
        assert reader.execute_rows(by_name) == [("a", VERSIONS["a"])]
        replace_day(storage, "b", DAY, [version_file(tmp_path, "b", DAY)])
        assert reader.execute_rows(by_name) == [("a", VERSIONS["a"])]
        assert reader.execute_scalar("SELECT row_count FROM _metadata") == VERSIONS["a"]
        reader.connection.rollback()
        assert read(reader) == {DAY: ("b", VERSIONS["b"])}


@pytest.mark.parametrize(
    ("second", "stored"),
    [(export_line("i1"), 1), (export_line("i1", "Search"), 2)],
    ids=["an event twice", "two events with one id"],
)
def test_an_open_transaction_does_not_disturb_a_load_with_repeated_ids(
    tmp_path: Path, second: str, stored: int
) -> None:
    path = tmp_path / DATABASE
    file = write_lines(tmp_path / "day.jsonl", export_line("i1"), second)
    with StorageEngine(path) as storage, StorageEngine(path) as reader:
        reader.connection.begin()
        assert reader.execute_rows("SELECT * FROM _metadata") == []
        replace_day(storage, "a", DAY, [file])
        reader.connection.rollback()
        table = f"events_{DAY:%Y%m%d}"
        assert reader.execute_scalar(f"SELECT count(DISTINCT insert_id) FROM {table}") == stored
        assert reader.schema_problems([table], "events") == {table: []}
        assert reader.count_rows([table])[0].problems == []
        assert set(contents(reader)) == {*INTERNAL_TABLES, "events", table}


def test_opening_again_and_again_does_not_disturb_the_loads_of_a_thread(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    file = write_lines(tmp_path / "day.jsonl", export_line("i1"))
    opened: list[int] = []

    def open_it(_: int) -> None:
        with StorageEngine(path) as storage:
            opened.append(len(storage.list_days("events")))

    with StorageEngine(path) as storage, ThreadPoolExecutor(3) as other_threads:
        replace_day(storage, "a", DAY, [file])
        opening = [other_threads.submit(open_it, number) for number in range(400)]
        while not all(each.done() for each in opening):
            replace_day(storage, "a", DAY, [file])
        for each in opening:
            each.result()
    assert opened == [1] * 400


def test_a_reader_sees_nothing_of_a_load_until_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    before = {DAY: ("b", VERSIONS["b"])}
    seen: list[Seen] = []
    with StorageEngine(path) as storage, StorageEngine(path) as reader:
        replace_day(storage, "b", DAY, version_records("b", DAY))

        def records(day: date) -> Iterator[dict[str, Any]]:
            for number, record in enumerate(version_records("a", day)):
                if number % 250 == 0:
                    seen.append(read(reader))
                yield record

        replace_day(storage, "a", DAY, records(DAY))
        assert seen == [before] * 6
        assert read(reader) == {DAY: ("a", VERSIONS["a"])}
        seen.clear()
        replace_day(storage, "a", NEXT_DAY, records(NEXT_DAY))
        assert seen == [{DAY: ("a", VERSIONS["a"])}] * 6
        assert set(read(reader)) == {DAY, NEXT_DAY}


if __name__ == "__main__":
    load_until_told(Path(sys.argv[1]))
