import hashlib
import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from mp_pipeline.sample import events_of_day, profiles_as_of
from mp_pipeline_tests.support.records import DAY

DAY_MS = 86_400_000

Event = dict[str, Any]


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return list(events_of_day(DAY))


@pytest.fixture(scope="module")
def two_weeks() -> dict[date, list[Event]]:
    """The events of each day of two weeks, from a Monday."""
    days = (DAY + timedelta(days=number) for number in range(14))
    return {day: list(events_of_day(day)) for day in days}


def identity(event: Event) -> tuple[Any, ...]:
    """The values by which Mixpanel recognizes duplicates."""
    properties = event["properties"]
    return (event["event"], *(properties[key] for key in ("distinct_id", "time", "$insert_id")))


def test_a_day_is_always_the_same(events: list[Event]) -> None:
    assert list(events_of_day(DAY)) == events
    assert list(profiles_as_of(DAY)) == list(profiles_as_of(DAY))


def test_a_day_is_the_same_in_another_process(events: list[Event]) -> None:
    code = (
        "import datetime, json; from mp_pipeline.sample import *;"
        f"print(json.dumps(list(events_of_day(datetime.date.fromisoformat('{DAY}')))))"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    assert json.loads(output) == events


def test_the_data_never_changes() -> None:
    """Databases and documents from earlier versions have the same rows."""
    digest = hashlib.sha256()
    for day in (date(2023, 1, 1), date(2023, 6, 17), DAY, date(2024, 2, 29)):
        for record in (*events_of_day(day), *profiles_as_of(day)):
            digest.update(json.dumps(record).encode())
    assert digest.hexdigest() == (
        "e34c43d515912d809fa3c4397f92ca6dd83a4958041c6c37313e56667bd920d0"
    )


def test_days_differ(events: list[Event]) -> None:
    other = list(events_of_day(DAY + timedelta(days=1)))
    assert not {identity(event) for event in events} & {identity(event) for event in other}


def test_events_look_like_mixpanels(events: list[Event]) -> None:
    assert 2000 <= len(events) <= 4000
    midnight = int(datetime(2024, 1, 15, tzinfo=UTC).timestamp())
    for event in events:
        assert event.keys() == {"event", "properties"}
        properties = event["properties"]
        assert midnight <= properties["time"] < midnight + 86_400
        assert isinstance(properties["time"], int)
        assert properties["mp_processing_time_ms"] > properties["time"] * 1000
        assert {"distinct_id", "$insert_id", "$os", "$city", "$device_id", "mp_lib"} <= set(
            properties
        )


def test_lines_have_a_real_size(events: list[Event]) -> None:
    sizes = [len(json.dumps(event, ensure_ascii=False).encode()) for event in events]
    assert 500 < sum(sizes) / len(sizes) < 800


def test_values_of_every_kind(events: list[Event]) -> None:
    values = [value for event in events for value in event["properties"].values()]
    assert {type(value) for value in values} == {str, int, float, bool, dict, list, type(None)}
    assert not json.dumps(values, ensure_ascii=False).isascii()


def test_a_few_events_come_twice(events: list[Event]) -> None:
    groups = Counter(map(identity, events))
    twice = [key for key, count in groups.items() if count == 2]
    assert 0 < len(twice) < 0.01 * len(events)
    assert max(groups.values()) == 2
    for key in twice:
        first, second = (event for event in events if identity(event) == key)
        assert (
            first["properties"]["mp_processing_time_ms"]
            < (second["properties"]["mp_processing_time_ms"])
        )
        assert {**first["properties"], "mp_processing_time_ms": 0} == {
            **second["properties"],
            "mp_processing_time_ms": 0,
        }


def test_a_few_events_arrive_days_late(two_weeks: dict[date, list[Event]]) -> None:
    events = [event for day in two_weeks.values() for event in day]
    delays = [
        event["properties"]["mp_processing_time_ms"] - event["properties"]["time"] * 1000
        for event in events
    ]
    late = [delay for delay in delays if delay >= DAY_MS]
    assert 0 < len(late) < 0.03 * len(events)
    assert max(late) < 7 * DAY_MS


def test_late_events_can_be_held_back(two_weeks: dict[date, list[Event]]) -> None:
    def arrived(after_days: int) -> list[list[Event]]:
        return [
            list(events_of_day(day, arrived_by=day + timedelta(days=after_days)))
            for day in two_weeks
        ]

    counts = [sum(map(len, arrived(after_days))) for after_days in (0, 3, 8)]
    assert counts[0] < counts[1] < counts[2] == sum(map(len, two_weeks.values()))


def test_weekends_are_busier(two_weeks: dict[date, list[Event]]) -> None:
    counts = {day: len(events) for day, events in two_weeks.items()}
    for monday in (DAY, DAY + timedelta(days=7)):
        week = [counts[monday + timedelta(days=number)] for number in range(7)]
        assert max(week) == week[5]
        assert week[5] > 1.15 * week[0]


def test_evenings_are_busier_than_nights(events: list[Event]) -> None:
    hours = Counter(event["properties"]["time"] % 86_400 // 3600 for event in events)
    assert set(hours) == set(range(24))
    assert sum(hours[hour] for hour in range(18, 22)) > 3 * sum(hours[hour] for hour in range(4))


def test_the_product_grows(events: list[Event]) -> None:
    later = list(events_of_day(date(2024, 7, 15)))
    assert len(later) > 1.05 * len(events)
    assert len(list(profiles_as_of(date(2024, 7, 15)))) > len(list(profiles_as_of(DAY)))


def test_users_return(two_weeks: dict[date, list[Event]]) -> None:
    days_of_user = Counter(
        user
        for events in two_weeks.values()
        for user in {event["properties"]["distinct_id"] for event in events}
    )
    assert Counter(days_of_user.values())[1] < len(days_of_user) / 2
    assert 1 < sum(days_of_user.values()) / len(days_of_user) < 10


@pytest.mark.parametrize("events_per_day", [0, 100, 20_000])
def test_number_of_events_can_be_chosen(events_per_day: int) -> None:
    count = sum(1 for _ in events_of_day(DAY, events_per_day=events_per_day))
    assert count == pytest.approx(0.93 * events_per_day, rel=0.15, abs=40)


def test_nothing_happens_before_the_launch() -> None:
    assert list(events_of_day(date(2022, 12, 31))) == []
    assert list(profiles_as_of(date(2022, 12, 31))) == []
    assert list(events_of_day(date(2023, 1, 1)))


def test_profiles_look_like_mixpanels() -> None:
    profiles = list(profiles_as_of(DAY))
    assert 200 < len(profiles) < 5000
    assert len({profile["$distinct_id"] for profile in profiles}) == len(profiles)
    for profile in profiles:
        properties = profile["$properties"]
        assert properties["$email"].endswith("@example.com")
        assert isinstance(properties["favorite_genres"], list)
        created = datetime.fromisoformat(properties["$created"])
        last_seen = datetime.fromisoformat(properties["$last_seen"])
        assert created.tzinfo is last_seen.tzinfo is None
        assert created <= last_seen < datetime(2024, 1, 16)
    assert {profile["$properties"]["plan"] for profile in profiles} > {"free", "premium"}


def test_profiles_change_from_day_to_day() -> None:
    before = {each["$distinct_id"]: each["$properties"] for each in profiles_as_of(DAY)}
    after = {
        each["$distinct_id"]: each["$properties"]
        for each in profiles_as_of(DAY + timedelta(days=30))
    }
    assert before.keys() < after.keys()
    for key in ("$last_seen", "plays", "plan"):
        assert any(before[user][key] != after[user][key] for user in before)
    for key in ("$last_seen", "plays"):
        assert all(before[user][key] <= after[user][key] for user in before)


def test_events_and_profiles_fit_together(two_weeks: dict[date, list[Event]]) -> None:
    day, events = list(two_weeks.items())[-1]
    profiles = {each["$distinct_id"]: each["$properties"] for each in profiles_as_of(day)}
    active = {event["properties"]["distinct_id"] for event in events}
    assert active <= profiles.keys()
    seen = {user for user, each in profiles.items() if each["$last_seen"] >= day.isoformat()}
    assert seen == active


def test_a_sign_up_is_the_users_first_event(two_weeks: dict[date, list[Event]]) -> None:
    for day, events in two_weeks.items():
        profiles = {each["$distinct_id"]: each["$properties"] for each in profiles_as_of(day)}
        new = {user for user, each in profiles.items() if each["$created"] >= day.isoformat()}
        for user in new:
            own = [each for each in events if each["properties"]["distinct_id"] == user]
            first = min(own, key=lambda event: event["properties"]["time"])
            time = datetime.fromtimestamp(first["properties"]["time"], UTC).replace(tzinfo=None)
            assert first["event"] == "Sign Up"
            assert time.isoformat() == profiles[user]["$created"]


def test_plans_change_with_their_events() -> None:
    changes = 0
    for number in range(20):
        day = DAY + timedelta(days=number)
        before = {
            each["$distinct_id"]: each["$properties"]["plan"]
            for each in profiles_as_of(day - timedelta(days=1))
        }
        after = {each["$distinct_id"]: each["$properties"]["plan"] for each in profiles_as_of(day)}
        changed = {user for user in after if before.get(user, "free") != after[user]}
        names = ("Subscription Started", "Subscription Cancelled")
        told = {
            event["properties"]["distinct_id"]
            for event in events_of_day(day)
            if event["event"] in names
        }
        assert told == changed
        changes += len(changed)
    assert changes > 0
