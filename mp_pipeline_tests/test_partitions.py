"""Ranges of partitions that a run can be started for, and ranges that it refuses."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.project import Project
from mp_pipeline.sample import SampleServer
from mp_pipeline.settings import Settings
from mp_pipeline_tests.support.dagster import materialize, resources
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.project import PROJECT, events
from mp_pipeline_tests.support.records import DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY

ONE_DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


@pytest.fixture
def today() -> date:
    return datetime.now(UTC).date()


def refusal(server: SampleServer, directory: Path, first: date | str, last: date | str) -> str:
    """Return the error of a run for a range, which must send no request and write no file."""
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
    assert f"out of range: {today}." in message
    assert f"to {today - ONE_DAY}, the last complete day" in message


def test_range_of_today_alone_is_refused(server: SampleServer, tmp_path: Path, today: date) -> None:
    assert f"out of range: {today}." in refusal(server, tmp_path, today, today)


def test_range_in_the_future_is_refused(server: SampleServer, tmp_path: Path, today: date) -> None:
    first, last = today + 3 * ONE_DAY, today + 30 * ONE_DAY
    assert f"out of range: {first} to {last}." in refusal(server, tmp_path, first, last)


def test_range_that_starts_before_the_first_day_is_refused(
    server: SampleServer, tmp_path: Path
) -> None:
    message = refusal(server, tmp_path, "2023-12-30", "2024-01-02")
    assert "out of range: 2023-12-30 to 2023-12-31." in message
    assert "Valid days are 2024-01-01 (MIXPANEL_START_DATE) to " in message


def test_range_of_one_day_loads_it(server: SampleServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY))
    assert run.error == ""
    assert set(run.metadata) == {"2024-01-15"}


def test_partitions_begin_at_the_start_date_and_end_yesterday(today: date) -> None:
    keys = PROJECT.partitions.get_partition_keys()
    assert (keys[0], keys[-1]) == ("2024-01-01", str(today - ONE_DAY))
    assert len(keys) == (today - date(2024, 1, 1)).days


def test_partitions_are_days_of_the_projects_zone() -> None:
    auckland = Project(Settings(mixpanel_project_timezone="Pacific/Auckland"))
    assert isinstance(auckland.partitions, dg.DailyPartitionsDefinition)
    # It is 01:00 on the 16th there.
    keys = auckland.partitions.get_partition_keys(datetime(2024, 1, 15, 12, tzinfo=UTC))
    assert keys[-1] == "2024-01-15"
    keys = PROJECT.partitions.get_partition_keys(datetime(2024, 1, 15, 12, tzinfo=UTC))
    assert keys[-1] == "2024-01-14"
