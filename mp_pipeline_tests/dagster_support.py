"""What the tests of the Dagster edge share: resources, runs, records and subprocesses."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline.storage import StorageEngine

DAY = date(2024, 1, 15)
NEXT_DAY = date(2024, 1, 16)
DAY_AFTER = date(2024, 1, 17)
DAYS = [DAY, NEXT_DAY, DAY_AFTER]

EVENTS_PER_DAY = 100
"""Events per day of the tests' servers: enough for gzip and duplicates, and quick to generate."""

daily = dg.DailyPartitionsDefinition("2024-01-01")

_OURS = ("MIXPANEL_", "MP_PIPELINE_", "DAGSTER_")


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


def event(insert_id: str, time: datetime | str, **fields: Any) -> dict[str, Any]:
    """Return an event of the data model."""
    return {
        "event_name": "Song Played",
        "event_time": time,
        "distinct_id": "u1",
        "insert_id": insert_id,
        "properties": {},
    } | fields


def profile(distinct_id: str, **properties: Any) -> dict[str, Any]:
    """Return a profile of the data model."""
    return {"distinct_id": distinct_id, "properties": properties, "last_seen": None}


def insert_ids_of(day: date) -> set[str]:
    """Return the insert ids of a day on the tests' servers."""
    events = events_of_day(day, events_per_day=EVENTS_PER_DAY)
    return {each["properties"]["$insert_id"] for each in events}


def lines_of(day: date) -> int:
    """Return the number of lines that the tests' servers send for a day, with duplicates."""
    return sum(1 for _ in events_of_day(day, events_per_day=EVENTS_PER_DAY))


def query(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query on the database of a test."""
    with StorageEngine.open_existing(directory / "test.duckdb") as engine:
        return engine.execute_rows(sql)


def column(directory: Path, sql: str) -> list[Any]:
    """Return the only column of a query on the database of a test."""
    return [value for (value,) in query(directory, sql)]


def tamper(directory: Path, *statements: str) -> None:
    """Change the database of a test with SQL, as its user might."""
    with StorageEngine(directory / "test.duckdb") as engine:
        for statement in statements:
            engine.connection.execute(statement).fetchall()


def files_in(directory: Path) -> set[str]:
    """Return the paths of all files in a directory tree, relative to it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def environment(**variables: str) -> dict[str, str]:
    """Return the environment with these variables, and no others of the project or of Dagster."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return others | variables


def python(code: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a subprocess in which warnings are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


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
