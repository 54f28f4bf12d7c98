"""The command `mp-pipeline`, as a user runs it."""

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.sample import events_of_day
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.processes import COMMAND, environment, run_command
from mp_pipeline_tests.support.servers import credentials
from mp_pipeline_tests.support.waiting import PATIENCE, wait_until


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


def test_backfill_then_status(tmp_path: Path) -> None:
    printed = run_command(tmp_path, "backfill", "--from", "2024-03-10", "--to", "2024-03-11")
    with StorageEngine.open_existing(tmp_path / "data/sample.duckdb") as storage:
        first, second = storage.list_days("events")
        assert (str(first.day), str(second.day)) == ("2024-03-10", "2024-03-11")
        assert storage.table_exists("profiles")
    assert f"events_20240310: {first.row_count:,} rows from " in printed
    assert f"│ 2024-03-11 │ {second.row_count:,} │" in printed
    assert f"Database: {tmp_path / 'data/sample.duckdb'}" in printed
    assert "This is the sample project" in printed

    run_command(tmp_path, "backfill", "--from", "2024-03-14", "--to", "2024-03-14", "--no-profiles")
    printed = run_command(tmp_path, "status")
    assert "2024-03-12 to 2024-03-13" in printed
    assert "2 days missing" in printed
    assert f"│ 2024-03-10               │          {first.row_count:,} │" in printed
    assert "3 days, " in printed
    assert "profiles: 3," in printed


EXTRA_ASSETS = {"MIXPANEL_EXTRA_ASSETS": "groups,cohorts,annotations,lexicon"}
DAY = ("--from", "2024-03-10", "--to", "2024-03-10")


def test_backfill_loads_the_extra_assets(tmp_path: Path) -> None:
    printed = run_command(tmp_path, "backfill", *DAY, env=EXTRA_ASSETS)
    loaded = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    snapshots = [
        "profiles",
        "groups_company",
        "cohorts",
        "cohort_members",
        "annotations",
        "lexicon",
    ]
    assert loaded == ["2024-03-10", *snapshots]
    printed = run_command(tmp_path, "status", env=EXTRA_ASSETS)
    assert "groups_company: 40 rows, " in printed
    assert "cohorts: 3 rows, " in printed


def test_an_extra_asset_that_is_refused_fails_alone(tmp_path: Path, server: FaultyServer) -> None:
    refusal = Fault("status", path="/cohorts/list", status=402, body=b'{"error":"Upgrade"}')
    server.faults += [refusal, replace(refusal)]
    env = credentials(server) | EXTRA_ASSETS
    printed = run_command(tmp_path, "backfill", *DAY, env=env, code=1)
    loaded = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    assert loaded == ["2024-03-10", "profiles", "groups_company", "annotations", "lexicon"]
    failures = [line for line in printed.splitlines() if line.startswith("Failed: ")]
    assert [line.split()[1] for line in failures] == ["cohorts:", "cohort_members:"]
    assert all("status 402, Mixpanel says: Upgrade" in line for line in failures)
    assert "cohorts: not loaded" in run_command(tmp_path, "status", env=env)


def test_backfill_is_recorded_in_dagster_home(tmp_path: Path, server: FaultyServer) -> None:
    home = tmp_path / "home"
    home.mkdir()
    run_command(
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


def test_backfill_shows_a_spinner_on_a_terminal(tmp_path: Path) -> None:
    terminal, other_end = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "backfill", "--from", "2024-03-10", "--to", "2024-03-11", "--no-profiles"],
        cwd=tmp_path,
        env=environment(TERM="xterm", COLUMNS="200"),
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
    # Each message replaces the one before, beside the spinner.
    (second,) = [line for line in printed.decode().split("\r") if "; 2 of 2 days" in line][:1]
    assert "events_20240311: " in second
    assert "\nevents_20240311: " not in printed.decode()


def test_a_failed_backfill_says_why(tmp_path: Path, server: FaultyServer) -> None:
    server.faults.append(
        Fault("status", status=402, body=b'{"error":"Your plan does not allow API calls."}')
    )
    printed = run_command(
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


def test_a_backfill_that_fails_on_a_later_day_says_how_to_resume(
    tmp_path: Path, server: FaultyServer
) -> None:
    server.faults.append(Fault("status", status=400, day=date(2024, 3, 12)))
    printed = run_command(
        tmp_path,
        *("backfill", "--from", "2024-03-10", "--to", "2024-03-13"),
        env=credentials(server),
        code=1,
    )
    rows = [line.split()[1] for line in printed.splitlines() if line.startswith("│")]
    assert rows == ["2024-03-10", "2024-03-11", "profiles"]
    assert printed.splitlines()[-2].startswith("Failed: export of 2024-03-12 failed: status 400")
    assert printed.splitlines()[-1] == (
        "The days listed above are loaded. To resume: mp-pipeline backfill --from 2024-03-12 "
        "--to 2024-03-13 --no-profiles"
    )
    # Dagster's own messages about a failed run are not for the terminal.
    assert "Re-execute" not in printed
    assert "Not executing" not in printed


def test_ctrl_c_stops_and_says_how_to_resume(tmp_path: Path, server: FaultyServer) -> None:
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
    wait_until(lambda: len(server.requests) == 2, processes=[process])
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert (
        "Stopped. The days listed above are loaded. "
        "To resume: mp-pipeline backfill --from 2024-03-11 --to 2024-03-12\n"
    ) in printed
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
    assert words in run_command(tmp_path, "backfill", *arguments, code=2)
    assert list(tmp_path.iterdir()) == []


def test_check_of_the_sample_project(tmp_path: Path) -> None:
    printed = run_command(
        tmp_path, "check", env={"MP_PIPELINE_STATE_DIRECTORY": str(tmp_path / "state")}
    )
    assert "Mixpanel: the sample project" in printed
    assert "(created by the first load)" in printed
    assert "Everything works." in printed
    assert list(tmp_path.iterdir()) == []  # the sample project has no rate limits


def test_check_says_what_is_wrong(tmp_path: Path, server: FaultyServer) -> None:
    (tmp_path / "notes.txt").write_text("not a database")
    wrong = {
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": "wrong-secret",
        "MP_PIPELINE_DATABASE": str(tmp_path / "notes.txt"),
    }
    printed = run_command(tmp_path, "check", env=credentials(server) | wrong, code=1)
    assert "Invalid service account credentials" in printed
    assert "MIXPANEL_REGION" in printed
    assert "not a valid DuckDB database" in printed
    assert "wrong-secret" not in printed


def test_incomplete_credentials_do_not_select_the_sample(tmp_path: Path) -> None:
    env = {"MIXPANEL_PROJECT_ID": "7", "MIXPANEL_SERVICE_ACCOUNT_USERNAME": "me"}
    for command in ("backfill", "check", "status"):
        printed = run_command(tmp_path, command, env=env, code=1)
        assert "MIXPANEL_SERVICE_ACCOUNT_SECRET must be set too" in printed
        assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_status_without_a_database(tmp_path: Path) -> None:
    printed = run_command(tmp_path, "status", code=1)
    assert (
        f"no database at {tmp_path / 'data/sample.duckdb'}; materialize an asset first" in printed
    )


def test_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert "No such command" in run_command(tmp_path, "restore", code=2)


def test_a_dagster_home_that_is_not_a_directory(tmp_path: Path) -> None:
    for home in ("relative", str(tmp_path / "missing")):
        printed = run_command(tmp_path, "backfill", env={"DAGSTER_HOME": home}, code=1)
        assert "DAGSTER_HOME" in printed
        assert "Traceback" not in printed


def test_check_of_a_database_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no directory")
    database = str(tmp_path / "notes.txt" / "mixpanel.duckdb")
    printed = run_command(tmp_path, "check", env={"MP_PIPELINE_DATABASE": database}, code=1)
    assert f"{tmp_path / 'notes.txt'} is not a directory" in printed


def test_check_does_not_wait_for_retry_after(tmp_path: Path, server: FaultyServer) -> None:
    server.faults.append(Fault("status", status=429, retry_after=900))
    printed = run_command(tmp_path, "check", env=credentials(server), code=1)
    assert "asks to wait 900 seconds" in printed
