"""The database file: the cost of each way to store properties, for loads, disk and queries."""

import time
from pathlib import Path
from statistics import median

import duckdb

from mp_pipeline_tests.benchmarks.day import PLAIN_INSERT
from mp_pipeline_tests.benchmarks.process import Figures, run_alone
from mp_pipeline_tests.benchmarks.report import Line

CHOSEN = "zstd"
OPTIONS = {
    "zstd": ("JSON USING COMPRESSION zstd", 262_144),
    "DuckDB's choice": ("JSON", 262_144),
    "dict_fsst": ("JSON USING COMPRESSION dict_fsst", 262_144),
    "uncompressed": ("JSON USING COMPRESSION uncompressed", 262_144),
    "VARIANT": ("VARIANT", 262_144),
    "zstd, blocks of 64 kB": ("JSON USING COMPRESSION zstd", 65_536),
    "zstd, blocks of 16 kB": ("JSON USING COMPRESSION zstd", 16_384),
}
"""The type of the column, and the size of the file's blocks in bytes."""

_QUERIES = {
    "one property": "SELECT avg((properties->>'$.price')::DOUBLE) FROM events",
    "no property": "SELECT event_name, count(*) FROM events GROUP BY ALL",
}
_VARIANT_QUERIES = _QUERIES | {
    "one property": "SELECT avg(properties.price::DOUBLE) FROM events",
}


def stored(directory: Path, name: str, source: str) -> Figures:
    """Load a file into a table with that column type and its key, and query it."""
    type_, block_size = OPTIONS[name]
    path = str(directory / "stored.duckdb")
    with duckdb.connect(path, config={"default_block_size": str(block_size)}) as connection:
        connection.execute(
            "CREATE TABLE events (event_name VARCHAR, event_time TIMESTAMP, distinct_id VARCHAR, "
            f"insert_id VARCHAR, properties {type_})"
        ).fetchall()
        start = time.perf_counter()
        ((rows,),) = connection.execute(PLAIN_INSERT, [source]).fetchall()
        connection.execute("ALTER TABLE events ADD PRIMARY KEY (insert_id)").fetchall()
        connection.execute("CHECKPOINT").fetchall()
        seconds = time.perf_counter() - start
        queries = _VARIANT_QUERIES if type_ == "VARIANT" else _QUERIES
        times = {what: _query_seconds(connection, query) for what, query in queries.items()}
    return {"rows": rows, "seconds": seconds, **times}


def _query_seconds(connection: duckdb.DuckDBPyConnection, query: str) -> float:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        connection.execute(query).fetchall()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(source: Path) -> list[Line]:
    """Try each option once."""
    lines = []
    for name in OPTIONS:
        run = run_alone(stored, name, str(source))
        queries = ", ".join(f"{what} {1000 * run[what]:.3g} ms" for what in _QUERIES)
        label = f"{name} (chosen)" if name == CHOSEN else name
        lines.append(Line("storing properties", label, [run], f"query: {queries}"))
    return lines
