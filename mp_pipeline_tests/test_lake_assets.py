"""Assets, checks and maintenance on a lake, as Dagster runs them."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.partitions import range_tags
from mp_pipeline.settings import load_settings
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.faults import FaultyServer
from mp_pipeline_tests.support.dagster import plain
from mp_pipeline_tests.support.databases import column
from mp_pipeline_tests.support.engines import create_lake
from mp_pipeline_tests.support.servers import credentials, insert_ids_of
from mp_pipeline_tests.support.servers import server as server

DAYS = [date(2024, 3, 10), date(2024, 3, 11)]
CHECKS = dg.AssetSelection.checks_for_assets(dg.AssetKey("events"))
OF_DAYS = ("typed_events", "identities", "sessions", "daily_metrics")


class Project:
    """The project that the environment configures."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.definitions = mixpanel_project(load_settings.__wrapped__())
        self._instance = instance

    def run(self, selection: dg.AssetSelection) -> dg.ExecuteInProcessResult:
        """Run assets for all days, or checks."""
        job = dg.define_asset_job("job", selection)
        definitions = dg.Definitions.merge(self.definitions, dg.Definitions(jobs=[job]))
        return self.run_job(definitions.resolve_job_def("job"))

    def materialize(self, *assets: str) -> dg.ExecuteInProcessResult:
        """Materialize assets for all days, and evaluate their checks."""
        return self.run(dg.AssetSelection.assets(*assets))

    def run_job(self, job: dg.JobDefinition) -> dg.ExecuteInProcessResult:
        """Run a job for all days."""
        tags = range_tags(str(DAYS[0]), str(DAYS[-1]))
        return job.execute_in_process(instance=self._instance, tags=tags, raise_on_error=False)

    def open(self) -> StorageEngine:
        """Open the lake."""
        assert self.definitions.resources is not None
        engine: StorageEngine = self.definitions.resources["duckdb"].get_engine()
        return engine


@pytest.fixture
def project(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """The server's project, with an empty lake whose catalog is in a file."""
    for name, value in credentials(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MP_PIPELINE_DATABASE", str(create_lake(tmp_path / "lake")))
    monkeypatch.setenv("MP_PIPELINE_DOWNLOAD_DIRECTORY", str(tmp_path / "downloads"))
    monkeypatch.setenv("MP_PIPELINE_SNAPSHOT_DAYS", "1")
    with dg.instance_for_test() as instance:
        yield Project(instance)


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str | None, dict[str, Any]]:
    """Return the metadata of an asset by partition, as the UI shows it."""
    return {
        event.partition: {
            key: plain(value) for key, value in event.materialization.metadata.items()
        }
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    }


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    """Return the checks that failed, with what they say, except that no recent day is loaded."""
    evaluations = result.get_asset_check_evaluations()
    assert evaluations
    failed = {each.check_name: each.description for each in evaluations if not each.passed}
    failed.pop("latest_day", None)
    return failed


def test_all_assets_and_checks(project: Project) -> None:
    loaded = project.materialize("events", "profiles")
    derived = project.materialize(*OF_DAYS, "profile_history")
    assert (loaded.success, derived.success) == (True, True)
    assert (failed_checks(loaded), failed_checks(derived)) == ({}, {})
    assert shown(loaded, "events").keys() == {str(day) for day in DAYS}
    with project.open() as engine:
        for day in DAYS:
            table = f"events_{day:%Y%m%d}"
            assert set(column(engine, table, "insert_id")) == insert_ids_of(day)
            rows = shown(loaded, "events")[str(day)]["dagster/partition_row_count"]
            assert rows == len(insert_ids_of(day))
            assert shown(derived, "daily_metrics")[str(day)]["events"] == rows
        counts = engine.execute_rows("SELECT day, events FROM daily_metrics ORDER BY day")
        assert counts == [(day, len(insert_ids_of(day))) for day in DAYS]
        assert engine.execute_scalar("SELECT count(*) FROM profiles") > 0


def test_the_checks_find_a_key_that_occurs_twice(project: Project) -> None:
    assert project.materialize("events").success
    with project.open() as engine:
        engine.execute_rows(
            f"INSERT INTO events SELECT * FROM events WHERE day = '{DAYS[0]}' LIMIT 1"
        )
    failed = failed_checks(project.run(CHECKS))
    assert failed.keys() == {"schema", "row_count"}
    assert "1 values of insert_id occur more than once; reload it" in str(failed["schema"])
    assert failed_checks(project.materialize("events")) == {}


def test_the_maintenance_shows_what_it_has_freed(project: Project) -> None:
    for _ in range(2):
        assert project.materialize("events").success
    first = maintain(project)
    assert (first["expired_snapshots"], first["removed_files"]) == (0, 0)
    expired = maintain_after_two_days(project)
    assert (expired["expired_snapshots"], expired["snapshots"]) == (first["snapshots"] - 1, 1)
    assert expired["removed_files"] == 0  # a query may still read them
    removed = maintain_after_two_days(project)
    assert removed["removed_files"] >= len(DAYS)  # those of the days that were replaced
    assert failed_checks(project.run(CHECKS)) == {}


def maintain(project: Project) -> dict[str, Any]:
    """Run the maintenance, and return the metadata that the UI shows."""
    done = project.run_job(project.definitions.resolve_job_def("maintenance_job"))
    assert done.success
    (output,) = done.filter_events(lambda event: event.is_successful_output)
    return {key: plain(value) for key, value in output.step_output_data.metadata.items()}


def maintain_after_two_days(project: Project) -> dict[str, Any]:
    """Run the maintenance as if everything so far had happened two days earlier."""
    times = {"snapshot": "snapshot_time", "files_scheduled_for_deletion": "schedule_start"}
    with project.open() as engine:
        for table, time in times.items():
            engine.execute_rows(
                f"UPDATE __ducklake_metadata_lake.ducklake_{table} "
                f"SET {time} = {time} - INTERVAL 2 DAY"
            )
    return maintain(project)
