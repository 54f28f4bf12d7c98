from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from mp_pipeline.automation.deadline import Deadline

DAY = date(2024, 1, 15)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("hours", "cron", "hour", "minute"),
    [
        (6, "0 6 * * *", 6, 0),
        (6.5, "30 6 * * *", 6, 30),
        (2.01, "1 2 * * *", 2, 1),  # a part of a minute is a whole one
        (23.75, "45 23 * * *", 23, 45),
    ],
)
def test_hours_after_midnight(hours: float, cron: str, hour: int, minute: int) -> None:
    deadline = Deadline(ZoneInfo("Asia/Kolkata"), hours)
    assert deadline.cron == cron
    expected = datetime(2024, 1, 16, hour, minute, tzinfo=ZoneInfo("Asia/Kolkata"))
    assert deadline.of(DAY) == expected


def test_midnight_of_the_day_after() -> None:
    deadline = Deadline(ZoneInfo("UTC"), 24)
    assert deadline.cron == "0 0 * * *"
    assert deadline.of(DAY) == datetime(2024, 1, 17, tzinfo=UTC)
    assert deadline.last_day_due(datetime(2024, 1, 17, tzinfo=UTC)) == DAY


@pytest.mark.parametrize(
    ("day", "utc_hour"),
    [
        (date(2024, 1, 15), 5),  # winter
        (date(2024, 3, 30), 4),  # the clock skips an hour in the night after
        (date(2024, 7, 15), 4),  # summer
        (date(2024, 10, 26), 5),  # the clock shows an hour twice in the night after
    ],
)
def test_the_clock_of_the_zone_counts(day: date, utc_hour: int) -> None:
    after = day + timedelta(days=1)
    assert Deadline(BERLIN, 6).of(day) == datetime(
        after.year, after.month, after.day, utc_hour, tzinfo=UTC
    )


def test_a_deadline_in_an_hour_that_comes_twice_or_never_is_the_earlier_reading() -> None:
    deadline = Deadline(BERLIN, 2.5)
    assert deadline.of(date(2024, 10, 26)) == datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert deadline.of(date(2024, 3, 30)) == datetime(2024, 3, 31, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "now", "due"),
    [
        ("UTC", datetime(2024, 1, 16, 5, 59, tzinfo=UTC), date(2024, 1, 14)),
        ("UTC", datetime(2024, 1, 16, 6, 0, tzinfo=UTC), date(2024, 1, 15)),
        ("UTC", datetime(2024, 1, 16, 23, 59, tzinfo=UTC), date(2024, 1, 15)),
        # It is the 16th there since 10:00 UTC of the 15th; the 15th ended then.
        ("Pacific/Kiritimati", datetime(2024, 1, 15, 15, 59, tzinfo=UTC), date(2024, 1, 14)),
        ("Pacific/Kiritimati", datetime(2024, 1, 15, 16, 0, tzinfo=UTC), date(2024, 1, 15)),
        ("America/Los_Angeles", datetime(2024, 1, 16, 13, 59, tzinfo=UTC), date(2024, 1, 14)),
        ("America/Los_Angeles", datetime(2024, 1, 16, 14, 0, tzinfo=UTC), date(2024, 1, 15)),
    ],
)
def test_the_last_day_due(zone: str, now: datetime, due: date) -> None:
    assert Deadline(ZoneInfo(zone), 6).last_day_due(now) == due


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("hours", [2.1, 2.5, 6.5, 24])
def test_the_scheduled_checks_never_come_too_early(zone: str, hours: float) -> None:
    """At the deadline's time on the clock, the day before is due, on every day of a year."""
    deadline = Deadline(ZoneInfo(zone), hours)
    for day in (date(2024, 1, 1) + timedelta(days=offset) for offset in range(366)):
        minutes = timedelta(minutes=round(hours * 60))
        shown = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)) + minutes
        due = deadline.last_day_due(shown.astimezone(UTC))
        assert due == day - timedelta(days=1)
