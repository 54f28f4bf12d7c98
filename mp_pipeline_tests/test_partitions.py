from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mp_pipeline.partitions import day_window, last_complete_days
from mp_pipeline.sample import SampleServer
from mp_pipeline_tests.dagster_support import (
    DAY,
    EVENTS_PER_DAY,
    files_in,
    materialize,
    resources,
)
from mp_pipeline_tests.support.project import events

ONE_DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


@pytest.fixture
def today() -> date:
    return datetime.now(UTC).date()


def refusal(server: SampleServer, directory: Path, first: date | str, last: date | str) -> str:
    """What a run over a range says, which must fail before it asks for or writes anything."""
    server.requests.clear()
    run = materialize([events], resources(directory, server), days=(first, last))
    assert not run.success
    assert run.metadata == {}
    assert server.requests == []
    assert files_in(directory) == set()
    return run.error


def test_reversed_range_is_refused(server: SampleServer, tmp_path: Path) -> None:
    message = refusal(server, tmp_path, "2024-01-17", "2024-01-15")
    assert "reversed: it starts at 2024-01-17 and ends at 2024-01-15" in message


def test_range_that_ends_today_is_refused(
    server: SampleServer, tmp_path: Path, today: date
) -> None:
    message = refusal(server, tmp_path, today - 2 * ONE_DAY, today)
    assert f"{today} cannot be asked for" in message
    assert f"the last complete day, {today - ONE_DAY}" in message


def test_range_of_today_alone_is_refused(server: SampleServer, tmp_path: Path, today: date) -> None:
    assert f"{today} cannot be asked for" in refusal(server, tmp_path, today, today)


def test_range_in_the_future_is_refused(server: SampleServer, tmp_path: Path, today: date) -> None:
    first, last = today + 3 * ONE_DAY, today + 30 * ONE_DAY
    message = refusal(server, tmp_path, first, last)
    assert str(first) in message
    assert "and 23 more cannot be asked for" in message


def test_range_that_starts_before_the_first_day_is_refused(
    server: SampleServer, tmp_path: Path
) -> None:
    message = refusal(server, tmp_path, "2023-12-30", "2024-01-02")
    assert "2023-12-30, 2023-12-31 cannot be asked for" in message
    assert "days go from 2024-01-01 (MIXPANEL_START_DATE)" in message


def test_range_of_one_day_loads_it(server: SampleServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY))
    assert run.error == ""
    assert set(run.metadata) == {"2024-01-15"}


def test_yesterday_is_the_last_complete_day(today: date) -> None:
    assert last_complete_days(3) == [today - 3 * ONE_DAY, today - 2 * ONE_DAY, today - ONE_DAY]


def test_last_complete_days_end_at_the_first_partition(today: date) -> None:
    days = last_complete_days(100_000)
    assert days[0] == date(2024, 1, 1)
    assert len(days) == (today - days[0]).days


DAYS_OF_ZONES = [
    ("UTC", date(2024, 3, 31), "2024-03-31 00:00", 24.0),
    ("Europe/Berlin", date(2024, 3, 31), "2024-03-30 23:00", 23.0),
    ("Europe/Berlin", date(2024, 7, 1), "2024-06-30 22:00", 24.0),
    ("Europe/Berlin", date(2024, 10, 27), "2024-10-26 22:00", 25.0),
    ("America/New_York", date(2024, 3, 10), "2024-03-10 05:00", 23.0),
    ("America/New_York", date(2024, 11, 3), "2024-11-03 04:00", 25.0),
    ("Asia/Kolkata", date(2024, 3, 31), "2024-03-30 18:30", 24.0),
    ("Asia/Kathmandu", date(2024, 3, 31), "2024-03-30 18:15", 24.0),
    ("America/St_Johns", date(2024, 3, 10), "2024-03-10 03:30", 23.0),
    # Half an hour of daylight saving time.
    ("Australia/Lord_Howe", date(2024, 4, 7), "2024-04-06 13:00", 24.5),
    # The clock goes from midnight to one: the day begins at one.
    ("America/Sao_Paulo", date(2018, 11, 4), "2018-11-04 03:00", 23.0),
    # It goes from midnight back to eleven in the evening.
    ("America/Sao_Paulo", date(2018, 2, 17), "2018-02-17 02:00", 25.0),
    # It goes from one back to midnight, which comes twice: the day begins at the first.
    ("America/Havana", date(2024, 11, 3), "2024-11-03 04:00", 25.0),
    # On either side of the date line.
    ("Pacific/Kiritimati", date(2024, 3, 31), "2024-03-30 10:00", 24.0),
    ("Pacific/Pago_Pago", date(2024, 3, 31), "2024-03-31 11:00", 24.0),
]


@pytest.mark.parametrize(("zone", "day", "start", "hours"), DAYS_OF_ZONES)
def test_day_begins_at_its_zones_midnight(zone: str, day: date, start: str, hours: float) -> None:
    window = day_window(day, ZoneInfo(zone))
    assert window.day == day
    assert f"{window.start.astimezone(UTC):%Y-%m-%d %H:%M}" == start
    assert (window.end - window.start) / timedelta(hours=1) == hours


@pytest.mark.parametrize("zone", sorted({zone for zone, *_ in DAYS_OF_ZONES}))
@pytest.mark.parametrize("year", [2018, 2024])
def test_days_touch_all_through_the_year(zone: str, year: int) -> None:
    windows = [day_window(date(year, 1, 1) + ONE_DAY * n, ZoneInfo(zone)) for n in range(366)]
    for window, following in pairwise(windows):
        assert window.end == following.start
        last_moment = (window.end - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert window.start.astimezone(ZoneInfo(zone)).date() == window.day
        assert last_moment.date() == window.day
