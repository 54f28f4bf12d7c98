"""Sessions and active users of a day, compared with a walk through all events."""

import random
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from statistics import median
from typing import Any

import pytest

from mp_pipeline.storage import StorageEngine, TableExistsError, TableNotFoundError
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.metrics import FIRST, Event, days_from, load, random_time
from mp_pipeline_tests.support.records import PROFILES, profile

LEFT_OUT = {
    *("$identify", "$create_alias", "$merge", "$hotshard_events"),
    *("$campaign_delivery", "$campaign_bounced", "$campaign_marked_spam"),
    *("$message_suppressed", "$unsubscribe", "$journey_entered"),
}
VERBS = {"$identify", "$create_alias", "$merge"}
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Asia/Kathmandu"]
HALF_AN_HOUR = timedelta(minutes=30)
MICROSECOND = timedelta(microseconds=1)


def at(minutes: float) -> datetime:
    return datetime.combine(FIRST, time()) + timedelta(minutes=minutes)


def visits(*times: datetime, user: str = "u1", name: str = "Visit") -> list[Event]:
    return [Event(name, user, moment, f"{user} {moment}") for moment in times]


def sessions(storage: StorageEngine) -> list[tuple[Any, ...]]:
    return storage.execute_rows(
        "SELECT user_id, day, started_at, ended_at, events, first_event, last_event "
        "FROM sessions ORDER BY user_id, started_at"
    )


def stale(
    storage: StorageEngine, timeout: timedelta = HALF_AN_HOUR
) -> tuple[list[date], list[date]]:
    """Return the days whose sessions are stale, and those whose metrics are."""
    days = storage.list_metric_days("events", timeout=timeout)
    return (
        [each.day for each in days if each.sessions_are_stale],
        [each.day for each in days if each.metrics_are_stale],
    )


def users_of(events: Sequence[Event]) -> dict[str, str]:
    """Return the user of each ID: these tests link `a…` to `u…` with an event of its own."""
    return {
        event.properties["$distinct_id_before_identity"]: min(
            event.user, event.properties["$distinct_id_before_identity"]
        )
        for event in events
        if "$distinct_id_before_identity" in event.properties
    } | {
        event.user: min(event.user, event.properties["$distinct_id_before_identity"])
        for event in events
        if "$distinct_id_before_identity" in event.properties
    }


def expected_sessions(
    events: Sequence[Event], zone: str, timeout: timedelta
) -> list[tuple[Any, ...]]:
    users = users_of(events)
    found: list[tuple[Any, ...]] = []
    open_: dict[str, list[Event]] = {}
    in_order = sorted(events, key=lambda each: (each.at, each.name, each.insert_id))
    for event in in_order:
        if event.name in LEFT_OUT or event.user == "":
            continue
        user = users.get(event.user, event.user)
        now = open_.get(user, [])
        if now and (event.at - now[-1].at >= timeout or event.day(zone) != now[-1].day(zone)):
            found.append(_session(user, now, zone))
            now = []
        open_[user] = [*now, event]
    found += [_session(user, now, zone) for user, now in open_.items()]
    return sorted(found, key=lambda row: (row[0], row[2]))


def _session(user: str, events: Sequence[Event], zone: str) -> tuple[Any, ...]:
    first, last = events[0], events[-1]
    return (user, first.day(zone), first.at, last.at, len(events), first.name, last.name)


def random_events(
    chance: random.Random, days: Sequence[date], zone: str, number: int
) -> list[Event]:
    names = ["Visit", "Search", "Visit", "$unsubscribe", "$identify", "$hotshard_events"]
    events = []
    for n in range(number):
        user = chance.choice(["u1", "u2", "u3", "u4", "a3", "a4", ""])
        properties = {}
        if user in ("u3", "u4") and chance.random() < 0.1:
            properties = {"$distinct_id_before_identity": f"a{user[1:]}"}
        moment = random_time(chance, chance.choice(days), zone)
        events.append(Event(chance.choice(names), user, moment, f"i{n}", properties))
    return events


@pytest.mark.parametrize("seed", range(6))
def test_sessions_are_those_of_a_walk(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    zone = chance.choice(ZONES)
    first = chance.choice([FIRST, date(2024, 3, 9), date(2024, 11, 2), date(2024, 10, 26)])
    days = days_from(first, 3)
    events = random_events(chance, days, zone, 60)
    timeout = chance.choice([HALF_AN_HOUR, HALF_AN_HOUR, timedelta(minutes=1), timedelta(days=1)])
    load(storage, events, days, zone)
    storage.update_identities("events")
    made = 0
    for day in chance.sample(days, len(days)):
        made += storage.update_sessions("events", day, timeout=timeout).sessions
    expected = expected_sessions(events, zone, timeout)
    assert sessions(storage) == expected
    assert made == len(expected)
    before = contents(storage)["_sessions"]
    for day in days:
        storage.update_sessions("events", day, timeout=timeout)
    assert contents(storage)["_sessions"] == before
    ids = storage.execute_rows("SELECT session_id FROM sessions")
    assert len(set(ids)) == len(expected)


def test_a_gap_of_the_timeout_splits(storage: StorageEngine) -> None:
    load(storage, visits(at(0), at(30), at(60) - MICROSECOND), [FIRST])
    storage.update_sessions("events", FIRST)
    assert [row[2:5] for row in sessions(storage)] == [
        (at(0), at(0), 1),
        (at(30), at(60) - MICROSECOND, 2),
    ]
    assert storage.execute_rows("SELECT seconds FROM sessions ORDER BY 1") == [
        (0.0,),
        (1799.999999,),
    ]


def test_a_session_ends_at_the_midnight_of_the_project(storage: StorageEngine) -> None:
    midnight = at(5 * 60)  # in New York
    load(
        storage,
        visits(midnight - MICROSECOND, midnight),
        days_from(FIRST - timedelta(days=1), 2),
        "America/New_York",
    )
    for day in days_from(FIRST - timedelta(days=1), 2):
        storage.update_sessions("events", day)
    assert [row[1:4] for row in sessions(storage)] == [
        (FIRST - timedelta(days=1), midnight - MICROSECOND, midnight - MICROSECOND),
        (FIRST, midnight, midnight),
    ]


@pytest.mark.parametrize("seconds", [59, 86_401])
def test_a_timeout_out_of_range_is_refused(storage: StorageEngine, seconds: int) -> None:
    load(storage, [], [FIRST])
    with pytest.raises(ValueError, match="not between 1 minute and 24 hours"):
        storage.update_sessions("events", FIRST, timeout=timedelta(seconds=seconds))


def expected_metrics(events: Sequence[Event], day: date) -> tuple[Any, ...]:
    """Return the row of a day, after all of the events were loaded."""
    users = users_of(events)
    active: dict[date, set[str]] = {}
    total = 0
    for event in events:
        if event.name not in VERBS:
            total += event.day() == day
            if event.user:
                active.setdefault(event.day(), set()).add(users.get(event.user, event.user))

    def in_last(days: int) -> int:
        window = [day - timedelta(days=n) for n in range(days)]
        return len(set().union(*(active.get(each, set()) for each in window)))

    now = active.get(day, set())
    before = set().union(*(each for when, each in active.items() if when < day))
    lengths = [
        (ended - started) / timedelta(seconds=1)
        for _, of, started, ended, *_ in expected_sessions(events, "UTC", HALF_AN_HOUR)
        if of == day
    ]
    return (
        *(day, total, len(now), in_last(7), in_last(30), len(now - before), len(now & before)),
        *(len(lengths), pytest.approx(median(lengths)) if lengths else None),
    )


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_all_events(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    days = days_from(FIRST, 40)
    events = random_events(chance, chance.sample(days, 12), "UTC", 25)
    shown = sorted(chance.sample(days, 3) + [FIRST + timedelta(days=n) for n in (0, 6, 29, 30)])
    loaded = sorted({event.day() for event in events} | set(shown))
    halves = [[day for day in loaded if chance.random() < 0.5] for _ in range(2)]
    for half in [*halves, loaded]:
        if half:
            load(storage, [event for event in events if chance.random() < 0.5], half)
            storage.update_identities("events")
    load(storage, events, loaded)
    storage.update_identities("events")
    for day in shown:
        storage.update_sessions("events", day)
        storage.update_daily_metrics("events", day)
    for day in shown:
        (row,) = storage.execute_rows(f"FROM daily_metrics WHERE day = '{day}' LIMIT 1")
        assert row == expected_metrics(events, day)


def test_events_by_name(storage: StorageEngine) -> None:
    events = [
        *visits(at(0), at(1)),
        *visits(at(2), user="u2"),
        *visits(at(3), user=""),
        *visits(at(4), name="Search"),
        *visits(at(5), name="$identify"),
    ]
    load(storage, events, [FIRST])
    report = storage.update_daily_metrics("events", FIRST)
    assert (report.events, report.dau, report.sessions) == (5, 2, None)
    assert storage.execute_rows("FROM daily_events_by_name ORDER BY event_name") == [
        (FIRST, "Search", 1, 1),
        (FIRST, "Visit", 4, 2),
    ]


def test_windows_end_with_the_day(storage: StorageEngine) -> None:
    load(storage, visits(at(0)), days_from(FIRST, 31))
    found = [
        (report.dau, report.wau, report.mau, report.new_users)
        for day in days_from(FIRST, 31)
        for report in [storage.update_daily_metrics("events", day)]
    ]
    assert found == [(1, 1, 1, 1), *[(0, 1, 1, 0)] * 6, *[(0, 0, 1, 0)] * 23, (0, 0, 0, 0)]


def test_a_user_is_new_once_although_days_come_late_and_go(storage: StorageEngine) -> None:
    days = days_from(FIRST, 60)
    later = [visit for day in (35, 59) for visit in visits(at(24 * 60 * day))]
    load(storage, later, days[1:])

    def new(number: int) -> int:
        return storage.update_daily_metrics("events", days[number]).new_users

    assert [new(35), new(59)] == [1, 0]
    load(storage, visits(at(0)), days[:1])
    assert [new(0), new(35), new(59)] == [1, 0, 0]
    load(storage, [], [days[0], days[35]])
    assert [new(0), new(35), new(59)] == [0, 0, 1]
    storage.drop_table(f"events_{days[59]:%Y%m%d}")
    assert storage.update_daily_metrics("events", days[59]).events == 0
    assert storage.execute_rows("FROM daily_metrics WHERE dau > 0") == []


def test_which_days_are_stale(storage: StorageEngine) -> None:
    days = days_from(FIRST, 3)
    times = [at(24 * 60 * number) for number in range(3)]
    load(storage, visits(*times), days)

    def update() -> None:
        storage.update_identities("events")
        for day in days:
            storage.update_sessions("events", day)
            storage.update_daily_metrics("events", day)

    assert stale(storage) == (days, days)
    update()
    assert stale(storage) == ([], [])
    load(storage, visits(times[1]), days[1:2])  # the same users again
    storage.update_identities("events")
    assert stale(storage) == (days[1:2], days[1:2])
    load(storage, [*visits(times[1]), *visits(times[1], user="a2")], days[1:2])
    storage.update_identities("events")
    assert stale(storage) == (days[1:2], days[1:])
    update()
    linked = Event("$merge", "u1", times[2], "merge", {"$distinct_ids": ["u1", "a2"]})
    load(storage, [*visits(times[2]), linked], days[2:])
    storage.update_identities("events")  # u1 becomes a2
    assert stale(storage) == (days, days)
    update()
    assert stale(storage) == ([], [])
    storage.drop_table(f"events_{days[2]:%Y%m%d}")
    storage.update_identities("events")
    assert stale(storage) == (days, days)
    update()
    assert stale(storage) == ([], [])
    assert storage.execute_rows("SELECT DISTINCT user_id FROM sessions ORDER BY 1") == [
        ("a2",),
        ("u1",),
    ]


def test_sessions_of_another_timeout_are_stale(storage: StorageEngine) -> None:
    days = days_from(FIRST, 2)
    load(storage, visits(at(0), at(20)), days)
    storage.update_identities("events")
    for day in days:
        storage.update_sessions("events", day)
        storage.update_daily_metrics("events", day)
    shorter = timedelta(minutes=10)
    assert stale(storage) == ([], [])
    assert stale(storage, timeout=shorter) == (days, days)
    storage.update_sessions("events", FIRST, timeout=shorter)
    assert stale(storage, timeout=shorter) == (days[1:], days)
    storage.update_daily_metrics("events", FIRST)
    assert stale(storage, timeout=shorter) == (days[1:], days[1:])
    assert stale(storage) == ([FIRST], [FIRST])


def test_metrics_from_before_the_sessions_are_stale(storage: StorageEngine) -> None:
    load(storage, visits(at(0)), [FIRST])
    storage.update_daily_metrics("events", FIRST)
    assert stale(storage) == ([FIRST], [])
    storage.update_sessions("events", FIRST)
    assert stale(storage) == ([], [FIRST])
    storage.update_daily_metrics("events", FIRST)
    assert stale(storage) == ([], [])


def test_a_day_that_is_not_loaded_has_no_metrics(storage: StorageEngine) -> None:
    load(storage, [], [FIRST])
    other = FIRST + timedelta(days=1)
    with pytest.raises(TableNotFoundError, match=r"no table 'events_20240130'.*load the day first"):
        storage.update_sessions("events", other)
    with pytest.raises(TableNotFoundError, match=r"no table 'events_20240130'.*load the day first"):
        storage.update_daily_metrics("events", other)


@pytest.mark.parametrize("name", ["sessions", "daily_metrics", "daily_events_by_name"])
def test_a_table_of_the_user_is_not_replaced(storage: StorageEngine, name: str) -> None:
    load(storage, visits(at(0)), [FIRST])
    storage.execute(f"CREATE TABLE {name} AS SELECT 1 AS own")
    update = storage.update_sessions if name == "sessions" else storage.update_daily_metrics
    with pytest.raises(TableExistsError, match=f"needs the name '{name}'"):
        update("events", FIRST)
    assert storage.execute_rows(f"FROM {name}") == [(1,)]


def test_an_erased_user_is_left_in_no_table(storage: StorageEngine) -> None:
    linked = Event("Visit", "private1", at(0), "i1", {"$distinct_id_before_identity": "private2"})
    load(storage, [linked, *visits(at(1))], [FIRST])
    profiles = [profile(user) for user in ("private1", "u1")]
    storage.replace_table("profiles", profiles, PROFILES)
    storage.type_events_day("events", FIRST)
    storage.update_identities("events")
    storage.update_sessions("events", FIRST)
    storage.update_daily_metrics("events", FIRST)
    storage.update_profile_history("profiles")
    erasure = storage.erase(["private2"])
    assert {table.name: table.rows for table in erasure.tables} == {
        "events_20240129": 1,
        "profiles": 1,
        "event.visit": 1,
        "sessions": 1,
        "identity_pairs": 1,
        "identities": 2,
        "user_days": 1,
        "first_days": 1,
        "profile_history": 1,
    }
    assert "private" not in str(contents(storage))
    assert [row[0] for row in sessions(storage)] == ["u1"]
    assert stale(storage) == ([], [])


def test_sessions_of_an_id_that_stays_become_stale(storage: StorageEngine) -> None:
    linked = Event("Visit", "", at(0), "i1", {"$device_id": "d", "$user_id": "private"})
    load(storage, [linked, *visits(at(1), user="$device:d")], [FIRST])
    storage.update_identities("events")
    storage.update_sessions("events", FIRST)
    assert [row[0] for row in sessions(storage)] == ["private"]
    storage.erase(["private"])
    assert "private" not in str(contents(storage))
    assert stale(storage)[0] == [FIRST]
    storage.update_sessions("events", FIRST)
    assert [row[0] for row in sessions(storage)] == ["$device:d"]
