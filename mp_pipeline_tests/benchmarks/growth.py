"""Many days: the thirtieth day, an old day again, a day again and again, a thousand days."""

import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median

from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, write_day
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

DAYS = 30
OLD_DAY = 4
REPLACEMENTS = 50
MANY_DAYS = (365, 1100)
SMALL_DAY_EVENTS = 200
QUERIES = 15

_QUERY = """
    SELECT event_name, count(*) FROM {table}
    WHERE event_time >= '{day} 06:00' AND event_time < '{day} 07:00' GROUP BY ALL
"""


def _load(path: Path, number: int, source: str) -> tuple[int, float]:
    """Load a day as a run does, opening and closing the database; return rows and seconds.

    Each day gets the same events: only the day that they are stored under is another.
    """
    day = DAY + timedelta(days=number)
    begin = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    window = DayWindow(day, begin, begin + timedelta(days=1))
    start = time.perf_counter()
    with StorageEngine(path) as storage:
        (report,) = storage.replace_events_days(
            "events", [window], source, TableMetadata("events", datetime.now(UTC))
        )
    return report.rows_stored, time.perf_counter() - start


def in_a_row(folder: Path, source: str) -> Figures:
    """Load days in a row, and then an old one again. Each figure is of three loads or the only."""
    path = folder / "growth.duckdb"
    loads = [_load(path, number, source) for number in range(DAYS)]
    again = [_load(path, OLD_DAY, source)[1] for _ in range(3)]
    seconds = [each for _, each in loads]
    return {
        "rows": sum(rows for rows, _ in loads),
        "seconds": sum(seconds),
        "first_seconds": median(seconds[:3]),
        "last_seconds": median(seconds[-3:]),
        "again_seconds": median(again),
        "old_seconds": median(seconds[OLD_DAY - 1 : OLD_DAY + 2]),
    }


def replaced(folder: Path, source: str) -> Figures:
    """Load a day, and replace it again and again."""
    path = folder / "replaced.duckdb"
    _load(path, 0, source)
    first_bytes = path.stat().st_size
    start = time.perf_counter()
    rows = largest = 0
    for _ in range(REPLACEMENTS):
        rows += _load(path, 0, source)[0]
        largest = max(largest, path.stat().st_size)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "times_first_size": largest / first_bytes,
    }


def many_days(folder: Path, days: int) -> Figures:
    """Fill a database with small days, and time a query over one hour of one of them."""
    path = folder / "many.duckdb"
    source = write_day(folder / "day.jsonl.gz", SMALL_DAY_EVENTS)
    for number in range(days):
        _, seconds = _load(path, number, str(source))
    with StorageEngine.open_existing(path) as storage:
        view = _query_seconds(storage, "events", DAY)
        table = _query_seconds(storage, f"events_{DAY:%Y%m%d}", DAY)
    return {"seconds": seconds, "view_seconds": view, "table_seconds": table}


def _query_seconds(storage: StorageEngine, table: str, day: date) -> float:
    """Return the median time of a query that finds nearly nothing: it is all planning."""
    query = _QUERY.format(table=table, day=day)
    times = []
    for _ in range(QUERIES):
        start = time.perf_counter()
        storage.execute_rows(query)
        times.append(time.perf_counter() - start)
    return median(times)


def measure(events: int, source: Path, small_source: Path) -> list[Line]:
    """Run everything once; each compares its later loads with its earlier ones."""
    days = run_alone(in_a_row, str(source))
    lines = [
        Line(
            "many days",
            f"{DAYS} days of {events:,}, then day {OLD_DAY + 1} again",
            [days],
            targets=[
                Target(
                    f"times day 1's time on day {DAYS}",
                    days["last_seconds"] / days["first_seconds"],
                    at_most=1.1,
                ),
                Target(
                    "times its first time, an old day again",
                    days["again_seconds"] / days["old_seconds"],
                    at_most=1.15,
                ),
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
    for count in MANY_DAYS:
        of = run_alone(many_days, count)
        more = 1000 * (of["view_seconds"] - of["table_seconds"])
        what = "ms more to plan a query over the view"
        lines.append(
            Line(
                "many days",
                f"{count:,} small days; the load of the last",
                [of],
                "" if count == MANY_DAYS[0] else f"{more:,.3g} {what}",
                [Target(what, more, at_most=50)] if count == MANY_DAYS[0] else [],
            )
        )
    return lines
