import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.storage_support import (
    DAY,
    EVENTS,
    FETCHED_AT,
    contents,
    event,
    export_line,
    window,
    write_lines,
)

FETCHED = TableMetadata("events", FETCHED_AT)
TABLE = f"events_{DAY:%Y%m%d}"
VERSIONS = {"a": 3000, "b": 2000}
"""The names of the events of each version of the day, and how many there are."""


def replace_day(storage: StorageEngine, name: str, data: Any) -> None:
    storage.replace_events_days("events", [window()], data, FETCHED, batch_size=500, run_id=name)


def replace_day_again_and_again(folder: Path) -> None:
    """What the process does that is killed: version b from a file, a from records, b, a, …"""
    with StorageEngine(folder / "a.duckdb") as storage:
        print("open", flush=True)  # noqa: T201
        while True:
            replace_day(storage, "b", [folder / "b.jsonl"])
            replace_day(
                storage,
                "a",
                (event(f"i{number}", event_name="a") for number in range(VERSIONS["a"])),
            )


def create_and_die(folder: Path) -> None:
    """Die of SIGKILL half-way through a load."""

    def records() -> Iterator[dict[str, Any]]:
        for number in range(100):
            yield event(f"i{number}")
        os.kill(os.getpid(), signal.SIGKILL)

    with StorageEngine(folder / "a.duckdb") as storage:
        storage.create_events_table("january", records(), EVENTS, batch_size=10)


def process(function: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mp_pipeline_tests.test_storage_crashes", function, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},  # what is left there goes with the test
    )


def tables(storage: StorageEngine) -> set[str]:
    return {name for (name,) in storage.execute_rows("SELECT table_name FROM duckdb_tables()")}


def test_a_load_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with StorageEngine(path) as storage:
        before = contents(storage)
    with process("create_and_die", tmp_path) as killed:
        killed.wait(60)
    assert killed.returncode == -signal.SIGKILL
    with StorageEngine.open_existing(path) as storage:
        assert storage.list_tables() == []
        assert not storage.table_exists("january")
    with StorageEngine(path) as storage:
        assert contents(storage) == before
        assert storage.create_events_table("january", [event()], EVENTS) == 1


def test_a_day_is_whole_after_every_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    write_lines(
        tmp_path / "b.jsonl", *[export_line(f"i{number}", "b") for number in range(VERSIONS["b"])]
    )
    with StorageEngine(path) as storage:
        replace_day(storage, "b", [tmp_path / "b.jsonl"])
    chance = random.Random(1)
    until = time.monotonic() + 15
    rounds = 0
    while rounds < 10 and time.monotonic() < until:
        rounds += 1
        with process("replace_day_again_and_again", tmp_path) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "open\n"
            time.sleep(chance.uniform(0, 0.4))
            killed.kill()
        assert killed.returncode == -signal.SIGKILL
        with StorageEngine(path) as storage:
            ((name, rows),) = storage.execute_rows(
                "SELECT event_name, count(*) FROM events GROUP BY ALL"
            )
            assert rows == VERSIONS[name]
            assert storage.execute_rows(f"SELECT DISTINCT event_name FROM {TABLE}") == [(name,)]
            (day,) = storage.count_rows([TABLE])
            assert (day.rows, day.problems) == (rows, [])
            assert day.last_load is not None
            assert day.last_load.run_id == name
            assert tables(storage) == {"_metadata", "_load_log", "_rejected", TABLE}
            assert storage.get_primary_key(TABLE) == ["insert_id"]
            replace_day(storage, "b", [tmp_path / "b.jsonl"])
            assert storage.execute_scalar("SELECT count(*) FROM events") == VERSIONS["b"]
    assert rounds >= 5


if __name__ == "__main__":
    {"create_and_die": create_and_die, "replace_day_again_and_again": replace_day_again_and_again}[
        sys.argv[1]
    ](Path(sys.argv[2]))
