"""Whose tables and views these are: the engine's, of which dataset and owner, or the user's own."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    SourceMismatchError,
    StorageEngine,
    TableExistsError,
    TableMetadata,
    TableNotFoundError,
)
from mp_pipeline_tests.support.databases import column, contents
from mp_pipeline_tests.support.engines import file_only
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NOON,
    PROFILES,
    event,
    profile,
    window,
)

FETCHED = TableMetadata("events", FETCHED_AT)
NEXT_DAY = DAY + timedelta(days=1)
FIRST, SECOND = "events_20240115", "events_20240116"


def load(storage: StorageEngine, *ids: str, day: int = 0, dataset: str = "events") -> None:
    """Load the first or the second day."""
    time = NOON + timedelta(days=day)
    records = [event(insert_id, event_time=time) for insert_id in ids]
    windows = [window(DAY + timedelta(days=day))]
    list(storage.replace_events_days(dataset, windows, records, FETCHED))


def problems(storage: StorageEngine) -> dict[str, list[str]]:
    """What the checks find wrong with the days of the dataset."""
    tables = [day.table_name for day in storage.list_days("events")]
    found = storage.schema_problems(tables, "events")
    for counts in storage.count_rows(tables):
        found[counts.table_name] = found[counts.table_name] + counts.problems
    return {name: words for name, words in found.items() if words}


# The user's own tables and views


def test_a_table_with_a_days_name_leaves_a_users_view_alone(storage: StorageEngine) -> None:
    storage.execute("CREATE VIEW foo AS SELECT 42 AS answer")
    metadata = TableMetadata("events", FETCHED_AT, "2024-01-15", "2024-01-15")
    storage.create_events_table("foo_20240115", [event()], metadata)
    assert storage.execute_rows("FROM foo") == [(42,)]
    storage.drop_table("foo_20240115")
    assert storage.execute_rows("FROM foo") == [(42,)]


@file_only
@pytest.mark.parametrize(
    "ddl", ["VIEW {} AS SELECT 42 AS answer", "TABLE {} AS SELECT 42 AS answer"]
)
@pytest.mark.parametrize("name", ["events", FIRST])
def test_what_a_user_puts_in_the_place_of_ours_is_kept(
    storage: StorageEngine, ddl: str, name: str
) -> None:
    load(storage, "i1")
    storage.execute(f"DROP {'VIEW' if name == 'events' else 'TABLE'} {name}")
    storage.execute(f"CREATE {ddl.format(name)}")
    with pytest.raises(TableExistsError, match=f"'{name}' that was not created by a load"):
        load(storage, "i2")
    assert storage.execute_rows(f"FROM {name}") == [(42,)]


@file_only
def test_a_replaced_view_of_the_users_is_kept_when_days_are_dropped(storage: StorageEngine) -> None:
    load(storage, "i1")
    storage.execute("CREATE OR REPLACE VIEW events AS SELECT 42 AS answer")
    with pytest.raises(TableExistsError, match="view 'events'"):
        load(storage, "i2", day=1)
    assert storage.execute_rows("FROM events") == [(42,)]


@file_only
def test_comments_of_the_users_are_kept(storage: StorageEngine) -> None:
    load(storage, "i1")
    storage.execute_rows("COMMENT ON VIEW events IS 'All of our users'' events'")
    storage.execute_rows(f"COMMENT ON TABLE {FIRST} IS 'A day with an outage'")
    load(storage, "i2")
    load(storage, "i3", day=1)
    assert column(storage, "events", "insert_id") == ["i2", "i3"]
    comments = "SELECT comment FROM duckdb_views() WHERE view_name = 'events'"
    assert storage.execute_scalar(comments) == "All of our users' events"
    comments = f"SELECT comment FROM duckdb_tables() WHERE table_name = '{FIRST}'"
    assert storage.execute_scalar(comments) == "A day with an outage"


def test_a_table_on_its_own_is_not_replaced_as_a_day(storage: StorageEngine) -> None:
    storage.create_events_table(FIRST, [event("own")], EVENTS)
    with pytest.raises(TableExistsError, match=f"'{FIRST}' belongs to '{FIRST}', not to 'events'"):
        load(storage, "i1")
    assert column(storage, FIRST, "insert_id") == ["own"]


def test_a_day_is_not_replaced_as_a_table_on_its_own(storage: StorageEngine) -> None:
    load(storage, "i1")
    with pytest.raises(TableExistsError, match=f"'{FIRST}' belongs to 'events'"):
        storage.replace_table(FIRST, [], EVENTS)
    assert column(storage, "events", "insert_id") == ["i1"]


def test_a_table_of_profiles_is_not_replaced_by_events(storage: StorageEngine) -> None:
    storage.replace_table("people", [profile()], PROFILES)
    with pytest.raises(TableExistsError, match="'people' contains profiles, not events"):
        storage.replace_table("people", [], EVENTS)
    assert column(storage, "people", "distinct_id") == ["u1"]


# Owners


def test_a_dataset_of_another_owner_is_refused(storage: StorageEngine) -> None:
    """Two assets of Dagster can map to one name: a/b_c and a_b/c."""
    list(storage.replace_events_days("a_b_c", [window()], [event()], FETCHED, owner="a/b_c"))
    before = contents(storage)
    for dataset in ("a_b_c", "A_B_C"):
        with pytest.raises(TableExistsError, match="belongs to 'a/b_c', not to 'a_b/c'"):
            storage.replace_events_days(dataset, [window()], [], FETCHED, owner="a_b/c")
    assert contents(storage) == before
    storage.replace_table("people", [], PROFILES, owner="x/people")
    with pytest.raises(TableExistsError, match="belongs to 'x/people'"):
        storage.replace_table("People", [], PROFILES, owner="people")
    # Whoever gives no owner may load, and so may the owner.
    storage.replace_table("people", [profile()], PROFILES)
    assert storage.replace_table("people", [], PROFILES, owner="x/people").rows_stored == 0


def test_an_owner_without_data_is_forgotten(storage: StorageEngine) -> None:
    list(storage.replace_events_days("events", [window()], [event()], FETCHED, owner="a"))
    storage.drop_table(FIRST)
    list(storage.replace_events_days("events", [window()], [event()], FETCHED, owner="b"))
    with pytest.raises(TableExistsError, match="belongs to 'b'"):
        storage.replace_events_days("events", [window()], [], FETCHED, owner="a")


# Names are compared as DuckDB does


@pytest.mark.parametrize("dataset", ["EVENTS", "Events", "events"])
def test_sources_are_compared_whatever_the_case_of_the_name(
    storage: StorageEngine, dataset: str
) -> None:
    list(storage.replace_events_days("events", [window()], [event()], FETCHED, source="project 1"))
    before = contents(storage)
    for day in (DAY, NEXT_DAY):
        with pytest.raises(SourceMismatchError, match="'project 1'"):
            storage.replace_events_days(dataset, [window(day)], [], FETCHED, source="project 2")
    assert contents(storage) == before
    storage.replace_table("people", [profile()], PROFILES, source="project 1")
    with pytest.raises(SourceMismatchError, match="people"):
        storage.replace_table("PEOPLE", [], PROFILES, source="project 2")


def test_a_dataset_is_one_whatever_the_case_of_its_name(storage: StorageEngine) -> None:
    load(storage, "i1")
    load(storage, "i2", day=1, dataset="EVENTS")
    load(storage, "i3", dataset="Events")
    assert [info.day for info in storage.list_days("eVents")] == [DAY, NEXT_DAY]
    assert column(storage, "events", "insert_id") == ["i2", "i3"]
    assert len(storage.list_loads("EVENTS")) == 3


# What was dropped or altered by hand


@file_only
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (f"DROP TABLE {FIRST}", f"there is no table '{FIRST}'; reload it"),
        (f"ALTER TABLE {FIRST} DROP properties", "no column properties"),
        (f"ALTER TABLE {FIRST} RENAME properties TO props", "no column properties"),
        (
            f"ALTER TABLE {FIRST} ALTER properties TYPE VARCHAR",
            "column properties is VARCHAR, not JSON",
        ),
        (f"ALTER TABLE {FIRST} RENAME TO elsewhere", f"there is no table '{FIRST}'; reload it"),
    ],
)
def test_a_day_that_was_dropped_or_altered_blocks_no_other(
    storage: StorageEngine, caplog: pytest.LogCaptureFixture, statement: str, problem: str
) -> None:
    load(storage, "i1")
    load(storage, "i2", day=1)
    storage.execute(statement)
    with caplog.at_level(logging.WARNING, "mp_pipeline"):
        load(storage, "i3", day=1)
    assert f"the view events leaves out {FIRST}" in caplog.text
    assert column(storage, "events", "insert_id") == ["i3"]
    assert list(problems(storage)) == [FIRST]
    assert problem in problems(storage)[FIRST]

    load(storage, "i4")
    assert column(storage, "events", "insert_id") == ["i3", "i4"]
    assert problems(storage) == {}


@file_only
def test_a_column_that_was_added_changes_nothing_but_is_named(storage: StorageEngine) -> None:
    load(storage, "i1")
    storage.execute(f"ALTER TABLE {FIRST} ADD city VARCHAR")
    load(storage, "i2", day=1)
    assert column(storage, "events", "insert_id") == ["i1", "i2"]
    assert problems(storage) == {FIRST: ["unexpected column city"]}
    load(storage, "i1")
    assert problems(storage) == {}


@file_only
def test_a_dropped_table_can_be_forgotten(storage: StorageEngine) -> None:
    load(storage, "i1")
    load(storage, "i2", day=1)
    storage.execute(f"DROP TABLE {FIRST}")
    storage.drop_table(FIRST)
    assert [info.table_name for info in storage.list_days("events")] == [SECOND]
    assert column(storage, "events", "insert_id") == ["i2"]
    with pytest.raises(TableNotFoundError, match=FIRST):
        storage.drop_table(FIRST)


@file_only
def test_a_view_that_was_dropped_comes_back(storage: StorageEngine) -> None:
    load(storage, "i1")
    storage.execute("DROP VIEW events")
    load(storage, "i2", day=1)
    assert column(storage, "events", "insert_id") == ["i1", "i2"]


@file_only
def test_all_days_dropped_by_hand(storage: StorageEngine) -> None:
    load(storage, "i1")
    storage.execute(f"DROP TABLE {FIRST}")
    storage.drop_table(FIRST)
    assert not storage.table_exists("events")
    load(storage, "i2")
    assert column(storage, "events", "insert_id") == ["i2"]


# Origins


def test_settings_that_changed_between_loads_show(storage: StorageEngine) -> None:
    options: dict[str, Any] = {
        "source": "project 1",
        "timezone": "Europe/Berlin",
        "wall_clock_zone": "Europe/Berlin",
    }
    filtered = TableMetadata("events", FETCHED_AT, filter_events=["Search"], filter_where="true")
    list(storage.replace_events_days("events", [window()], [event()], filtered, **options))
    list(
        storage.replace_events_days(
            "events", [window(NEXT_DAY)], [], FETCHED, source="project 1", timezone="UTC"
        )
    )
    first, second = (day.origin for day in storage.list_days("events"))
    assert first.filter_events == ("Search",)
    assert first.filter_where == "true"
    assert (first.timezone, first.wall_clock_zone) == ("Europe/Berlin", "Europe/Berlin")
    assert (second.filter_events, second.filter_where) == (None, None)
    assert (second.timezone, second.wall_clock_zone) == ("UTC", "UTC")
    assert [load.origin for load in storage.list_loads("events")] == [first, second]


# Databases of earlier versions


def make_earlier(path: Path) -> None:
    """Make a database as the version before ownership was recorded did."""
    with StorageEngine(path) as storage:
        load(storage, "i1")
        load(storage, "i2", day=1)
        storage.create_events_table("own_20240115", [event("own")], EVENTS)
        storage.execute("CREATE VIEW own AS SELECT 42 AS answer")
        storage.replace_table("people", [profile()], PROFILES)
        for table in (FIRST, SECOND, "own_20240115", "people"):
            storage.execute_rows(f"COMMENT ON TABLE {table} IS NULL")
        storage.execute_rows("COMMENT ON VIEW events IS NULL")
        storage.execute_rows("DROP TABLE _tables")
        storage.execute_rows("ALTER TABLE _rejected DROP file")
        for name in ("gained", "lost", "dataset", "timezone", "wall_clock_zone"):
            storage.execute_rows(f"ALTER TABLE _load_log DROP {name}")


def test_a_database_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    make_earlier(path := tmp_path / "earlier.duckdb")
    with StorageEngine.open_existing(path) as storage:
        assert [info.table_name for info in storage.list_days("events")] == [FIRST, SECOND]
        assert storage.list_days("own") == []
        assert [report.table_name for report in storage.list_loads("events")] == [FIRST, SECOND]
        assert storage.list_days("events")[0].origin.timezone is None
        assert problems(storage) == {}
        assert storage.get_metadata("people") == PROFILES
        assert column(storage, "events", "insert_id") == ["i1", "i2"]


def test_a_database_of_an_earlier_version_is_brought_up_to_date(tmp_path: Path) -> None:
    make_earlier(path := tmp_path / "earlier.duckdb")
    for _ in range(2):  # the second time it is up to date already
        with StorageEngine(path) as storage:
            load(storage, "i1", "i3")
            storage.replace_table("people", [profile("u2")], PROFILES)
            assert column(storage, "events", "insert_id") == ["i1", "i2", "i3"]
            assert column(storage, "people", "distinct_id") == ["u2"]
            assert storage.execute_rows("FROM own") == [(42,)]
            assert problems(storage) == {}
    with StorageEngine.open_existing(path) as storage:
        assert [info.day for info in storage.list_days("events")] == [DAY, NEXT_DAY]
        assert len(storage.list_loads("events")) == 4
        assert storage.list_days("events")[0].origin.timezone == "UTC"
