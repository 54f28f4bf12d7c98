from datetime import UTC, date, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from mp_pipeline.days import (
    Span,
    day_window,
    export_dates,
    find_gaps,
    format_days,
    split_into_requests,
    to_spans,
)

ONE_DAY = timedelta(days=1)


def january(*days: int) -> list[date]:
    return [date(2024, 1, day) for day in days]


@pytest.mark.parametrize(
    ("days", "spans", "gaps"),
    [
        ([], [], []),
        ([5], ["2024-01-05"], []),
        ([5, 6, 7], ["2024-01-05 to 2024-01-07"], []),
        ([5, 7], ["2024-01-05", "2024-01-07"], ["2024-01-06"]),
        (
            [1, 2, 5, 9, 10],
            ["2024-01-01 to 2024-01-02", "2024-01-05", "2024-01-09 to 2024-01-10"],
            ["2024-01-03 to 2024-01-04", "2024-01-06 to 2024-01-08"],
        ),
    ],
)
def test_spans_and_the_gaps_between_them(
    days: list[int], spans: list[str], gaps: list[str]
) -> None:
    assert [str(span) for span in to_spans(january(*days))] == spans
    assert [str(gap) for gap in find_gaps(january(*days))] == gaps
    assert sum(span.days for span in to_spans(january(*days))) == len(days)


def test_a_span_over_the_end_of_february() -> None:
    assert Span(date(2024, 2, 28), date(2024, 3, 1)).days == 3


@pytest.mark.parametrize(
    ("max_days", "requests"),
    [
        (1, ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-09"]),
        (3, ["2024-01-01 to 2024-01-03", "2024-01-04", "2024-01-09"]),
        (9, ["2024-01-01 to 2024-01-04", "2024-01-09"]),
    ],
)
def test_a_request_has_no_gap_and_no_more_days_than_allowed(
    max_days: int, requests: list[str]
) -> None:
    days = january(1, 2, 3, 4, 9)
    assert [str(span) for span in split_into_requests(days, max_days)] == requests


def test_five_spans_are_listed_and_the_others_counted() -> None:
    days = january(1, 2, 4, 6, 8, 10, 11, 13, 15)
    assert format_days(days) == (
        "2024-01-01 to 2024-01-02, 2024-01-04, 2024-01-06, 2024-01-08, 2024-01-10 to 2024-01-11 "
        "and 2 more"
    )
    assert format_days(days[:-2]).endswith(", 2024-01-10 to 2024-01-11")


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
    # The clock goes from midnight back to eleven in the evening.
    ("America/Sao_Paulo", date(2018, 2, 17), "2018-02-17 02:00", 25.0),
    # The clock goes from one back to midnight, which occurs twice: the day begins at the first.
    ("America/Havana", date(2024, 11, 3), "2024-11-03 04:00", 25.0),
    # On either side of the date line.
    ("Pacific/Kiritimati", date(2024, 3, 31), "2024-03-30 10:00", 24.0),
    ("Pacific/Pago_Pago", date(2024, 3, 31), "2024-03-31 11:00", 24.0),
]


@pytest.mark.parametrize(("zone", "day", "start", "hours"), DAYS_OF_ZONES)
def test_a_day_begins_at_midnight_of_its_zone(
    zone: str, day: date, start: str, hours: float
) -> None:
    window = day_window(day, ZoneInfo(zone))
    assert window.day == day
    assert f"{window.start.astimezone(UTC):%Y-%m-%d %H:%M}" == start
    assert (window.end - window.start) / timedelta(hours=1) == hours


@pytest.mark.parametrize("zone", sorted({zone for zone, *_ in DAYS_OF_ZONES}))
@pytest.mark.parametrize("year", [2018, 2024])
def test_each_day_ends_when_the_next_begins(zone: str, year: int) -> None:
    windows = [day_window(date(year, 1, 1) + ONE_DAY * n, ZoneInfo(zone)) for n in range(366)]
    for window, following in pairwise(windows):
        assert window.end == following.start
        last_moment = (window.end - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert window.start.astimezone(ZoneInfo(zone)).date() == window.day
        assert last_moment.date() == window.day


@pytest.mark.parametrize(
    ("zone", "wall_clock_zone", "dates"),
    [
        ("UTC", "UTC", "2024-01-15"),
        ("Asia/Kolkata", "UTC", "2024-01-14 to 2024-01-15"),
        ("America/New_York", "UTC", "2024-01-15 to 2024-01-16"),
        ("America/New_York", "America/New_York", "2024-01-15"),
    ],
)
def test_the_dates_to_export_for_a_day(zone: str, wall_clock_zone: str, dates: str) -> None:
    window = day_window(date(2024, 1, 15), ZoneInfo(zone))
    assert str(export_dates(window, wall_clock_zone)) == dates
