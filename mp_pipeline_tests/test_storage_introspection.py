from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from mp_pipeline.storage import (
    ColumnInfo,
    StorageEngine,
    TableInfo,
    TableMetadata,
    TableNotFoundError,
    TableSchema,
)
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.records import (
    EVENTS,
    FETCHED_AT,
    PROFILES,
    event,
    export_line,
    profile,
    write_lines,
)

INTERNAL = ["_metadata", "_tables", "_load_log", "_rejected", "_event_tables", "_typed_days"]


@pytest.fixture
def storage() -> Iterator[StorageEngine]:
    with StorageEngine.memory() as engine:
        engine.create_events_table("January", [event("i1"), event("i2")], EVENTS)
        engine.create_profiles_table("people", [profile()], PROFILES)
        yield engine


def test_table_exists(storage: StorageEngine) -> None:
    assert storage.table_exists("January")
    assert storage.table_exists("people")
    assert not storage.table_exists("february")
    assert not storage.table_exists("")
    assert not storage.table_exists("peopl%")
    assert not storage.table_exists('people"')


def test_table_exists_takes_names_as_sql_does(storage: StorageEngine) -> None:
    assert storage.table_exists("january")
    assert storage.table_exists("PEOPLE")


def test_own_tables_and_views_exist_too(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own (x INTEGER)")
    storage.execute("CREATE VIEW seen AS SELECT * FROM own")
    assert storage.table_exists("own")
    assert storage.table_exists("seen")


@pytest.mark.parametrize("name", INTERNAL)
def test_internal_tables_do_not_exist_for_the_user(storage: StorageEngine, name: str) -> None:
    assert not storage.table_exists(name)
    for method in (storage.get_schema, storage.get_metadata, storage.get_primary_key):
        with pytest.raises(TableNotFoundError, match=name):
            method(name)
    with pytest.raises(TableNotFoundError, match=name):
        storage.drop_table(name)
    assert storage.execute_scalar(f"SELECT count(*) FROM {name}") is not None


def test_list_tables(storage: StorageEngine) -> None:
    assert storage.list_tables() == [
        TableInfo("January", "events", 2, FETCHED_AT),
        TableInfo("people", "profiles", 1, FETCHED_AT),
    ]


def test_list_tables_of_a_new_database() -> None:
    with StorageEngine.memory() as storage:
        assert storage.list_tables() == []


def test_a_table_that_is_being_loaded_is_not_listed(storage: StorageEngine) -> None:
    seen: list[tuple[list[str], bool]] = []

    def look(_: int) -> None:
        names = [table.name for table in storage.list_tables()]
        seen.append((names, storage.table_exists("february")))

    storage.create_events_table("february", [event()], EVENTS, look)
    assert seen == [(["January", "people"], False)]


def test_the_schema_of_events(storage: StorageEngine) -> None:
    assert storage.get_schema("January") == TableSchema(
        "January",
        [
            ColumnInfo("event_name", "VARCHAR", nullable=False),
            ColumnInfo("event_time", "TIMESTAMP", nullable=False),
            ColumnInfo("distinct_id", "VARCHAR", nullable=False),
            ColumnInfo("insert_id", "VARCHAR", nullable=False),
            ColumnInfo("properties", "JSON", nullable=True),
        ],
    )


def test_the_schema_of_profiles(storage: StorageEngine) -> None:
    assert storage.get_schema("people").columns == [
        ColumnInfo("distinct_id", "VARCHAR", nullable=False),
        ColumnInfo("properties", "JSON", nullable=True),
        ColumnInfo("last_seen", "TIMESTAMP", nullable=True),
    ]


def test_the_schema_of_an_own_view(storage: StorageEngine) -> None:
    storage.execute("CREATE VIEW seen AS SELECT insert_id, 1 AS one FROM January")
    assert [(column.name, column.type) for column in storage.get_schema("seen").columns] == [
        ("insert_id", "VARCHAR"),
        ("one", "INTEGER"),
    ]
    assert storage.get_primary_key("seen") == []


def test_the_primary_keys(storage: StorageEngine) -> None:
    assert storage.get_primary_key("January") == ["insert_id"]
    assert storage.get_primary_key("people") == ["distinct_id"]


def test_a_primary_key_of_two_columns(storage: StorageEngine) -> None:
    storage.execute('CREATE TABLE "own" (a INTEGER, b INTEGER, c INTEGER, PRIMARY KEY (a, c))')
    assert storage.get_primary_key("own") == ["a", "c"]


@pytest.mark.parametrize(
    "metadata",
    [
        EVENTS,
        replace(EVENTS, filter_events=["Sign Up", 'quo"te', "ünï"]),
        replace(EVENTS, filter_events=[], filter_where='properties["$os"] == "iOS"'),
        replace(EVENTS, from_date=None, to_date=None),
    ],
)
def test_metadata_comes_back_as_given(storage: StorageEngine, metadata: TableMetadata) -> None:
    storage.create_events_table("february", [event()], metadata)
    assert storage.get_metadata("february") == metadata
    assert storage.get_metadata("FEBRUARY") == metadata


def test_metadata_of_profiles_comes_back_as_given(storage: StorageEngine) -> None:
    metadata = replace(PROFILES, filter_where='properties["plan"] == "premium"')
    storage.create_profiles_table("premium", [], metadata)
    assert storage.get_metadata("premium") == metadata


def test_metadata_is_that_of_the_table_made_last(storage: StorageEngine) -> None:
    storage.drop_table("January")
    metadata = TableMetadata("events", datetime(2024, 2, 1), filter_events=["Sign Up"])
    storage.create_events_table("January", [], metadata)
    assert storage.get_metadata("January") == replace(
        metadata, fetched_at=storage.list_tables()[0].fetched_at
    )
    storage.drop_table("January")
    storage.create_events_table("January", [], EVENTS)
    assert storage.get_metadata("January").filter_events is None


def test_metadata_cannot_be_changed(storage: StorageEngine) -> None:
    with pytest.raises(FrozenInstanceError):
        storage.get_metadata("January").from_date = "2024-01-02"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["nowhere", "", "no'where", 'no"where'])
def test_what_is_not_there_is_named(storage: StorageEngine, name: str) -> None:
    for method in (storage.get_schema, storage.get_metadata, storage.get_primary_key):
        with pytest.raises(TableNotFoundError) as missing:
            method(name)
        assert repr(name) in str(missing.value)
    with pytest.raises(TableNotFoundError):
        storage.drop_table(name)
    january, missing_table = storage.count_rows(["January", name])
    assert january.problems == []
    assert (missing_table.rows, missing_table.problems) == (
        None,
        [f"there is no table {name!r}; reload it"],
    )


def test_an_own_table_has_no_metadata(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own (x INTEGER)")
    with pytest.raises(TableNotFoundError, match="own"):
        storage.get_metadata("own")
    assert [table.name for table in storage.list_tables()] == ["January", "people"]


@pytest.mark.parametrize("name", ["January", "JANUARY"])
def test_drop_table(storage: StorageEngine, name: str) -> None:
    storage.drop_table(name)
    assert not storage.table_exists("January")
    assert [table.name for table in storage.list_tables()] == ["people"]
    assert "January" not in contents(storage)
    with pytest.raises(TableNotFoundError, match="January"):
        storage.get_metadata("January")
    with pytest.raises(TableNotFoundError, match=name):
        storage.drop_table(name)
    assert storage.create_events_table("January", [event()], EVENTS) == 1


def test_drop_table_forgets_its_rejected_lines(storage: StorageEngine, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", export_line(), "not JSON")
    for name in ("kept", "dropped"):
        storage.replace_table(name, [file], EVENTS, max_rejected_fraction=1)
    storage.drop_table("dropped")
    assert storage.execute_rows("SELECT table_name FROM _rejected") == [("kept",)]
    assert storage.execute_scalar("SELECT count(*) FROM _load_log WHERE table_name='dropped'") == 1


def test_drop_table_of_an_own_table(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own (x INTEGER)")
    storage.drop_table("own")
    assert not storage.table_exists("own")


def test_count_rows(storage: StorageEngine) -> None:
    january, people = storage.count_rows(["January", "people"])
    assert (january.rows, january.metadata_row_count, january.problems) == (2, 2, [])
    assert (people.rows, people.metadata_row_count, people.problems) == (1, 1, [])


def test_count_rows_shows_rows_that_went_away(storage: StorageEngine) -> None:
    storage.execute("DELETE FROM January WHERE insert_id = 'i1'")
    (january,) = storage.count_rows(["January"])
    assert (january.rows, january.metadata_row_count) == (1, 2)
    assert january.problems == [
        "the table has 1 rows, _metadata says 2",
        "the table has 1 rows, the load log says 2",
    ]


def test_count_rows_shows_lines_that_are_not_accounted_for(storage: StorageEngine) -> None:
    storage.execute("UPDATE _load_log SET lines_read = 5, duplicates = 1 WHERE type = 'events'")
    (january,) = storage.count_rows(["January"])
    (problem,) = january.problems
    assert "5 lines were read, but 2 rows, 1 duplicates" in problem


def test_count_rows_of_a_table_that_was_never_loaded(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own AS SELECT 1 AS x")
    (own,) = storage.count_rows(["own"])
    assert (own.rows, own.metadata_row_count, own.last_load) == (1, None, None)
    assert len(own.problems) == 2


def test_tables_of_the_data_model_have_no_schema_problems(storage: StorageEngine) -> None:
    assert storage.schema_problems(["January"], "events") == {"January": []}
    assert storage.schema_problems(["PEOPLE"], "profiles") == {"PEOPLE": []}


def test_schema_problems_are_named(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own (distinct_id INTEGER, properties JSON, more VARCHAR)")
    assert storage.schema_problems(["own", "nowhere"], "profiles") == {
        "own": [
            "no column last_seen",
            "unexpected column more",
            "column distinct_id is INTEGER, not VARCHAR NOT NULL",
            "the primary key is missing, not distinct_id",
        ],
        "nowhere": ["there is no table 'nowhere'; reload it"],
    }


def test_introspection_reads_a_read_only_database(tmp_path: Path) -> None:
    path = tmp_path / "a.duckdb"
    with StorageEngine(path) as storage:
        storage.create_events_table("January", [event()], EVENTS)
    with StorageEngine.open_existing(path) as storage:
        assert storage.list_tables() == [TableInfo("January", "events", 1, FETCHED_AT)]
        assert storage.get_metadata("January") == EVENTS
        assert storage.get_primary_key("January") == ["insert_id"]


def test_introspection_of_a_database_that_the_engine_did_not_make(tmp_path: Path) -> None:
    path = tmp_path / "foreign.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE own (x INTEGER)").fetchall()
    with StorageEngine.open_existing(path) as storage:
        assert storage.list_tables() == []
        assert storage.list_days("events") == []
        assert storage.table_exists("own")
        assert storage.get_schema("own").columns == [ColumnInfo("x", "INTEGER", nullable=True)]
        with pytest.raises(TableNotFoundError, match="own"):
            storage.get_metadata("own")
