"""Metrics of 30 days: funnels, retention, sessions, active users, identities, profiles' history."""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import duckdb

from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
from mp_pipeline.storage.metrics.components import find_components
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target

DAYS = 30
FIRST = date(2024, 1, 1)
MAX_MEMORY = 2000  # MB
_ROUNDS = 3

_RANGE = f"DATE '{FIRST}', DATE '{FIRST + timedelta(days=DAYS - 1)}'"
# A person is the user of the device, so that events from before the login are theirs, too.
_PEOPLE = """
    people AS (
        SELECT properties->>'$."$device_id"' AS device, max(properties->>'$."$user_id"') AS user_id
        FROM events GROUP BY device
    ), event AS (
        SELECT coalesce(user_id, device) AS person, event_time, event_name, day, {value} AS value
        FROM events JOIN people ON properties->>'$."$device_id"' = device {where}
    )
"""


def _funnel_by_hand(steps: Sequence[str], value: str = "NULL") -> str:
    """Return a funnel as someone would write it without macros: one join per step."""
    names = ", ".join(f"'{step}'" for step in steps)
    ctes = [
        _PEOPLE.format(value=value, where=f"WHERE event_name IN ({names})"),
        "step1 AS (SELECT person, value, min(event_time) AS entered, min(event_time) AS latest "
        f"FROM event WHERE event_name = '{steps[0]}' GROUP BY ALL)",
    ]
    ctes += [
        f"step{number} AS (SELECT before.person, before.value, entered, "
        "greatest(latest, min(event_time)) AS latest "
        f"FROM step{number - 1} AS before JOIN event USING (person) "
        f"WHERE event_name = '{step}' AND event_time >= latest - INTERVAL 2 SECOND "
        "AND event_time <= entered + INTERVAL 7 DAY "
        "GROUP BY before.person, before.value, entered, latest)"
        for number, step in enumerate(steps[1:], 2)
    ]
    counts = " UNION ALL ".join(
        f"SELECT value, {number} AS step, count(*) AS users FROM step{number} GROUP BY value"
        for number in range(1, len(steps) + 1)
    )
    return f"WITH {', '.join(ctes)} SELECT users FROM ({counts}) ORDER BY value, step"


_RETENTION_BY_HAND = f"""
    WITH {_PEOPLE.format(value="NULL", where="")}, born AS (
        SELECT person, min(event_time) AS born_at, min(day) AS cohort
        FROM event WHERE event_name = 'Page View' GROUP BY person
    ), seen AS (
        SELECT person, cohort,
            floor(epoch(max(event_time) FILTER (event_time > born_at) - born_at) / 86400) AS last
        FROM born JOIN event USING (person) GROUP BY person, cohort, born_at
    )
    SELECT count(*) FILTER (last >= bucket) FROM seen CROSS JOIN range(15) AS buckets(bucket)
    GROUP BY cohort, bucket ORDER BY cohort, bucket
"""
_THREE = ["Page View", "Search", "Purchase"]
_FIVE = ["Page View", "Search", "Add to Cart", "Purchase", "Share"]

QUESTIONS = {
    "three-step funnel": (
        f"SELECT users FROM funnel({_THREE}, {_RANGE}) ORDER BY step",
        _funnel_by_hand(_THREE),
    ),
    "five-step funnel": (
        f"SELECT users FROM funnel({_FIVE}, {_RANGE}) ORDER BY step",
        _funnel_by_hand(_FIVE),
    ),
    "funnel by a property": (
        f"SELECT users FROM funnel_by({_THREE}, {_RANGE}, 'country') ORDER BY value, step",
        _funnel_by_hand(_THREE, "properties->>'$.country'"),
    ),
    "retention by day": (
        f"SELECT retained FROM retention('Page View', NULL, {_RANGE}) ORDER BY cohort, bucket",
        _RETENTION_BY_HAND,
    ),
}
"""Each question as a macro, and written by hand over JSON."""


def load(_: Path, database: str, events: int) -> Figures:
    """Load days of events of users with one device each."""
    before = time.perf_counter()
    with StorageEngine(database) as storage, TemporaryDirectory() as directory:
        for number in range(DAYS):
            path = Path(directory) / "day.json"
            storage.connection.execute(_day_of(number, events, path)).fetchall()
            midnight = datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=number)
            day = DayWindow(midnight.date(), midnight, midnight + timedelta(days=1))
            metadata = TableMetadata("events", datetime.now(UTC))
            list(storage.replace_events_days("events", [day], path, metadata))
    return {"rows": events, "seconds": time.perf_counter() - before}


def _day_of(number: int, events: int, path: Path) -> str:
    """Return the query that writes the lines of a day. A third of the events is anonymous."""
    chance = [f"hash(n || ' {number} {salt}') / 18446744073709551616" for salt in range(4)]
    begin = int(datetime.combine(FIRST, datetime.min.time(), UTC).timestamp()) + number * 86_400
    return f"""
        COPY (
            SELECT CASE WHEN kind < 0.5 THEN 'Page View' WHEN kind < 0.8 THEN 'Search'
                    WHEN kind < 0.9 THEN 'Add to Cart' WHEN kind < 0.95 THEN 'Purchase'
                    ELSE 'Share' END AS event,
                {{'time': {begin} + floor(moment * 86399)::BIGINT,
                'distinct_id': if(anonymous < 0.33, '$device:d', 'user_') || person,
                '$insert_id': md5(n || ' {number}'), '$device_id': 'd' || person,
                '$user_id': if(anonymous < 0.33, NULL, 'user_' || person),
                'country': ['US', 'DE', 'FR', 'IN'][1 + person % 4],
                'city': 'City ' || person % 50, 'price': round(moment * 100, 2),
                '$current_url': 'https://example.com/products/' || n % 1000,
                '$browser': 'Chrome', '$os': 'Windows', '$screen_height': 1080}} AS properties
            FROM (
                SELECT n, {chance[0]} AS kind, {chance[1]} AS moment, {chance[2]} AS anonymous,
                    floor(pow({chance[3]}, 2) * {max(events // 20, 1)})::BIGINT AS person
                FROM range({events // DAYS}) AS events(n))
        ) TO '{path}' (FORMAT json)
    """


def identify(_: Path, database: str) -> Figures:
    """Find the users of all days."""
    before = time.perf_counter()
    with StorageEngine(database) as storage:
        report = storage.update_identities("events")
    return {"rows": report.ids, "seconds": time.perf_counter() - before}


def ask(_: Path, database: str, question: str) -> Figures:
    """Ask a question of the macro."""
    macro, _by_hand = QUESTIONS[question]
    return _timed(database, macro)


def ask_by_hand(_: Path, database: str, question: str) -> Figures:
    """Ask a question by hand; fail if the answer is not that of the macro."""
    macro, by_hand = QUESTIONS[question]
    with StorageEngine.open_existing(database) as storage:
        answers = [storage.execute_rows(query) for query in (macro, by_hand)]
    if answers[0] != answers[1]:
        raise AssertionError(f"{question}: the answers differ: {answers}")
    return _timed(database, by_hand)


def _timed(database: str, query: str) -> Figures:
    taken = []
    with StorageEngine.open_existing(database) as storage:
        for _round in range(_ROUNDS):
            before = time.perf_counter()
            storage.execute_rows(query)
            taken.append(time.perf_counter() - before)
    return {"seconds": median(taken)}


def make_sessions(_: Path, database: str) -> Figures:
    """Make the sessions of the last day."""
    with StorageEngine(database) as storage:
        report = storage.update_sessions("events", FIRST + timedelta(days=DAYS - 1))
    return {"rows": report.sessions, "seconds": report.seconds}


def make_daily_metrics(_: Path, database: str) -> Figures:
    """Make the metrics of the last day, whose window is all days."""
    with StorageEngine(database) as storage:
        report = storage.update_daily_metrics("events", FIRST + timedelta(days=DAYS - 1))
    return {"rows": report.events, "seconds": report.seconds}


def connect_pairs(_: Path, shape: str, pairs: int) -> Figures:
    """Find the components of pairs of a shape."""
    others = {
        "star": "(n // 10) * 10",
        "chain": "n + 1",
        "random": f"hash(n) % {pairs}",
    }
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE pairs AS SELECT 'user_' || n AS id, 'user_' || {others[shape]} AS other "
            f"FROM range({pairs}) AS pairs(n)"
        ).fetchall()
        before = time.perf_counter()
        find_components(connection, "FROM pairs WHERE id <> other")
        return {"rows": pairs, "seconds": time.perf_counter() - before}


def keep_profiles(directory: Path, profiles: int) -> Figures:
    """Keep a first snapshot of profiles, then one in which 1 % changed."""
    figures: Figures = {"rows": profiles}
    path = directory / "profiles.json"
    with StorageEngine(directory / "history.duckdb") as storage:
        for name, changed in (("first", "false"), ("second", "n % 100 = 0")):
            storage.connection.execute(
                f"""
                COPY (SELECT 'user_' || n AS "$distinct_id", {{'$email': 'user' || n || '@test.com',
                    '$name': md5(n::VARCHAR), '$city': 'City ' || n % 100,
                    'plan': if({changed}, 'pro', 'free')}} AS "$properties"
                FROM range({profiles}) AS profiles(n)) TO '{path}' (FORMAT json)
                """
            ).fetchall()
            storage.replace_table("profiles", path, TableMetadata("profiles", datetime.now(UTC)))
            before = time.perf_counter()
            storage.update_profile_history("profiles")
            figures[f"{name}_seconds"] = time.perf_counter() - before
    return figures | {"seconds": figures["second_seconds"]}


def measure(events: int, directory: Path) -> list[Line]:
    """Measure everything once: on that many events over 30 days, and a tenth as many pairs."""
    lines = []
    with TemporaryDirectory(dir=directory) as databases:
        database = str(Path(databases) / "metrics.duckdb")
        run_alone(load, database, events)
        lines.append(_line("identities of all days", run_alone(identify, database)))
        for question in QUESTIONS:
            line = _line(question, run_alone(ask, database, question))
            by_hand = run_alone(ask_by_hand, database, question)
            times = by_hand["seconds"] / line.seconds
            line.targets.append(Target("times faster than by hand", times, at_least=3))
            lines.append(line)
        lines.append(_line("sessions of a day", run_alone(make_sessions, database)))
        made = run_alone(make_daily_metrics, database)
        lines.append(_line("metrics of a day, 30 days before it", made))
    lines += [
        _line(f"components of pairs: {shape}", run_alone(connect_pairs, shape, events // 10))
        for shape in ("star", "chain", "random")
    ]
    kept = run_alone(keep_profiles, events // 10)
    line = _line("history: 1 % of profiles changed", kept)
    ratio = kept["second_seconds"] / kept["first_seconds"]
    line.targets.append(Target("times the first snapshot", ratio, at_most=0.4))
    return [*lines, line]


def _line(name: str, figures: Figures) -> Line:
    memory = Target("MB peak", figures["peak_bytes"] / 1e6, at_most=MAX_MEMORY)
    return Line("metrics", name, [figures], targets=[memory])
