"""Runs of assets and checks in this process, with the project's resources."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.sample import SampleServer

daily = dg.DailyPartitionsDefinition("2024-01-01")


def database(directory: Path, **fields: Any) -> MixpanelDuckDBResource:
    """Return the database of a test. It does not wait while the file is locked."""
    path = directory / "test.duckdb"
    return MixpanelDuckDBResource(database=str(path), **({"lock_timeout": 0.0} | fields))


def mixpanel(server: SampleServer, **fields: Any) -> MixpanelResource:
    """Return the resource for a server's project."""
    account = {
        "project_id": server.project_id,
        "service_account_username": server.username,
        "service_account_secret": server.secret,
        "export_url": server.export_url,
        "query_url": server.query_url,
    }
    return MixpanelResource(**(account | fields))


def resources(
    directory: Path, server: SampleServer | None = None, *, lock_timeout: float = 0.0, **fields: Any
) -> dict[str, Any]:
    """Return the project's resources, with a database of the test and a server's project.

    Days are small in tests, where one bad line exceeds the default fraction: any may be rejected.
    """
    duckdb = database(directory, lock_timeout=lock_timeout)
    return {
        "mixpanel": MixpanelResource() if server is None else mixpanel(server, **fields),
        "duckdb": duckdb,
        "mixpanel_duckdb": MixpanelDuckDBIOManager(duckdb=duckdb, max_rejected_fraction=1),
        "in_memory": dg.mem_io_manager,
    }


@dataclass(frozen=True)
class Run:
    """What a user sees of a run."""

    success: bool
    error: str
    """The messages of what failed, and of what caused it."""
    log: str
    """The event log as text."""
    metadata: dict[str | None, dict[str, Any]]
    """The metadata of each materialization, by partition."""
    checks: dict[str, dg.AssetCheckEvaluation]
    outputs: Callable[[str], Any]
    """Returns the output of an asset."""


def materialize(
    assets: Sequence[Any],
    available: Mapping[str, Any],
    *,
    day: date | str | None = None,
    days: tuple[date | str, date | str] | None = None,
    only: dg.AssetSelection | Sequence[Any] | None = None,
) -> Run:
    """Run assets and checks in this process, for one partition or for a range of them."""
    tags: dict[str, str] | None = None
    if days is not None:
        tags = {
            "dagster/asset_partition_range_start": str(days[0]),
            "dagster/asset_partition_range_end": str(days[1]),
        }
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets,
            resources=dict(available),
            instance=instance,
            partition_key=None if day is None else str(day),
            tags=tags,
            selection=only,
            raise_on_error=False,
        )
        records = instance.all_logs(result.run_id)
    return Run(
        success=result.success,
        error="\n".join(_messages(result)),
        log="\n".join(f"{record.user_message} {record}" for record in records),
        metadata={
            event.partition: {
                key: plain(value) for key, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
        },
        checks={
            evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
        },
        outputs=result.output_for_node,
    )


def asset(output: Callable[[], object], name: str = "plays", **options: Any) -> dg.AssetsDefinition:
    """Return an asset of a user, stored by the IO manager.

    Dagster would consume a bare generator itself, so the output is wrapped in `dg.Output`.
    """

    def compute() -> dg.Output[Any]:
        return dg.Output(output())

    return dg.asset(compute, name=name, io_manager_key="mixpanel_duckdb", **options)


def plain(value: dg.MetadataValue[Any]) -> Any:
    """Return a metadata value as plain Python; a table as the list of its rows."""
    if isinstance(value, dg.TableMetadataValue):
        return [record.data for record in value.records]
    return value.value


def _messages(result: dg.ExecuteInProcessResult) -> Iterable[str]:
    for failure in result.filter_events(lambda event: event.is_step_failure):
        error = failure.step_failure_data.error
        while error is not None:
            yield error.message.strip()
            error = error.cause
