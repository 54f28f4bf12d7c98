"""The engine in several threads, and records that come from the engine they are loaded into."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import LoadReport, StorageEngine, TableMetadata
from mp_pipeline_tests.support.databases import column, rows_of
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NOON,
    event,
    export_line,
    window,
    write_lines,
)

FETCHED = TableMetadata("events", FETCHED_AT)
THREADS = 4


def replace_day(storage: StorageEngine, number: int, records: Any) -> LoadReport:
    (report,) = storage.replace_events_days(
        "events", [window(DAY + timedelta(days=number))], records, FETCHED
    )
    return report


def of_day(number: int, insert_id: str) -> dict[str, Any]:
    return event(insert_id, event_time=NOON + timedelta(days=number))


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Do work in several threads that start together; an error in one of them is raised."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        start.wait(60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def test_threads_load_days_of_one_dataset(storage: StorageEngine) -> None:
    def load(number: int) -> None:
        for round_ in range(3):
            day = number * 3 + round_
            replace_day(storage, day, [of_day(day, f"i{day}")])

    at_once(load)
    days = storage.list_days("events")
    assert [info.row_count for info in days] == [1] * THREADS * 3
    assert column(storage, "events", "insert_id") == sorted(f"i{day}" for day in range(12))
    assert all(counts.problems == [] for counts in storage.count_rows([d.table_name for d in days]))


def test_threads_load_the_same_day(storage: StorageEngine) -> None:
    published = threading.Barrier(THREADS)

    def records(number: int) -> Iterator[dict[str, Any]]:
        yield of_day(0, f"a{number}")
        published.wait(60)  # all of them are staged before the first is published
        yield of_day(0, f"b{number}")

    reports = at_once(lambda number: replace_day(storage, 0, records(number)))
    assert [report.rows_stored for report in reports] == [2] * THREADS
    stored = column(storage, "events", "insert_id")
    assert stored in [[f"a{number}", f"b{number}"] for number in range(THREADS)]
    assert len(storage.list_loads("events")) == THREADS
    assert storage.count_rows(["events_20240115"])[0].problems == []


def test_threads_query_while_others_load(storage: StorageEngine) -> None:
    replace_day(storage, 0, [of_day(0, "i0")])
    rows = rows_of(storage, "events_20240115")

    def work(number: int) -> list[Any]:
        if number % 2:
            for _ in range(20):
                replace_day(storage, number, [of_day(number, f"i{number}")])
            return []
        return [
            (
                storage.execute_scalar(f"SELECT count(*) >= 1 FROM {rows}"),
                storage.list_days("events")[0].row_count,
            )
            for _ in range(50)
        ]

    for answers in at_once(work):
        assert set(answers) <= {(True, 1)}
    assert column(storage, "events", "insert_id") == ["i0", "i1", "i3"]


def test_two_engines_of_one_process_load_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "test.duckdb"

    def load(number: int) -> None:
        with StorageEngine(path) as storage:
            replace_day(storage, number, [of_day(number, f"i{number}")])

    at_once(load)
    with StorageEngine(path) as storage:
        assert column(storage, "events", "insert_id") == ["i0", "i1", "i2", "i3"]
        assert len(storage.list_days("events")) == THREADS


def test_records_may_use_the_engine_that_they_are_loaded_into(storage: StorageEngine) -> None:
    replace_day(storage, 0, [of_day(0, f"i{number}") for number in range(100)])

    def records() -> Iterator[dict[str, Any]]:
        for number in range(100):
            assert storage.list_days("events")[0].row_count == 100
            assert storage.execute_scalar("SELECT count(*) FROM events") == 100
            assert storage.connection.execute("SELECT 42").fetchall() == [(42,)]
            assert storage.table_exists("events_20240115")
            if number == 50:
                storage.create_events_table("meanwhile", [event()], EVENTS)
            yield of_day(1, f"new{number}")

    (report,) = storage.replace_events_days(
        "events", [window(DAY + timedelta(days=1))], records(), FETCHED, batch_size=5
    )
    assert report.rows_stored == 100
    assert storage.execute_scalar("SELECT count(*) FROM events") == 200
    assert storage.execute_scalar("SELECT count(*) FROM meanwhile") == 1


def test_reports_come_one_by_one_and_the_engine_may_be_used_between_them(
    storage: StorageEngine, tmp_path: Path
) -> None:
    file = write_lines(
        tmp_path / "days.jsonl",
        export_line("i1"),
        export_line("i2", time=1705320000 + 86400),
    )
    windows = [window(), window(DAY + timedelta(days=1))]
    reports = storage.replace_events_days("events", windows, file, FETCHED)
    assert storage.list_days("events") == []  # nothing is loaded before it is asked for
    first = next(reports)
    assert (first.day, column(storage, "events", "insert_id")) == (DAY, ["i1"])
    storage.create_events_table("meanwhile", [event()], EVENTS)
    second = next(reports)
    assert (second.rows_stored, column(storage, "events", "insert_id")) == (1, ["i1", "i2"])
    assert list(reports) == []


def test_reports_that_are_not_asked_for_leave_nothing_behind(storage: StorageEngine) -> None:
    windows = [window(), window(DAY + timedelta(days=1))]
    reports = storage.replace_events_days("events", windows, [event()], FETCHED)
    assert next(reports).day == DAY
    reports.close()
    assert [info.day for info in storage.list_days("events")] == [DAY]
    tables = storage.execute_rows("SELECT table_name FROM duckdb_tables() ORDER BY ALL")
    assert not [name for (name,) in tables if name.startswith("_loading_")]


def test_arguments_are_checked_at_the_call(storage: StorageEngine) -> None:
    with pytest.raises(ValueError, match="duplicate day: 2024-01-15"):
        storage.replace_events_days("events", [window(), window()], [], FETCHED)
    with pytest.raises(ValueError, match="no days to replace"):
        storage.replace_events_days("events", [], [], FETCHED)
