"""The contenders: each loads a day into a new database, in a process of its own.

``python -m mp_pipeline_tests.benchmarks.contenders NAME EVENTS INPUT FOLDER`` runs one, and prints
its figures as a line of JSON: rows, seconds, peak memory of the process and size of the file.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb

from mp_pipeline.partitions import day_window
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.benchmarks.events import DAY, records

LITERAL_ROWS = 10_000
"""Rows that the data model's literal way is timed on: a million would take twenty minutes."""

METADATA = TableMetadata("events", datetime.now(UTC))
WINDOW = day_window(DAY, ZoneInfo("UTC"))
_DDL = """
    CREATE TABLE events (
        event_name VARCHAR NOT NULL,
        event_time TIMESTAMP NOT NULL,
        distinct_id VARCHAR NOT NULL,
        insert_id VARCHAR{key},
        properties JSON
    )
"""


def floor(events: int, source: Path, folder: Path) -> int:
    """Load without a key, checks and bookkeeping: the least that reading this file can take."""
    with duckdb.connect(str(folder / "floor.duckdb")) as connection:
        connection.execute(_DDL.format(key="")).fetchall()
        connection.execute(
            """
            INSERT INTO events
            SELECT event, make_timestamp(promoted[1]::BIGINT * 1000000), promoted[2], promoted[3],
                json_merge_patch(
                    properties, '{"time":null,"distinct_id":null,"$insert_id":null}')
            FROM (
                SELECT event, properties, json_extract_string(
                    properties, ['$.time', '$.distinct_id', '$."$insert_id"']) AS promoted
                FROM read_json(?, format = 'newline_delimited',
                    columns = {event: 'VARCHAR', properties: 'JSON'})
            )
            """,
            [str(source)],
        ).fetchall()
    return events


def gzip_file(events: int, source: Path, folder: Path) -> int:  # noqa: ARG001
    """Load with this project, from a downloaded file to a finished day."""
    with StorageEngine(folder / "gzip.duckdb") as storage:
        (report,) = storage.replace_events_days("events", [WINDOW], source, METADATA)
    return report.rows_stored


def iterator(events: int, source: Path, folder: Path) -> int:  # noqa: ARG001
    """Load with this project, from an iterator of dicts."""
    with StorageEngine(folder / "iterator.duckdb") as storage:
        return storage.create_events_table("events", records(events), METADATA)


def http(events: int, source: Path, folder: Path) -> int:  # noqa: ARG001
    """Download from the sample server, which makes the events as it sends them, and load."""
    from mp_pipeline.mixpanel import MixpanelClient

    with (
        _sample_server(events) as account,
        MixpanelClient(
            account["MIXPANEL_PROJECT_ID"],
            account["MIXPANEL_SERVICE_ACCOUNT_USERNAME"],
            account["MIXPANEL_SERVICE_ACCOUNT_SECRET"],
            export_url=account["MIXPANEL_EXPORT_URL"],
        ) as client,
    ):
        download = client.export_events(DAY, folder=folder)
    with StorageEngine(folder / "http.duckdb") as storage:
        (report,) = storage.replace_events_days("events", [WINDOW], download.paths, METADATA)
    return report.rows_stored


def literal(events: int, source: Path, folder: Path) -> int:  # noqa: ARG001
    """Load as the data model writes it: executemany into a keyed table, on a sample."""
    rows = min(events, LITERAL_ROWS)
    with duckdb.connect(str(folder / "literal.duckdb")) as connection:
        connection.execute(_DDL.format(key=" PRIMARY KEY")).fetchall()
        batch = []
        for record in records(rows):
            *columns, properties = record.values()
            batch.append([*columns, json.dumps(properties)])
            if len(batch) == 1000:
                connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?)", batch)
                batch = []
    return rows


CONTENDERS: dict[str, Callable[[int, Path, Path], int]] = {
    "floor": floor,
    "gzip file": gzip_file,
    "iterator": iterator,
    "http": http,
    "literal": literal,
}


@contextmanager
def _sample_server(events_per_day: int) -> Iterator[dict[str, str]]:
    """Serve the sample project from a process of its own; give the variables that it prints."""
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mp_pipeline.sample", "--no-limits", "--port", "0"),
            *("--events-per-day", str(events_per_day)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    account: dict[str, str] = {}
    while "MIXPANEL_QUERY_URL" not in account:  # the last one that it prints
        variable, _, value = server.stdout.readline().strip().partition("=")
        account[variable.removeprefix("export ")] = value.strip("'\"")
    try:
        yield account
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def main() -> None:
    """Run one contender, and print its figures."""
    name, events, source, folder = sys.argv[1:]
    start = time.perf_counter()
    rows = CONTENDERS[name](int(events), Path(source), Path(folder))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kilobytes
    size = sum(file.stat().st_size for file in Path(folder).glob("*.duckdb"))
    figures = {"rows": rows, "seconds": seconds, "peak_bytes": peak, "file_bytes": size}
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
