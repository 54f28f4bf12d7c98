"""Copying a database file into a lake, and going on after a stop."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import (
    DayWindow,
    SourceMismatchError,
    StorageEngine,
    StorageError,
    TableExistsError,
    TableMetadata,
)
from mp_pipeline_tests.support.databases import column, rows_of
from mp_pipeline_tests.support.engines import lake_in
from mp_pipeline_tests.support.records import write_lines

FIRST = date(2024, 1, 15)
DAYS = [FIRST + timedelta(days=number) for number in range(4)]
FETCHED = datetime(2024, 2, 1, tzinfo=UTC)
TABLES = [f"events_{day:%Y%m%d}" for day in DAYS]


def load(
    storage: StorageEngine, day: date, *users: str, source: str = "a project", **options: Any
) -> None:
    start = datetime.combine(day, datetime.min.time(), UTC)
    events = [
        {
            "event_name": "Visit",
            "event_time": start + timedelta(minutes=minute),
            "distinct_id": user,
            "insert_id": f"i{minute}",
            "properties": {"plan": "free", "n": minute, "text": "ü"},
        }
        for minute, user in enumerate(users)
    ]
    window = DayWindow(day, start, start + timedelta(days=1))
    list(
        storage.replace_events_days(
            "events", [window], events, TableMetadata("events", FETCHED), source=source, **options
        )
    )


def load_line(storage: StorageEngine, day: date, *users: str, line: str) -> None:
    """Load a day from a file with one line that is not an event."""
    noon = int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) + 43_200
    lines = [
        json.dumps(
            {
                "event": "Visit",
                "properties": {"time": noon, "distinct_id": user, "$insert_id": f"i{number}"},
            }
        )
        for number, user in enumerate(users)
    ]
    assert storage.path is not None
    file = write_lines(storage.path.with_suffix(".jsonl"), *lines, line)
    start = datetime.combine(day, datetime.min.time(), UTC)
    window = DayWindow(day, start, start + timedelta(days=1))
    metadata = TableMetadata("events", FETCHED)
    list(
        storage.replace_events_days(
            "events", [window], file, metadata, source="a project", max_rejected_fraction=1
        )
    )


def load_profile(storage: StorageEngine, plan: str, fetched_at: datetime) -> None:
    profile = {"distinct_id": "u1", "properties": {"plan": plan}, "last_seen": None}
    metadata = TableMetadata("profiles", fetched_at)
    storage.replace_table("profiles", [profile], metadata, source="a project")
    storage.update_profile_history("profiles")


def rows(storage: StorageEngine, name: str) -> list[tuple[Any, ...]]:
    return storage.execute_rows(f"SELECT * FROM {rows_of(storage, name)} ORDER BY ALL")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with four days, a refused load, an erasure, and two versions of a profile."""
    path = tmp_path / "mixpanel.duckdb"
    with StorageEngine(path) as storage:
        for day in DAYS:
            load(storage, day, "u1", "u2", "u3", "forgotten")
        with pytest.raises(StorageError):
            load(storage, FIRST, "u9", min_kept_fraction=0.5)
        load_profile(storage, "free", FETCHED)
        load_profile(storage, "pro", FETCHED + timedelta(days=1))
        storage.erase(["forgotten"])
        load_line(storage, DAYS[1], "u1", "u2", "u3", line="x" * 20_000)
    return path


def test_everything_that_cannot_be_made_again_is_copied(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        copied = list(lake.migrate_from(file))
        assert [(table.name, table.rows) for table in copied if table.day] == [
            (name, 3) for name in TABLES
        ]
        assert {table.outcome for table in copied if table.rows} == {"copied"}
        with StorageEngine.open_existing(file) as original:
            for name in [*TABLES, "profiles", "_profile_versions", "_suppressed", "_erasures"]:
                assert rows(lake, name) == rows(original, name)
            assert lake.list_days("events") == original.list_days("events")
            assert lake.list_loads("events") == original.list_loads("events")
            assert lake.list_loads("events", refused=True) == original.list_loads(
                "events", refused=True
            )
            assert lake.count_rows(TABLES) == original.count_rows(TABLES)
        assert lake.execute_rows("SELECT DISTINCT day FROM events ORDER BY day") == [
            (day,) for day in DAYS
        ]
        load(lake, FIRST, "u1", "forgotten")  # who was erased stays out
        assert column(lake, TABLES[0], "distinct_id") == ["u1"]


def test_a_second_migration_copies_what_has_changed_alone(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        list(lake.migrate_from(file))
        with StorageEngine(file) as storage:
            load(storage, DAYS[1], "u4", "u5")
        load(lake, DAYS[2], "u6")
        again = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert [again[name] for name in TABLES] == ["there", "copied", "newer", "there"]
        assert column(lake, TABLES[1], "distinct_id") == ["u4", "u5"]
        assert column(lake, TABLES[2], "distinct_id") == ["u6"]


def test_who_was_erased_in_the_lake_is_not_copied_again(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        list(lake.migrate_from(file))
        assert len(rows(lake, "_rejected")) == 1
        lake.erase(["u2"])
        for _ in range(2):
            again = {table.name: table.outcome for table in lake.migrate_from(file)}
            assert {again[name] for name in TABLES} == {"there"}
            for name in TABLES:
                assert column(lake, name, "distinct_id") == ["u1", "u3"]
            assert rows(lake, "_rejected") == []
            assert [counts.problems for counts in lake.count_rows(TABLES)] == [[]] * 4
            assert len(lake.list_loads("events")) == len(TABLES) + 1
        load(lake, FIRST, "u1", "u2", "forgotten")
        assert column(lake, TABLES[0], "distinct_id") == ["u1"]


def test_both_lists_of_erased_users_apply(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        load(lake, DAYS[-1] + timedelta(days=1), "u1", "u7")
        lake.erase(["u1"])
        load_profile(lake, "trial", FETCHED)
        copied = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert copied["_suppressed"] == copied["_erasures"] == "copied"
        assert copied["_profile_snapshots"] == "newer"  # the lake has a history of its own
        assert column(lake, TABLES[0], "distinct_id") == ["u2", "u3"]
        load(lake, FIRST, "u1", "forgotten", "u5")
        assert column(lake, TABLES[0], "distinct_id") == ["u5"]
        assert len(lake.execute_rows("FROM _erasures")) == 2


def test_who_was_erased_in_the_file_meanwhile_is_erased_in_the_lake(
    file: Path, tmp_path: Path
) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        list(lake.migrate_from(file))
        for day in DAYS:
            lake.type_events_day("events", day)
        load(lake, FIRST, "u1", "u2")
        with StorageEngine(file) as storage:
            storage.erase(["u1"])
        again = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert "erased" in again.values()
        assert lake.plan_erasure(["u1"]).rows == 0
        assert "u1" not in str(rows(lake, "_profile_versions"))
        assert column(lake, TABLES[0], "distinct_id") == ["u2"]
        assert [counts.problems for counts in lake.count_rows(TABLES)] == [[]] * 4


def test_the_history_is_copied_until_the_lake_goes_on_with_it(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        list(lake.migrate_from(file))
        with StorageEngine(file) as storage:
            load_profile(storage, "max", FETCHED + timedelta(days=2))
            expected = rows(storage, "_profile_versions")
        again = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert again["_profile_versions"] == "copied"
        assert rows(lake, "_profile_versions") == expected
        load_profile(lake, "none", FETCHED + timedelta(days=3))
        again = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert again["_profile_versions"] == "newer"
        assert len(rows(lake, "_profile_versions")) == len(expected) + 1


def test_a_source_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "mixpanel.duckdb"
    with StorageEngine(file) as storage:
        load(storage, FIRST, "u1", source="sample")
        storage.drop_table(TABLES[0])
        for day in DAYS[:2]:
            load(storage, day, "u1")
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        outcomes = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert [outcomes[name] for name in TABLES[:2]] == ["copied"] * 2


def test_a_table_of_the_user_is_not_replaced(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        lake.execute("CREATE TABLE profiles AS SELECT 42 AS own")
        with pytest.raises(TableExistsError, match="not created by a load of this kind"):
            list(lake.migrate_from(file))
        assert lake.execute_rows("FROM profiles") == [(42,)]


def test_the_load_log_has_the_loads_of_both_in_order(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        load(lake, FIRST, "u8", "u9")
        outcomes = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert outcomes[TABLES[0]] == "newer"
        loads = lake.list_loads("events")
        in_log = lake.execute_rows(
            f"SELECT rows_stored FROM _load_log WHERE table_name = '{TABLES[0]}' "
            "AND refused IS NULL ORDER BY rowid"
        )
        assert in_log == [(3,), (2,)]  # the latest is the one that the rows are from
        assert [each.rows_stored for each in loads if each.day == FIRST] == [3, 2]
        assert lake.count_rows(TABLES)[0].problems == []
        assert [each.table_name for each in lake.list_loads("events", refused=True)] == TABLES[:1]


def test_what_is_not_copied_is_named(file: Path, tmp_path: Path) -> None:
    with StorageEngine(file) as storage:
        storage.execute("CREATE TABLE goals AS SELECT 1 AS goal")
        storage.execute("CREATE VIEW songs AS SELECT 1 AS song")
        storage.execute("CREATE SCHEMA reports")
        storage.execute("CREATE TABLE reports._week AS SELECT 1 AS week")
        storage.type_events_day("events", FIRST)
        storage.update_identities("events")
        storage.update_daily_metrics("events", FIRST)
        storage.connection.execute(f"DROP TABLE {TABLES[1]}")
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        outcomes = {table.name: table.outcome for table in lake.migrate_from(file)}
        assert [outcomes[name] for name in TABLES] == ["copied", "missing", "copied", "copied"]
        assert [name for name, outcome in outcomes.items() if outcome == "other"] == [
            "goals",
            "songs",
            "reports._week",
        ]
        assert len(lake.list_loads("events")) == len(TABLES) + 1


def test_a_killed_migration_goes_on_where_it_was(file: Path, tmp_path: Path) -> None:
    lake = lake_in(tmp_path / "lake")
    script = f"""if True:
        import sys
        from pathlib import Path
        from mp_pipeline.storage import StorageEngine
        from mp_pipeline_tests.support.engines import lake_in
        with StorageEngine(lake_in(Path({str(tmp_path / "lake")!r}))) as lake:
            for table in lake.migrate_from({str(file)!r}):
                print(table.name, flush=True)
                sys.stdin.readline()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline().strip() != TABLES[1]:
            process.stdin.write("\n")
            process.stdin.flush()
        os.kill(process.pid, signal.SIGKILL)
    with StorageEngine(lake) as engine:
        again = {table.name: table.outcome for table in engine.migrate_from(file)}
        assert [again[name] for name in TABLES] == ["there", "there", "copied", "copied"]
        assert [counts.problems for counts in engine.count_rows(TABLES)] == [[]] * 4


def test_another_source_is_refused(file: Path, tmp_path: Path) -> None:
    with StorageEngine(lake_in(tmp_path / "lake")) as lake:
        load(lake, DAYS[3] + timedelta(days=1), "u1", source="another project")
        with pytest.raises(SourceMismatchError, match="another project"):
            list(lake.migrate_from(file))


def test_a_file_is_not_migrated_into_a_file(file: Path, tmp_path: Path) -> None:
    with (
        StorageEngine(tmp_path / "other.duckdb") as other,
        pytest.raises(StorageError, match="is not a lake"),
    ):
        list(other.migrate_from(file))
