"""Typed tables: the time to make them from a day, how that grows, and queries against JSON."""

import gzip
import random
import resource
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, write_day
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

DAYS = 4
MANY_EVENTS = 500
MANY_PROPERTIES = 2000
PROPERTIES_OF_AN_EVENT = 24
ALWAYS_THERE = 16
"""So many of an event's properties are on all of its rows, each of the others on half of them."""

YEAR = 365
PAIRS = 6
"""Days that are compared with a first one; the two take turns to be first."""

_ROUNDS = 5

QUERIES = {
    "filter": (
        "SELECT count(*) FROM events WHERE event_name = 'Song Played' "
        "AND (properties->>'$.duration')::BIGINT > 390",
        "SELECT count(*) FROM event.song_played WHERE duration > 390",
        50,
    ),
    "group by a property": (
        "SELECT properties->>'$.\"$city\"' AS city, count(*) FROM events "
        "WHERE event_name = 'Song Played' GROUP BY city ORDER BY ALL",
        "SELECT mp_city, count(*) FROM event.song_played GROUP BY mp_city ORDER BY ALL",
        40,
    ),
    "unique users": (
        "SELECT day, count(DISTINCT distinct_id) FROM events "
        "WHERE event_name = 'Purchase' AND (properties->>'$.price')::DOUBLE > 20 "
        "GROUP BY day ORDER BY day",
        "SELECT day, count(DISTINCT distinct_id) FROM event.purchase WHERE price > 20 "
        "GROUP BY day ORDER BY day",
        5,
    ),
}
"""Each question asked of JSON and of typed tables, and how many times faster the latter must be."""

_FUNNEL = """
    WITH first AS (
        SELECT distinct_id, min(event_time) AS at FROM {page_view} GROUP BY distinct_id
    ), second AS (
        SELECT distinct_id, min(event_time) AS at FROM {song_played} AS step
        JOIN first USING (distinct_id) WHERE step.event_time > first.at GROUP BY distinct_id
    ), third AS (
        SELECT distinct_id, min(event_time) AS at FROM {purchase} AS step
        JOIN second USING (distinct_id) WHERE step.event_time > second.at GROUP BY distinct_id
    )
    SELECT (SELECT count(*) FROM first), (SELECT count(*) FROM second), (SELECT count(*) FROM third)
"""
_STEPS = {
    "page_view": ("Page View", "", ""),
    "song_played": (
        "Song Played",
        "AND (properties->>'$.duration')::BIGINT > 100",
        "WHERE duration > 100",
    ),
    "purchase": ("Purchase", "AND (properties->>'$.price')::DOUBLE > 20", "WHERE price > 20"),
}
QUERIES["three-step funnel"] = (
    _FUNNEL.format(
        **{
            table: f"(FROM events WHERE event_name = '{event}' {condition})"
            for table, (event, condition, _) in _STEPS.items()
        }
    ),
    _FUNNEL.format(
        **{
            table: f"(FROM event.{table} {condition})"
            for table, (_, _, condition) in _STEPS.items()
        }
    ),
    5,
)


def cpu_seconds() -> float:
    """Return the CPU time of this process so far, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def load(_: Path, database: str, *sources: str) -> Figures:
    """Load a day from each file."""
    rows = 0
    before, start = cpu_seconds(), time.perf_counter()
    for number, source in enumerate(sources):
        rows += _load(Path(database), number, source)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - before,
    }


def type_days(_: Path, database: str, days: int) -> Figures:
    """Type days that are loaded, one after another."""
    rows = 0
    before, start = cpu_seconds(), time.perf_counter()
    for number in range(days):
        rows += _type(Path(database), number)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds() - before,
    }


def ask(_: Path, database: str) -> Figures:
    """Ask each question of JSON and of typed tables; return how many times faster the latter is."""
    figures: Figures = {"seconds": 0.0}
    with StorageEngine.open_existing(database) as storage:
        for what, (of_json, of_typed, _required) in QUERIES.items():
            if storage.execute_rows(of_json) != storage.execute_rows(of_typed):
                raise AssertionError(f"{what}: the answers differ")
            times: dict[str, list[float]] = {of_json: [], of_typed: []}
            for _round in range(_ROUNDS):
                for query, taken in times.items():
                    start = time.perf_counter()
                    storage.execute_rows(query)
                    taken.append(time.perf_counter() - start)
            json_seconds, typed_seconds = median(times[of_json]), median(times[of_typed])
            figures[f"{what}, JSON"] = json_seconds
            figures[f"{what}, typed"] = typed_seconds
            figures["seconds"] += json_seconds + typed_seconds
    return figures


def year(directory: Path, source: str, changed_source: str, days: int = YEAR) -> Figures:
    """Type the days of a year; compare the last ones with first ones, and one that widens a column.

    The speed of the machine drifts, so each is compared with typing the same day in a new database
    at the same moment.
    """
    path = directory / "year.duckdb"
    rows = 0
    start = time.perf_counter()
    for number in range(days - PAIRS - 1):
        _load(path, number, source)
        rows += _type(path, number)
    late = []
    for number in range(days - PAIRS - 1, days - 1):
        _load(path, number, source)
        late.append(_beside_a_first(path, number, source, after=number % 2 == 0))
    _load(path, days - 1, changed_source)
    before = time.perf_counter()
    _type(path, days - 1)
    widening = time.perf_counter() - before
    before = time.perf_counter()
    _type(path, days - 1)
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start,
        "late_ratio": median(late),
        "widening_seconds": widening,
        "again_seconds": time.perf_counter() - before,
    }


def _beside_a_first(path: Path, number: int, source: str, *, after: bool) -> float:
    """Return the CPU time of typing a day relative to that of a first day."""
    with TemporaryDirectory(dir=path.parent) as directory:
        first_path = Path(directory) / "first.duckdb"
        _load(first_path, 0, source)
        seconds = {}
        for each, day in [(path, number), (first_path, 0)][:: -1 if after else 1]:
            before = cpu_seconds()
            _type(each, day)
            seconds[each] = cpu_seconds() - before
    return seconds[path] / seconds[first_path]


def _load(path: Path, number: int, source: str) -> int:
    """Load a day; each has events of the same moments, only their day differs."""
    begin = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    window = DayWindow(_day(number), begin, begin + timedelta(days=1))
    metadata = TableMetadata("events", datetime.now(UTC))
    with StorageEngine(path) as storage:
        (report,) = storage.replace_events_days("events", [window], source, metadata)
    return report.rows_stored


def _type(path: Path, number: int) -> int:
    with StorageEngine(path) as storage:
        return storage.type_events_day("events", _day(number)).events


def _day(number: int) -> date:
    return DAY + timedelta(days=number)


def write_many_names(path: Path, events: int) -> Path:
    """Write a day of many events, each with some of many properties."""
    chance = random.Random(events)
    midnight = int(datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC).timestamp())
    names = [f"Property {number}" for number in range(MANY_PROPERTIES)]
    properties = [chance.sample(names, PROPERTIES_OF_AN_EVENT) for _ in range(MANY_EVENTS)]
    values: list[Callable[[str, int], str]] = [
        lambda name, bits: f'"{name}":{bits % 1000}',
        lambda name, bits: f'"{name}":{bits % 1000 / 100}',
        lambda name, bits: f'"{name}":"value {bits % 1000}"',
        lambda name, bits: f'"{name}":{"true" if bits % 2 else "false"}',
    ]
    with gzip.open(path, "wt", compresslevel=6) as file:
        for number in range(events):
            bits = chance.getrandbits(60)
            event = min(int(chance.expovariate(8) * MANY_EVENTS), MANY_EVENTS - 1)
            fields = ",".join(
                values[int(name[9:]) % len(values)](name, bits)
                for place, name in enumerate(properties[event])
                if place < ALWAYS_THERE or bits >> place & 1
            )
            file.write(
                f'{{"event":"Event {event}","properties":{{"time":{midnight + number % 86_400},'
                f'"distinct_id":"user_{bits % 100_003}","$insert_id":"{bits:015x}",{fields}}}}}\n'
            )
    return path


def write_changed_day(path: Path, source: Path) -> Path:
    """Write a day whose prices are texts on some events."""
    with gzip.open(source, "rt") as lines, gzip.open(path, "wt", compresslevel=6) as file:
        for number, line in enumerate(lines):
            file.write(line if number % 100 else line.replace('"price":', '"price":"free","was":'))
    return path


def measure(events: int, directory: Path) -> list[Line]:
    """Measure everything once, on that many events over a few days."""
    daily = max(events // DAYS, 1)
    usual = [
        write_day(directory / f"typed-{number}.jsonl.gz", daily, DAY) for number in range(DAYS)
    ]
    small = write_day(directory / "typed-small.jsonl.gz", max(events // 100, 1))
    many = write_many_names(directory / "typed-many.jsonl.gz", daily)
    changed = write_changed_day(directory / "typed-changed.jsonl.gz", small)
    lines = []
    with TemporaryDirectory(dir=directory) as databases:
        database = str(Path(databases) / "usual.duckdb")
        loaded = run_alone(load, database, *map(str, usual))
        typed = run_alone(type_days, database, DAYS)
        lines += _against_loads(f"{DAYS} days", loaded, typed, at_most=1)
        asked = run_alone(ask, database)
        for what, (_, _, required) in QUERIES.items():
            of_json, of_typed = asked[f"{what}, JSON"], asked[f"{what}, typed"]
            lines.append(
                Line(
                    "typed tables",
                    f"query: {what}",
                    [{"seconds": of_typed}],
                    f"{1000 * of_json:.3g} ms from JSON, {1000 * of_typed:.3g} ms typed",
                    [Target("times faster", of_json / of_typed, at_least=required)],
                )
            )
        database = str(Path(databases) / "many.duckdb")
        loaded = run_alone(load, database, *[str(many)] * DAYS)
        typed = run_alone(type_days, database, DAYS)
        what = f"{MANY_EVENTS} events, {MANY_PROPERTIES:,} properties"
        lines += _against_loads(what, loaded, typed, at_most=2.5)
    grown = run_alone(year, str(small), str(changed))
    lines.append(
        Line(
            "typed tables",
            f"{YEAR} days of {max(events // 100, 1):,}",
            [grown],
            f"widening a column: {grown['widening_seconds']:.2g} s, the same day without: "
            f"{grown['again_seconds']:.2g} s",
            [Target(f"times day 1's CPU on day {YEAR}", grown["late_ratio"], at_most=1.2)],
        )
    )
    return lines


def _against_loads(what: str, loaded: Figures, typed: Figures, at_most: float) -> list[Line]:
    ratio = typed["cpu_seconds"] / loaded["cpu_seconds"]
    return [
        Line("typed tables", f"{what}: loading", [loaded]),
        Line(
            "typed tables",
            f"{what}: typing",
            [typed],
            targets=[
                Target("times the CPU of the loads", ratio, at_most=at_most),
                Target("MB peak", typed["peak_bytes"] / 1e6, at_most=1000),
            ],
        ),
    ]
