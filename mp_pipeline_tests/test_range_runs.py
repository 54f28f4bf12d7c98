"""Runs of many days: what a failure leaves, what a retry does, several days in one request."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.automation.schedules import events_job
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import mixpanel_resource
from mp_pipeline.settings import Settings, load_settings
from mp_pipeline_tests.cli_support import credentials
from mp_pipeline_tests.dagster_support import (
    DAY,
    DAY_AFTER,
    EVENTS_PER_DAY,
    NEXT_DAY,
    column,
    database,
    files_in,
    insert_ids_of,
)
from mp_pipeline_tests.faults import Fault
from mp_pipeline_tests.faults import FaultyServer as SampleServer
from mp_pipeline_tests.support.project import events

LAST = date(2024, 1, 19)
RANGE = {
    "dagster/asset_partition_range_start": str(DAY),
    "dagster/asset_partition_range_end": str(LAST),
}
TODAY = date(2024, 1, 22)


@pytest.fixture
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as running:
        yield running


@pytest.fixture(autouse=True)
def directory(
    server: SampleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The settings of a user whose project the server holds, and a directory for the database."""
    for name, value in credentials(server).items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield tmp_path
    load_settings.cache_clear()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def job(directory: str) -> dg.JobDefinition:
    """The job of the project, on the environment's Mixpanel project and a directory's database."""
    duckdb = database(Path(directory))
    return dg.Definitions(
        assets=[events],
        jobs=[events_job],
        executor=dg.in_process_executor,
        resources={
            "mixpanel": mixpanel_resource(Settings()),
            "duckdb": duckdb,
            "mixpanel_duckdb": MixpanelDuckDBIOManager(duckdb=duckdb, max_rejected_fraction=1),
        },
    ).resolve_job_def("events_job")


def run(
    directory: Path, instance: dg.DagsterInstance, retry_of: dg.JobExecutionResult | None = None
) -> dg.JobExecutionResult:
    """Run the range, or retry a run of it as the UI and Dagster's own retries do."""
    return dg.execute_job(
        dg.build_reconstructable_job(__name__, "job", (str(directory),)),
        instance,
        tags=RANGE,
        reexecution_options=None if retry_of is None else dg.ReexecutionOptions(retry_of.run_id),
    )


def log(instance: dg.DagsterInstance, result: dg.JobExecutionResult) -> str:
    records = instance.all_logs(result.run_id)
    return "\n".join(f"{record.user_message} {record}" for record in records)


def requested(server: SampleServer) -> list[tuple[str, str]]:
    """The ranges of dates that the server was asked for, in order, and forgets them."""
    asked = sorted((each.query["from_date"], each.query["to_date"]) for each in server.requests)
    server.requests.clear()
    return asked


def materialized(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_materialized_partitions(events.key))


def test_a_failed_day_leaves_those_before_and_a_retry_goes_on(
    server: SampleServer, directory: Path, instance: dg.DagsterInstance
) -> None:
    server.faults.append(Fault("status", status=400, day=date(2024, 1, 18)))
    failed = run(directory, instance)
    assert not failed.success
    assert "3 of 5 days are done, and stay: 2024-01-15 to 2024-01-17." in log(instance, failed)
    assert "Not done: 2024-01-18 to 2024-01-19." in log(instance, failed)
    assert "export of 2024-01-18 failed" in log(instance, failed)
    assert materialized(instance) == {"2024-01-15", "2024-01-16", "2024-01-17"}
    assert column(directory, "SELECT count(DISTINCT event_time::DATE) FROM events") == [3]
    requested(server)

    retried = run(directory, instance, failed)
    assert retried.success
    assert requested(server) == [("2024-01-18",) * 2, ("2024-01-19",) * 2]
    assert "3 of 5 days were loaded by the failed attempt before" in log(instance, retried)
    assert column(directory, "SELECT count(*) FROM _load_log") == [5]
    assert len(materialized(instance)) == 5
    shown = {
        event.partition: event.materialization.metadata
        for event in retried.get_asset_materialization_events()
    }
    rows = {day: shown[str(day)]["dagster/partition_row_count"].value for day in (DAY, LAST)}
    assert rows == {day: len(insert_ids_of(day)) for day in (DAY, LAST)}
    assert files_in(directory) == {"test.duckdb"}

    again = run(
        directory, instance, retried
    )  # of a run that succeeded: the user wants everything anew
    assert again.success
    assert len(requested(server)) == 5


def test_a_retry_loads_a_day_that_was_dropped_meanwhile(
    server: SampleServer, directory: Path, instance: dg.DagsterInstance
) -> None:
    server.faults.append(Fault("status", status=400, day=LAST))
    failed = run(directory, instance)
    with database(directory).get_engine() as engine:
        engine.drop_table(f"events_{NEXT_DAY:%Y%m%d}")
    requested(server)
    assert run(directory, instance, failed).success
    assert requested(server) == [(str(NEXT_DAY),) * 2, (str(LAST),) * 2]


def test_the_second_retry_knows_what_both_attempts_did(
    server: SampleServer, directory: Path, instance: dg.DagsterInstance
) -> None:
    server.faults += [Fault("status", status=400, day=day) for day in (NEXT_DAY, LAST)]
    first = run(directory, instance)
    second = run(directory, instance, first)
    requested(server)
    assert "4 of 5 days are done, and stay: 2024-01-15 to 2024-01-18." in log(instance, second)
    assert run(directory, instance, second).success
    assert requested(server) == [(str(LAST),) * 2]


def test_several_days_in_one_request(
    server: SampleServer,
    directory: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXPANEL_DAYS_PER_REQUEST", "3")
    result = run(directory, instance)
    assert result.success
    assert requested(server) == [("2024-01-15", "2024-01-17"), ("2024-01-18", "2024-01-19")]
    for day in (DAY, DAY_AFTER, LAST):
        stored = column(directory, f"SELECT insert_id FROM events_{day:%Y%m%d}")
        assert set(stored) == insert_ids_of(day)
    assert "; 5 of 5 days" in log(instance, result)
    assert len(materialized(instance)) == 5


def test_a_failure_within_a_request_of_several_days(
    server: SampleServer,
    directory: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIXPANEL_DAYS_PER_REQUEST", "2")
    server.faults.append(Fault("status", status=400, day=DAY_AFTER))
    failed = run(directory, instance)
    assert "2 of 5 days are done, and stay: 2024-01-15 to 2024-01-16." in log(instance, failed)
    assert "export of 2024-01-17 to 2024-01-18 failed" in log(instance, failed)
    requested(server)
    assert run(directory, instance, failed).success
    assert requested(server) == [("2024-01-17", "2024-01-18"), ("2024-01-19", "2024-01-19")]
