"""Names of files, tables, views and datasets: nothing of the user's is mistaken for ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mp_pipeline.storage import StorageEngine, TableExistsError, TableMetadata
from mp_pipeline_tests.support.databases import column, contents
from mp_pipeline_tests.support.records import (
    EVENTS,
    FETCHED_AT,
    NOON,
    PROFILES,
    event,
    export_line,
    profile,
    window,
    write_lines,
)

TABLE = "events_20240115"
FETCHED = TableMetadata("events", FETCHED_AT)


@pytest.fixture
def storage() -> Iterator[StorageEngine]:
    with StorageEngine.memory() as engine:
        yield engine


def test_a_directory_name_is_no_data(storage: StorageEngine, tmp_path: Path) -> None:
    directory = tmp_path / "event=Sign Up"
    directory.mkdir()
    storage.create_events_table("events", write_lines(directory / "a.jsonl", export_line()), EVENTS)
    assert column(storage, "events", "event_name") == ["Song Played"]


@pytest.mark.parametrize("name", ["i*", "i?", "i[12]"])
def test_a_file_name_is_no_pattern(storage: StorageEngine, tmp_path: Path, name: str) -> None:
    for other in ("i1", "i2", name):
        write_lines(tmp_path / f"{other}.jsonl", export_line(other))
    storage.create_events_table("events", tmp_path / f"{name}.jsonl", EVENTS)
    assert column(storage, "events", "insert_id") == [name]


def test_an_own_view_with_the_name_of_the_dataset_is_not_replaced(storage: StorageEngine) -> None:
    storage.execute("CREATE VIEW events AS SELECT 42 AS answer")
    before = contents(storage)
    with pytest.raises(TableExistsError, match="events"):
        list(storage.replace_events_days("events", [window()], [event()], FETCHED))
    assert contents(storage) == before


def test_drop_table_leaves_own_views_alone(storage: StorageEngine) -> None:
    storage.create_events_table("songs_20240115", [event()], EVENTS)  # a month: no day table
    storage.create_events_table("songs_reports", [event()], EVENTS)
    storage.execute("CREATE VIEW songs AS SELECT 42 AS answer")
    storage.drop_table("songs_20240115")
    storage.drop_table("songs_reports")
    assert storage.execute_scalar("SELECT answer FROM songs") == 42


def test_a_table_that_is_no_day_of_the_dataset_is_not_replaced(storage: StorageEngine) -> None:
    storage.create_profiles_table(TABLE, [profile()], PROFILES)
    storage.create_events_table("events_20240116", [event()], EVENTS)  # a month under this name
    before = contents(storage)
    with pytest.raises(TableExistsError, match=TABLE):
        list(storage.replace_events_days("events", [window()], [event()], FETCHED))
    day = window(NOON.replace(day=16).date())
    with pytest.raises(TableExistsError, match="events_20240116"):
        list(storage.replace_events_days("events", [day], [event()], FETCHED))
    assert contents(storage) == before


def test_a_table_of_the_other_type_is_not_replaced(storage: StorageEngine) -> None:
    storage.create_events_table("things", [event()], EVENTS)
    before = contents(storage)
    with pytest.raises(TableExistsError, match="things"):
        storage.replace_table("things", [profile()], PROFILES)
    assert contents(storage) == before


@pytest.mark.parametrize("name", ["checked", "repeated", "ranked"])
def test_a_load_leaves_no_names_behind(storage: StorageEngine, tmp_path: Path, name: str) -> None:
    file = write_lines(tmp_path / "a.jsonl", export_line(), export_line(), "not JSON")
    storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1)
    with pytest.raises(ValueError, match="not valid JSON"):
        storage.create_events_table("more", [file], EVENTS)
    assert not storage.table_exists(name)
    assert storage.create_events_table(name, [event()], EVENTS) == 1


def test_a_load_does_not_hide_a_table_of_the_user(storage: StorageEngine) -> None:
    storage.create_events_table("repeated", [event("i5")], EVENTS)
    storage.create_events_table("events", [event(), event()], EVENTS)
    assert column(storage, "repeated", "insert_id") == ["i5"]


def test_tables_of_an_attached_database_are_not_ours(storage: StorageEngine) -> None:
    storage.execute("ATTACH ':memory:' AS other")
    storage.execute("CREATE TABLE other.events (x INTEGER)")
    assert not storage.table_exists("events")
    assert storage.create_events_table("events", [event()], EVENTS) == 1


def test_a_dataset_is_the_same_in_any_case(storage: StorageEngine) -> None:
    list(storage.replace_events_days("events", [window()], [event("old")], FETCHED))
    list(storage.replace_events_days("EVENTS", [window()], [event("new")], FETCHED))
    assert column(storage, "events", "insert_id") == ["new"]
    assert [table.row_count for table in storage.list_tables()] == [1]
