"""Crashes: a process that loads is killed with SIGKILL at a random moment, hundreds of times.

After each kill the database opens, every table is the old or the new one, whole, ``_metadata`` and
the load log agree with it, nothing is left behind, and the next load succeeds. pytest kills 100
times. For a longer run, which also says what the kills met::

    python -m mp_pipeline_tests.test_storage_crashes --kills 500

Each process that is killed is one of its own with the database file open. A server forks them:
it has imported the engine, and never opens a database.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from mp_pipeline.storage import StorageEngine, TableMetadata, TableType, day_table_name
from mp_pipeline_tests.support.databases import INTERNAL_TABLES
from mp_pipeline_tests.support.records import (
    EVENTS,
    FETCHED_AT,
    event,
    profile,
    window,
    write_lines,
)

KILLS = 90
KILLS_OF_FIRST_LOADS = 10
ROWS = 220
BATCH = 200
REPEATED = 10
"""How many rows come twice."""
REFUSED = ["not JSON", '{"event": "no properties"}']
PATIENCE = 60
"""Seconds for a process to start, and for a load."""


@dataclass(frozen=True)
class Task:
    """What a process does again and again until it is killed.

    Its loads are numbered. No two bring the same rows, and a table's ``fetched_at`` says which of
    them it holds.
    """

    name: str
    tables: tuple[str, ...]
    type: TableType = "events"
    days: tuple[date, ...] = ()
    """The days of the dataset `dataset` that the tables are, in order."""
    dataset: str = ""
    from_file: bool = True
    refused: Sequence[str] = ()
    drops: bool = False
    """Whether every second load drops the tables instead."""

    def has_tables(self, number: int) -> bool:
        """Whether the tables are there after a load."""
        return not (self.drops and number % 2)

    def rows(self, table: str, number: int) -> list[dict[str, Any]]:
        """What a load brings for a table."""
        count = count_of(number)
        if self.type == "profiles":
            return [profile(f"u{n:04}", properties=_properties(number)) for n in range(count)]
        day = self.days[self.tables.index(table)] if self.days else EVENTS_DAY
        return [
            event(
                f"i{n:04}",
                event_name=f"load {number}",
                event_time=datetime(day.year, day.month, day.day) + timedelta(minutes=n),
                distinct_id=f"u{n % 50}",
                properties=_properties(number),
            )
            for n in range(count)
        ]

    def input(self, number: int, directory: Path) -> Any:
        """The data of a load: a file of lines as Mixpanel sends them, or records."""
        rows = [row for table in self.tables for row in self.rows(table, number)]
        rows += rows[:REPEATED]
        if not self.from_file:
            return iter(rows)
        line = _profile_line if self.type == "profiles" else _export_line
        name = f"{self.name.replace(' ', '_')}.jsonl{'.gz' if number % 2 else ''}"
        return [write_lines(directory / name, *map(line, rows), *self.refused)]

    def load(self, storage: StorageEngine, number: int, data: Any) -> None:
        """Load, or drop."""
        metadata = TableMetadata(self.type, FETCHED_AT + timedelta(seconds=number))
        (first, *_) = self.tables
        if not self.has_tables(number):
            for table in self.tables:
                storage.drop_table(table)
        elif self.dataset:
            windows = [window(day) for day in self.days]
            list(
                storage.replace_events_days(
                    self.dataset, windows, data, metadata, batch_size=BATCH, run_id=str(number)
                )
            )
        elif not self.drops:
            storage.replace_table(first, data, metadata, batch_size=BATCH, run_id=str(number))
        elif self.type == "events":
            storage.create_events_table(first, data, metadata, batch_size=BATCH)
        else:
            storage.create_profiles_table(first, data, metadata, batch_size=BATCH)


EVENTS_DAY = date(2024, 1, 1)


def _days(task: str, dataset: str, first: int, last: int, **options: Any) -> Task:
    days = tuple(date(2024, 2, number) for number in range(first, last + 1))
    tables = tuple(day_table_name(dataset, day) for day in days)
    return Task(task, tables, days=days, dataset=dataset, **options)


TASKS = [
    _days("a day from a file", "events", 1, 1),
    _days("a day with lines that DuckDB refuses", "events", 2, 2, refused=REFUSED),
    _days("a day from records", "events", 3, 3, from_file=False),
    _days("several days from a file", "events", 4, 5, refused=REFUSED),
    _days("several days from records", "plays", 1, 2, from_file=False),
    _days("a day that is dropped and loaded", "plays", 3, 3, drops=True),
    Task("profiles from a file", ("profiles",), "profiles"),
    Task("profiles from records", ("people",), "profiles", from_file=False),
    Task("a table of events that is dropped and made", ("january",), from_file=False, drops=True),
    Task("a table of profiles that is dropped and made", ("users",), "profiles", drops=True),
]
TABLES = {table: task for task in TASKS for table in task.tables}
DATASETS = {task.dataset for task in TASKS if task.dataset}


def count_of(number: int) -> int:
    """How many rows a load brings for each table."""
    return ROWS + 50 * (number % 3)


def _properties(number: int) -> dict[str, Any]:
    return {"number": number, "text": f"what load {number} brings" * 4}


def _export_line(row: dict[str, Any]) -> str:
    promoted = {
        "time": (row["event_time"] - datetime(1970, 1, 1)) // timedelta(seconds=1),
        "distinct_id": row["distinct_id"],
        "$insert_id": row["insert_id"],
    }
    return json.dumps({"event": row["event_name"], "properties": promoted | row["properties"]})


def _profile_line(row: dict[str, Any]) -> str:
    return json.dumps({"$distinct_id": row["distinct_id"], "$properties": row["properties"]})


# Processes that are killed


@dataclass(frozen=True)
class Directories:
    """Where a test has its files."""

    root: Path

    def __post_init__(self) -> None:
        for directory in (self.database, self.input, self.temporary):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def database(self) -> Path:
        return self.root / "database"

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def temporary(self) -> Path:
        return self.root / "temporary"

    @property
    def file(self) -> Path:
        return self.database / "a.duckdb"


def load_again_and_again(root: Path, task: int, number: int, begun: "Connection") -> None:
    """Load until killed, and say each time which load begins."""
    directories = Directories(root)
    tempfile.tempdir = str(directories.temporary)
    for each in itertools.count(number):
        data = TASKS[task].input(each, directories.input)
        begun.send(each)
        with StorageEngine(directories.file) as storage:
            TASKS[task].load(storage, each, data)


def make_databases(root: Path, task: int, number: int, begun: "Connection") -> None:
    """Load into new databases, one after the other, until killed."""
    directories = Directories(root)
    tempfile.tempdir = str(directories.temporary)
    for each in itertools.count(number):
        data = TASKS[task].input(0, directories.input)
        begun.send(each)
        with StorageEngine(directories.database / f"{each}.duckdb") as storage:
            TASKS[task].load(storage, 0, data)


def die_half_way(root: Path, _: int, __: int, begun: "Connection") -> None:
    """Die by its own hand while records are loaded."""

    def records() -> Iterator[dict[str, Any]]:
        for number in range(100):
            yield event(f"i{number}")
        begun.send(0)
        os.kill(os.getpid(), signal.SIGKILL)

    with StorageEngine(Directories(root).file) as storage:
        storage.create_events_table("january", records(), EVENTS, batch_size=10)


def fork(
    function: Callable[[Path, int, int, "Connection"], None],
    directories: Directories,
    task: int = 0,
    number: int = 0,
) -> tuple[ForkServerProcess, "Connection"]:
    """Run a function in a process of its own, and return that and what it says."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", load_again_and_again.__module__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(directories.root, task, number, sender))
    process.start()
    sender.close()
    return process, receiver


def kill(process: ForkServerProcess, begun: "Connection", seconds: float) -> int:
    """Kill a process so long after its first load began; return the last load that it began."""
    assert begun.poll(PATIENCE)
    number: int = begun.recv()
    time.sleep(seconds)
    process.kill()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    process.close()
    while begun.poll():
        try:
            number = begun.recv()
        except EOFError:
            break
    begun.close()
    return number


# What is there afterwards


@dataclass
class Database:
    """What a database must hold."""

    directories: Directories
    numbers: dict[str, int] = field(default_factory=dict)
    """The load that each table holds."""
    log: dict[str, list[str | None]] = field(default_factory=dict)
    """The runs that the load log has for each table."""

    def published(self, task: Task, table: str, number: int) -> None:
        """Take a load that is done."""
        if task.has_tables(number):
            self.numbers[table] = number
            made = task.drops and not task.dataset
            self.log.setdefault(table, []).append(None if made else str(number))
        else:
            self.numbers.pop(table, None)

    def take_outcome(self, task: Task, first: int, last: int, storage: StorageEngine) -> list[bool]:
        """See which tables the load that was killed has replaced: the first ones, or none."""
        there = numbers(storage)
        replaced = []
        for table in task.tables:
            for number in range(first, last):
                self.published(task, table, number)
            old = self.numbers.get(table)
            new = last if task.has_tables(last) else None
            assert there.get(table) in (old, new)
            replaced.append(there.get(table) == new)
            if replaced[-1]:
                self.published(task, table, last)
        assert replaced == sorted(replaced, reverse=True)
        return replaced

    def check(self, storage: StorageEngine, tables: Sequence[str]) -> None:
        """Everything is there, whole, once, and nothing else; of some tables each value."""
        self._check_nothing_is_left(storage)
        assert numbers(storage) == self.numbers
        there = [table for table in tables if table in self.numbers]
        assert [counts.problems for counts in storage.count_rows(there)] == [[]] * len(there)
        for table in there:
            self._check_rows(storage, table)
        self._check_all_rows(storage)
        self._check_log(storage)
        for dataset in DATASETS:
            days = [table for table in self.numbers if TABLES[table].dataset == dataset]
            assert storage.table_exists(dataset) == bool(days)
            assert [day.table_name for day in storage.list_days(dataset)] == sorted(days)
            if days:
                rows = sum(count_of(self.numbers[day]) for day in days)
                assert storage.execute_scalar(f"SELECT count(*) FROM {dataset}") == rows

    def _check_nothing_is_left(self, storage: StorageEngine) -> None:
        """No table of a load that was killed, and no file."""
        assert table_names(storage) == INTERNAL_TABLES | set(self.numbers)
        assert set(self.directories.database.iterdir()) <= {
            self.directories.file,
            self.directories.file.with_name("a.duckdb.wal"),
        }
        assert list(self.directories.temporary.iterdir()) == []

    def _check_all_rows(self, storage: StorageEngine) -> None:
        counts = " UNION ALL ".join(
            f"SELECT '{table}', count(*), min(number), max(number) "
            f"FROM (SELECT (properties->>'$.number')::INTEGER AS number FROM {table})"
            for table in self.numbers
        )
        assert sorted(storage.execute_rows(counts)) == sorted(
            (table, count_of(number), number, number) for table, number in self.numbers.items()
        )

    def _check_log(self, storage: StorageEngine) -> None:
        logged: dict[str, list[str | None]] = {}
        for table, run_id in storage.execute_rows(
            "SELECT table_name, run_id FROM _load_log ORDER BY rowid"
        ):
            logged.setdefault(table, []).append(run_id)
        assert logged == self.log
        assert Counter(
            table for (table,) in storage.execute_rows("SELECT table_name FROM _rejected")
        ) == {
            task.tables[0]: len(task.refused)
            for task in TASKS
            if task.refused and task.tables[0] in self.numbers
        }

    def _check_rows(self, storage: StorageEngine, table: str) -> None:
        task, number = TABLES[table], self.numbers[table]
        names = (
            ("distinct_id",)
            if task.type == "profiles"
            else ("insert_id", "event_name", "event_time", "distinct_id")
        )
        assert storage.execute_rows(
            f"SELECT {', '.join(names)}, properties->>'$.text' FROM {table} ORDER BY {names[0]}"
        ) == [
            (*(row[name] for name in names), row["properties"]["text"])
            for row in task.rows(table, number)
        ]
        assert storage.schema_problems([table], task.type) == {table: []}


def numbers(storage: StorageEngine) -> dict[str, int]:
    """The load that each table holds."""
    return {
        table.name: int((table.fetched_at - FETCHED_AT).total_seconds())
        for table in storage.list_tables()
    }


def table_names(storage: StorageEngine) -> set[str]:
    return {name for (name,) in storage.execute_rows("SELECT table_name FROM duckdb_tables()")}


@dataclass
class Crashes:
    """A database whose loads are killed, and what the kills met."""

    database: Database
    chance: random.Random = field(default_factory=random.Random)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long a load of each task took last."""
    next_number: int = 0
    met: dict[str, Counter[str]] = field(default_factory=dict)

    def load(self, task: Task, look: Callable[[StorageEngine], None] | None = None) -> None:
        """Open the database, look at it, and load to the end, in this process."""
        begin = time.monotonic()
        with StorageEngine(self.database.directories.file) as storage:
            opened = time.monotonic()
            if look is not None:
                look(storage)
            number = self._number(task)
            data = task.input(number, self.database.directories.input)
            looked = time.monotonic()
            task.load(storage, number, data)
        self.seconds[task.name] = time.monotonic() - looked + opened - begin
        for table in task.tables:
            self.database.published(task, table, number)
        self.next_number = number + 1

    def kill(self, task: Task) -> None:
        """Kill a load, then look at everything, then load."""
        # Publishing is short and comes last: every second kill is aimed at the end. The first
        # load of a process takes longer than later ones.
        begin = self.chance.choice([0.0, 0.7])
        seconds = self.chance.uniform(begin, 1.4) * self.seconds[task.name]
        try:
            self._kill(task, seconds)
        except Exception as error:
            error.add_note(f"{task.name}, killed after {seconds:.4f} s")
            raise

    def _kill(self, task: Task, seconds: float) -> None:
        file = self.database.directories.file
        first = self._number(task)
        process, begun = fork(
            load_again_and_again, self.database.directories, TASKS.index(task), first
        )
        last = kill(process, begun, seconds)
        self.next_number = last + 1
        # Who opens it first recovers it: now one that only reads, now one that writes.
        reads_first = self.chance.random() < 0.5
        if reads_first:
            with StorageEngine.open_existing(file) as storage:
                self._take_outcome(task, first, last, storage)

        def look(storage: StorageEngine) -> None:
            if not reads_first:
                self._take_outcome(task, first, last, storage)
            self.database.check(storage, task.tables)

        self.load(task, look)
        assert list(file.parent.iterdir()) == [file]

    def _take_outcome(self, task: Task, first: int, last: int, storage: StorageEngine) -> None:
        replaced = self.database.take_outcome(task, first, last, storage)
        met = self.met.setdefault(task.name, Counter())
        met["later"] += last > first
        met["new" if all(replaced) else "some days" if any(replaced) else "old"] += 1
        met["half-way"] += any(name.startswith("_loading_") for name in table_names(storage))

    def _number(self, task: Task) -> int:
        """The next number; a table that is there is dropped first, one that is not, made."""
        number = self.next_number
        if task.drops and task.has_tables(number) == (task.tables[0] in self.database.numbers):
            number += 1
        return number


def crash(root: Path, kills: int) -> dict[str, Counter[str]]:
    """Kill loads of all kinds in turn, in two databases at once, and return what the kills met."""
    with ThreadPoolExecutor(2) as threads:
        halves = [kills // 2, kills - kills // 2]
        results = list(threads.map(crash_one, [root / "one", root / "two"], halves))
    return {
        task.name: sum((met[task.name] for met in results if task.name in met), Counter())
        for task in TASKS
    }


def crash_one(root: Path, kills: int) -> dict[str, Counter[str]]:
    """Kill loads of all kinds in turn, in one database, and return what the kills met."""
    crashes = Crashes(Database(Directories(root)))
    for task in TASKS:
        crashes.load(task)
    for task in itertools.islice(itertools.cycle(TASKS), kills):
        crashes.kill(task)
    with StorageEngine.open_existing(crashes.database.directories.file) as storage:
        crashes.database.check(storage, list(TABLES))
    return crashes.met


def test_a_load_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    directories = Directories(tmp_path)
    with StorageEngine(directories.file):
        pass
    process, begun = fork(die_half_way, directories)
    assert begun.poll(PATIENCE)
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    with StorageEngine.open_existing(directories.file) as storage:
        assert storage.list_tables() == []
        assert not storage.table_exists("january")
        assert len(table_names(storage)) == len(INTERNAL_TABLES) + 1
    with StorageEngine(directories.file) as storage:
        assert table_names(storage) == INTERNAL_TABLES
        assert storage.execute_scalar("SELECT count(*) FROM _load_log") == 0
        assert storage.create_events_table("january", [event()], EVENTS) == 1
    assert list(directories.database.iterdir()) == [directories.file]


def test_all_is_whole_after_every_crash(tmp_path: Path) -> None:
    met = crash(tmp_path, KILLS)
    outcomes = sum(met.values(), Counter())
    assert outcomes["old"] + outcomes["some days"] + outcomes["new"] == KILLS
    # Some came before a table was published, some behind, and some while rows were inserted.
    assert min(outcomes["old"], outcomes["new"], outcomes["half-way"]) >= KILLS // 50
    assert all(met.values())


def test_a_first_load_that_was_killed_is_no_hindrance(tmp_path: Path) -> None:
    directories = Directories(tmp_path)
    (task, *_) = TASKS
    (table,) = task.tables
    chance = random.Random()
    for each in range(KILLS_OF_FIRST_LOADS):
        first = 1000 * each
        process, begun = fork(make_databases, directories, 0, first)
        last = kill(process, begun, chance.uniform(0, 0.3))
        made = [directories.database / f"{number}.duckdb" for number in range(first, last + 1)]
        for path in made[:-1]:
            with StorageEngine.open_existing(path) as storage:
                assert numbers(storage) == {table: 0}
        with StorageEngine(made[-1]) as storage:
            assert numbers(storage) in ({table: 0}, {})
            assert table_names(storage) == INTERNAL_TABLES | set(numbers(storage))
            task.load(storage, 0, task.input(0, directories.input))
            assert [counts.problems for counts in storage.count_rows([table])] == [[]]
        assert set(directories.database.iterdir()) == set(made)
        for path in made:
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill loads, and print what the kills met."""
    parser = argparse.ArgumentParser(description="Kill loads with SIGKILL, and look at the result.")
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="how many to kill")
    kills = parser.parse_args(arguments).kills
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mp_pipeline-crashes-") as directory:
        met = crash(Path(directory), kills)
    for name, outcomes in met.items():
        counts = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(outcomes.items()))
        sys.stdout.write(f"{name}: {counts}\n")
    sys.stdout.write(f"{kills} loads killed in {time.monotonic() - begin:.0f} s, all is whole\n")


if __name__ == "__main__":
    main()
