"""Databases that earlier versions of this project wrote: they open, and days load into them."""

import gzip
import logging
from datetime import date
from pathlib import Path

import duckdb
import pytest

from mp_pipeline.storage import Reconciliation, StorageEngine, StorageError, TableMetadata
from mp_pipeline_tests.support.records import FETCHED_AT, event, window
from mp_pipeline_tests.support.typed import compare_with_json

DATABASES = Path(__file__).parent / "databases"
FIRST, SECOND, THIRD = date(2024, 1, 15), date(2024, 1, 16), date(2024, 1, 17)
compared = Reconciliation(FIRST, FETCHED_AT, FETCHED_AT, 20, 20, "equal", None, 0)
FETCHED = TableMetadata("events", FETCHED_AT)


@pytest.fixture(params=["before_gained_and_lost", "before_ownership"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of such a database."""
    content = gzip.decompress((DATABASES / f"{request.param}.duckdb.gz").read_bytes())
    path = tmp_path / "earlier.duckdb"
    path.write_bytes(content)
    return path


def problems(storage: StorageEngine) -> list[str]:
    days = [day.table_name for day in storage.list_days("events")]
    found = [problem for counts in storage.count_rows(days) for problem in counts.problems]
    return found + [
        problem for words in storage.schema_problems(days, "events").values() for problem in words
    ]


def test_it_can_be_read(path: Path) -> None:
    before = path.read_bytes()
    with StorageEngine.open_existing(path) as storage:
        assert [info.name for info in storage.list_tables()] == [
            "events_20240115",
            "events_20240116",
            "own_20240115",
            "profiles",
        ]
        assert [(info.day, info.row_count) for info in storage.list_days("events")] == [
            (FIRST, 20),
            (SECOND, 22),
        ]
        assert storage.list_days("own") == []
        loads = storage.list_loads("events", ["run 1"])
        assert [(load.lines_read, load.duplicates, load.rejected) for load in loads] == [
            (22, 1, 1),
            (24, 1, 1),
        ]
        assert {load.origin.source for load in loads} == {"project 1"}
        assert {load.origin.timezone for load in loads} == {None}
        assert storage.list_reconciliations("events") == []
        assert storage.get_metadata("events_20240115").from_date == "2024-01-15"
        assert storage.execute_scalar("SELECT count(*) FROM events") == 42
        assert storage.list_typed_days("events") == []
        assert storage.describe_events("events") == []
        assert storage.property_drift("events", SECOND) == []
        assert problems(storage) == []
    assert path.read_bytes() == before


def test_its_days_can_be_typed(path: Path) -> None:
    with StorageEngine(path) as storage:
        assert storage.type_events_day("events", FIRST).events == 20
        assert compare_with_json(storage) != []  # the other day is not typed yet
        storage.type_events_day("events", SECOND)
        assert compare_with_json(storage) == []
    with StorageEngine.open_existing(path) as storage:
        assert sum(each.events for each in storage.describe_events("events")) == 42


def test_it_can_have_metrics(path: Path) -> None:
    with StorageEngine.open_existing(path) as storage:
        days = storage.list_metric_days("events")
        assert [(each.day, each.metrics_are_stale) for each in days] == [
            (FIRST, True),
            (SECOND, True),
        ]
    with StorageEngine(path) as storage:
        assert storage.update_identities("events").days == (FIRST, SECOND)
        for day in (FIRST, SECOND):
            storage.update_sessions("events", day)
            storage.update_daily_metrics("events", day)
        assert storage.update_profile_history("profiles").appeared > 0
        assert storage.execute_scalar("SELECT sum(events) FROM daily_metrics") == 42
        assert not any(each.metrics_are_stale for each in storage.list_metric_days("events"))


def test_days_are_reloaded_and_added(path: Path) -> None:
    with StorageEngine(path) as storage:
        (again,) = storage.replace_events_days(
            "events", [window(FIRST)], [event("new")], FETCHED, source="project 1"
        )
        assert (again.gained, again.lost) == (1, 20)
        list(storage.replace_events_days("events", [window(THIRD)], [], FETCHED))
        storage.replace_table("profiles", [], TableMetadata("profiles", FETCHED_AT))
        storage.record_reconciliations("events", [compared])
    with StorageEngine.open_existing(path) as storage:
        assert storage.list_reconciliations("EVENTS") == [compared]
        assert [(info.day, info.row_count) for info in storage.list_days("events")] == [
            (FIRST, 1),
            (SECOND, 22),
            (THIRD, 0),
        ]
        assert storage.execute_rows(
            "SELECT day, count(*) FROM events GROUP BY day ORDER BY day"
        ) == [
            (FIRST, 1),
            (SECOND, 22),
        ]
        assert storage.execute_scalar("SELECT count(*) FROM profiles") == 0
        assert len(storage.list_loads("events")) == 4
        assert problems(storage) == []
        # What an earlier version rejected is still there, without the file.
        assert storage.execute_rows("SELECT day, line_number, reason, file FROM _rejected") == [
            (SECOND, 22, "not valid JSON", None)
        ]


def test_what_is_the_users_own_stays(path: Path) -> None:
    with StorageEngine(path) as storage:
        list(storage.replace_events_days("events", [window(SECOND)], [], FETCHED))
        assert storage.execute_rows("FROM own") == [(42,)]
        assert storage.execute_scalar("SELECT insert_id FROM own_20240115") == "own"
        storage.drop_table("own_20240115")
        assert storage.execute_rows("FROM own") == [(42,)]


def test_it_is_brought_up_to_date_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with StorageEngine(path):
        pass
    message = f"{path} was written by an earlier version of mp_pipeline: its internal tables and"
    assert [record.message.startswith(message) for record in caplog.records] == [True]
    with StorageEngine(path) as storage:
        assert storage.count_rows(["events_20240115"])[0].problems == []
    assert len(caplog.records) == 1


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """A view has the name of an internal table, so that no column can be added to it."""
    columns = "SELECT table_name, column_name, data_type FROM duckdb_columns() ORDER BY ALL"
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER TABLE _rejected RENAME TO kept")
        connection.execute("CREATE VIEW _rejected AS SELECT table_name FROM kept")
        before = connection.execute(columns).fetchall()
    with pytest.raises(StorageError, match="cannot write the database"), StorageEngine(path):
        pass
    with duckdb.connect(str(path)) as connection:
        assert connection.execute(columns).fetchall() == before


def test_users_are_erased_from_it(path: Path) -> None:
    with StorageEngine.open_existing(path) as storage:
        user = storage.execute_scalar("SELECT min(distinct_id) FROM events")
        rows = storage.plan_erasure([user]).rows
    with StorageEngine(path) as storage:
        assert storage.erase([user]).rows == rows > 0
        assert problems(storage) == []
