"""Backups, and rewriting a database into a new file."""

import hashlib
import subprocess
from pathlib import Path

import duckdb
import pytest

from mp_pipeline.storage import (
    DatabaseLockedError,
    StorageEngine,
    StorageError,
    TableMetadata,
    back_up,
    connect,
    rewrite,
)
from mp_pipeline_tests.support.databases import contents
from mp_pipeline_tests.support.processes import storage_command
from mp_pipeline_tests.support.records import FETCHED_AT, PROFILES, event, profile, window

FETCHED = TableMetadata("events", FETCHED_AT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a day, profiles, and objects of a user's own."""
    path = tmp_path / "test.duckdb"
    with StorageEngine(path) as storage:
        records = [
            event(f"i{n}", distinct_id=f"u{n}", properties={"name": f"User {n}"})
            for n in range(3000)
        ]
        list(storage.replace_events_days("events", [window()], records, FETCHED))
        storage.replace_table("profiles", [profile("u1"), profile("u2")], PROFILES)
        for statement in (
            "COMMENT ON TABLE profiles IS 'our people'",
            "CREATE MACRO double(x) AS x * 2",
            "CREATE SCHEMA mart",
            "CREATE VIEW mart.users AS SELECT distinct_id FROM main.profiles",
        ):
            storage.connection.execute(statement)
    return path


def catalog(path: Path) -> list[tuple[object, ...]]:
    with StorageEngine.open_existing(path) as storage:
        return storage.execute_rows(
            "SELECT schema_name, table_name AS name, sql, comment FROM duckdb_tables() "
            "UNION ALL SELECT schema_name, view_name, sql, comment FROM duckdb_views() "
            "WHERE NOT internal "
            "UNION ALL SELECT schema_name, function_name, macro_definition, comment "
            "FROM duckdb_functions() WHERE NOT internal ORDER BY ALL"
        )


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with StorageEngine.open_existing(path) as storage:
        return contents(storage)


def test_a_backup_is_the_database(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "backups" / "monday.duckdb"
    with connect(path, lock_timeout=5) as connection:
        made = back_up(connection, path, target)
    assert target.read_bytes() == path.read_bytes()
    assert made.bytes == target.stat().st_size
    assert made.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert made.checksum_path.read_text() == f"{made.sha256}  monday.duckdb\n"
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in target.parent.iterdir()) == [
        "monday.duckdb",
        "monday.duckdb.sha256",
    ]
    assert rows(target) == rows(path)


def test_a_backup_contains_what_a_killed_process_committed(path: Path, tmp_path: Path) -> None:
    """What it committed is in the write-ahead log alone."""
    code = """
    import os
    connection = connect(Path(sys.argv[1]), lock_timeout=5)
    connection.execute("CREATE TABLE committed AS SELECT 42 AS answer")
    os._exit(9)
    """
    command = storage_command("from pathlib import Path\n" + code.replace("\n    ", "\n"), path)
    assert subprocess.run(command, check=False).returncode == 9
    assert Path(f"{path}.wal").stat().st_size > 0
    with connect(path, lock_timeout=5) as connection:
        back_up(connection, path, tmp_path / "backup.duckdb")
    with StorageEngine.open_existing(tmp_path / "backup.duckdb") as storage:
        assert storage.execute_rows("FROM committed") == [(42,)]


@pytest.mark.parametrize("existing", ["backup.duckdb", "backup.duckdb.sha256"])
def test_a_backup_replaces_nothing(path: Path, tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("mine")
    with (
        connect(path, lock_timeout=5) as connection,
        pytest.raises(FileExistsError, match=f"{existing} exists: choose another name"),
    ):
        back_up(connection, path, tmp_path / "backup.duckdb")
    assert (tmp_path / existing).read_text() == "mine"


def test_the_lock_is_kept_during_a_backup(path: Path, tmp_path: Path) -> None:
    with connect(path, lock_timeout=5) as connection:
        back_up(connection, path, tmp_path / "backup.duckdb")
        code = "StorageEngine(sys.argv[1], lock_timeout=0)"
        result = subprocess.run(
            storage_command(code, path), capture_output=True, text=True, check=False
        )
    assert DatabaseLockedError.__name__ in result.stderr


def test_a_backup_that_cannot_be_written(path: Path) -> None:
    target = Path("/proc/backup.duckdb")
    with (
        connect(path, lock_timeout=5) as connection,
        pytest.raises(StorageError, match="cannot write the backup /proc/backup"),
    ):
        back_up(connection, path, target)


def test_a_rewritten_database_has_everything_but_deleted_data(path: Path) -> None:
    with StorageEngine(path) as storage:
        storage.erase(["u1"])
    before = (catalog(path), rows(path))
    path.chmod(0o640)
    with connect(path, lock_timeout=5) as connection:
        rewrite(connection, path)
    assert (catalog(path), rows(path)) == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in path.parent.iterdir()] == ["test.duckdb"]
    with StorageEngine(path) as storage:
        tables = ["events_20240115", "profiles"]
        assert [count.problems for count in storage.count_rows(tables)] == [[], []]
        (report,) = storage.replace_events_days(
            "events", [window()], [event("new", distinct_id="u2")], FETCHED
        )
        assert report.rows_stored == 1


def test_no_block_of_a_rewritten_database_holds_what_was_erased(tmp_path: Path) -> None:
    """The text is in the file uncompressed before, so that it would be found after."""
    path = tmp_path / "test.duckdb"
    needle = "needle-in-no-haystack"
    with StorageEngine(path) as storage:
        storage.replace_table("profiles", [profile(needle), profile("u2")], PROFILES)
    assert needle.encode() in path.read_bytes()
    with StorageEngine(path) as storage:
        storage.erase([needle])
    with connect(path, lock_timeout=5) as connection:
        rewrite(connection, path)
    assert needle.encode() not in path.read_bytes()
    assert [row[0] for row in rows(path)["profiles"]] == ["u2"]


def test_the_database_behind_a_link_is_rewritten(path: Path) -> None:
    link = path.with_name("link.duckdb")
    link.symlink_to(path)
    before = path.stat().st_ino
    with connect(link, lock_timeout=5) as connection:
        rewrite(connection, link)
    assert link.is_symlink()
    assert path.stat().st_ino != before
    assert rows(link) == rows(path)


def test_a_writer_that_waits_gets_the_new_file(path: Path) -> None:
    """Its data is in the database afterwards, though the old file was closed later."""
    code = """
with StorageEngine(sys.argv[1], lock_timeout=30) as storage:
    storage.connection.execute("CREATE TABLE waited AS SELECT 1 AS x")
    print("written", flush=True)
    sys.stdin.readline()
"""
    with (
        connect(path, lock_timeout=5) as connection,
        subprocess.Popen(
            storage_command(code, path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None
        rewrite(connection, path)
        assert writer.stdout.readline() == "written\n"
        connection.close()
        writer.stdin.close()
    with StorageEngine.open_existing(path) as storage:
        assert storage.execute_rows("FROM waited") == [(1,)]
        assert storage.execute_scalar("SELECT count(*) FROM events") == 3000


def test_a_rewrite_that_fails_keeps_the_file(path: Path) -> None:
    before = rows(path)
    with connect(path, lock_timeout=5) as connection:
        connection.execute("ATTACH ':memory:' AS _rewritten")
        with pytest.raises(StorageError, match="The file is unchanged"):
            rewrite(connection, path)
    assert rows(path) == before
    assert [file.name for file in path.parent.iterdir()] == ["test.duckdb"]
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(3000,)]
