"""One day: the minimum cost of loading it, this project, and other tools.

Each contender loads the day into a new database.
"""

import gzip
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb

from mp_pipeline.days import day_window
from mp_pipeline.mixpanel import MixpanelClient
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, records
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line, Target
from mp_pipeline_tests.benchmarks.servers import sample_server

LITERAL_ROWS = 10_000
"""Rows that the data model's literal way is timed on: a million would take twenty minutes."""

PEER_ROWS = 100_000
"""Rows that the peers are timed on."""

QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
"""Run config for Dagster."""

METADATA = TableMetadata("events", datetime.now(UTC))
WINDOW = day_window(DAY, ZoneInfo("UTC"))
_DDL = """
    CREATE TABLE events (
        event_name VARCHAR NOT NULL,
        event_time TIMESTAMP NOT NULL,
        distinct_id VARCHAR NOT NULL,
        insert_id VARCHAR{key},
        properties JSON{compression}
    )
"""
PLAIN_INSERT = """
    INSERT INTO events
    SELECT event, make_timestamp(promoted[1]::BIGINT * 1000000), promoted[2], promoted[3],
        json_merge_patch(properties, '{"time":null,"distinct_id":null,"$insert_id":null}')
    FROM (
        SELECT event, properties, json_extract_string(
            properties, ['$.time', '$.distinct_id', '$."$insert_id"']) AS promoted
        FROM read_json(?, format = 'newline_delimited',
            columns = {event: 'VARCHAR', properties: 'JSON'})
    )
"""
"""The least that turns a file into rows of a table ``events``: nothing is checked."""


def floor(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Load without a key, checks and bookkeeping: the minimum cost of reading the file."""
    return _floor(directory, source, "")


def floor_zstd(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Do the same with the compression that this project uses for the properties."""
    return _floor(directory, source, " USING COMPRESSION zstd")


def _floor(directory: Path, source: str, compression: str) -> Figures:
    start = time.perf_counter()
    with duckdb.connect(str(directory / "floor.duckdb")) as connection:
        connection.execute(_DDL.format(key="", compression=compression)).fetchall()
        ((rows,),) = connection.execute(PLAIN_INSERT, [source]).fetchall()
    return {"rows": rows, "seconds": time.perf_counter() - start}


def gzip_file(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Load with this project, from a downloaded file to a finished day."""
    start = time.perf_counter()
    with StorageEngine(directory / "gzip.duckdb") as storage:
        (report,) = storage.replace_events_days("events", [WINDOW], source, METADATA)
    return {"rows": report.rows_stored, "seconds": time.perf_counter() - start}


def iterator(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Load with this project, from an iterator of dicts."""
    start = time.perf_counter()
    with StorageEngine(directory / "iterator.duckdb") as storage:
        rows = storage.create_events_table("events", records(events), METADATA)
    return {"rows": rows, "seconds": time.perf_counter() - start}


def http(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Download from the sample server, which generates events as it sends them, and load."""
    with sample_server(events) as account, account.client() as client:
        start = time.perf_counter()
        rows = _download_and_load(directory, client)
        return {"rows": rows, "seconds": time.perf_counter() - start}


def _download_and_load(directory: Path, client: MixpanelClient) -> int:
    download = client.export_events(DAY, directory=directory)
    with StorageEngine(directory / "http.duckdb") as storage:
        (report,) = storage.replace_events_days("events", [WINDOW], download.paths, METADATA)
    return report.rows_stored


def literal(directory: Path, events: int, source: str) -> Figures:  # noqa: ARG001
    """Load as the data model describes: executemany into a table with a key, on a sample."""
    rows = min(events, LITERAL_ROWS)
    start = time.perf_counter()
    with duckdb.connect(str(directory / "literal.duckdb")) as connection:
        connection.execute(_DDL.format(key=" PRIMARY KEY", compression="")).fetchall()
        remaining = records(rows)
        while batch := list(islice(remaining, 1000)):
            connection.executemany(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                [[*list(row.values())[:-1], json.dumps(row["properties"])] for row in batch],
            )
    return {"rows": rows, "seconds": time.perf_counter() - start}


def dlt(directory: Path, events: int, source: str) -> Figures:
    """Load with dlt's DuckDB destination, nested values kept as JSON, on a sample."""
    peer = import_module("dlt")
    rows = min(events, PEER_ROWS)
    start = time.perf_counter()
    pipeline = peer.pipeline(
        "benchmark",
        pipelines_dir=str(directory / "pipelines"),
        destination=peer.destinations.duckdb(str(directory / "dlt.duckdb")),
        dataset_name="mixpanel",
    )
    resource = peer.resource(
        _rows_of(source, rows),
        name="events",
        write_disposition="replace",
        primary_key="insert_id",
        columns={"properties": {"data_type": "json"}},
    )
    pipeline.run(resource).raise_on_failed_jobs()
    return {"rows": rows, "seconds": time.perf_counter() - start}


def dagster_duckdb_pandas(directory: Path, events: int, source: str) -> Figures:
    """Load a DataFrame through dagster-duckdb's IO manager, on a sample."""
    import dagster as dg
    import pandas as pd

    peer = import_module("dagster_duckdb_pandas")
    rows = min(events, PEER_ROWS)

    @dg.asset(name="events")
    def asset() -> pd.DataFrame:
        frame = pd.DataFrame(_rows_of(source, rows))
        frame["properties"] = frame["properties"].map(json.dumps)
        return frame

    start = time.perf_counter()
    manager = peer.DuckDBPandasIOManager(database=str(directory / "pandas.duckdb"), schema="public")
    dg.materialize([asset], resources={"io_manager": manager}, run_config=QUIET)
    return {"rows": rows, "seconds": time.perf_counter() - start}


def _rows_of(source: str, rows: int) -> Iterator[dict[str, Any]]:
    """Read the file as a user of another tool would."""
    with gzip.open(source, "rt", encoding="utf-8") as lines:
        for line in islice(lines, rows):
            event = json.loads(line)
            properties = event["properties"]
            yield {
                "event_name": event["event"],
                "event_time": datetime.fromtimestamp(properties.pop("time"), UTC),
                "distinct_id": properties.pop("distinct_id"),
                "insert_id": properties.pop("$insert_id"),
                "properties": properties,
            }


CONTENDERS: dict[str, Callable[[Path, int, str], Figures]] = {
    "floor": floor,
    "floor, zstd": floor_zstd,
    "gzip file": gzip_file,
    "iterator of dicts": iterator,
    "over HTTP": http,
    "literal (executemany)": literal,
}
PEERS: dict[str, Callable[[Path, int, str], Figures]] = {
    "dlt": dlt,
    "dagster_duckdb_pandas": dagster_duckdb_pandas,
}


def installed_contenders() -> dict[str, Callable[[Path, int, str], Figures]]:
    """Return the contenders, including other tools that are installed."""
    return CONTENDERS | {name: peer for name, peer in PEERS.items() if find_spec(name)}


def measure(events: int, rounds: int, source: Path) -> list[Line]:
    """Run the contenders in turn, so that other load on the machine affects all of them alike."""
    contenders = installed_contenders()
    runs: dict[str, list[Figures]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            runs[name].append(run_alone(contender, events, str(source)))
    lines = {name: Line("a day", name, of) for name, of in runs.items()}
    least, slow = lines["floor"].rate, lines["literal (executemany)"].rate
    bounds: dict[str, list[Target]] = {
        "gzip file": [
            Target("times the floor's time", least / lines["gzip file"].rate, at_most=1.35),
            Target("times literal's rows/s", lines["gzip file"].rate / slow, at_least=200),
            _peak(lines["gzip file"], 800, events),
        ],
        "iterator of dicts": [
            Target("times literal's rows/s", lines["iterator of dicts"].rate / slow, at_least=50),
            _peak(lines["iterator of dicts"], 500, events),
        ],
    }
    return [
        Line(
            line.section,
            name,
            line.runs,
            "" if name in bounds or name == "floor" else f"{least / line.rate:.3g} times the floor",
            bounds.get(name, []),
        )
        for name, line in lines.items()
    ]


def _peak(line: Line, megabytes: float, events: int) -> Target:
    """Return the memory target for a day of up to a million events."""
    largest = max(run["peak_bytes"] for run in line.runs)
    return Target(f"MB peak at {events:,}", largest / 1e6, at_most=megabytes)
