"""What the storage engine's tests share: metadata, records, lines of Mixpanel's export."""

import gzip
import json
import os
import subprocess
import sys
import textwrap
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata

FETCHED_AT = datetime(2024, 1, 20, 6, 30, tzinfo=UTC)
EVENTS = TableMetadata("events", FETCHED_AT, "2024-01-01", "2024-01-31")
PROFILES = TableMetadata("profiles", FETCHED_AT)

DAY = date(2024, 1, 15)
NOON = datetime(2024, 1, 15, 12)
"""Noon of ``DAY``, as the database shows it."""


def window(day: date = DAY, zone: str = "UTC") -> DayWindow:
    """A calendar day of a time zone."""
    midnight = datetime.combine(day, time(), ZoneInfo(zone))
    next_midnight = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone))
    return DayWindow(day, midnight, next_midnight)


def event(insert_id: object = "i1", **fields: Any) -> dict[str, Any]:
    """An event as the data model has it."""
    return {
        "event_name": "Song Played",
        "event_time": NOON,
        "distinct_id": "u1",
        "insert_id": insert_id,
        "properties": {},
    } | fields


def profile(distinct_id: object = "u1", **fields: Any) -> dict[str, Any]:
    """A profile as the data model has it."""
    return {"distinct_id": distinct_id, "properties": {}, "last_seen": None} | fields


def epoch(moment: datetime) -> int:
    """The seconds since 1970 of a naive time, taken as UTC."""
    return int(moment.replace(tzinfo=UTC).timestamp())


def export_line(
    insert_id: str | None = "i1", name: str = "Song Played", **properties: object
) -> str:
    """A line of Mixpanel's export: at noon of ``DAY`` and of user u1 unless said otherwise."""
    promoted: dict[str, object] = {"time": epoch(NOON), "distinct_id": "u1"}
    if insert_id is not None:
        promoted["$insert_id"] = insert_id
    return json.dumps({"event": name, "properties": promoted | properties})


def write_lines(path: Path, *lines: str | bytes) -> Path:
    """Write lines to a file, compressed if its name ends in ``.gz``."""
    content = b"".join(
        (line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def contents(storage: StorageEngine) -> dict[str, list[tuple[Any, ...]]]:
    """All tables and views of a database, internal ones too, with their rows."""
    names = storage.execute_rows(
        "SELECT table_name FROM duckdb_tables() WHERE NOT temporary "
        "UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
    )
    return {name: storage.execute_rows(f'SELECT * FROM "{name}" ORDER BY ALL') for (name,) in names}


def column(storage: StorageEngine, table: str, expression: str) -> list[Any]:
    """The sorted values of an expression over a table."""
    rows = storage.execute_rows(f'SELECT {expression} AS value FROM "{table}" ORDER BY value')
    return [value for (value,) in rows]


def python_command(code: str, *arguments: object) -> list[str]:
    """The command of a Python process that stops at any warning; it has `sys` and the engine."""
    prelude = "import sys\nfrom mp_pipeline.storage import *\n"
    texts = [str(argument) for argument in arguments]
    return [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code), *texts]


def run_python(
    code: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, to its end."""
    return subprocess.run(
        python_command(code, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
