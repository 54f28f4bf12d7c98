"""Days, events, profiles and lines of Mixpanel's export, for tests."""

import gzip
import json
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mp_pipeline.storage import DayWindow, TableMetadata

DAY = date(2024, 1, 15)
NEXT_DAY = date(2024, 1, 16)
DAY_AFTER = date(2024, 1, 17)
DAYS = [DAY, NEXT_DAY, DAY_AFTER]

NOON = datetime(2024, 1, 15, 12)
"""Noon of `DAY` in UTC, without an offset, as the database returns it."""

FETCHED_AT = datetime(2024, 1, 20, 6, 30, tzinfo=UTC)
EVENTS = TableMetadata("events", FETCHED_AT, "2024-01-01", "2024-01-31")
PROFILES = TableMetadata("profiles", FETCHED_AT)


def window(day: date = DAY, zone: str = "UTC") -> DayWindow:
    """Return the window of a calendar day in a time zone."""
    midnight = datetime.combine(day, time(), ZoneInfo(zone))
    next_midnight = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone))
    return DayWindow(day, midnight, next_midnight)


def event(insert_id: object = "i1", event_time: object = NOON, **fields: Any) -> dict[str, Any]:
    """Return an event of the data model.

    Args:
        insert_id: The value of the field.
        event_time: The value of the field.
        fields: More fields of the event, which replace the defaults.
    """
    return {
        "event_name": "Song Played",
        "event_time": event_time,
        "distinct_id": "u1",
        "insert_id": insert_id,
        "properties": {},
    } | fields


def profile(distinct_id: object = "u1", **fields: Any) -> dict[str, Any]:
    """Return a profile of the data model.

    Args:
        distinct_id: The value of the field.
        fields: More fields of the profile, which replace the defaults.
    """
    return {"distinct_id": distinct_id, "properties": {}, "last_seen": None} | fields


def epoch(moment: datetime) -> int:
    """Return the epoch seconds of a naive UTC time."""
    return int(moment.replace(tzinfo=UTC).timestamp())


def export_line(
    insert_id: str | None = "i1", name: str = "Song Played", **properties: object
) -> str:
    """Return a line of Mixpanel's export.

    Args:
        insert_id: The property `$insert_id`. None leaves it out.
        name: The name of the event.
        properties: More properties. The defaults are noon of `DAY` and the user `u1`.
    """
    promoted: dict[str, object] = {"time": epoch(NOON), "distinct_id": "u1"}
    if insert_id is not None:
        promoted["$insert_id"] = insert_id
    return json.dumps({"event": name, "properties": promoted | properties})


def write_lines(path: Path, *lines: str | bytes) -> Path:
    """Write lines to a file, compressed if its name ends in `.gz`, and return its path."""
    content = b"".join(
        (line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
