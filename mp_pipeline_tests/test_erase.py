"""`mp-pipeline erase`, as a user runs it."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.support.databases import query, query_column
from mp_pipeline_tests.support.processes import COMMAND, environment, run_command
from mp_pipeline_tests.support.records import FETCHED_AT, PROFILES, event, profile, window

ENV = {"MP_PIPELINE_DATABASE": "test.duckdb", "COLUMNS": "200"}
FETCHED = TableMetadata("events", FETCHED_AT)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a database of three users, and with what a killed run downloaded."""
    records = [
        event("a", distinct_id="u1", properties={"$user_id": "ada@example.com"}),
        event("b", distinct_id="u2"),
        event("c", distinct_id="u3"),
    ]
    with StorageEngine(tmp_path / "test.duckdb") as storage:
        list(storage.replace_events_days("events", [window()], records, FETCHED))
        storage.replace_table("profiles", [profile("ada@example.com"), profile("u2")], PROFILES)
    downloads = tmp_path / "test.downloads" / "some-run"
    downloads.mkdir(parents=True)
    (downloads / "events_2024-01-15.jsonl.gz").write_text("u1")
    return tmp_path


def erase(directory: Path, *options: str, code: int = 0) -> str:
    return run_command(directory, "erase", *options, code=code, env=ENV)


def users(directory: Path) -> list[str]:
    return query_column(directory, "SELECT distinct_id FROM events ORDER BY ALL")


def test_a_user_and_linked_ids(directory: Path) -> None:
    printed = erase(directory, "--distinct-id", "u1")
    assert "u1\nada@example.com (linked to u1 by $user_id)\n" in printed
    assert "│ events_20240115 │    1 │              0 │" in printed
    assert "│ profiles        │    1 │              0 │" in printed
    assert "Erased 2 rows and 0 rejected lines of 2 user IDs.\n" in printed
    assert "Deleted the downloads of 1 run on this machine." in printed
    assert users(directory) == ["u2", "u3"]
    assert list((directory / "test.downloads").iterdir()) == []
    printed = run_command(directory, "status", "--day", "2024-01-15", env=ENV)
    assert "erased since the load at " in printed
    assert printed.rstrip().endswith(": 1 line")
    assert "Problem" not in printed


def test_a_dry_run_changes_nothing(directory: Path) -> None:
    before = (directory / "test.duckdb").read_bytes()
    printed = erase(directory, "--distinct-id", "u1", "--dry-run")
    assert "ada@example.com (linked to u1 by $user_id)\n" in printed
    assert printed.endswith("Nothing was erased: this is a dry run.\n")
    assert (directory / "test.duckdb").read_bytes() == before
    assert (directory / "test.downloads/some-run/events_2024-01-15.jsonl.gz").exists()


def test_users_from_a_file_and_a_rewritten_database(directory: Path) -> None:
    (directory / "ids.txt").write_text("u2\n\n  u3 \nunknown user\n")
    inode = (directory / "test.duckdb").stat().st_ino
    printed = erase(directory, "--file", "ids.txt", "--rewrite")
    assert "Erased 3 rows and 0 rejected lines of 3 user IDs.\n" in printed
    assert f"Rewrote {directory / 'test.duckdb'}.\n" in printed
    assert (directory / "test.duckdb").stat().st_ino != inode
    assert users(directory) == ["u1"]
    assert query(directory, "SELECT requested_ids, rows FROM _erasures") == [(3, 3)]


def test_what_cannot_be_erased(directory: Path) -> None:
    assert "name users with --distinct-id or --file" in erase(directory, code=2)
    assert "'' is no user's ID" in erase(directory, "--distinct-id", "", code=1)
    printed = erase(directory, "--distinct-id", "u1", "--max-ids", "1", code=1)
    assert "the data links 2 IDs to the given ones, more than 1" in printed
    (directory / "ids.bin").write_bytes(b"\xff\xfe")
    assert "ids.bin is not UTF-8 text" in erase(directory, "--file", "ids.bin", code=2)
    assert users(directory) == ["u1", "u2", "u3"]
    (directory / "test.duckdb").unlink()
    assert "no database at" in erase(directory, "--distinct-id", "u1", code=1)


@pytest.mark.parametrize(("answer", "left"), [("n", ["u1", "u2", "u3"]), ("y", ["u2", "u3"])])
def test_it_asks_on_a_terminal(directory: Path, answer: str, left: list[str]) -> None:
    terminal, other_end = pty.openpty()
    with subprocess.Popen(
        [COMMAND, "erase", "--distinct-id", "u1"],
        cwd=directory,
        env=environment(**ENV),
        stdin=other_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        os.write(terminal, f"{answer}\n".encode())
        printed, _ = process.communicate()
    os.close(other_end)
    os.close(terminal)
    assert "Erase all of this? It cannot be undone" in printed
    assert users(directory) == left


def test_a_backfill_shows_what_it_left_out(tmp_path: Path) -> None:
    """A user of the sample is erased and does not come back."""
    days = ("--from", "2024-03-10", "--to", "2024-03-10", "--no-profiles")
    env = {"COLUMNS": "200"}
    run_command(tmp_path, "backfill", *days, env=env)
    path = tmp_path / "data/sample.duckdb"
    with StorageEngine.open_existing(path) as storage:
        user = storage.execute_scalar(
            "SELECT distinct_id FROM events GROUP BY ALL ORDER BY count(*) DESC LIMIT 1"
        )
    run_command(tmp_path, "erase", "--distinct-id", user, env=env)
    printed = run_command(tmp_path, "backfill", *days, env=env)
    assert "suppressed" in printed
    with StorageEngine.open_existing(path) as storage:
        (counts,) = storage.count_rows(["events_20240310"])
        assert counts.problems == []
        assert counts.last_load is not None
        assert counts.last_load.suppressed > 0
        assert f" {counts.last_load.suppressed} suppressed" in printed
        left = f"SELECT count(*) FROM events WHERE distinct_id = '{user}'"
        assert storage.execute_scalar(left) == 0
