"""A run of seven days over HTTP, as Dagster runs it: the next days download while one loads."""

import os
import time
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.assets import events as asset
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.partitions import day_window
from mp_pipeline.resources import duckdb_resource, mixpanel_resource
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.benchmarks.day import METADATA, QUIET
from mp_pipeline_tests.benchmarks.events import DAY
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target
from mp_pipeline_tests.benchmarks.sample import sample_server

DAYS = [DAY + timedelta(days=number) for number in range(7)]


def alone(folder: Path, events: int) -> Figures:
    """Download the days, and then load them."""
    with sample_server(events) as account, account.client() as client:
        start = time.perf_counter()
        downloads = list(client.export_ranges([(day, day) for day in DAYS], folder=folder))
        download_seconds = time.perf_counter() - start
    start = time.perf_counter()
    rows = 0
    for day, download in zip(DAYS, downloads, strict=True):
        with StorageEngine(folder / "alone.duckdb") as storage:
            (report,) = storage.replace_events_days(
                "events", [day_window(day, ZoneInfo("UTC"))], download.paths, METADATA
            )
        rows += report.rows_stored
    return {
        "rows": rows,
        "seconds": time.perf_counter() - start + download_seconds,
        "download_seconds": download_seconds,
        "load_seconds": time.perf_counter() - start,
    }


def run(folder: Path, events: int) -> Figures:
    """Materialize the days in one run of the project's asset."""
    with sample_server(events) as account:
        os.environ |= account.variables
        os.environ["MP_PIPELINE_DATABASE"] = str(folder / "run.duckdb")
        settings = Settings()
        database = duckdb_resource(settings)
        start = time.perf_counter()
        dg.materialize(
            [asset],
            resources={
                "mixpanel": mixpanel_resource(settings),
                "duckdb": database,
                "mixpanel_duckdb": MixpanelDuckDBIOManager(duckdb=database),
            },
            tags={
                "dagster/asset_partition_range_start": str(DAYS[0]),
                "dagster/asset_partition_range_end": str(DAYS[-1]),
            },
            run_config=QUIET,
        )
        seconds = time.perf_counter() - start
    with StorageEngine.open_existing(folder / "run.duckdb") as storage:
        rows = storage.execute_scalar("SELECT count(*) FROM events")
    return {"rows": rows, "seconds": seconds}


def measure(events: int) -> list[Line]:
    """Run both once."""
    apart, together = run_alone(alone, events), run_alone(run, events)
    larger = max(apart["download_seconds"], apart["load_seconds"])
    return [
        Line(
            "7 days over HTTP",
            "downloading, then loading",
            [apart],
            f"{apart['download_seconds']:.3g} s and {apart['load_seconds']:.3g} s",
        ),
        Line(
            "7 days over HTTP",
            "a run",
            [together],
            targets=[Target("times the larger of both", together["seconds"] / larger, at_most=1.2)],
        ),
    ]
