"""The checks of the days and of the amounts, on days that were loaded from records."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from mp_pipeline.assets import events, profiles
from mp_pipeline.checks import blocking_checks, checks
from mp_pipeline.checks.amounts import count_change, volume
from mp_pipeline.checks.days import latest_day, no_gaps
from mp_pipeline.deadline import Deadline
from mp_pipeline.sample import SampleServer
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.dagster_support import (
    EVENTS_PER_DAY,
    event,
    files_in,
    materialize,
    plain,
    profile,
    resources,
    tamper,
)
from mp_pipeline_tests.storage_support import FETCHED_AT, window

FIRST = date(2024, 1, 1)
"""A Monday, and the first partition."""

UTC_AT_SIX = Deadline(ZoneInfo("UTC"), 6)


def load_days(directory: Path, rows: Mapping[date, int]) -> None:
    """Load days with so many events each."""
    records = [
        event(f"{day}-{number}", datetime.combine(day, time(12)))
        for day, count in rows.items()
        for number in range(count)
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        engine.replace_events_days(
            "events", [window(day) for day in rows], records, TableMetadata("events", FETCHED_AT)
        )


def load_profiles(directory: Path, count: int) -> None:
    records = [profile(f"u{number}") for number in range(count)]
    with StorageEngine(directory / "test.duckdb") as engine:
        engine.replace_table("profiles", records, TableMetadata("profiles", FETCHED_AT))


def january(*days: int) -> dict[date, int]:
    return {date(2024, 1, day): 1 for day in days}


def weeks(*rows: int) -> dict[date, int]:
    """The Mondays of some weeks, with so many events each."""
    return {FIRST + timedelta(weeks=week): count for week, count in enumerate(rows)}


def judged(directory: Path, check: dg.AssetChecksDefinition) -> dg.AssetCheckEvaluation:
    """The result of a check that runs alone; whatever it is, the run succeeds."""
    asset = events if check.check_key.asset_key == events.key else profiles
    run = materialize(
        [asset, check], resources(directory), only=dg.AssetSelection.checks(check.check_key)
    )
    assert run.success, run.error
    (evaluation,) = run.checks.values()
    return evaluation


def shown(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    return plain(evaluation.metadata[name])


def latest(now: datetime, deadline: Deadline = UTC_AT_SIX) -> dg.AssetChecksDefinition:
    """The check as it is at a time."""
    return latest_day(events, deadline=deadline, clock=lambda: now)


# The latest day


@pytest.mark.parametrize(
    "now",
    [
        datetime(2024, 1, 12, 5, 59, tzinfo=UTC),  # the 11th is not due
        datetime(2024, 1, 1, tzinfo=UTC),  # nothing is
    ],
)
def test_the_latest_day_is_there(tmp_path: Path, now: datetime) -> None:
    load_days(tmp_path, january(9, 10))
    assert judged(tmp_path, latest(now)).passed


def test_the_latest_day_is_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(8, 9))
    result = judged(tmp_path, latest(datetime(2024, 1, 12, 6, tzinfo=UTC)))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert result.description == (
        "2024-01-11 is not there, but must be since 2024-01-12 06:00 (UTC); the latest day there "
        "is 2024-01-09. Load 2024-01-10 to 2024-01-11: mp-pipeline backfill --from 2024-01-10 "
        "--to 2024-01-11 --no-profiles, or Materialize in the UI, and see whether the schedule "
        "daily_events is running"
    )
    assert shown(result, "missing") == 2
    assert shown(result, "days") == [
        {"day": "2024-01-10", "due": "2024-01-11 06:00 (UTC)", "there": False},
        {"day": "2024-01-11", "due": "2024-01-12 06:00 (UTC)", "there": False},
    ]


def test_the_deadline_is_on_the_clock_of_the_project(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 10))
    new_york = Deadline(ZoneInfo("America/New_York"), 6.5)
    before = datetime(2024, 1, 12, 11, 29, tzinfo=UTC)
    assert judged(tmp_path, latest(before, new_york)).description == "2024-01-10 is there"
    after = judged(tmp_path, latest(before + timedelta(minutes=1), new_york))
    assert after.passed is False
    assert "must be since 2024-01-12 06:30 (America/New_York)" in str(after.description)


def test_a_later_day_does_not_stand_for_the_one_that_is_due(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 12))
    result = judged(tmp_path, latest(datetime(2024, 1, 12, 6, tzinfo=UTC)))
    assert result.passed is False
    assert "the latest day there is 2024-01-12. Load 2024-01-10 to 2024-01-11:" in str(
        result.description
    )


# Gaps


def test_no_day_is_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 10, 11))
    result = judged(tmp_path, no_gaps(events))
    assert result.passed
    assert result.description == "no day is missing: 2024-01-09 to 2024-01-11"
    assert shown(result, "days") == [
        {"first": "2024-01-09", "last": "2024-01-11", "days": 3, "there": True}
    ]


def test_days_are_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 11, 12, 16))
    result = judged(tmp_path, no_gaps(events))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(result.description).startswith(
        "4 days are missing in 2024-01-09 to 2024-01-16: 2024-01-10, 2024-01-13 to 2024-01-15. "
        "Load 2024-01-10: mp-pipeline backfill --from 2024-01-10 --to 2024-01-10 "
    )
    assert shown(result, "missing") == 4
    assert [(row["first"], row["days"], row["there"]) for row in shown(result, "days")] == [
        ("2024-01-10", 1, False),
        ("2024-01-13", 3, False),
        ("2024-01-09", 1, True),
        ("2024-01-11", 2, True),
        ("2024-01-16", 1, True),
    ]


# Amounts


def test_a_day_as_usual(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(9, 10, 11, 90, 20))  # the median is 10.5
    result = judged(tmp_path, volume(events))
    assert shown(result, "days")[-1] == {
        "day": "2024-01-29",
        "rows": 20,
        "usual_rows": "10",
        "compared_with": 4,
        "ok": True,
    }


def test_half_and_twice_are_still_usual(tmp_path: Path) -> None:
    rows = {FIRST + timedelta(days=day): 10 for day in range(14)}
    last_week = {date(2024, 1, 15 + number): count for number, count in enumerate((5, 4, 20, 21))}
    load_days(tmp_path, rows | last_week)
    result = judged(tmp_path, volume(events))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.description == (
        "2024-01-16 has 4 rows, usual on a Tuesday are 10, "
        "2024-01-18 has 21 rows, usual on a Thursday are 10"
    )
    assert shown(result, "unusual") == 2
    compared = [(row["day"], row["ok"]) for row in shown(result, "days") if row["usual_rows"]]
    assert compared == [
        ("2024-01-16", False),
        ("2024-01-18", False),
        ("2024-01-15", True),
        ("2024-01-17", True),
    ]


def test_too_little_to_compare_with(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(10, 1000) | {date(2024, 1, 9): 1})
    result = judged(tmp_path, volume(events))
    assert result.passed
    assert result.description == (
        "0 of 3 days compared and as usual; the others have too little to compare with: fewer "
        "than 2 of the 4 same weekdays before"
    )


def test_weeks_that_are_long_past_do_not_count(tmp_path: Path) -> None:
    load_days(tmp_path, {FIRST + timedelta(weeks=week): 10 for week in (0, 1, 6)})
    assert shown(judged(tmp_path, volume(events)), "compared") == 0


def test_alone_the_last_days_are_judged(tmp_path: Path) -> None:
    rows = {FIRST + timedelta(days=day): 10 for day in range(28)}
    rows[date(2024, 1, 20)] = 1  # eight days before the last
    load_days(tmp_path, rows)
    assert judged(tmp_path, volume(events)).passed
    load_days(tmp_path, {date(2024, 1, 22): 1, date(2024, 1, 28): 1})
    result = judged(tmp_path, volume(events))
    assert result.passed is False
    assert result.description == (
        "2024-01-22 has 1 rows, usual on a Monday are 10, "
        "2024-01-28 has 1 rows, usual on a Sunday are 10"
    )
    assert [row["ok"] for row in shown(result, "days")] == [False] * 2 + [True] * 5


def test_a_run_judges_the_volume_of_its_own_days(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(10, 10) | {date(2024, 1, 22): 1})
    with SampleServer(events_per_day=EVENTS_PER_DAY) as server:
        run = materialize([events, volume(events)], resources(tmp_path, server), day="2024-01-15")
    assert run.success
    assert run.checks["volume"].passed is False
    assert [row["day"] for row in shown(run.checks["volume"], "days")] == ["2024-01-15"]


@pytest.mark.parametrize(
    ("counts", "passed", "description"),
    [
        ([10], True, "10 rows, and no snapshot before to compare with"),
        ([7, 10, 12], True, "12 rows, 10 in the snapshot before: +20%"),
        ([10, 7], False, "7 rows, 10 in the snapshot before: -30%"),
        ([10, 13], False, "13 rows, 10 in the snapshot before: +30%"),
    ],
)
def test_the_number_of_profiles(
    tmp_path: Path, counts: list[int], passed: bool, description: str
) -> None:
    for count in counts:
        load_profiles(tmp_path, count)
    result = judged(tmp_path, count_change(profiles))
    assert (result.passed, result.description) == (passed, description)
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert [row["rows"] for row in shown(result, "snapshots")] == counts[::-1][:2]


# Nothing to judge


def test_nothing_is_there(tmp_path: Path) -> None:
    history = [each for each in checks if each not in blocking_checks]
    selected = dg.AssetSelection.checks(*history)

    def judge() -> dict[str, str]:
        run = materialize([events, profiles, *history], resources(tmp_path), only=selected)
        assert run.success
        assert not any(result.passed for result in run.checks.values())
        return {name: str(result.description) for name, result in run.checks.items()}

    said = judge()
    assert sorted(said) == ["count_change", "latest_day", "no_gaps", "volume"]
    assert all("test.duckdb; load something first" in words for words in said.values())
    assert files_in(tmp_path) == set()
    tamper(tmp_path, "SELECT 1")  # makes the database
    said = judge()
    assert said.pop("count_change") == "nothing of profiles is loaded"
    assert set(said.values()) == {"nothing of events is loaded"}
