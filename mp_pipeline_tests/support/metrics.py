"""Events for the tests of metrics, loaded by day, and random ones with ties and boundary times."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mp_pipeline.storage import StorageEngine
from mp_pipeline_tests.support.records import EVENTS, window

FIRST = date(2024, 1, 29)
"""A Monday, and the first day of random events."""


@dataclass(frozen=True)
class Event:
    """An event; `at` is UTC without an offset, as the database returns it."""

    name: str
    user: str
    at: datetime
    insert_id: str
    properties: Mapping[str, Any] = field(default_factory=dict)

    def day(self, zone: str = "UTC") -> date:
        """Return the day that it belongs to in a time zone."""
        return self.at.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).date()


def load(
    storage: StorageEngine,
    events: Iterable[Event],
    days: Iterable[date],
    zone: str = "UTC",
    dataset: str = "events",
) -> None:
    """Load each of the days with those of the events that belong to it."""
    records = [
        {
            "event_name": event.name,
            "event_time": event.at,
            "distinct_id": event.user,
            "insert_id": event.insert_id,
            "properties": dict(event.properties),
        }
        for event in events
    ]
    windows = [window(day, zone) for day in days]
    list(storage.replace_events_days(dataset, windows, records, EVENTS, timezone=zone))


def compute_metrics(database: Path) -> None:
    """Compute the metrics of all days of a database."""
    with StorageEngine(database) as storage:
        storage.update_identities("events")
        days = [info.day for info in storage.list_days("events")]
        for day in days:
            storage.update_sessions("events", day)
        for day in days:
            storage.update_daily_metrics("events", day)


def days_from(first: date, number: int) -> list[date]:
    """Return days in a row."""
    return [first + timedelta(days=n) for n in range(number)]


def random_time(chance: random.Random, day: date, zone: str = "UTC") -> datetime:
    """Return a time of a day: often midnight or one of few times, a microsecond more or less."""
    begin = datetime.combine(day, time(), ZoneInfo(zone))
    end = datetime.combine(day + timedelta(days=1), time(), ZoneInfo(zone))
    length = end.astimezone(UTC) - begin.astimezone(UTC)
    minutes = chance.choice([0, 0, 30, 60, 90, 720, chance.randrange(1440)])
    seconds = chance.choice([0, 0, 0, 1, 2, 3])
    shift = timedelta(microseconds=chance.choice([-1, 0, 0, 0, 1]))
    offset = timedelta(minutes=minutes, seconds=seconds) + shift
    moment = begin.astimezone(UTC) + min(
        max(offset, timedelta()), length - timedelta(microseconds=1)
    )
    return moment.replace(tzinfo=None)
