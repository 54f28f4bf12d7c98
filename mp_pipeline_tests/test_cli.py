"""The command `mp-pipeline`, as a user runs it."""

import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.sample import events_of_day
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.cli_support import COMMAND, credentials, run
from mp_pipeline_tests.dagster_support import environment
from mp_pipeline_tests.faults import Fault
from mp_pipeline_tests.faults import FaultyServer as SampleServer


@pytest.fixture
def server() -> Iterator[SampleServer]:
    with SampleServer() as server:
        yield server


def test_backfill_then_status(tmp_path: Path) -> None:
    printed = run(tmp_path, "backfill", "--from", "2024-03-10", "--to", "2024-03-11")
    with StorageEngine.open_existing(tmp_path / "data/sample.duckdb") as storage:
        first, second = storage.list_days("events")
        assert (str(first.day), str(second.day)) == ("2024-03-10", "2024-03-11")
        assert storage.table_exists("profiles")
    assert f"events_20240310: {first.row_count:,} rows stored" in printed
    assert f"│ 2024-03-11 │ {second.row_count:,} │" in printed
    assert f"Database: {tmp_path / 'data/sample.duckdb'}" in printed
    assert "This is the sample project" in printed

    run(tmp_path, "backfill", "--from", "2024-03-14", "--to", "2024-03-14", "--no-profiles")
    printed = run(tmp_path, "status")
    assert "2024-03-12 to 2024-03-13" in printed
    assert "2 days missing" in printed
    assert f"│ 2024-03-10               │          {first.row_count:,} │" in printed
    assert "3 days, " in printed
    assert "profiles: 3," in printed


def test_backfill_is_recorded_in_dagster_home(tmp_path: Path, server: SampleServer) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run(
        tmp_path,
        "backfill",
        *("--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles"),
        env=credentials(server) | {"DAGSTER_HOME": str(home)},
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        partitions = instance.get_materialized_partitions(dg.AssetKey("events"))
    assert partitions == {"2024-03-10", "2024-03-11"}
    with StorageEngine.open_existing(tmp_path / "data/mixpanel.duckdb") as storage:
        unique = {event["properties"]["$insert_id"] for event in events_of_day(date(2024, 3, 10))}
        assert storage.list_days("events")[0].row_count == len(unique)


def test_backfill_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "backfill", "--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles"],
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="100"),
        stdout=other_end,
        stderr=other_end,
    )
    os.close(other_end)
    printed = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        printed += piece
    os.close(terminal)
    assert process.wait() == 0
    assert "2/2" in printed.decode()
    # What is going on stands beside the bar, not on lines of its own.
    assert "events_20240311: " in printed.decode()
    assert "\nevents_20240311: " not in printed.decode()


def test_a_failed_backfill_says_why(tmp_path: Path, server: SampleServer) -> None:
    server.faults.append(
        Fault(
            "status", status=402, body=b'{"error":"Your plan does not allow API calls."}', times=9
        )
    )
    printed = run(
        tmp_path,
        "backfill",
        *("--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles"),
        env=credentials(server),
        code=1,
    )
    assert "Failed: " in printed
    assert "export of 2024-03-10" in printed
    assert "Your plan does not allow API calls." in printed
    assert "Traceback" not in printed
    assert server.secret not in printed


def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path, server: SampleServer) -> None:
    server.faults.append(Fault("stall", seconds=60, day=date(2024, 3, 11)))
    process = subprocess.Popen(
        [COMMAND, "backfill", "--from", "2024-03-10", "--to", "2024-03-12"],
        cwd=tmp_path,
        env=environment(**credentials(server)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("export of 2024-03-10: done, ")
    assert process.stdout.readline().startswith("events_20240310: ")
    while len(server.requests) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Stopped. " in printed
    assert "mp-pipeline backfill --from 2024-03-11 --to 2024-03-12" in printed
    assert "Traceback" not in printed
    with StorageEngine.open_existing(tmp_path / "data/mixpanel.duckdb") as storage:
        assert [str(day.day) for day in storage.list_days("events")] == ["2024-03-10"]
        assert not storage.table_exists("profiles")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "2024-03-11", "--to", "2024-03-10"), "--from 2024-03-11 is after --to"),
        (("--from", "2024-03-11", "--to", "2999-01-01"), "is after the last complete day"),
        (("--from", "2023-12-31", "--to", "2024-01-01"), "is before the first partition"),
        (("--to", "2024-01-01"), "--to needs --from"),
        (("--from", "soon"), "Invalid value for '--from'"),
    ],
)
def test_wrong_days_are_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in run(tmp_path, "backfill", *arguments, code=2)
    assert list(tmp_path.iterdir()) == []


def test_check_of_the_sample_project(tmp_path: Path) -> None:
    printed = run(tmp_path, "check", env={"MP_PIPELINE_STATE_DIRECTORY": str(tmp_path / "state")})
    assert "Mixpanel: the sample project" in printed
    assert "will be made by the first load" in printed
    assert "All is well." in printed
    assert list(tmp_path.iterdir()) == []  # it needs no budget


def test_check_says_what_is_wrong(tmp_path: Path, server: SampleServer) -> None:
    (tmp_path / "notes.txt").write_text("not a database")
    wrong = {
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": "wrong-secret",
        "MP_PIPELINE_DATABASE": str(tmp_path / "notes.txt"),
    }
    printed = run(tmp_path, "check", env=credentials(server) | wrong, code=1)
    assert "Invalid service account credentials" in printed
    assert "MIXPANEL_REGION" in printed
    assert "not a valid DuckDB database" in printed
    assert "wrong-secret" not in printed


def test_half_set_credentials_are_no_sample(tmp_path: Path) -> None:
    env = {"MIXPANEL_PROJECT_ID": "7", "MIXPANEL_SERVICE_ACCOUNT_USERNAME": "me"}
    for command in ("backfill", "check", "status"):
        printed = run(tmp_path, command, env=env, code=1)
        assert "MIXPANEL_SERVICE_ACCOUNT_SECRET must be set too" in printed
        assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_status_without_a_database(tmp_path: Path) -> None:
    printed = run(tmp_path, "status", code=1)
    assert f"there is no database at {tmp_path / 'data/sample.duckdb'}" in printed


def test_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert "No such command" in run(tmp_path, "restore", code=2)


def test_a_dagster_home_that_is_no_directory(tmp_path: Path) -> None:
    for home in ("relative", str(tmp_path / "missing")):
        printed = run(tmp_path, "backfill", env={"DAGSTER_HOME": home}, code=1)
        assert "DAGSTER_HOME" in printed
        assert "Traceback" not in printed


def test_check_of_a_database_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no directory")
    database = str(tmp_path / "notes.txt" / "mixpanel.duckdb")
    printed = run(tmp_path, "check", env={"MP_PIPELINE_DATABASE": database}, code=1)
    assert f"{tmp_path / 'notes.txt'} is not a directory" in printed


def test_check_does_not_wait_for_the_rate_limit(tmp_path: Path, server: SampleServer) -> None:
    server.faults.append(Fault("status", status=429, retry_after=900))
    printed = run(tmp_path, "check", env=credentials(server), code=1)
    assert "asks to wait 900 seconds" in printed
