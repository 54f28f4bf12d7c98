"""Runs of many days: what a failure leaves, what a retry loads, several days per request."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import database
from mp_pipeline_tests.support.databases import query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, NEXT_DAY
from mp_pipeline_tests.support.runs import Runs, requested_dates
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of

FOURTH = date(2024, 1, 18)
LAST = date(2024, 1, 19)
TODAY = date(2024, 1, 22)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as running:
        yield running


def test_a_failed_day_keeps_those_before_and_a_retry_resumes(
    server: FaultyServer, runs: Runs, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=400, day=FOURTH))
    failed = runs.run(DAY, LAST)
    assert not failed.success
    assert (
        "3 of 5 days are loaded: 2024-01-15 to 2024-01-17. "
        "Not loaded: 2024-01-18 to 2024-01-19. Re-execute the run to resume."
    ) in runs.log(failed)
    assert "export of 2024-01-18 failed" in runs.log(failed)
    assert runs.materialized() == {"2024-01-15", "2024-01-16", "2024-01-17"}
    assert {shown["run"] for shown in runs.metadata().values()} == {failed.run_id}
    assert query_column(tmp_path, "SELECT count(DISTINCT event_time::DATE) FROM events") == [3]
    requested_dates(server)

    retried = runs.run(DAY, LAST, failed)
    assert retried.success
    assert requested_dates(server) == [("2024-01-18",) * 2, ("2024-01-19",) * 2]
    assert (
        "3 of 5 days were loaded by an earlier attempt with the same settings and are kept: "
        "2024-01-15 to 2024-01-17"
    ) in runs.log(retried)
    assert query_column(tmp_path, "SELECT count(*) FROM _load_log") == [5]
    assert len(runs.materialized()) == 5
    materialized = {
        event.partition: event.materialization.metadata
        for event in retried.get_asset_materialization_events()
    }
    rows = {day: materialized[str(day)]["dagster/partition_row_count"].value for day in (DAY, LAST)}
    assert rows == {day: len(insert_ids_of(day)) for day in (DAY, LAST)}
    assert files_in(tmp_path) == {"test.duckdb"}

    # Re-executing a run that succeeded reloads everything.
    assert runs.run(DAY, LAST, retried).success
    assert len(requested_dates(server)) == 5


def test_a_retry_loads_a_day_that_was_dropped_meanwhile(
    server: FaultyServer, runs: Runs, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=400, day=LAST))
    failed = runs.run(DAY, LAST)
    with database(tmp_path).get_engine() as engine:
        engine.drop_table(f"events_{NEXT_DAY:%Y%m%d}")
    requested_dates(server)
    assert runs.run(DAY, LAST, failed).success
    assert requested_dates(server) == [(str(NEXT_DAY),) * 2, (str(LAST),) * 2]


def test_a_retry_loads_a_day_whose_rows_were_deleted_meanwhile(
    server: FaultyServer, runs: Runs, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=400, day=LAST))
    failed = runs.run(DAY, LAST)
    with database(tmp_path).get_connection() as connection:
        connection.execute(f"DELETE FROM events_{NEXT_DAY:%Y%m%d} WHERE event_name = 'Search'")
    requested_dates(server)
    assert runs.run(DAY, LAST, failed).success
    assert requested_dates(server) == [(str(NEXT_DAY),) * 2, (str(LAST),) * 2]
    stored = query_column(tmp_path, f"SELECT insert_id FROM events_{NEXT_DAY:%Y%m%d}")
    assert set(stored) == insert_ids_of(NEXT_DAY)


def test_the_second_retry_keeps_the_days_of_both_attempts(server: FaultyServer, runs: Runs) -> None:
    server.faults += [Fault("status", status=400, day=day) for day in (NEXT_DAY, LAST)]
    first = runs.run(DAY, LAST)
    second = runs.run(DAY, LAST, first)
    requested_dates(server)
    assert "4 of 5 days are loaded: 2024-01-15 to 2024-01-18." in runs.log(second)
    assert runs.run(DAY, LAST, second).success
    assert requested_dates(server) == [(str(LAST),) * 2]


def test_a_retry_with_nothing_left_to_load_sends_no_request(
    server: FaultyServer, runs: Runs, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=400, day=LAST))
    failed = runs.run(DAY, LAST)
    requested_dates(server)
    retried = runs.run(DAY, FOURTH, failed)
    assert retried.success
    assert requested_dates(server) == []
    assert "4 of 4 days were loaded by an earlier attempt" in runs.log(retried)
    assert query_column(tmp_path, "SELECT count(*) FROM _load_log") == [4]


def test_several_days_in_one_request(
    server: FaultyServer, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPANEL_DAYS_PER_REQUEST", "3")
    result = runs.run(DAY, LAST)
    assert result.success
    assert requested_dates(server) == [
        ("2024-01-15", "2024-01-17"),
        ("2024-01-18", "2024-01-19"),
    ]
    for day in (DAY, DAY_AFTER, LAST):
        stored = query_column(tmp_path, f"SELECT insert_id FROM events_{day:%Y%m%d}")
        assert set(stored) == insert_ids_of(day)
    assert "; 5 of 5 days" in runs.log(result)
    assert len(runs.materialized()) == 5


def test_a_failure_within_a_request_of_several_days(
    server: FaultyServer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPANEL_DAYS_PER_REQUEST", "2")
    server.faults.append(Fault("status", status=400, day=DAY_AFTER))
    failed = runs.run(DAY, LAST)
    assert "2 of 5 days are loaded: 2024-01-15 to 2024-01-16." in runs.log(failed)
    assert "export of 2024-01-17 to 2024-01-18 failed" in runs.log(failed)
    requested_dates(server)
    assert runs.run(DAY, LAST, failed).success
    assert requested_dates(server) == [
        ("2024-01-17", "2024-01-18"),
        ("2024-01-19", "2024-01-19"),
    ]
