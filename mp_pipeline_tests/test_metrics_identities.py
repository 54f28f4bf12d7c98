"""Identities: which IDs are one user, compared with a search from each ID."""

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import StorageEngine, TableExistsError, TableNotFoundError
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.metrics import FIRST, Event, days_from, load, random_time

DAYS = days_from(FIRST, 4)
NOBODY = {"", "null", "0", "anonymous"}


def one(minute: int, user: str, name: str = "Visit", **properties: Any) -> Event:
    moment = datetime.combine(FIRST, time()) + timedelta(minutes=minute)
    return Event(name, user, moment, f"i{minute}", properties)


def users(storage: StorageEngine) -> dict[str, str]:
    rows = storage.execute_rows("SELECT distinct_id, user_id FROM identities")
    assert len(rows) == len(dict(rows))
    return dict(rows)


def pairs_of(event: Event) -> list[tuple[str, str]]:
    """Return the pairs of IDs that an event says are one person."""
    has = event.properties
    pairs: list[Any] = [(has.get("$distinct_id_before_identity"), event.user)]
    if "$device_id" in has and has["$device_id"].lower() not in NOBODY:
        device = has["$device_id"]
        prefix = "" if device.startswith("$device:") else "$device:"
        pairs.append((prefix + device, has.get("$user_id")))
    if event.name == "$identify":
        pairs.append((has.get("$anon_id"), has.get("$identified_id")))
    if event.name == "$create_alias":
        pairs.append((has.get("alias"), event.user))
    if event.name == "$merge":
        pairs.append(tuple(has["$distinct_ids"]))
    return [
        (one, other)
        for one, other in pairs
        if one is not None
        and other is not None
        and one != other
        and not {one.strip().lower(), other.strip().lower()}
        & {each.lower().strip() for each in NOBODY}
    ]


def expected_users(events: Iterable[Event]) -> dict[str, str]:
    """Return the user of each ID, found by walking from ID to ID."""
    near: dict[str, set[str]] = defaultdict(set)
    first_of_device: dict[str, tuple[datetime, str]] = {}
    for event in events:
        if event.user.lower() not in NOBODY:
            near[event.user] |= set()
        for pair in pairs_of(event):
            devices = [each for each in pair if each.startswith("$device:")]
            if len(devices) == 1:
                (device,) = devices
                (person,) = set(pair) - {device}
                known = first_of_device.get(device, (event.at, person))
                first_of_device[device] = min(known, (event.at, person))
            else:
                near[pair[0]].add(pair[1])
                near[pair[1]].add(pair[0])
    for device, (_, person) in first_of_device.items():
        near[device].add(person)
        near[person].add(device)
    found: dict[str, str] = {}
    for start in near:
        if start in found:
            continue
        group, waiting = {start}, [start]
        while waiting:
            for each in near[waiting.pop()] - group:
                group.add(each)
                waiting.append(each)
        name = min(group, key=lambda each: (each.startswith("$device:"), each))
        found |= dict.fromkeys(group, name)
    return found


def random_events(chance: random.Random, number: int) -> list[Event]:
    people = [f"u{n}" for n in range(12)] + ["", "null", "ANONYMOUS"]
    devices = [f"d{n}" for n in range(8)] + ["0", "$device:d1"]
    ids = people + [f"$device:{device}" for device in devices[:8]]
    events = []
    for n in range(number):
        name = chance.choice(["Visit", "Visit", "$identify", "$create_alias", "$merge"])
        properties: dict[str, Any] = {}
        if chance.random() < 0.3:
            properties["$device_id"] = chance.choice(devices)
        if chance.random() < 0.3:
            properties["$user_id"] = chance.choice(people)
        if chance.random() < 0.1:
            properties["$distinct_id_before_identity"] = chance.choice(ids)
        if name == "$identify" or chance.random() < 0.1:
            properties |= {"$anon_id": chance.choice(ids), "$identified_id": chance.choice(people)}
        if name == "$create_alias" or chance.random() < 0.1:
            properties["alias"] = chance.choice(ids)
        if name == "$merge" or chance.random() < 0.1:
            properties["$distinct_ids"] = [chance.choice(ids), chance.choice(ids)]
        moment = random_time(chance, chance.choice(DAYS))
        events.append(Event(name, chance.choice(ids), moment, f"i{n}", properties))
    return events


@pytest.mark.parametrize("seed", range(10))
def test_users_are_connected_components(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    events = random_events(chance, chance.choice([5, 20, 40]))
    load(storage, events, DAYS)
    before: dict[str, str] = {}
    days = chance.sample(DAYS, len(DAYS))
    for day in days:
        storage.drop_table(f"events_{day:%Y%m%d}")
    for number, day in enumerate(days, 1):  # one after another, in any order
        load(storage, events, [day])
        report = storage.update_identities("events")
        assert report.days == (day,)
        loaded = [event for event in events if event.day() in days[:number]]
        found = users(storage)
        assert found == expected_users(loaded)
        assert report.changed == sum(
            before.get(each, each) != found.get(each, each) for each in before | found
        )
        sizes = {user: list(found.values()).count(user) for user in found.values()}
        assert report.users == sum(size > 1 for size in sizes.values())
        assert report.ids == sum(size for size in sizes.values() if size > 1)
        before = found
    again = storage.update_identities("events")
    assert (again.days, again.changed, users(storage)) == ((), 0, before)
    rows = storage.execute_rows("SELECT insert_id, user_id FROM user_events")
    assert dict(rows) == {event.insert_id: before.get(event.user) for event in events}


def test_a_reload_and_a_drop_change_the_pairs(storage: StorageEngine) -> None:
    linked = one(1, "u1", **{"$distinct_id_before_identity": "a1"})
    load(storage, [linked], DAYS[:2])
    assert storage.update_identities("events").days == tuple(DAYS[:2])
    assert users(storage) == {"a1": "a1", "u1": "a1"}
    load(storage, [one(1, "u1")], DAYS[:1])
    report = storage.update_identities("events")
    assert (report.days, report.changed, report.users) == ((DAYS[0],), 1, 0)
    assert users(storage) == {"u1": "u1"}
    load(storage, [linked], DAYS[:1])
    assert storage.update_identities("events").changed == 1
    storage.drop_table("events_20240129")
    assert storage.update_identities("events").days == (DAYS[0],)
    assert storage.update_identities("events").days == ()
    assert users(storage) == {}


def test_a_shared_device_belongs_to_its_first_user(storage: StorageEngine) -> None:
    events = [
        one(2, "u2", **{"$device_id": "d1", "$user_id": "u2"}),
        one(1, "u1", **{"$device_id": "d1", "$user_id": "u1"}),
        one(3, "$device:d1"),
    ]
    load(storage, events, DAYS[:1])
    storage.update_identities("events")
    assert users(storage) == {"$device:d1": "u1", "u1": "u1", "u2": "u2"}


@pytest.mark.parametrize("shape", ["chain", "star", "ring"])
def test_a_user_of_more_than_500_ids_is_reported(storage: StorageEngine, shape: str) -> None:
    ids = [f"u{number:03}" for number in range(501)]
    random.Random(shape).shuffle(ids)
    near = ids[:1] * 500 if shape == "star" else ids
    pairs = list(zip(near, ids[1:], strict=False))
    if shape == "ring":
        pairs.append((ids[-1], ids[0]))
    events = [
        one(number, a, "$merge", **{"$distinct_ids": [a, b]}) for number, (a, b) in enumerate(pairs)
    ]
    load(storage, events[:-1] if shape != "ring" else events[:-2], DAYS[:1])
    assert storage.update_identities("events").large_users == ()
    load(storage, events, DAYS[:1])
    report = storage.update_identities("events")
    assert report.large_users == (("u000", 501),)
    assert storage.execute_rows("SELECT DISTINCT user_id, ids FROM identities") == [("u000", 501)]


def test_each_dataset_has_users_of_its_own(storage: StorageEngine) -> None:
    for dataset, other in [("events", "a1"), ("shop_events", "a2")]:
        linked = one(1, "u1", **{"$distinct_id_before_identity": other})
        load(storage, [linked], DAYS[:1], dataset=dataset)
        storage.update_identities(dataset)
    assert users(storage) == {"a1": "a1", "u1": "a1"}
    assert storage.execute_rows("SELECT user_id FROM shop_user_events") == [("a2",)]


def test_events_are_needed(storage: StorageEngine) -> None:
    with pytest.raises(TableNotFoundError, match="no table 'events'"):
        storage.update_identities("events")
    load(storage, [], DAYS[:1])
    assert storage.update_identities("events").ids == 0
    assert users(storage) == {}


def test_a_view_of_the_user_is_not_replaced(storage: StorageEngine) -> None:
    load(storage, [one(1, "u1")], DAYS[:1])
    storage.execute("CREATE VIEW user_events AS SELECT 1 AS own")
    with pytest.raises(TableExistsError, match="needs the name 'user_events'"):
        storage.update_identities("events")


def test_an_erased_user_leaves_no_pairs(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        events = [
            one(1, "private1", **{"$distinct_id_before_identity": "private2"}),
            one(2, "private2", **{"$device_id": "private3", "$user_id": "private2"}),
            one(3, "other1", **{"$distinct_id_before_identity": "other2"}),
        ]
        load(storage, events, DAYS[:1])
        storage.update_identities("events")
        erasure = storage.erase(["private2"])
        assert {table.name: table.rows for table in erasure.tables} == {
            "events_20240129": 2,
            "identity_pairs": 2,
            "identities": 3,
            "user_days": 2,
            "first_days": 2,
        }
        assert "private" not in str(contents(storage))
        assert storage.update_identities("events").days == ()
        assert users(storage) == {"other1": "other1", "other2": "other1"}
