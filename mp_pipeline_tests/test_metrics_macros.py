"""Funnels and retention, compared with a search through the events of each user."""

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from statistics import median
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from mp_pipeline.storage import QueryError, StorageEngine, TableExistsError, rewrite
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.metrics import FIRST, Event, days_from, load, random_time

GRACE = timedelta(seconds=2)
DAY = timedelta(days=1)
LENGTHS = {"day": DAY, "week": 7 * DAY, "month": 30 * DAY}
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]
VERBS = {"$identify", "$create_alias", "$merge"}
ROUNDS = 12
Row = tuple[Any, ...]


def at(hours: float, seconds: float = 0) -> datetime:
    return datetime.combine(FIRST, time()) + timedelta(hours=hours, seconds=seconds)


def one(name: str, moment: datetime, user: str = "u1", **properties: Any) -> Event:
    return Event(name, user, moment, f"{user} {name} {moment}", properties)


def load_all(storage: StorageEngine, events: Sequence[Event], days: Sequence[date]) -> None:
    load(storage, events, days)
    storage.update_identities("events")


def load_in_part_typed(
    storage: StorageEngine,
    chance: random.Random,
    events: Sequence[Event],
    days: Sequence[date],
    zone: str,
) -> None:
    """Load all; some days are typed, of others an earlier load is."""
    share, others = chance.random(), chance.sample(events, len(events) // 2)
    load(storage, others, days, zone)
    for day in days:
        if chance.random() < share:
            storage.type_events_day("events", day)
    load(storage, events, days, zone)
    storage.update_identities("events")
    type_some(storage, chance, days)


def type_some(storage: StorageEngine, chance: random.Random, days: Sequence[date]) -> None:
    for day in chance.sample(days, chance.choice([0, 1, 3])):
        storage.type_events_day("events", day)


def counts(storage: StorageEngine, call: str) -> list[int]:
    return [users for (users,) in storage.execute_rows(f"SELECT users FROM {call} ORDER BY step")]


def random_events(
    chance: random.Random, days: Sequence[date], zone: str, number: int
) -> tuple[list[Event], dict[str, str]]:
    """Return events, and the user of each ID: `b…` is the same person as `a…`."""
    users = ["a1", "a2", "a3", "b3", "a4", "b4", "", "null"]
    linked = [
        Event("$merge", "a1", random_time(chance, days[0], zone), f"m{n}", {"$distinct_ids": pair})
        for n, pair in enumerate([["a3", "b3"], ["b4", "a4"]])
    ]
    events: list[Event] = []
    for n in range(number):
        if events and chance.random() < 0.4:  # close to another one
            near = chance.choice(events)
            shift = chance.choice([0, 0, 1, 2, -2, 3, 1800, 86400, 7 * 86400])
            moment = near.at + timedelta(seconds=shift, microseconds=chance.choice([-1, 0, 0, 1]))
            user = near.user
        else:
            moment, user = random_time(chance, chance.choice(days), zone), chance.choice(users)
        properties = {"plan/x~": chance.choice(["free", "pro", 1])} if chance.random() < 0.8 else {}
        name = chance.choice(["A", "A", "B", "B", "C", "D", "$identify"])
        event = Event(name, user, moment, f"i{n}", properties)
        if event.day(zone) in days:
            events.append(event)
    return [*events, *linked], {"b3": "a3", "b4": "a4"}


def by_user(events: Iterable[Event], users: dict[str, str]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda each: each.at):
        if event.user not in ("", "null"):
            found.setdefault(users.get(event.user, event.user), []).append(event)
    return found


# Funnels


def walk(
    events: Sequence[Event], first: Event, steps: Sequence[str], within: timedelta
) -> list[datetime]:
    """Return when a user reached each step, one first instance after the other."""
    used, times = [first], [first.at]
    for step in steps[1:]:
        candidates = [
            event
            for event in events
            if event.name == step
            and event not in used
            and times[-1] - GRACE <= event.at <= first.at + within
        ]
        if not candidates:
            break
        taken = min(candidates, key=lambda each: each.at)
        used.append(taken)
        times.append(max(times[-1], taken.at))
    return times


def most_steps(
    events: Sequence[Event], used: Sequence[Event], steps: Sequence[str], within: timedelta
) -> int:
    """Return how many steps any choice of events can reach, after those that are chosen."""
    if len(used) == len(steps):
        return len(used)
    latest = max(event.at for event in used)
    return max(
        (
            most_steps(events, [*used, event], steps, within)
            for event in events
            if event.name == steps[len(used)]
            and event not in used
            and latest - GRACE <= event.at <= used[0].at + within
        ),
        default=len(used),
    )


def expected_funnel(
    users: dict[str, list[Event]],
    steps: Sequence[str],
    days: tuple[date, date],
    within: timedelta,
    zone: str,
    value: Any = all,
) -> list[Row]:
    """Return the rows of a funnel, of those whose first step has a value."""
    reached: list[list[datetime]] = []
    for events in users.values():
        of_range = [event for event in events if event.day(zone) >= days[0]]
        firsts = [
            event
            for event in of_range
            if event.name == steps[0]
            and event.day(zone) <= days[1]
            and (value is all or event.properties.get("plan/x~") == value)
        ]
        if firsts:
            reached.append(walk(of_range, firsts[0], steps, within))
            assert len(reached[-1]) == most_steps(of_range, firsts[:1], steps, within)
    rows: list[Row] = []
    for number, step in enumerate(steps):
        there = [times for times in reached if len(times) > number]
        seconds = sorted(
            (times[number] - times[number - 1]) / timedelta(seconds=1) for times in there
        )
        place = 0.9 * (len(seconds) - 1)
        before = rows[-1][2] if rows else 0
        rows.append(
            (
                *(number + 1, step, len(there)),
                len(there) / len(reached) if reached else None,
                len(there) / before if before else None,
                pytest.approx(median(seconds)) if number and seconds else None,
                pytest.approx(
                    seconds[int(place)]
                    + (place % 1)
                    * (seconds[min(int(place) + 1, len(seconds) - 1)] - seconds[int(place)])
                )
                if number and seconds
                else None,
            )
        )
    return rows


@pytest.mark.parametrize("seed", range(3))
def test_a_funnel_counts_users_in_order(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    zone = chance.choice(ZONES)
    days = days_from(FIRST, 12)
    events, merged = random_events(chance, days, zone, 120)
    users = by_user(events, merged)
    load_in_part_typed(storage, chance, events, days, zone)
    converted = 0
    for _ in range(ROUNDS):
        type_some(storage, chance, days)
        steps = [chance.choice("ABCD") for _ in range(chance.choice([1, 2, 3, 3, 5]))]
        first, last = sorted(chance.choices(days, k=2))
        within = chance.choice([timedelta(0), timedelta(minutes=30), DAY, 7 * DAY])
        arguments = f"{steps}, DATE '{first}', DATE '{last}'"
        window = f"within := to_seconds({within.total_seconds():.0f})"
        rows = storage.execute_rows(f"FROM funnel({arguments}, {window})")
        assert rows == expected_funnel(users, steps, (first, last), within, zone)
        converted += rows[-1][2] if len(steps) > 1 else 0
        rows = storage.execute_rows(f"FROM funnel_by({arguments}, 'plan/x~', {window})")
        found: dict[Any, list[Row]] = {}
        for value, *row in rows:
            found.setdefault(1 if value == "1" else value, []).append(tuple(row))
        for value in ("free", "pro", 1, None):
            expected = expected_funnel(users, steps, (first, last), within, zone, value)
            assert found.get(value, expected if expected[0][2] == 0 else None) == expected
    assert converted


def test_the_window_begins_with_the_first_step_and_ends_with_its_last_moment(
    storage: StorageEngine,
) -> None:
    microsecond = timedelta(microseconds=1)
    events = [
        *(one("A", at(0), user) for user in ("u1", "u2", "u3")),
        one("A", at(24), "u2"),  # does not move the window
        one("B", at(7 * 24), "u1"),
        one("B", at(7 * 24) + microsecond, "u2"),
        one("B", at(0) - microsecond - GRACE, "u3"),
    ]
    load_all(storage, events, days_from(FIRST - DAY, 10))
    call = f"funnel(['A', 'B'], DATE '{FIRST}', DATE '{FIRST}'{{}})"
    assert counts(storage, call.format("")) == [3, 1]
    assert counts(storage, call.format(", within := INTERVAL 8 DAY")) == [3, 2]


def test_steps_two_seconds_apart_come_in_any_order(storage: StorageEngine) -> None:
    events = [
        one("A", at(1), "u1"),
        one("B", at(1) - GRACE, "u1"),
        one("A", at(1), "u2"),
        one("B", at(1) - GRACE - timedelta(microseconds=1), "u2"),
        one("A", at(0), "u3"),
        one("B", at(0) - GRACE, "u3"),  # of the day before the range
    ]
    load_all(storage, events, days_from(FIRST - DAY, 2))
    assert counts(storage, f"funnel(['A', 'B'], DATE '{FIRST}', DATE '{FIRST}')") == [3, 1]


def test_an_event_stands_for_one_step_only(storage: StorageEngine) -> None:
    events = [
        one("A", at(1), "u1"),
        one("A", at(1), "u2"),
        Event("A", "u2", at(1), "another one at the same time"),
    ]
    load_all(storage, events, [FIRST])
    assert counts(storage, f"funnel(['A', 'A', 'A'], DATE '{FIRST}', DATE '{FIRST}')") == [2, 1, 0]


def test_events_that_only_link_ids_are_no_activity(storage: StorageEngine) -> None:
    load_all(storage, [one("$identify", at(0)), one("A", at(1)), one("$identify", at(2))], [FIRST])
    days = f"DATE '{FIRST}', DATE '{FIRST}'"
    assert counts(storage, f"funnel(['$identify', 'A'], {days})") == [0, 0]
    assert counts(storage, f"funnel(['A', '$identify'], {days})") == [1, 0]
    assert storage.execute_rows(f"FROM retention('$identify', 'A', {days})") == []


def test_a_funnel_without_users(storage: StorageEngine) -> None:
    load_all(storage, [], [FIRST])
    arguments = f"['A', 'B'], DATE '{FIRST}', DATE '{FIRST}'"
    assert storage.execute_rows(f"FROM funnel({arguments})") == [
        (1, "A", 0, None, None, None, None),
        (2, "B", 0, None, None, None, None),
    ]
    assert storage.execute_rows(f"FROM funnel_by({arguments}, 'plan')") == []


# Retention


def unit_start(day: date, unit: str, week_start: int) -> date:
    if unit == "month":
        return day.replace(day=1)
    if unit == "week":
        return day - timedelta(days=(day.isoweekday() - week_start) % 7)
    return day


def expected_retention(
    users: dict[str, list[Event]],
    names: tuple[str | None, str | None],
    days: tuple[date, date],
    zone: str,
    *,
    unit: str,
    mode: str,
    last_bucket: int,
    first_time: bool,
    calendar: bool,
    week_start: int,
) -> list[Row]:
    born: dict[date, list[tuple[datetime, list[int]]]] = {}
    starts = [FIRST + n * DAY for n in range(-40, 400)]
    units = sorted({unit_start(day, unit, week_start) for day in starts})
    for events in users.values():
        active = [event for event in events if event.name not in VERBS]
        of_range = [event for event in active if days[0] <= event.day(zone) <= days[1]]
        births = [event for event in of_range if names[0] in (None, event.name)]
        ever = [event for event in active if names[0] in (None, event.name)]
        if not births or (first_time and ever[0].day(zone) < days[0]):
            continue
        birth = births[0]
        cohort = unit_start(birth.day(zone), unit, week_start)
        buckets = []
        for event in of_range:
            # An event at the moment of birth is a return if another one can be the birth.
            others = [each for each in births if each.at == birth.at and each is not event]
            is_later = event.at > birth.at or (event.at == birth.at and others)
            if names[1] in (None, event.name) and is_later:
                if calendar:
                    start = unit_start(event.day(zone), unit, week_start)
                    buckets.append(units.index(start) - units.index(cohort))
                else:
                    buckets.append((event.at - birth.at) // LENGTHS[unit])
        born.setdefault(cohort, []).append((birth.at, buckets))
    after_range = datetime.combine(days[1] + DAY, time(), ZoneInfo(zone))
    end = after_range.astimezone(UTC).replace(tzinfo=None)
    rows: list[Row] = []
    for cohort in sorted(born):
        members = born[cohort]
        for bucket in range(last_bucket + 1):
            retained = sum(
                any(each == bucket or (mode != "on" and each > bucket) for each in buckets)
                for _, buckets in members
            )
            complete = (
                units[units.index(cohort) + bucket + 1] <= days[1] + DAY
                if calendar
                else max(at for at, _ in members) + (bucket + 1) * LENGTHS[unit] <= end
            )
            share = retained / len(members)
            rows.append((cohort, bucket, len(members), retained, share, complete))
    return rows


def expected_average(rows: Iterable[Row]) -> list[Row]:
    found: dict[int, list[tuple[int, int]]] = {}
    for _, bucket, users, retained, _, complete in rows:
        if complete:
            found.setdefault(bucket, []).append((users, retained))
    return [
        (
            bucket,
            len(cohorts),
            pytest.approx(sum(r * n for n, r in cohorts) / sum(n * n for n, _ in cohorts)),
        )
        for bucket, cohorts in sorted(found.items())
    ]


def as_sql(value: object) -> str:
    return "NULL" if value is None else repr(value)


@pytest.mark.parametrize("seed", range(3))
def test_retention_counts_users_by_bucket(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    zone = chance.choice(ZONES)
    days = days_from(FIRST, 40)
    events, merged = random_events(chance, days, zone, 120)
    users = by_user(events, merged)
    load_in_part_typed(storage, chance, events, days, zone)
    for _ in range(ROUNDS):
        type_some(storage, chance, days)
        names = (chance.choice(["A", "B", None]), chance.choice(["A", "B", None]))
        first, last = sorted(chance.choices(days, k=2))
        options: dict[str, Any] = {
            "unit": chance.choice(["day", "week", "month"]),
            "mode": chance.choice(["on", "on or after"]),
            "last_bucket": chance.choice([0, 3, 8]),
            "first_time": chance.random() < 0.5,
            "calendar": chance.random() < 0.5,
            "week_start": chance.choice([1, 1, 7, 4]),
        }
        call = (
            f"{as_sql(names[0])}, {as_sql(names[1])}, DATE '{first}', DATE '{last}', "
            + ", ".join(f"{name} := {value!r}" for name, value in options.items())
        )
        expected = expected_retention(users, names, (first, last), zone, **options)
        assert storage.execute_rows(f"FROM retention({call})") == expected
        assert storage.execute_rows(f"FROM retention_average({call})") == expected_average(expected)


def test_the_average_weighs_cohorts_by_size(storage: StorageEngine) -> None:
    # Mixpanel's sample: 500 of 1000 and 400 of 500 are 56 %; here a hundredth of it.
    events = []
    for number in range(15):
        cohort = 0 if number < 10 else 24
        events.append(one("A", at(cohort), f"u{number}"))
        if number < 5 or 10 <= number < 14:
            events.append(one("B", at(cohort + 1), f"u{number}"))
    load_all(storage, events, days_from(FIRST, 3))
    call = f"'A', 'B', DATE '{FIRST}', DATE '{FIRST + 2 * DAY}', last_bucket := 0"
    assert storage.execute_rows(f"FROM retention_average({call})") == [(0, 2, 0.56)]


def test_a_bucket_is_complete_when_it_is_over_for_all(storage: StorageEngine) -> None:
    events = [one("A", at(1), "u1"), one("A", at(2), "u2")]
    load_all(storage, events, days_from(FIRST, 2))

    def complete(last: date, *options: str) -> list[bool]:
        call = ", ".join(["'A'", "'A'", f"DATE '{FIRST}'", f"DATE '{last}'", *options])
        return [each for (each,) in storage.execute_rows(f"SELECT complete FROM retention({call})")]

    two = "last_bucket := 1"
    assert complete(FIRST, two) == [False, False]
    assert complete(FIRST, two, "calendar := true") == [True, False]
    assert complete(FIRST + DAY, two) == [True, False]
    assert complete(FIRST + DAY, two, "calendar := true") == [True, True]
    assert complete(FIRST + 9 * DAY, two) == [True, False]  # not loaded yet


# All macros


def test_typed_days_count_as_loaded(storage: StorageEngine) -> None:
    days = days_from(FIRST, 2)
    call = f"funnel(['A', 'B'], DATE '{days[0]}', DATE '{days[1]}')"
    load_all(storage, [one("A", at(0))], days)
    storage.type_events_day("events", days[0])
    assert counts(storage, call) == [1, 0]
    load(storage, [one("A", at(0)), one("B", at(1))], days[:1])  # the typed day is stale
    assert counts(storage, call) == [1, 1]
    storage.type_events_day("events", days[0])  # with a table for B
    assert counts(storage, call) == [1, 1]
    storage.drop_table(f"events_{days[0]:%Y%m%d}")
    assert counts(storage, call) == [0, 0]
    load(storage, [one("A", at(0), "u2")], days[:1])
    storage.erase(["u2"])
    assert counts(storage, call) == [0, 0]
    load(storage, [one("A", at(0), "u3")], days[:1])
    storage.type_events_day("events", days[0])
    storage.drop_typed_tables("events")
    assert counts(storage, call) == [1, 0]


def test_typed_days_of_a_database_with_the_name_of_their_schema(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "event.duckdb") as storage:
        load_all(storage, [one("A", at(0))], [FIRST])
        storage.type_events_day("events", FIRST)
        assert counts(storage, f"funnel(['A'], DATE '{FIRST}', DATE '{FIRST}')") == [1]


def test_without_any_day_left_there_is_nobody(storage: StorageEngine) -> None:
    linked = {"$distinct_id_before_identity": "u2"}
    events = [one("A", at(0), **linked), one("A", at(25), **linked)]
    load_all(storage, events, days_from(FIRST, 2))
    storage.type_events_day("events", FIRST)
    for day in days_from(FIRST, 2):
        storage.update_sessions("events", day)
        storage.update_daily_metrics("events", day)
    for day in days_from(FIRST, 2):
        storage.drop_table(f"events_{day:%Y%m%d}")
    report = storage.update_identities("events")
    assert (report.days, report.ids, report.users) == (tuple(days_from(FIRST, 2)), 0, 0)
    arguments = f"DATE '{FIRST}', DATE '{FIRST + DAY}'"
    assert storage.execute_rows("FROM user_events") == []
    assert storage.execute_rows("FROM identities") == []
    assert counts(storage, f"funnel(['A', 'B'], {arguments})") == [0, 0]
    assert storage.execute_rows(f"FROM funnel_by(['A'], {arguments}, 'x')") == []
    assert storage.execute_rows(f"FROM retention(NULL, NULL, {arguments})") == []
    stale = storage.list_metric_days("events")
    assert [each.day for each in stale if each.metrics_are_stale] == days_from(FIRST, 2)
    for each in stale:
        storage.update_sessions("events", each.day)
        storage.update_daily_metrics("events", each.day)
    assert storage.execute_rows("FROM sessions") == []
    assert storage.execute_rows("FROM daily_metrics") == []
    assert storage.list_metric_days("events") == []
    assert storage.update_identities("events").days == ()
    load_all(storage, events, days_from(FIRST, 2))
    assert counts(storage, f"funnel(['A'], {arguments})") == [1]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("funnel([]::VARCHAR[], DATE '{day}', DATE '{day}')", "funnel: name at least one step"),
        ("funnel(['A'], DATE '{day}', DATE '2000-01-01')", "from_day is after to_day"),
        ("funnel(['A'], DATE '{day}', DATE '{day}', within := INTERVAL 367 DAY)", "0 to 366 days"),
        ("funnel_by(['A'], DATE '{day}', DATE '{day}', 'x', within := NULL)", "0 to 366 days"),
        ("retention('A', 'A', DATE '{day}', DATE '{day}', unit := 'year')", "unit must be day"),
        ("retention('A', 'A', DATE '{day}', DATE '{day}', mode := 'off')", "mode must be 'on or"),
        ("retention('A', 'A', DATE '{day}', DATE '{day}', week_start := 0)", r"1 \(Monday\) to 7"),
        ("retention('A', 'A', DATE '{day}', DATE '{day}', last_bucket := -1)", "not be negative"),
        ("retention_average('X', 'A', DATE '{day}', DATE '{day}', mode := 'x')", "mode must be"),
    ],
)
def test_arguments_are_checked(storage: StorageEngine, call: str, problem: str) -> None:
    load_all(storage, [one("A", at(0))], [FIRST])
    with pytest.raises(QueryError, match=problem):
        storage.execute_rows(f"FROM {call.format(day=FIRST)}")


def test_any_client_can_call_them(tmp_path: Path) -> None:
    path = tmp_path / "test.duckdb"
    events = [one("A", at(1)), one("B", at(2))]
    with StorageEngine(path) as storage:
        load_all(storage, events, [FIRST])
        rewrite(storage.connection, path)
    with StorageEngine(path) as storage:  # a reload replaces tables and the view
        load(storage, events, days_from(FIRST, 2))
        storage.type_events_day("events", FIRST)
    arguments = [["A", "B"], FIRST, f"{FIRST}"]
    with duckdb.connect(str(path), read_only=True) as connection:
        for _ in range(2):
            rows = connection.execute("SELECT users FROM funnel(?, ?, ?)", arguments).fetchall()
            assert rows == [(1,), (1,)]
        rows = connection.execute(
            "SELECT retained FROM retention('A', 'B', ?, ?, last_bucket := 0)", arguments[1:]
        ).fetchall()
        assert rows == [(1,)]
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{path}' AS mixpanel (READ_ONLY)")
        connection.execute("USE mixpanel")
        rows = connection.execute("SELECT users FROM funnel(?, ?, ?)", arguments).fetchall()
        assert rows == [(1,), (1,)]


def test_each_dataset_has_macros_of_its_own(storage: StorageEngine) -> None:
    load(storage, [one("A", at(0))], [FIRST], dataset="shop_events")
    storage.update_identities("shop_events")
    assert counts(storage, f"shop_funnel(['A'], DATE '{FIRST}', DATE '{FIRST}')") == [1]


def test_a_macro_of_the_user_is_not_replaced(storage: StorageEngine) -> None:
    load(storage, [], [FIRST])
    storage.execute("CREATE MACRO retention(x) AS x + 1")
    with pytest.raises(TableExistsError, match="need the name 'retention'"):
        storage.update_identities("events")
    assert storage.execute_rows("SELECT retention(1)") == [(2,)]
