"""Many days: day 30, reloading an old day, reloading a day 50 times, 1,100 days."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, write_day
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

DAYS = 30
OLD_DAY = 4
PAIRS = 6
"""Loads that are compared with a first one; an even number, as the two take turns to be first."""

REPLACEMENTS = 50
MANY_DAYS = (365, 1100)
SMALL_DAY_EVENTS = 200
QUERIES = 15

_QUERY = """
    SELECT event_name, count(*) FROM {table}
    WHERE event_time >= '{day} 06:00' AND event_time < '{day} 07:00' GROUP BY ALL
"""


def _load(path: Path, numbers: Sequence[int], source: str) -> tuple[int, float]:
    """Open the database, load days and close it; return rows and seconds.

    Each day has the same events; only the day that they are stored under differs.
    """
    begin = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    windows = [
        DayWindow(DAY + timedelta(days=number), begin, begin + timedelta(days=1))
        for number in numbers
    ]
    start = time.perf_counter()
    with StorageEngine(path) as storage:
        reports = list(
            storage.replace_events_days(
                "events", windows, source, TableMetadata("events", datetime.now(UTC))
            )
        )
    return sum(report.rows_stored for report in reports), time.perf_counter() - start


def in_a_row(directory: Path, source: str) -> Figures:
    """Load consecutive days, then reload an old one.

    Each load is compared with a load of the same file into a new database at the same time, because
    the speed of the machine drifts.
    """
    path = directory / "growth.duckdb"
    loads = [_load(path, [number], source) for number in range(DAYS - PAIRS)]
    late = [
        _beside_a_first(path, number, source, after=number % 2 == 0)
        for number in range(DAYS - PAIRS, DAYS)
    ]
    again = [
        _beside_a_first(path, OLD_DAY, source, after=number % 2 == 0) for number in range(PAIRS)
    ]
    return {
        "rows": sum(rows for rows, _ in loads),
        "seconds": sum(seconds for _, seconds in loads),
        "late_ratio": median(late),
        "again_ratio": median(again),
    }


def _beside_a_first(path: Path, number: int, source: str, *, after: bool) -> float:
    """Return the time of a load relative to a first load at the same time.

    The order, `after`, alternates: what one load has written goes to disk during the other.
    """
    if after:
        first = _first(path.parent, source)
    _, seconds = _load(path, [number], source)
    if not after:
        first = _first(path.parent, source)
    return seconds / first


def _first(parent: Path, source: str) -> float:
    """Return the seconds that a load into a new database takes."""
    with TemporaryDirectory(dir=parent) as directory:
        return _load(Path(directory) / "first.duckdb", [0], source)[1]


def replaced(directory: Path, source: str, times: int = REPLACEMENTS) -> Figures:
    """Load a day, then replace it repeatedly."""
    path = directory / "replaced.duckdb"
    _load(path, [0], source)
    first_bytes = path.stat().st_size
    start = time.perf_counter()
    rows = largest = 0
    for _ in range(times):
        rows += _load(path, [0], source)[0]
        largest = max(largest, path.stat().st_size)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "times_first_size": largest / first_bytes,
    }


def many_days(directory: Path, *counts: int) -> Figures:
    """Fill a database with small days; at each count time the last load and a query's planning."""
    path = directory / "many.duckdb"
    source = str(write_day(directory / "day.jsonl.gz", SMALL_DAY_EVENTS))
    figures: Figures = {}
    there = 0
    for count in counts:
        _load(path, range(there, count - 1), source)
        _, figures[f"load_{count}"] = _load(path, [count - 1], source)
        there = count
        with StorageEngine.open_existing(path) as storage:
            view = _query_seconds(storage, "events")
            table = _query_seconds(storage, f"events_{DAY:%Y%m%d}")
        figures[f"plan_{count}"] = view - table
    return figures


def _query_seconds(storage: StorageEngine, table: str) -> float:
    """Return the shortest time of a query that reads almost nothing, which is its planning time."""
    query = _QUERY.format(table=table, day=DAY)
    times = []
    for _ in range(QUERIES):
        start = time.perf_counter()
        storage.execute_rows(query)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(events: int, source: Path, small_source: Path) -> list[Line]:
    """Run everything once; each part compares later loads with earlier ones."""
    days = run_alone(in_a_row, str(source))
    lines = [
        Line(
            "many days",
            f"{DAYS} days of {events:,}, then day {OLD_DAY + 1} again",
            [days],
            targets=[
                Target(f"times day 1's time on day {DAYS}", days["late_ratio"], at_most=1.1),
                Target("times its first time, an old day again", days["again_ratio"], at_most=1.15),
            ],
        )
    ]
    again = run_alone(replaced, str(small_source))
    lines.append(
        Line(
            "many days",
            f"{REPLACEMENTS} replacements of a day",
            [again],
            targets=[Target("times its first size", again["times_first_size"], at_most=2)],
        )
    )
    many = run_alone(many_days, *MANY_DAYS)
    what = "ms more to plan a query over the view"
    year, years = MANY_DAYS
    plan = {count: 1000 * many[f"plan_{count}"] for count in MANY_DAYS}
    lines += [
        Line(
            "many days",
            f"loading small day {year}",
            [{"seconds": many[f"load_{year}"]}],
            targets=[Target(what, plan[year], at_most=50)],
        ),
        Line(
            "many days",
            f"loading small day {years:,}",
            [{"seconds": many[f"load_{years}"]}],
            f"{plan[years]:.3g} {what}",
        ),
    ]
    return lines
