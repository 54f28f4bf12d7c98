"""Dagster runs over HTTP.

A day is decompressed and counted while it downloads. Of seven days, the next ones download while
one is loaded.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.days import day_window
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import duckdb_resource, mixpanel_resource
from mp_pipeline.settings import load_settings
from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.benchmarks.day import METADATA, QUIET, floor
from mp_pipeline_tests.benchmarks.events import DAY, write_day
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target
from mp_pipeline_tests.benchmarks.servers import (
    BYTES_PER_SECOND,
    Account,
    file_server,
    sample_server,
)
from mp_pipeline_tests.support.project import events as asset

DAYS = [DAY + timedelta(days=number) for number in range(7)]


@contextmanager
def _server(name: str, events: int, files: str) -> Iterator[Account]:
    servers = {
        "sample": sample_server(events),
        "files": file_server(Path(files)),
        "files at once": file_server(Path(files), math.inf),
    }
    with servers[name] as account:
        yield account


def alone(directory: Path, server: str, events: int, files: str) -> Figures:
    """Download the days, and then load them."""
    with _server(server, events, files) as account, account.client() as client:
        start = time.perf_counter()
        downloads = list(client.export_ranges([(day, day) for day in DAYS], directory=directory))
        download_seconds = time.perf_counter() - start
    start = time.perf_counter()
    rows = 0
    for day, download in zip(DAYS, downloads, strict=True):
        with StorageEngine(directory / "alone.duckdb") as storage:
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


def run(directory: Path, server: str, events: int, files: str, days: int = 7) -> Figures:
    """Materialize the days in one run of the project's asset."""
    with _server(server, events, files) as account:
        os.environ |= account.variables
        os.environ["MP_PIPELINE_DATABASE"] = str(directory / "run.duckdb")
        os.environ["MP_PIPELINE_STATE_DIRECTORY"] = str(directory / "state")
        os.environ["MIXPANEL_EXPORTS_PER_SECOND"] = "60"  # no waiting for rate limits
        settings = load_settings()
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
                "dagster/asset_partition_range_end": str(DAYS[days - 1]),
            },
            run_config=QUIET,
        )
        seconds = time.perf_counter() - start
    with StorageEngine.open_existing(directory / "run.duckdb") as storage:
        rows = storage.execute_scalar("SELECT count(*) FROM events")
    return {"rows": rows, "seconds": seconds}


def measure_day(events: int, rounds: int, directory: Path) -> list[Line]:
    """Run one day as fast as loopback allows, and plain SQL on the same file, in turn."""
    files = directory / "day"
    files.mkdir()
    source = write_day(files / f"{DAY}.jsonl.gz", events)
    floors, runs = [], []
    for _ in range(rounds):
        floors.append(run_alone(floor, events, str(source)))
        runs.append(run_alone(run, "files at once", events, str(files), 1))
    least, day = Line("a day over HTTP", "floor", floors), Line("a day over HTTP", "a run", runs)
    ratio = Target("times the floor's time", day.seconds / least.seconds, at_most=1.5)
    return [least, replace(day, targets=[ratio])]


def measure(events: int, directory: Path) -> list[Line]:
    """Run both once with each server; the sample server shares the machine with them."""
    files = directory / "days"
    files.mkdir()
    for day in DAYS:
        write_day(files / f"{day}.jsonl.gz", events, day)
    lines = []
    for server, what in (
        ("files", f"{BYTES_PER_SECOND / 1e6:g} MB/s"),
        ("sample", "from the sample server"),
    ):
        apart = run_alone(alone, server, events, str(files))
        together = run_alone(run, server, events, str(files))
        download, load = apart["download_seconds"], apart["load_seconds"]
        ratio = Target(
            "times the larger of both", together["seconds"] / max(download, load), at_most=1.2
        )
        note = f"{download:.3g} s and {load:.3g} s"
        lines += [
            Line("7 days over HTTP", f"{what}: downloading, then loading", [apart], note),
            Line("7 days over HTTP", f"{what}: a run", [together], targets=[ratio]),
        ]
    return lines
