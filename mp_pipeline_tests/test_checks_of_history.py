"""The checks of days, row counts and settings, on days that were loaded from records."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.checks.days import latest_day, no_gaps
from mp_pipeline.checks.row_counts import count_change, volume
from mp_pipeline.project import Project
from mp_pipeline.sample import SampleServer
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.support.dagster import materialize, plain, resources
from mp_pipeline_tests.support.databases import tamper
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.project import PROJECT, blocking_checks, checks, events, profiles
from mp_pipeline_tests.support.records import FETCHED_AT, event, profile, window
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY

FIRST = date(2024, 1, 1)
"""A Monday, and the first partition."""


def load_days(directory: Path, rows: Mapping[date, int]) -> None:
    """Load days with the given numbers of events."""
    records = [
        event(f"{day}-{number}", datetime.combine(day, time(12)))
        for day, count in rows.items()
        for number in range(count)
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        windows = [window(day) for day in rows]
        metadata = TableMetadata("events", FETCHED_AT)
        list(engine.replace_events_days("events", windows, records, metadata))


def load_profiles(directory: Path, count: int) -> None:
    records = [profile(f"u{number}") for number in range(count)]
    with StorageEngine(directory / "test.duckdb") as engine:
        engine.replace_table("profiles", records, TableMetadata("profiles", FETCHED_AT))


def january(*days: int) -> dict[date, int]:
    return {date(2024, 1, day): 1 for day in days}


def weeks(*rows: int) -> dict[date, int]:
    """Return the Mondays of the first weeks, with the given numbers of events."""
    return {FIRST + timedelta(weeks=week): count for week, count in enumerate(rows)}


def judged(directory: Path, check: dg.AssetChecksDefinition) -> dg.AssetCheckEvaluation:
    """Return the result of a check that runs by itself. The run succeeds in any case."""
    asset = events if check.check_key.asset_key == events.key else profiles
    run = materialize(
        [asset, check], resources(directory), only=dg.AssetSelection.checks(check.check_key)
    )
    assert run.success, run.error
    (evaluation,) = run.checks.values()
    return evaluation


def shown(evaluation: dg.AssetCheckEvaluation, name: str) -> Any:
    return plain(evaluation.metadata[name])


def latest(now: datetime, project: Project = PROJECT) -> dg.AssetChecksDefinition:
    """Return the check `latest_day` at a given time."""
    return latest_day(project, events, clock=lambda: now)


# The latest day


@pytest.mark.parametrize(
    "now",
    [
        datetime(2024, 1, 12, 5, 59, tzinfo=UTC),  # the 11th is not due
        datetime(2024, 1, 1, tzinfo=UTC),  # no day is
    ],
)
def test_the_latest_day_is_loaded(tmp_path: Path, now: datetime) -> None:
    load_days(tmp_path, january(9, 10))
    assert judged(tmp_path, latest(now)).passed


def test_the_latest_day_is_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(8, 9))
    result = judged(tmp_path, latest(datetime(2024, 1, 12, 6, tzinfo=UTC)))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert result.description == (
        "2024-01-11 is not loaded; it was due at 2024-01-12 06:00 (UTC). The latest day loaded is "
        "2024-01-09. Load 2024-01-10 to 2024-01-11: mp-pipeline backfill --from 2024-01-10 "
        "--to 2024-01-11 --no-profiles, or materialize in the UI, and check that the schedule "
        "daily_events is running"
    )
    assert shown(result, "missing") == 2
    assert shown(result, "days") == [
        {"day": "2024-01-10", "due": "2024-01-11 06:00 (UTC)", "loaded": False},
        {"day": "2024-01-11", "due": "2024-01-12 06:00 (UTC)", "loaded": False},
    ]


def test_the_deadline_is_on_the_clock_of_the_project(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 10))
    new_york = Project(
        Settings(mixpanel_project_timezone="America/New_York", mp_pipeline_deadline_hours=6.5)
    )
    before = datetime(2024, 1, 12, 11, 29, tzinfo=UTC)
    assert judged(tmp_path, latest(before, new_york)).description == "2024-01-10 is loaded"
    after = judged(tmp_path, latest(before + timedelta(minutes=1), new_york))
    assert after.passed is False
    assert "it was due at 2024-01-12 06:30 (America/New_York)" in str(after.description)


def test_a_later_day_does_not_replace_the_one_that_is_due(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 12))
    result = judged(tmp_path, latest(datetime(2024, 1, 12, 6, tzinfo=UTC)))
    assert result.passed is False
    assert "The latest day loaded is 2024-01-12. Load 2024-01-10 to 2024-01-11:" in str(
        result.description
    )


# Gaps


def test_no_day_is_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 10, 11))
    result = judged(tmp_path, no_gaps(PROJECT, events))
    assert result.passed
    assert result.description == "no day is missing: 2024-01-09 to 2024-01-11"
    assert shown(result, "days") == [
        {"first": "2024-01-09", "last": "2024-01-11", "days": 3, "loaded": True}
    ]


def test_days_are_missing(tmp_path: Path) -> None:
    load_days(tmp_path, january(9, 11, 12, 16))
    result = judged(tmp_path, no_gaps(PROJECT, events))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert str(result.description).startswith(
        "4 days are missing in 2024-01-09 to 2024-01-16: 2024-01-10, 2024-01-13 to 2024-01-15. "
        "Load 2024-01-10: mp-pipeline backfill --from 2024-01-10 --to 2024-01-10 "
    )
    assert shown(result, "missing") == 4
    assert [(row["first"], row["days"], row["loaded"]) for row in shown(result, "days")] == [
        ("2024-01-10", 1, False),
        ("2024-01-13", 3, False),
        ("2024-01-09", 1, True),
        ("2024-01-11", 2, True),
        ("2024-01-16", 1, True),
    ]


# Row counts


def test_a_day_is_compared_with_the_median_of_the_same_weekday(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(9, 10, 11, 90, 20))  # the median is 10.5
    result = judged(tmp_path, volume(PROJECT, events))
    assert shown(result, "days")[-1] == {
        "day": "2024-01-29",
        "rows": 20,
        "baseline": "10",
        "compared_with": 4,
        "lost": 0,
        "ok": True,
    }


def test_half_and_twice_are_anomalous(tmp_path: Path) -> None:
    rows = {FIRST + timedelta(days=day): 10 for day in range(14)}
    last_week = {date(2024, 1, 15 + number): count for number, count in enumerate((6, 5, 19, 20))}
    load_days(tmp_path, rows | last_week)
    result = judged(tmp_path, volume(PROJECT, events))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.description == (
        "2024-01-16 has 5 rows; a Tuesday normally has 10, "
        "2024-01-18 has 20 rows; a Thursday normally has 10"
    )
    assert shown(result, "anomalous") == 2
    compared = [(row["day"], row["ok"]) for row in shown(result, "days") if row["baseline"]]
    assert compared == [
        ("2024-01-16", False),
        ("2024-01-18", False),
        ("2024-01-15", True),
        ("2024-01-17", True),
    ]


def test_days_without_a_baseline_pass(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(10, 1000) | {date(2024, 1, 9): 1})
    result = judged(tmp_path, volume(PROJECT, events))
    assert result.passed
    assert result.description == (
        "0 of 3 days have normal row counts; the others have no baseline: fewer than 2 of the same "
        "weekdays in the 8 weeks before are loaded"
    )


def test_weeks_long_before_are_not_compared_with(tmp_path: Path) -> None:
    load_days(tmp_path, {FIRST + timedelta(weeks=week): 10 for week in (0, 1, 10)})
    assert shown(judged(tmp_path, volume(PROJECT, events)), "compared") == 0


def test_a_check_that_runs_by_itself_judges_the_last_week(tmp_path: Path) -> None:
    rows = {FIRST + timedelta(days=day): 10 for day in range(28)}
    rows[date(2024, 1, 20)] = 1  # eight days before the last
    load_days(tmp_path, rows)
    assert judged(tmp_path, volume(PROJECT, events)).passed
    load_days(tmp_path, {date(2024, 1, 22): 1, date(2024, 1, 28): 1})
    result = judged(tmp_path, volume(PROJECT, events))
    assert result.passed is False
    assert result.description == (
        "2024-01-22 lost 9 of 10 rows in its latest load, "
        "2024-01-28 lost 9 of 10 rows in its latest load"
    )
    assert [row["ok"] for row in shown(result, "days")] == [False] * 2 + [True] * 5


def test_a_day_that_lost_rows_is_anomalous_without_a_baseline(tmp_path: Path) -> None:
    for rows in (100, 94):
        load_days(tmp_path, weeks(rows))
    result = judged(tmp_path, volume(PROJECT, events))
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.description == "2024-01-01 lost 6 of 100 rows in its latest load"


def test_days_that_were_all_purged_are_anomalous(tmp_path: Path) -> None:
    rows = {FIRST + timedelta(days=day): 10 for day in range(28)}
    load_days(tmp_path, rows)
    load_days(tmp_path, dict.fromkeys(rows, 0))
    assert shown(judged(tmp_path, volume(PROJECT, events)), "anomalous") == 7


def test_a_few_lost_rows_are_normal(tmp_path: Path) -> None:
    for rows in (100, 95, 93):
        load_days(tmp_path, weeks(rows))
    assert judged(tmp_path, volume(PROJECT, events)).passed


def test_a_run_judges_the_volume_of_its_own_days(tmp_path: Path) -> None:
    load_days(tmp_path, weeks(10, 10) | {date(2024, 1, 22): 1})
    with SampleServer(events_per_day=EVENTS_PER_DAY) as server:
        run = materialize(
            [events, volume(PROJECT, events)], resources(tmp_path, server), day="2024-01-15"
        )
    assert run.success
    assert run.checks["volume"].passed is False
    assert [row["day"] for row in shown(run.checks["volume"], "days")] == ["2024-01-15"]


@pytest.mark.parametrize(
    ("counts", "passed", "description"),
    [
        ([10], True, "10 rows, no previous snapshot to compare with"),
        ([7, 10, 12], True, "12 rows, 10 in the previous snapshot: +20%"),
        ([10, 7], False, "7 rows, 10 in the previous snapshot: -30%"),
        ([10, 13], False, "13 rows, 10 in the previous snapshot: +30%"),
        ([0, 1000], False, "1,000 rows, 0 in the previous snapshot"),
        (
            [100, 86, 74],
            False,
            "74 rows, 86 in the previous snapshot: -14%; 93 in the median of the last 2",
        ),
        ([100, 110, 121, 133], True, "133 rows, 121 in the previous snapshot: +10%"),
    ],
)
def test_the_number_of_profiles(
    tmp_path: Path, counts: list[int], passed: bool, description: str
) -> None:
    for count in counts:
        load_profiles(tmp_path, count)
    result = judged(tmp_path, count_change(PROJECT, profiles))
    assert (result.passed, result.description) == (passed, description)
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert [row["rows"] for row in shown(result, "snapshots")] == counts[::-1]


# Nothing is loaded


def test_without_data_every_check_fails(tmp_path: Path) -> None:
    history = [each for each in checks if each not in blocking_checks]
    selected = dg.AssetSelection.checks(*history)

    def judge() -> dict[str, str]:
        run = materialize([events, profiles, *history], resources(tmp_path), only=selected)
        assert run.success
        assert not any(result.passed for result in run.checks.values())
        return {name: str(result.description) for name, result in run.checks.items()}

    said = judge()
    assert sorted(said) == [
        "configured_filters",
        "consistent_settings",
        "count_change",
        "latest_day",
        "no_gaps",
        "volume",
    ]
    assert all("test.duckdb; materialize an asset first" in words for words in said.values())
    assert files_in(tmp_path) == set()
    tamper(tmp_path, "SELECT 1")  # creates the database
    said = judge()
    for name in ("configured_filters", "count_change"):
        assert said.pop(name) == "no data of profiles is loaded"
    assert set(said.values()) == {"no data of events is loaded"}
