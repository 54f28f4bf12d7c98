"""A lake beside a file: a day, writers at once, a year of days, and queries over it.

Its catalog is in a PostgreSQL server of its own on this machine, its data files in a directory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from mp_pipeline.storage import DayWindow, Lake, StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, write_day
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

WRITERS = 8
YEAR = 365
EARLY = range(5, 15)
"""The days, about day 10, that the last ones of a year are compared with."""

SMALL_DAY_EVENTS = 20_000
QUERIES = {
    "count all": "SELECT count(*) FROM events",
    "group by event": "SELECT event_name, count(*) FROM events GROUP BY event_name",
    "one day": "SELECT event_name, count(*) FROM events WHERE day = '{day}' GROUP BY ALL",
    "users of a month": "SELECT count(DISTINCT distinct_id) FROM events "
    "WHERE day BETWEEN DATE '{day}' - 29 AND DATE '{day}'",
    "a property of a day": "SELECT properties->>'$.platform', count(*) FROM events "
    "WHERE day = '{day}' GROUP BY ALL",
}
REPEATED = 5


def _open(place: str, directory: Path) -> StorageEngine:
    """Open a file, or the lake that ``[name, data path]`` in JSON describes."""
    if not place.startswith("["):
        return StorageEngine(place)
    name, data_path = json.loads(place)
    return StorageEngine(Lake.parse(name, data_path, directory / "tmp"))


def _load(storage: StorageEngine, number: int, source: str) -> int:
    """Load the same events under another day."""
    begin = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    window = DayWindow(DAY + timedelta(days=number), begin, begin + timedelta(days=1))
    metadata = TableMetadata("events", datetime.now(UTC))
    (report,) = storage.replace_events_days("events", [window], source, metadata)
    return report.rows_stored


def load(
    directory: Path, place: str, first: int, days: int, source: str, warm_up: str | None = None
) -> Figures:
    """Load days one after another, each with the database opened again.

    What a process does once, such as loading DuckDB's extensions, can happen in a day before.
    """
    if warm_up is not None:
        load(directory, place, -1, 1, warm_up)
    seconds, rows = [], 0
    for number in range(first, first + days):
        start = time.perf_counter()
        with _open(place, directory) as storage:
            rows += _load(storage, number, source)
        seconds.append(time.perf_counter() - start)
    figures: Figures = {"rows": rows, "seconds": sum(seconds)}
    if days >= YEAR:
        figures["growth"] = median(seconds[-len(EARLY) :]) / median(
            seconds[EARLY.start : EARLY.stop]
        )
        figures["publish"] = median(seconds[-len(EARLY) :])
    return figures


def query(directory: Path, place: str) -> Figures:
    """Return the shortest time of each query, in seconds."""
    figures: Figures = {}
    day = DAY + timedelta(days=YEAR // 2)
    with _open(place, directory) as storage:
        for name, sql in QUERIES.items():
            times = []
            for _ in range(REPEATED):
                start = time.perf_counter()
                storage.execute_rows(sql.format(day=day))
                times.append(time.perf_counter() - start)
            figures[name] = min(times)
    return figures


def _at_once(places: Sequence[str], source: str, warm_up: str) -> float:
    """Load a day into each of the places at once, in processes of their own; return days/s."""
    script = (
        "import sys; from pathlib import Path; "
        "from mp_pipeline_tests.benchmarks.lake import load; "
        "directory, place, number, source, warm_up = sys.argv[1:]; "
        "load(Path(directory), place, -1 - int(number), 1, warm_up); "
        "print('ready', flush=True); sys.stdin.readline(); "
        "load(Path(directory), place, int(number), 1, source)"
    )
    with TemporaryDirectory(prefix="mp_pipeline-benchmark-") as directory:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, directory, place, str(number), source, warm_up],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, place in enumerate(places)
        ]
        for process in processes:
            process.stdout.readline()  # type: ignore[union-attr]
        start = time.perf_counter()
        for process in processes:
            process.communicate("\n")
        seconds = time.perf_counter() - start
    if any(process.returncode for process in processes):
        raise RuntimeError("a writer failed")
    return len(places) / seconds


@contextmanager
def _lakes(directory: Path) -> Iterator[Iterator[str]]:
    """Start a PostgreSQL server; yield new lakes."""
    # The server is of the extra `test`, which other sections do without.
    from mp_pipeline_tests.support.postgres import PostgresServer

    with PostgresServer() as server:

        def new() -> Iterator[str]:
            while True:
                database = server.create_database()
                os.environ["PGPASSWORD"] = database.password
                name = (
                    f"ducklake:postgres:dbname={database.name} host={database.host} "
                    f"port={database.port} user={database.user}"
                )
                yield json.dumps([name, str(directory / database.name)])

        yield new()


def measure(rounds: int, source: Path, small: Path, directory: Path) -> list[Line]:
    """Run everything; the lake and the file take turns."""
    runs: dict[str, list[Figures]] = {"file": [], "lake": [], "lake again": []}
    with _lakes(directory) as lakes:
        for number in range(rounds):
            place = next(lakes)
            file = str(directory / f"{number}.duckdb")
            runs["file"].append(run_alone(load, file, 0, 1, str(source)))
            runs["lake"].append(run_alone(load, place, 0, 1, str(source)))
            runs["lake again"].append(run_alone(load, place, 0, 1, str(source)))
        tiny = str(write_day(directory / "tiny.jsonl.gz", SMALL_DAY_EVENTS))
        one = run_alone(load, next(lakes), 0, WRITERS, str(small), tiny)
        apart = _at_once([next(lakes) for _ in range(WRITERS)], str(small), tiny)
        same = [next(lakes)] * WRITERS
        first, again = (_at_once(same, str(small), tiny) for _ in range(2))
        place, file = next(lakes), str(directory / "year.duckdb")
        year = run_alone(load, place, 0, YEAR, tiny)
        run_alone(load, file, 0, YEAR, tiny)
        times = {"lake": run_alone(query, place), "file": run_alone(query, file)}
    in_file, in_lake = Line("lake", "a day in a file", runs["file"]), runs["lake"]
    ratio = Line("lake", "", in_lake).seconds / in_file.seconds
    return [
        in_file,
        Line(
            "lake",
            "the same day in a lake",
            in_lake,
            targets=[Target("times the file's time", ratio, at_most=1.3)],
        ),
        Line("lake", "that day again", runs["lake again"]),
        *_writers(one, apart, first, again),
        Line(
            "lake",
            f"{YEAR} days of {SMALL_DAY_EVENTS:,} events",
            [year],
            f"{year['publish']:.2f} s for each of the last days",
            targets=[Target("times the time of day 10", year["growth"], at_most=1.5)],
        ),
        *(
            Line(
                "lake",
                f"{name}, {YEAR} days",
                [{"seconds": times["lake"][name]}],
                f"{times['lake'][name] / times['file'][name]:.2g} times the file's time",
            )
            for name in QUERIES
        ),
    ]


def _writers(one: Figures, apart: float, first: float, again: float) -> Sequence[Line]:
    alone = WRITERS / one["seconds"]

    def line(name: str, rate: float, *targets: Target) -> Line:
        figures = {"seconds": WRITERS / rate, "rows": one["rows"]}
        compared = Target("times the throughput of one writer", rate / alone, at_least=0.9)
        return Line("lake", name, [figures], targets=[compared, *targets])

    def without_conflicts(rate: float) -> Target:
        return Target("times that of writers with a lake each", rate / apart, at_least=0.9)

    return [
        Line("lake", f"{WRITERS} days, one writer", [one]),
        line(f"{WRITERS} writers at once, a lake each", apart),
        line(f"{WRITERS} writers at once, one lake", first, without_conflicts(first)),
        line("the same days again", again, without_conflicts(again)),
    ]
