"""Days of a project in a time zone other than UTC: every event is in exactly one day."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mp_pipeline.days import day_window
from mp_pipeline.sample import events_of_day
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.processes import run_command
from mp_pipeline_tests.support.records import epoch, export_line, write_lines
from mp_pipeline_tests.support.servers import credentials

FIRST, LAST = date(2024, 3, 9), date(2024, 3, 11)
"""In Los Angeles, the second of these three days has 23 hours."""


def between(start: datetime, end: datetime) -> set[tuple[datetime, str]]:
    """Return time and id of the sample project's events between two moments."""
    days = [start.astimezone(UTC).date() + timedelta(days=offset) for offset in range(-1, 6)]
    moments = (
        (datetime.fromtimestamp(event["properties"]["time"], UTC), event["properties"])
        for day in days
        for event in events_of_day(day)
    )
    return {
        (moment.replace(tzinfo=None), properties["$insert_id"])
        for moment, properties in moments
        if start <= moment < end
    }


def midnight(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))


def stored(storage: StorageEngine, table: str) -> Iterable[tuple[datetime, str]]:
    return storage.execute_rows(f"SELECT event_time, insert_id FROM {table}")


@pytest.mark.parametrize(
    ("zone", "days_per_request"),
    [("America/Los_Angeles", 3), ("Asia/Kolkata", 2), ("Pacific/Auckland", 1)],
)
def test_every_event_is_in_one_day(tmp_path: Path, zone: str, days_per_request: int) -> None:
    with FaultyServer() as server:
        env = credentials(server) | {
            "MIXPANEL_PROJECT_TIMEZONE": zone,
            "MIXPANEL_DAYS_PER_REQUEST": str(days_per_request),
        }
        days = ("--from", str(FIRST), "--to", str(LAST))
        run_command(tmp_path, "backfill", *days, "--no-profiles", env=env)
        assert len(server.requests) == -(-3 // days_per_request)
    with StorageEngine.open_existing(tmp_path / "data/mixpanel.duckdb") as storage:
        for day in storage.list_days("events"):
            expected = between(midnight(day.day, zone), midnight(day.day + timedelta(days=1), zone))
            assert set(stored(storage, day.table_name)) == expected
        rows = list(stored(storage, "events"))
        expected = between(midnight(FIRST, zone), midnight(LAST + timedelta(days=1), zone))
        assert len(rows) == len(expected)
        assert set(rows) == expected


def test_local_timestamps_are_the_projects_own_days(tmp_path: Path) -> None:
    zone = "America/Los_Angeles"
    with FaultyServer() as server:
        env = credentials(server) | {
            "MIXPANEL_PROJECT_TIMEZONE": zone,
            "MIXPANEL_LOCAL_TIMESTAMPS": "true",
        }
        days = ("--from", "2024-03-10", "--to", "2024-03-10")
        run_command(tmp_path, "backfill", *days, "--no-profiles", env=env)
        (request,) = server.requests
    assert (request.query["from_date"], request.query["to_date"]) == ("2024-03-10", "2024-03-10")
    walls = {
        datetime.fromtimestamp(event["properties"]["time"], UTC).replace(tzinfo=ZoneInfo(zone))
        for event in events_of_day(date(2024, 3, 10))
    }
    with StorageEngine.open_existing(tmp_path / "data/mixpanel.duckdb") as storage:
        times = {time for time, _ in stored(storage, "events")}
        assert times == {wall.astimezone(UTC).replace(tzinfo=None) for wall in walls}
        assert storage.execute_scalar("SELECT sum(outside_day) FROM _load_log") == 0


def test_events_of_other_days_are_counted(tmp_path: Path) -> None:
    stray = b'{"event":"Stray","properties":{"time":1700000000,"distinct_id":"u","$insert_id":"s"}}'
    with FaultyServer() as server:
        server.faults.append(Fault("extra_lines", lines=[stray]))
        days = ("--from", "2024-03-10", "--to", "2024-03-10")
        run_command(tmp_path, "backfill", *days, "--no-profiles", env=credentials(server))
    with StorageEngine.open_existing(tmp_path / "data/mixpanel.duckdb") as storage:
        assert storage.execute_scalar("SELECT outside_day FROM _load_log") == 1
        assert storage.execute_scalar("SELECT count(*) FROM events WHERE event_name='Stray'") == 0


def transitions(zone: str, first_year: int, last_year: int) -> list[date]:
    """Return the days on which the clocks of a zone change."""
    noon = datetime(first_year, 1, 1, 12, tzinfo=ZoneInfo(zone))
    noons = [noon + timedelta(days=number) for number in range(365 * (last_year - first_year) + 8)]
    return [
        later.date()
        for earlier, later in pairwise(noons)
        if earlier.utcoffset() != later.utcoffset()
    ]


@pytest.mark.parametrize(
    ("zone", "changes"),
    [("America/New_York", 60), ("Europe/Berlin", 60), ("Australia/Lord_Howe", 60)],
)
def test_wall_clocks_of_every_change_of_the_clocks(tmp_path: Path, zone: str, changes: int) -> None:
    days = transitions(zone, 2005, 2035)
    assert len(days) == changes
    quarters = [
        datetime(day.year, day.month, day.day) + timedelta(minutes=15 * number)
        for day in days
        for number in range(-8, 96 + 8)
    ]
    lines = [export_line(f"{wall}", time=epoch(wall)) for wall in quarters]
    file = write_lines(tmp_path / "walls.jsonl", *lines)
    windows = [
        day_window(day + timedelta(days=offset), ZoneInfo(zone))
        for day in days
        for offset in (-1, 0, 1)
    ]
    assert {(window.end - window.start) / timedelta(hours=1) for window in windows} > {24}
    with StorageEngine.memory() as storage:
        reports = list(
            storage.replace_events_days(
                "events",
                windows,
                file,
                TableMetadata("events", datetime.now(UTC)),
                wall_clock_zone=zone,
            )
        )
        assert sum(report.rows_stored for report in reports) == len(quarters)
        assert sum(report.outside_day for report in reports) == 0
        for wall, time in storage.execute_rows(
            "SELECT insert_id::TIMESTAMP, event_time FROM events"
        ):
            assert time == wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).replace(tzinfo=None)
        for report in reports:
            stored = f"SELECT count(*) FROM {report.table_name} WHERE insert_id[:10]::DATE <> ?"
            assert storage.connection.execute(stored, [report.day]).fetchall() == [(0,)]


def test_an_event_just_before_midnight_stays_in_its_day(tmp_path: Path) -> None:
    midnight = epoch(datetime(2024, 1, 16))
    times: list[object] = [
        midnight - 0.0000002,
        f"{midnight - 1}.9999999",
        f"{midnight - 1}999.9999999",
        "2024-01-15T23:59:59.9999999",
        "2024-01-15T23:59:59.9999999Z",
    ]
    lines = [export_line(f"i{number}", time=time) for number, time in enumerate(times)]
    last_moment = datetime(2024, 1, 15, 23, 59, 59, 999999)
    windows = [day_window(date(2024, 1, 15), ZoneInfo("UTC"))]
    metadata = TableMetadata("events", datetime.now(UTC))
    for bad_lines in ([], ["not JSON"]):
        file = write_lines(tmp_path / "events.jsonl", *lines, *bad_lines)
        with StorageEngine.memory() as storage:
            (report,) = storage.replace_events_days(
                "events", windows, file, metadata, max_rejected_fraction=1
            )
            assert (report.rows_stored, report.outside_day) == (len(times), 0)
            stored_times = {time for time, _ in stored(storage, "events")}
            assert stored_times == {last_moment}
