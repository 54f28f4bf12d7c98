"""Runs of the project that the environment configures, in an instance that records them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.partitions import range_tags
from mp_pipeline.settings import load_settings
from mp_pipeline_tests.faults import FaultyServer
from mp_pipeline_tests.support.dagster import plain
from mp_pipeline_tests.support.servers import credentials

EVENTS = dg.AssetKey("events")


def events_job(environment: str) -> dg.JobDefinition:
    """Return the job of the events, without checks.

    Args:
        environment: The settings that the environment configures now. Dagster caches a job by its
            arguments, so this makes it notice changes.
    """
    settings = load_settings.__wrapped__()
    assert settings.model_dump_json() == environment
    project = mixpanel_project(settings)
    definitions = dg.Definitions(
        assets=project.assets,
        jobs=[dg.define_asset_job("events_job", selection=dg.AssetSelection.assets(EVENTS))],
        resources=project.resources,
        executor=project.executor,
    )
    return definitions.resolve_job_def("events_job")


@dataclass(frozen=True)
class Runs:
    """Runs of the events, and what the instance knows of them."""

    instance: dg.DagsterInstance

    def run(
        self, first: date, last: date, retry_of: dg.JobExecutionResult | None = None
    ) -> dg.JobExecutionResult:
        """Run a range of days, or re-execute a run as the UI and Dagster's retries do."""
        environment = load_settings.__wrapped__().model_dump_json()
        return dg.execute_job(
            dg.build_reconstructable_job(__name__, "events_job", (environment,)),
            self.instance,
            tags=range_tags(str(first), str(last)),
            reexecution_options=None
            if retry_of is None
            else dg.ReexecutionOptions(retry_of.run_id),
        )

    def log(self, result: dg.JobExecutionResult) -> str:
        """Return the event log of a run as text."""
        records = self.instance.all_logs(result.run_id)
        return "\n".join(f"{record.user_message} {record}" for record in records)

    def materialized(self) -> set[str]:
        """Return the partitions of the events that are materialized."""
        return set(self.instance.get_materialized_partitions(EVENTS))

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata that the UI shows of each materialized partition."""
        shown: dict[str, dict[str, Any]] = {}
        # The latest record comes first.
        for record in reversed(self.instance.fetch_materializations(EVENTS, 1000).records):
            found = record.asset_materialization
            assert found is not None
            assert found.partition is not None
            shown[found.partition] = {key: plain(value) for key, value in found.metadata.items()}
        return shown


@pytest.fixture
def runs(server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    """Have the environment configure the server's project, with `test.duckdb` in `tmp_path`."""
    for name, value in credentials(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MP_PIPELINE_DATABASE", str(tmp_path / "test.duckdb"))
    monkeypatch.setenv("MIXPANEL_EXPORTS_PER_SECOND", "1000")
    monkeypatch.setenv("MIXPANEL_EXPORTS_PER_HOUR", "1000")
    with dg.instance_for_test() as instance:
        yield Runs(instance)


def requested_dates(server: FaultyServer) -> list[tuple[str, str]]:
    """Return the ranges of dates that were requested, in ascending order, and forget them."""
    ranges = sorted((each.query["from_date"], each.query["to_date"]) for each in server.requests)
    server.requests.clear()
    return ranges
