"""What a resumed run keeps: days of failed attempts with the same settings, as they are now."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.databases import query, query_column
from mp_pipeline_tests.support.records import DAY, NEXT_DAY
from mp_pipeline_tests.support.runs import Runs, requested_dates
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials, insert_ids_of

FOURTH = date(2024, 1, 18)
LAST = date(2024, 1, 19)
DAYS = [DAY + timedelta(days=number) for number in range(5)]
TODAY = date(2024, 1, 22)
ZONE = "America/New_York"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY) as running:
        yield running


def fail_on(day: date, server: FaultyServer, runs: Runs) -> dg.JobExecutionResult:
    """Run all days, with a server that refuses one of them."""
    server.faults.append(Fault("status", status=400, day=day))
    failed = runs.run(DAY, LAST)
    assert not failed.success
    requested_dates(server)
    return failed


def stored(directory: Path) -> dict[date, set[str]]:
    """Return the insert ids of each day table."""
    return {
        day: set(query_column(directory, f"SELECT insert_id FROM events_{day:%Y%m%d}"))
        for day in DAYS
    }


SETTINGS = [
    pytest.param({"MIXPANEL_EVENTS": "Search"}, id="events"),
    pytest.param({"MIXPANEL_WHERE": 'properties["plan"] == "free"'}, id="where"),
    pytest.param({"MIXPANEL_PROJECT_TIMEZONE": ZONE}, id="time zone"),
    pytest.param(
        {"MIXPANEL_PROJECT_TIMEZONE": ZONE, "MIXPANEL_LOCAL_TIMESTAMPS": "true"},
        id="local timestamps",
    ),
]


@pytest.mark.parametrize("variables", SETTINGS)
def test_a_retry_with_other_settings_loads_all_days_again(
    server: FaultyServer,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = fail_on(FOURTH, server, runs)
    loaded_first = query_column(tmp_path, "SELECT DISTINCT day FROM _load_log ORDER BY 1")
    assert loaded_first[:2] == [DAY, NEXT_DAY]
    for name in variables:
        monkeypatch.setenv(name, "")
    retried = runs.run(DAY, LAST, failed)
    assert retried.success
    assert requested_dates(server) == [(str(day),) * 2 for day in DAYS]
    assert "are kept" not in runs.log(retried)
    assert stored(tmp_path) == {day: insert_ids_of(day) for day in DAYS}


@pytest.mark.parametrize("variables", SETTINGS)
def test_a_retry_with_the_same_settings_keeps_what_is_loaded(
    server: FaultyServer,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = fail_on(FOURTH, server, runs)
    loaded_first = query_column(tmp_path, "SELECT DISTINCT day FROM _load_log ORDER BY 1")
    assert 2 <= len(loaded_first) <= 3
    retried = runs.run(DAY, LAST, failed)
    assert retried.success
    assert len(requested_dates(server)) == 5 - len(loaded_first)
    assert f"{len(loaded_first)} of 5 days were loaded by an earlier attempt" in runs.log(retried)
    assert query(tmp_path, "SELECT day, count(*) FROM _load_log GROUP BY day ORDER BY day") == [
        (day, 1) for day in DAYS
    ]


def test_local_timestamps_alone_make_a_difference(
    server: FaultyServer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPANEL_PROJECT_TIMEZONE", ZONE)
    monkeypatch.setenv("MIXPANEL_LOCAL_TIMESTAMPS", "true")
    failed = fail_on(FOURTH, server, runs)
    monkeypatch.setenv("MIXPANEL_LOCAL_TIMESTAMPS", "false")
    assert runs.run(DAY, LAST, failed).success
    # The dates are UTC dates again, so each day needs two.
    assert requested_dates(server) == [(str(day), str(day + timedelta(days=1))) for day in DAYS]


def test_a_retry_with_another_project_does_not_mix_projects(
    server: FaultyServer, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = fail_on(FOURTH, server, runs)
    before = query(tmp_path, "FROM events ORDER BY ALL")
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY, project_id=7) as other:
        for name, value in credentials(other).items():
            monkeypatch.setenv(name, value)
        retried = runs.run(DAY, LAST, failed)
        assert not retried.success
        assert "are kept" not in runs.log(retried)
    assert "this database contains data of 'project 1234567'" in runs.log(retried)
    assert query(tmp_path, "FROM events ORDER BY ALL") == before
    # In a database of its own the other project loads all days.
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY, project_id=7) as other:
        for name, value in credentials(other).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MP_PIPELINE_DATABASE", str(tmp_path / "other.duckdb"))
        assert runs.run(DAY, LAST, failed).success
        assert len(requested_dates(other)) == 5


def test_of_several_attempts_only_days_with_the_settings_of_the_last_are_kept(
    server: FaultyServer, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXPANEL_EVENTS", "Search")
    first = fail_on(FOURTH, server, runs)
    monkeypatch.setenv("MIXPANEL_EVENTS", "")
    server.faults.append(Fault("status", status=400, day=NEXT_DAY))
    second = runs.run(DAY, LAST, first)
    assert not second.success
    requested_dates(server)
    third = runs.run(DAY, LAST, second)
    assert third.success
    assert requested_dates(server) == [(str(day),) * 2 for day in DAYS[1:]]
    assert stored(tmp_path) == {day: insert_ids_of(day) for day in DAYS}


def test_the_metadata_of_a_partition_shows_its_settings(
    server: FaultyServer, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = 'properties["plan"] == "free"'
    monkeypatch.setenv("MIXPANEL_EVENTS", "Search,Page View")
    monkeypatch.setenv("MIXPANEL_WHERE", where)
    failed = fail_on(FOURTH, server, runs)
    shown = runs.metadata()["2024-01-15"]
    assert shown["filter_events"] == ["Search", "Page View"]
    assert shown["filter_where"] == where
    assert (shown["timezone"], shown["source"]) == ("UTC", "project 1234567")
    monkeypatch.setenv("MIXPANEL_EVENTS", "")
    monkeypatch.setenv("MIXPANEL_WHERE", "")
    monkeypatch.setenv("MIXPANEL_PROJECT_TIMEZONE", ZONE)
    monkeypatch.setenv("MIXPANEL_LOCAL_TIMESTAMPS", "true")
    assert runs.run(DAY, LAST, failed).success
    shown = runs.metadata()["2024-01-15"]
    assert not {"filter_events", "filter_where"} & set(shown)
    assert (shown["timezone"], shown["wall_clock_zone"]) == (ZONE, ZONE)


def test_a_kept_day_shows_the_rows_that_it_has_now(
    server: FaultyServer, runs: Runs, tmp_path: Path
) -> None:
    server.faults.append(Fault("body", body=b"", day=NEXT_DAY))
    failed = fail_on(FOURTH, server, runs)
    assert runs.metadata()[str(NEXT_DAY)]["dagster/partition_row_count"] == 0
    other = runs.run(NEXT_DAY, NEXT_DAY)
    assert other.success
    requested_dates(server)

    retried = runs.run(DAY, LAST, failed)
    assert retried.success
    assert requested_dates(server) == [(str(FOURTH),) * 2, (str(LAST),) * 2]
    (rows,) = query_column(tmp_path, f"SELECT count(*) FROM events_{NEXT_DAY:%Y%m%d}")
    assert rows == len(insert_ids_of(NEXT_DAY)) > 0
    shown = runs.metadata()[str(NEXT_DAY)]
    assert shown["dagster/partition_row_count"] == rows
    assert shown["lines_read"] >= rows
    assert len(shown["preview"]) == 5


def test_a_day_that_was_reloaded_with_other_settings_is_not_kept(
    server: FaultyServer, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = fail_on(FOURTH, server, runs)
    monkeypatch.setenv("MIXPANEL_EVENTS", "Search")
    monkeypatch.setenv("MP_PIPELINE_MIN_KEPT_FRACTION", "0")
    assert runs.run(NEXT_DAY, NEXT_DAY).success
    monkeypatch.setenv("MIXPANEL_EVENTS", "")
    requested_dates(server)
    assert runs.run(DAY, LAST, failed).success
    assert requested_dates(server) == [(str(day),) * 2 for day in (NEXT_DAY, FOURTH, LAST)]
    assert stored(tmp_path) == {day: insert_ids_of(day) for day in DAYS}
