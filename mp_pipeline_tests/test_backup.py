"""`mp-pipeline backup`, as a user runs it, and restoring what it made."""

import shutil
import subprocess
from pathlib import Path

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.processes import COMMAND, ONLY_LOAD, environment, run_command

DATABASE = Path("data/sample.duckdb")


def backfill(directory: Path, first: str, last: str) -> None:
    """Load days of events."""
    days = ("--from", first, "--to", last, "--no-profiles")
    run_command(directory, "backfill", *days, env=ONLY_LOAD)


def count_rows(path: Path) -> dict[str, int]:
    with StorageEngine.open_existing(path) as storage:
        days = storage.list_days("events")
        counts = storage.count_rows([day.table_name for day in days])
        assert [count.problems for count in counts] == [[]] * len(days)
        return {str(day.day): day.row_count for day in days}


def test_a_backup_is_restored_and_loading_continues(tmp_path: Path) -> None:
    backfill(tmp_path, "2024-03-10", "2024-03-11")
    database, backup = tmp_path / DATABASE, tmp_path / "backups/sunday.duckdb"
    printed = run_command(tmp_path, "backup", "backups/sunday.duckdb")
    assert printed == (
        f"{backup}: {backup.stat().st_size:,} bytes, verified. "
        "Its checksum is in sunday.duckdb.sha256\n"
    )
    before = count_rows(database)
    database.write_bytes(b"damaged")

    # As docs/operations.md says.
    subprocess.run(["sha256sum", "--check", "sunday.duckdb.sha256"], cwd=backup.parent, check=True)
    shutil.copy(backup, database)
    assert count_rows(database) == before
    backfill(tmp_path, "2024-03-10", "2024-03-12")
    assert count_rows(database).keys() == {"2024-03-10", "2024-03-11", "2024-03-12"}


def test_a_backup_while_a_backfill_runs(tmp_path: Path) -> None:
    backfill(tmp_path, "2024-03-10", "2024-03-10")
    with subprocess.Popen(
        [COMMAND, "backfill", "--from", "2024-03-01", "--to", "2024-03-10", "--no-profiles"],
        cwd=tmp_path,
        env=environment(**ONLY_LOAD),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:  # until its second day is loaded
            if "events_20240302:" in line:
                break
        run_command(tmp_path, "backup", "copy.duckdb")
        running.communicate()
    assert running.returncode == 0
    copied = count_rows(tmp_path / "copy.duckdb")
    assert copied.items() <= count_rows(tmp_path / DATABASE).items()
    assert {"2024-03-01", "2024-03-02", "2024-03-10"} <= copied.keys()


def test_what_cannot_be_backed_up(tmp_path: Path) -> None:
    assert "no database at" in run_command(tmp_path, "backup", "copy.duckdb", code=1)
    assert list(tmp_path.iterdir()) == []
    backfill(tmp_path, "2024-03-10", "2024-03-10")
    (tmp_path / "copy.duckdb").write_text("mine")
    printed = run_command(tmp_path, "backup", "copy.duckdb", code=1)
    assert "exists: choose another name, or delete it" in printed
