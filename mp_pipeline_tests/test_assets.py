"""The assets `events` and `profiles`: what is stored, what the UI shows, what a failure leaves."""

import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import MixpanelResource
from mp_pipeline.sample import profiles_as_of
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import materialize, resources
from mp_pipeline_tests.support.databases import query, query_column
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.project import events, profiles
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of, lines_of

TODAY = date(2024, 1, 20)
"""The current day of the server."""

SCHEMA = [
    ("event_name", "VARCHAR", False, False),
    ("event_time", "TIMESTAMP", False, False),
    ("distinct_id", "VARCHAR", False, False),
    ("insert_id", "VARCHAR", False, True),
    ("properties", "JSON", True, False),
]


@pytest.fixture(scope="module")
def running() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY, today=TODAY, page_size=500) as server:
        yield server


@pytest.fixture
def server(running: FaultyServer) -> FaultyServer:
    running.requests.clear()
    running.faults.clear()
    return running


def insert_ids(directory: Path, day: date) -> set[str]:
    return set(query_column(directory, f"SELECT insert_id FROM events_{day:%Y%m%d}"))


def people() -> set[str]:
    return {each["$distinct_id"] for each in profiles_as_of(TODAY)}


# Events


def test_one_day(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), day=DAY)
    assert run.error == ""
    assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY)
    assert query(tmp_path, "SELECT min(event_time)::DATE, max(event_time)::DATE FROM events") == [
        (DAY, DAY)
    ]
    assert list(run.metadata) == ["2024-01-15"]
    assert [request.query["from_date"] for request in server.requests] == ["2024-01-15"]
    # The downloaded file is deleted.
    assert files_in(tmp_path) == {"test.duckdb"}


def test_what_the_ui_shows_of_a_day(server: FaultyServer, tmp_path: Path) -> None:
    begin = time.monotonic()
    shown = materialize([events], resources(tmp_path, server), day=DAY).metadata["2024-01-15"]
    seconds = time.monotonic() - begin
    rows = len(insert_ids_of(DAY))
    assert shown["dagster/partition_row_count"] == rows
    assert "dagster/row_count" not in shown
    assert shown["dagster/table_name"] == "events_20240115"
    assert [
        (each.name, each.type, each.constraints.nullable, each.constraints.unique)
        for each in shown["dagster/column_schema"].columns
    ] == SCHEMA
    assert shown["from_date"] == shown["to_date"] == "2024-01-15"
    assert shown["lines_read"] == lines_of(DAY)
    assert shown["duplicates"] == lines_of(DAY) - rows
    assert shown["rejected"] == shown["outside_day"] == shown["repaired"] == 0
    assert shown["bytes_loaded"] > 1000
    assert shown["download_attempts"] == 1
    assert 0 <= shown["download_seconds"] <= seconds
    assert 0 <= shown["load_seconds"] <= seconds
    assert shown["rows_per_second"] >= int(rows / seconds)
    assert shown["source"] == "project 1234567"
    assert shown["timezone"] == "UTC"
    assert shown["database"] == str(tmp_path / "test.duckdb")
    assert 0 < len(shown["preview"]) <= 5
    assert set(shown["preview"][0]) == {name for name, *_ in SCHEMA}
    assert {row["insert_id"] for row in shown["preview"]} <= insert_ids_of(DAY)
    assert "filter_events" not in shown
    assert "filter_where" not in shown
    assert "wall_clock_zone" not in shown


def test_each_day_of_a_range_has_metadata_of_its_own(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert run.error == ""
    assert set(run.metadata) == {"2024-01-15", "2024-01-16", "2024-01-17"}
    rows = {str(day): len(insert_ids_of(day)) for day in DAYS}
    assert len(set(rows.values())) == 3
    for day in DAYS:
        shown = run.metadata[str(day)]
        assert shown["dagster/partition_row_count"] == rows[str(day)]
        assert shown["dagster/table_name"] == f"events_{day:%Y%m%d}"
        assert shown["from_date"] == shown["to_date"] == str(day)
        assert shown["lines_read"] == lines_of(day)
        assert insert_ids(tmp_path, day) == insert_ids_of(day)
    assert query(tmp_path, "SELECT count(*) FROM events") == [(sum(rows.values()),)]
    assert files_in(tmp_path) == {"test.duckdb"}


def test_duplicates_are_counted(tmp_path: Path) -> None:
    with FaultyServer(events_per_day=2500, today=TODAY) as busy:
        run = materialize([events], resources(tmp_path, busy), day=DAY)
    shown = run.metadata["2024-01-15"]
    assert shown["duplicates"] > 0
    assert shown["lines_read"] == shown["dagster/partition_row_count"] + shown["duplicates"]
    assert query(tmp_path, "SELECT count(*), count(DISTINCT insert_id) FROM events") == [
        (shown["dagster/partition_row_count"],) * 2
    ]


def test_bad_lines_and_lines_of_other_days_are_counted(
    server: FaultyServer, tmp_path: Path
) -> None:
    tomorrow = {"time": 1705449600, "distinct_id": "u1", "$insert_id": "tomorrow"}
    timeless = {"distinct_id": "u1", "$insert_id": "timeless"}
    lines = [
        json.dumps({"event": "Search", "properties": properties}).encode()
        for properties in (tomorrow, timeless)
    ]
    server.faults.append(Fault("extra_lines", lines=[*lines, b"not JSON"]))
    run = materialize([events], resources(tmp_path, server), day=DAY)
    assert run.error == ""
    shown = run.metadata["2024-01-15"]
    assert shown["lines_read"] == lines_of(DAY) + 3
    assert (shown["outside_day"], shown["rejected"]) == (1, 2)
    assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY)


def test_too_many_bad_lines_fail_the_run_and_leave_the_old_day(
    server: FaultyServer, tmp_path: Path
) -> None:
    available = resources(tmp_path, server)
    available["mixpanel_duckdb"] = MixpanelDuckDBIOManager(duckdb=available["duckdb"])
    assert materialize([events], available, day=DAY).success
    server.faults.append(Fault("extra_lines", lines=[b"not JSON"] * 5))
    run = materialize([events], available, day=DAY)
    assert not run.success
    assert f"events of 2024-01-15: 5 of {lines_of(DAY) + 5} lines" in run.error
    assert "not valid JSON: not JSON" in run.error
    assert "MP_PIPELINE_MAX_REJECTED_FRACTION" in run.error
    assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY)
    assert files_in(tmp_path) == {"test.duckdb"}


def test_a_day_without_events_is_a_day(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(Fault("body", body=b"", day=NEXT_DAY))
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert run.error == ""
    shown = run.metadata["2024-01-16"]
    assert shown["dagster/partition_row_count"] == shown["lines_read"] == 0
    assert shown["bytes_loaded"] == 0
    assert shown["preview"] == []
    assert query(tmp_path, "SELECT count(*) FROM events_20240116") == [(0,)]
    assert run.metadata["2024-01-17"]["dagster/partition_row_count"] > 0


def test_materializing_again_replaces_the_day(server: FaultyServer, tmp_path: Path) -> None:
    for insert_id in ("early", "late"):
        server.faults.append(Fault("extra_lines", lines=[_event_at_noon(insert_id)]))
        assert materialize([events], resources(tmp_path, server), day=DAY).success
        assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY) | {insert_id}
    assert query(tmp_path, "SELECT count(*) FROM _load_log") == [(2,)]


def test_a_dropped_download_is_retried(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(Fault("dropped"))
    run = materialize([events], resources(tmp_path, server), day=DAY)
    assert run.error == ""
    assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY)
    assert run.metadata["2024-01-15"]["download_attempts"] == 2
    assert len(server.requests) == 2


@pytest.mark.usefixtures("waits")
def test_an_export_that_stays_truncated_fails_and_leaves_the_old_day(
    server: FaultyServer, tmp_path: Path
) -> None:
    assert materialize([events], resources(tmp_path, server), day=NEXT_DAY).success
    server.requests.clear()
    server.faults.append(Fault("terminated_early", day=NEXT_DAY, times=None))
    run = materialize([events], resources(tmp_path, server), days=(DAY, DAY_AFTER))
    assert not run.success
    assert "export of 2024-01-16, 00:00 to 01:00 failed" in run.error
    assert "5 attempts" in run.error
    # The day before is loaded, the day itself is unchanged, the day after was not requested.
    assert insert_ids(tmp_path, DAY) == insert_ids_of(DAY)
    assert insert_ids(tmp_path, NEXT_DAY) == insert_ids_of(NEXT_DAY)
    assert query_column(tmp_path, "SELECT table_name FROM _metadata ORDER BY 1") == [
        "events_20240115",
        "events_20240116",
    ]
    requested = [request.query["from_date"] for request in server.requests]
    assert requested == ["2024-01-15"] + ["2024-01-16"] * (5 + 3 * 2 + 5)
    assert files_in(tmp_path) == {"test.duckdb"}


@pytest.mark.usefixtures("waits")
def test_a_day_that_arrives_only_in_parts_is_loaded_as_one_day(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults.append(Fault("too_many_lines", max_lines=50, day=DAY, times=None))
    run = materialize([events], resources(tmp_path, server), days=(DAY, NEXT_DAY))
    assert run.success
    for day in (DAY, NEXT_DAY):
        assert insert_ids(tmp_path, day) == insert_ids_of(day)
    shown = run.metadata["2024-01-15"]
    assert shown["lines_read"] == lines_of(DAY)
    assert shown["download_parts"] == 4
    assert shown["download_attempts"] == len(server.requests) - 1
    assert "filter_where" not in shown
    assert "download_parts" not in run.metadata["2024-01-16"]
    assert files_in(tmp_path) == {"test.duckdb"}


@pytest.mark.parametrize("wrong", ["service_account_username", "service_account_secret"])
def test_wrong_credentials_fail_at_once(server: FaultyServer, tmp_path: Path, wrong: str) -> None:
    fields: dict[str, Any] = {wrong: "wrong"}
    run = materialize([events], resources(tmp_path, server, **fields), day=DAY)
    assert not run.success
    assert "Invalid service account credentials" in run.error
    assert "MIXPANEL_SERVICE_ACCOUNT_USERNAME" in run.error
    assert [request.status for request in server.requests] == [401]
    assert files_in(tmp_path) == set()


def test_credentials_that_worked_before_have_probably_expired(
    server: FaultyServer, tmp_path: Path
) -> None:
    assert materialize([events], resources(tmp_path, server), day=DAY).success
    server.secret = "another"
    expired = resources(tmp_path, server, service_account_secret="sample-secret")
    run = materialize([events], expired, day=NEXT_DAY)
    assert not run.success
    assert "Invalid service account credentials" in run.error
    cause = "the service account has probably expired or was deleted since."
    assert f"project {server.project_id} was last loaded at 20" in run.error
    assert cause in run.error

    first_time = resources(tmp_path / "other", server, service_account_secret="sample-secret")
    assert cause not in materialize([events], first_time, day=NEXT_DAY).error


def test_another_projects_id_fails_at_once(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server, project_id="7654321"), day=DAY)
    assert "the service account has no access to project_id 7654321" in run.error
    assert len(server.requests) == 1


def test_a_wrong_filter_shows_mixpanels_message(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([events], resources(tmp_path, server, where="plan ="), day=DAY)
    assert not run.success
    assert "status 400, Mixpanel says: " in run.error
    assert "MIXPANEL_WHERE" in run.error
    assert len(server.requests) == 1


def test_sample_data_and_real_data_are_not_mixed(server: FaultyServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)
    sample = available | {"mixpanel": MixpanelResource()}
    run = materialize([events], sample, day=DAY)
    assert run.error == ""
    assert run.metadata["2024-01-15"]["source"] == "sample"
    rows = query(tmp_path, "SELECT count(*) FROM events")
    run = materialize([events], available, day=DAY)
    assert "this database contains data of 'sample' (table events_20240115)" in run.error
    assert "use a separate database file for each source" in run.error
    assert query(tmp_path, "SELECT count(*) FROM events") == rows


# Profiles


def test_profiles_are_a_snapshot(server: FaultyServer, tmp_path: Path) -> None:
    run = materialize([profiles], resources(tmp_path, server))
    assert run.error == ""
    expected = people()
    assert set(query_column(tmp_path, "SELECT distinct_id FROM profiles")) == expected
    shown = run.metadata[None]
    assert shown["dagster/row_count"] == shown["lines_read"] == len(expected)
    assert shown["total_announced"] == len(expected)
    assert shown["complete"] is True
    assert shown["pages"] == len(expected) // 500 + 1
    assert shown["dagster/table_name"] == "profiles"
    assert [
        (each.name, each.type, each.constraints.nullable, each.constraints.unique)
        for each in shown["dagster/column_schema"].columns
    ] == [
        ("distinct_id", "VARCHAR", False, True),
        ("properties", "JSON", True, False),
        ("last_seen", "TIMESTAMP", True, False),
    ]
    assert shown["source"] == "project 1234567"
    assert len(shown["preview"]) == 5
    assert shown["duplicates"] == shown["rejected"] == 0
    assert shown["bytes_loaded"] > 1000
    assert {"download_seconds", "download_attempts", "load_seconds", "rows_per_second"} <= set(
        shown
    )
    assert not {"outside_day", "from_date", "to_date", "dagster/partition_row_count"} & set(shown)
    assert files_in(tmp_path) == {"test.duckdb"}


def test_profiles_are_replaced(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(_page(["u1", "gone"], total=2))
    assert materialize([profiles], resources(tmp_path, server)).success
    server.faults.append(_page(["u1", "u2"], total=2))
    assert materialize([profiles], resources(tmp_path, server)).success
    assert query_column(tmp_path, "SELECT distinct_id FROM profiles ORDER BY 1") == ["u1", "u2"]


def test_profiles_that_do_not_match_the_total_are_loaded_and_reported(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults.extend([_page(["u1", "u2"], total=3), _page([], total=3)])
    run = materialize([profiles], resources(tmp_path, server))
    assert run.error == ""
    assert run.metadata[None]["complete"] is False
    assert run.metadata[None]["total_announced"] == 3
    assert run.metadata[None]["dagster/row_count"] == 2
    assert "Mixpanel announced 3 profiles and sent 2" in run.log


def test_a_profile_that_comes_twice_is_stored_once(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.extend([_page(["u1", "u2", "u1"], total=3), _page([], total=3)])
    run = materialize([profiles], resources(tmp_path, server))
    assert query_column(tmp_path, "SELECT distinct_id FROM profiles ORDER BY 1") == ["u1", "u2"]
    assert run.metadata[None]["duplicates"] == 1
    assert run.metadata[None]["lines_read"] == 3


def test_profiles_are_kept_when_mixpanel_fails(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(_page(["u1"], total=1))
    assert materialize([profiles], resources(tmp_path, server)).success
    server.faults.append(
        Fault("status", path="/engage", status=402, body=b'{"error": "Upgrade your plan"}')
    )
    run = materialize([profiles], resources(tmp_path, server))
    assert not run.success
    assert "Upgrade your plan" in run.error
    assert query_column(tmp_path, "SELECT distinct_id FROM profiles") == ["u1"]
    assert files_in(tmp_path) == {"test.duckdb"}


def test_profiles_are_kept_when_too_many_are_missing(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(_page(["u1", "u2"], total=2))
    assert materialize([profiles], resources(tmp_path, server)).success
    # All pages are the first one: of 2,000 profiles, only one ever comes.
    server.faults.extend(_page(["u3"], total=2000) for _ in range(40))
    run = materialize([profiles], resources(tmp_path, server))
    assert not run.success
    assert "Mixpanel announced 2,000 and sent 1 different ones" in run.error
    found = query_column(tmp_path, "SELECT distinct_id FROM profiles ORDER BY ALL")
    assert found == ["u1", "u2"]
    assert files_in(tmp_path) == {"test.duckdb"}


def _event_at_noon(insert_id: str) -> bytes:
    properties = {"time": 1705320000, "distinct_id": "u1", "$insert_id": insert_id}
    return json.dumps({"event": "Search", "properties": properties}).encode()


def _page(distinct_ids: list[str], *, total: int) -> Fault:
    """Return a page of a project with these users and any announced total."""
    answer = {
        "page": 0,
        "page_size": 1000,
        "results": [{"$distinct_id": each, "$properties": {}} for each in distinct_ids],
        "session_id": "0000000001-SAMPLE",  # the first that the server opens
        "status": "ok",
        "total": total,
    }
    return Fault("body", path="/engage", body=json.dumps(answer).encode())
