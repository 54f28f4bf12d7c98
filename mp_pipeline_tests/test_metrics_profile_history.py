"""The history of profiles: what a snapshot changes, and which snapshots are refused."""

import json
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    ProfileHistoryReport,
    SnapshotRefusedError,
    StorageEngine,
    TableExistsError,
    TableMetadata,
    TableNotFoundError,
    rewrite,
)
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import EVENTS, event, export_line, profile, write_lines

START = datetime(2024, 1, 1)
Profiles = Mapping[str, Any]
Version = tuple[str, Any, datetime, datetime | None]


def at(day: float) -> datetime:
    return START + timedelta(day)


def load(storage: StorageEngine, day: float, profiles: Profiles, name: str = "profiles") -> None:
    """Load a snapshot that was fetched on a day, of profiles with these properties."""
    records = [
        profile(distinct_id, properties=properties, last_seen=at(day))
        for distinct_id, properties in profiles.items()
    ]
    storage.replace_table(name, records, TableMetadata("profiles", at(day)))


def take(
    storage: StorageEngine, day: float, profiles: Profiles, **options: Any
) -> tuple[int, int, int]:
    """Load a snapshot, add it to the history, and return what it changed."""
    load(storage, day, profiles)
    report = storage.update_profile_history("profiles", **options)
    assert report.profiles == len(profiles)
    return report.appeared, report.changed, report.vanished


def versions(storage: StorageEngine) -> list[Version]:
    rows = storage.execute_rows(
        "SELECT distinct_id, properties, valid_from, valid_to FROM profile_history ORDER BY 1, 3"
    )
    return [(user, json.loads(text), *times) for user, text, *times in rows]


def profiles_at(storage: StorageEngine, moment: datetime) -> dict[str, Any]:
    rows = storage.execute_rows(
        f"SELECT distinct_id, properties FROM profiles_at(TIMESTAMP '{moment}')"
    )
    assert len(rows) == len({user for user, _ in rows})
    return {user: json.loads(text) for user, text in rows}


def expected_versions(snapshots: Mapping[datetime, Profiles]) -> list[Version]:
    """Return the versions that snapshots have, each a run of equal profiles."""
    found: list[Version] = []
    for user in sorted({user for profiles in snapshots.values() for user in profiles}):
        since, before = None, None
        for moment in sorted(snapshots):
            now = snapshots[moment].get(user)
            if now != before:
                if since is not None:
                    found.append((user, before, since, moment))
                since, before = (None if now is None else moment), now
        if since is not None:
            found.append((user, before, since, None))
    return found


def shuffled(chance: random.Random, value: Any) -> Any:
    """Return a value of JSON with the keys of all objects in another order."""
    if isinstance(value, dict):
        keys = chance.sample(list(value), len(value))
        return {key: shuffled(chance, value[key]) for key in keys}
    return [shuffled(chance, each) for each in value] if isinstance(value, list) else value


def random_profile(chance: random.Random) -> dict[str, Any]:
    nested = {"a": chance.choice([1, 2]), "b.c": [{"x": 1, "y": chance.choice(["é", None])}, 2]}
    return {"plan": chance.choice("AB"), "$city": "Köln", "nested": nested}


@pytest.mark.parametrize("seed", range(8))
def test_versions_are_those_of_the_snapshots(storage: StorageEngine, seed: int) -> None:
    chance = random.Random(seed)
    users = [f"u{number}" for number in range(6)]
    snapshots: dict[datetime, Profiles] = {}
    profiles: dict[str, Any] = {}
    for day in range(8):
        for user in users:
            if chance.random() < 0.3:
                profiles.pop(user, None)
            elif chance.random() < 0.4:
                profiles[user] = random_profile(chance)
        snapshots[at(day)] = dict(profiles)
        again = {user: shuffled(chance, value) for user, value in profiles.items()}
        take(storage, day, again, min_kept_fraction=0)
        if chance.random() < 0.3:  # other profiles at the same time replace the snapshot
            profiles = {user: random_profile(chance) for user in users[::2]} | profiles
            snapshots[at(day)] = dict(profiles)
            take(storage, day, profiles, min_kept_fraction=0)
    assert versions(storage) == expected_versions(snapshots)
    assert profiles_at(storage, at(-0.001)) == {}
    for moment, expected in snapshots.items():
        assert profiles_at(storage, moment) == expected
        assert profiles_at(storage, moment + timedelta(days=1, microseconds=-1)) == expected


def test_the_same_snapshot_again_changes_nothing(storage: StorageEngine) -> None:
    assert take(storage, 1, {"u1": {"x": 1}, "u2": {}}) == (2, 0, 0)
    before = contents(storage)
    report = storage.update_profile_history("profiles")
    assert (report.appeared, report.changed, report.vanished) == (0, 0, 0)
    assert contents(storage) == before
    assert take(storage, 2, {"u1": {"x": 1}, "u2": {}}) == (0, 0, 0)
    assert versions(storage) == [("u1", {"x": 1}, at(1), None), ("u2", {}, at(1), None)]


def test_what_a_report_counts(storage: StorageEngine) -> None:
    take(storage, 1, {"u1": {"x": 1}, "u2": {"x": 1}, "u3": {}})
    assert take(storage, 2, {"u1": {"x": 2}, "u3": {}, "u4": {}}) == (1, 1, 1)
    assert take(storage, 3, {"u1": {"x": 2}, "u2": {"x": 1}, "u3": {}, "u4": {}}) == (1, 0, 0)
    assert [row for row in versions(storage) if row[0] == "u2"] == [
        ("u2", {"x": 1}, at(1), at(2)),
        ("u2", {"x": 1}, at(3), None),
    ]


@pytest.mark.parametrize(
    ("before", "after", "is_change"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),
        ({"a": {"x": 1, "y": [1, 2]}}, {"a": {"y": [1, 2], "x": 1}}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, True),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}, True),
        ({"a": "1"}, {"a": 1}, True),
        ({"a": "null"}, {"a": None}, True),
        ({"a": {}}, {"a": []}, True),
        ({"a": {"b": 1}}, {"a": {}, "b": 1}, True),
    ],
)
def test_the_order_of_keys_is_no_change(
    storage: StorageEngine, before: Any, after: Any, is_change: bool
) -> None:
    take(storage, 1, {"u1": before})
    assert take(storage, 2, {"u1": after}) == (0, int(is_change), 0)


def test_last_seen_is_no_change_unless_it_is_tracked(storage: StorageEngine) -> None:
    take(storage, 1, {"u1": {}})
    assert take(storage, 2, {"u1": {}}) == (0, 0, 0)
    assert take(storage, 3, {"u1": {}}, track_last_seen=True) == (0, 1, 0)
    assert storage.execute_rows("SELECT last_seen, valid_from FROM profile_history ORDER BY 1") == [
        (at(1), at(1)),
        (at(3), at(3)),
    ]


def test_an_older_snapshot_is_refused(storage: StorageEngine) -> None:
    take(storage, 1, {"u1": {"x": 1}})
    take(storage, 3, {"u1": {"x": 1}})  # leaves no trace in the versions
    load(storage, 2, {"u1": {"x": 2}})
    with pytest.raises(SnapshotRefusedError, match=r"2024-01-03.*has a snapshot of 2024-01-04"):
        storage.update_profile_history("profiles")
    assert versions(storage) == [("u1", {"x": 1}, at(1), None)]


def test_a_snapshot_that_lost_too_many_profiles_is_refused(storage: StorageEngine) -> None:
    everyone: Profiles = {f"u{number}": {} for number in range(10)}
    take(storage, 1, everyone)
    load(storage, 2, dict(list(everyone.items())[:4]))
    with pytest.raises(SnapshotRefusedError, match=r"6 of 10 profiles are not in.*50% must be"):
        storage.update_profile_history("profiles")
    assert len(profiles_at(storage, at(2))) == 10
    report = storage.update_profile_history("profiles", min_kept_fraction=0.4)
    assert report.vanished == 6


def test_a_snapshot_with_rejected_lines_is_refused(storage: StorageEngine, tmp_path: Path) -> None:
    lines = [json.dumps({"$distinct_id": f"u{n}", "$properties": {}}) for n in range(200)]
    file = write_lines(tmp_path / "profiles.jsonl", *lines, "{")
    storage.replace_table("profiles", file, TableMetadata("profiles", at(1)))
    with pytest.raises(SnapshotRefusedError, match=r"1 lines .* were rejected"):
        storage.update_profile_history("profiles")
    assert storage.update_profile_history("profiles", max_rejected=1).appeared == 200


def test_a_table_that_was_changed_by_hand_is_refused(storage: StorageEngine) -> None:
    load(storage, 1, {"u1": {}, "u2": {}})
    storage.execute("DELETE FROM profiles WHERE distinct_id = 'u1'")
    with pytest.raises(SnapshotRefusedError, match="the table has 1 rows, _metadata says 2"):
        storage.update_profile_history("profiles")


def test_only_profiles_have_a_history(storage: StorageEngine) -> None:
    with pytest.raises(TableNotFoundError, match="no table 'profiles'"):
        storage.update_profile_history("profiles")
    storage.create_events_table("songs", [event()], EVENTS)
    with pytest.raises(ValueError, match="songs contains events, not profiles"):
        storage.update_profile_history("songs")


@pytest.mark.parametrize(
    "own", ["TABLE profile_history AS SELECT 1 AS own", "MACRO profiles_at(x) AS TABLE SELECT 1"]
)
def test_something_of_the_user_is_not_replaced(storage: StorageEngine, own: str) -> None:
    load(storage, 1, {"u1": {}})
    storage.execute(f"CREATE {own}")
    with pytest.raises(TableExistsError, match=r"needs? the name '(profile_history|profiles_at)'"):
        storage.update_profile_history("profiles")
    assert storage.execute_rows("FROM _profile_versions") == []


def test_each_table_has_a_history_of_its_own(storage: StorageEngine) -> None:
    for name, properties in [("profiles", {"x": 1}), ("shop_profiles", {"x": 2})]:
        load(storage, 1, {"u1": properties}, name)
        storage.update_profile_history(name)
    assert versions(storage) == [("u1", {"x": 1}, at(1), None)]
    assert storage.execute_rows("SELECT properties FROM shop_profile_history") == [('{"x":2}',)]
    assert storage.execute_rows(
        "SELECT properties FROM shop_profiles_at(TIMESTAMP '2024-01-02')"
    ) == [('{"x":2}',)]


def test_a_reader_can_ask_for_any_time(tmp_path: Path) -> None:
    path = tmp_path / "test.duckdb"
    with StorageEngine(path) as storage:
        take(storage, 1, {"u1": {"x": 1}})
        take(storage, 2, {"u1": {"x": 2}})
        rewrite(storage.connection, path)
    with StorageEngine.open_existing(path) as storage:
        assert profiles_at(storage, at(1.5)) == {"u1": {"x": 1}}
        assert len(versions(storage)) == 2


def test_all_versions_of_a_user_are_erased(storage: StorageEngine, tmp_path: Path) -> None:
    file = write_lines(
        tmp_path / "events.jsonl", export_line(distinct_id="u1", **{"$user_id": "private"})
    )
    storage.create_events_table("songs", file, EVENTS)
    take(storage, 1, {"u1": {}, "private": {}, "other": {}})
    take(storage, 2, {"private": {"x": 1}, "other": {}}, min_kept_fraction=0)
    erasure = storage.erase(["u1"])
    assert {table.name: table.rows for table in erasure.tables}["profile_history"] == 3
    assert "private" not in str(contents(storage))
    assert [row[0] for row in versions(storage)] == ["other"]
    load(storage, 3, {"private": {}, "other": {}, "u1": {}})  # they are left out
    storage.update_profile_history("profiles")
    assert [row[0] for row in versions(storage)] == ["other"]


def test_a_report_says_when_the_snapshot_was_fetched(storage: StorageEngine) -> None:
    load(storage, 1, {"u1": {}})
    report = storage.update_profile_history("profiles")
    assert report == ProfileHistoryReport("profiles", report.taken_at, 1, 1, 0, 0)
    assert report.taken_at.isoformat() == "2024-01-02T00:00:00+00:00"
