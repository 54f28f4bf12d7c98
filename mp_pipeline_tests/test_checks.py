"""The checks of tables: on days that are intact, and after a user changed them with SQL."""

import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import Run, materialize, plain, resources
from mp_pipeline_tests.support.databases import tamper
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.project import blocking_checks, checks, events, profiles
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of

TODAY = date(2024, 1, 20)
"""The current day of the server."""

NAMES = ["row_count", "schema"]
EVENTS_CHECKS = [each for each in blocking_checks if each.check_key.asset_key == events.key]
PROFILES_CHECKS = [each for each in blocking_checks if each.check_key.asset_key == profiles.key]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as running:
        yield running


@pytest.fixture(scope="module")
def loaded(server: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("loaded")
    available = resources(directory, server)
    assert materialize([events], available, days=(DAY, DAY_AFTER)).success
    assert materialize([profiles], available).success
    return directory


@pytest.fixture
def three_days(loaded: Path, tmp_path: Path) -> Path:
    """Return a directory with a database of three days and the profiles."""
    shutil.copy(loaded / "test.duckdb", tmp_path)
    return tmp_path


def judge_events(directory: Path, **partitions: Any) -> Run:
    """Run the checks of the events by themselves."""
    only = dg.AssetSelection.checks(*EVENTS_CHECKS)
    return materialize([events, *EVENTS_CHECKS], resources(directory), only=only, **partitions)


def judge_profiles(directory: Path) -> Run:
    """Run the checks of the profiles by themselves."""
    only = dg.AssetSelection.checks(*PROFILES_CHECKS)
    return materialize([profiles, *PROFILES_CHECKS], resources(directory), only=only)


def failure(run: Run, name: str) -> str:
    """Return the description of a check, which must have failed."""
    assert run.checks[name].passed is False
    return run.checks[name].description or ""


def shown(run: Run, name: str) -> dict[str, Any]:
    return {key: plain(value) for key, value in run.checks[name].metadata.items()}


def results(run: Run, name: str) -> list[tuple[str, bool]]:
    """Return the tables that a check judged, and whether each passed."""
    return [(row["table"], row["passed"]) for row in shown(run, name)["results"]]


# Intact tables


def test_only_the_checks_of_tables_are_blocking() -> None:
    names = [each.check_key.to_user_string() for each in blocking_checks]
    assert names == [
        "events:row_count",
        "events:schema",
        "profiles:row_count",
        "profiles:schema",
    ]
    blocking = [each for each in checks if each.get_spec_for_check_key(each.check_key).blocking]
    assert blocking == blocking_checks


def test_a_day_passes(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events, *EVENTS_CHECKS], resources(tmp_path, server), day=DAY)
    assert run.success
    for name in NAMES:
        assert run.checks[name].passed
        assert run.checks[name].description == "no problems in events_20240115"
        assert results(run, name) == [("events_20240115", True)]
        assert shown(run, name)["failed"] == 0


def test_a_range_passes(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events, *EVENTS_CHECKS], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert run.success
    for name in NAMES:
        assert run.checks[name].passed
        assert results(run, name) == [(f"events_{day:%Y%m%d}", True) for day in DAYS]
        assert shown(run, name)["tables"] == 3


def test_profiles_pass(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([profiles, *PROFILES_CHECKS], resources(tmp_path, server))
    assert run.success
    for name in NAMES:
        assert run.checks[name].passed
        assert results(run, name) == [("profiles", True)]


def test_a_day_without_events_passes(server: FaultyServer, tmp_path: Path) -> None:
    with_fault = resources(tmp_path, server)
    server.faults.append(Fault("body", body=b""))
    run = materialize([events, *EVENTS_CHECKS], with_fault, day=DAY)
    assert run.success
    assert all(run.checks[name].passed for name in NAMES)


def test_a_day_with_rejected_lines_passes(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(Fault("extra_lines", lines=[b"not JSON", b'{"event": "x"}']))
    run = materialize([events, *EVENTS_CHECKS], resources(tmp_path, server), day=DAY)
    assert run.metadata["2024-01-15"]["rejected"] == 2
    assert all(run.checks[name].passed for name in NAMES)


def test_checks_that_run_by_themselves_judge_all_days(three_days: Path) -> None:
    run = judge_events(three_days)
    assert run.success
    for name in NAMES:
        assert run.checks[name].passed
        assert len(results(run, name)) == 3
    run = judge_profiles(three_days)
    assert run.success
    assert all(run.checks[name].passed for name in NAMES)


def test_a_run_judges_its_own_days_only(server: FaultyServer, three_days: Path) -> None:
    tamper(three_days, "DELETE FROM events_20240116 WHERE event_name = 'Page View'")
    run = materialize([events, *EVENTS_CHECKS], resources(three_days, server), day=DAY)
    assert run.checks["row_count"].passed
    assert results(run, "row_count") == [("events_20240115", True)]


# Changed tables


def test_a_row_that_is_gone(three_days: Path) -> None:
    last = "(SELECT max(insert_id) FROM events_20240116)"
    tamper(three_days, f"DELETE FROM events_20240116 WHERE insert_id = {last}")
    rows = len(insert_ids_of(NEXT_DAY))
    run = judge_events(three_days)
    assert failure(run, "row_count") == (
        f"events_20240116: the table has {rows - 1} rows, _metadata says {rows}; "
        f"the table has {rows - 1} rows, the load log says {rows}"
    )
    # The day that failed comes first.
    assert results(run, "row_count") == [
        ("events_20240116", False),
        ("events_20240115", True),
        ("events_20240117", True),
    ]
    assert shown(run, "row_count")["failed"] == 1
    assert run.checks["schema"].passed
    assert not run.success


def test_two_days_are_named_with_the_problems_of_the_first(three_days: Path) -> None:
    tamper(three_days, "TRUNCATE events_20240115", "TRUNCATE events_20240117")
    run = judge_events(three_days)
    assert failure(run, "row_count").startswith(
        "events_20240115, events_20240117: the table has 0 rows, _metadata says "
    )
    assert [passed for _, passed in results(run, "row_count")] == [False, False, True]


def test_metadata_that_was_changed(three_days: Path) -> None:
    tamper(
        three_days,
        "UPDATE _metadata SET row_count = 7 WHERE table_name IN ('events_20240116', 'profiles')",
    )
    assert "events_20240116: the table has " in failure(judge_events(three_days), "row_count")
    assert "_metadata says 7" in failure(judge_events(three_days), "row_count")
    assert "_metadata says 7" in failure(judge_profiles(three_days), "row_count")


def test_metadata_that_is_gone(three_days: Path) -> None:
    tamper(three_days, "DELETE FROM _metadata WHERE table_name = 'profiles'")
    assert "_metadata says None" in failure(judge_profiles(three_days), "row_count")


def test_a_load_log_that_is_gone(three_days: Path) -> None:
    tamper(three_days, "DELETE FROM _load_log")
    for run in (judge_events(three_days), judge_profiles(three_days)):
        assert "the load log has no load of the table" in failure(run, "row_count")


def test_a_line_that_is_not_accounted_for(three_days: Path) -> None:
    tamper(
        three_days,
        "UPDATE _load_log SET lines_read = lines_read + 1 WHERE day = '2024-01-17'",
    )
    message = failure(judge_events(three_days), "row_count")
    assert message.startswith("events_20240117: ")
    assert "lines were read, but" in message
    assert "are accounted for" in message


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            ["ALTER TABLE {} ALTER properties SET NOT NULL"],
            "column properties is JSON NOT NULL, not JSON",
        ),
        (
            ["ALTER TABLE {} ALTER properties TYPE VARCHAR"],
            "column properties is VARCHAR, not JSON",
        ),
        (
            ["ALTER TABLE {} ALTER event_name DROP NOT NULL"],
            "column event_name is VARCHAR, not VARCHAR NOT NULL",
        ),
        (["ALTER TABLE {} DROP properties"], "no column properties"),
        (["ALTER TABLE {} ADD city VARCHAR"], "unexpected column city"),
        (
            [
                "CREATE TABLE keyless AS FROM {}",
                "DROP TABLE {}",
                "ALTER TABLE keyless RENAME TO {}",
            ],
            "the primary key is missing, not insert_id",
        ),
    ],
)
def test_a_days_schema_that_was_changed(
    three_days: Path, statements: list[str], message: str
) -> None:
    tamper(three_days, *(each.format("events_20240116") for each in statements))
    run = judge_events(three_days)
    assert failure(run, "schema").startswith("events_20240116: ")
    assert message in failure(run, "schema")
    assert results(run, "schema")[0] == ("events_20240116", False)
    assert run.checks["row_count"].passed


def test_the_profiles_schema_that_was_changed(three_days: Path) -> None:
    tamper(three_days, "ALTER TABLE profiles ALTER last_seen TYPE DATE")
    run = judge_profiles(three_days)
    assert failure(run, "schema") == "profiles: column last_seen is DATE, not TIMESTAMP"


def test_a_day_table_that_was_dropped(three_days: Path) -> None:
    tamper(three_days, "DROP TABLE events_20240116")
    run = judge_events(three_days)
    for name in NAMES:
        assert "no table 'events_20240116'" in failure(run, name)
        assert results(run, name)[0] == ("events_20240116", False)


class TamperingIOManager(MixpanelDuckDBIOManager):
    """An IO manager whose tables a user changes as soon as they are stored."""

    statement: str

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        super().handle_output(context, obj)
        with self.duckdb.get_connection() as connection:
            connection.execute(self.statement)


@pytest.mark.parametrize(
    ("statement", "failing", "message"),
    [
        ("TRUNCATE events_20240116", "row_count", "the table has 0 rows, _metadata says"),
        ("ALTER TABLE events_20240116 DROP properties", "schema", "no column properties"),
        ("DROP TABLE events_20240116", "schema", "no table 'events_20240116'"),
    ],
)
def test_the_day_of_a_range_that_fails_is_named_first(
    server: FaultyServer, tmp_path: Path, statement: str, failing: str, message: str
) -> None:
    available = resources(tmp_path, server)
    available["mixpanel_duckdb"] = TamperingIOManager(
        duckdb=available["duckdb"], statement=statement
    )
    run = materialize([events, *EVENTS_CHECKS], available, days=(DAY, DAY_AFTER))
    assert not run.success
    assert failure(run, failing).startswith("events_20240116: ")
    assert message in failure(run, failing)
    assert results(run, failing) == [
        ("events_20240116", False),
        ("events_20240115", True),
        ("events_20240117", True),
    ]


def test_an_empty_database(tmp_path: Path) -> None:
    tamper(tmp_path, "SELECT 1")  # creates the database
    for name in NAMES:
        assert failure(judge_events(tmp_path), name) == "no data of events is loaded"
        assert "no table 'profiles'" in failure(judge_profiles(tmp_path), name)


def test_a_missing_database(tmp_path: Path) -> None:
    for run in (judge_events(tmp_path), judge_profiles(tmp_path)):
        for name in NAMES:
            assert "no database at " in failure(run, name)
            assert "test.duckdb; materialize an asset first" in failure(run, name)
    assert files_in(tmp_path) == set()
