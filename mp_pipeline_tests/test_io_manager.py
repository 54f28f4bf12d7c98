"""The IO manager: outputs of all kinds become tables, and inputs become DataFrames."""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mp_pipeline.io_manager import ALLOW_MISSING_PARTITIONS, MixpanelDuckDBIOManager
from mp_pipeline.mixpanel import EventsDownload, MixpanelClient, ProfilesDownload
from mp_pipeline.partitions import range_tags
from mp_pipeline.sample import SampleServer, profiles_as_of
from mp_pipeline_tests.support.dagster import asset, daily, materialize, mixpanel, resources
from mp_pipeline_tests.support.databases import query, query_column, tamper
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.records import DAY, DAY_AFTER, DAYS, NEXT_DAY, event, profile
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, insert_ids_of, lines_of

TODAY = date(2024, 1, 20)
"""The current day of the server."""


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY, today=TODAY, page_size=500) as running:
        yield running


@pytest.fixture
def client(server: SampleServer) -> Iterator[MixpanelClient]:
    with mixpanel(server).get_client() as opened:
        yield opened


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour)


def tables(directory: Path) -> dict[str, int]:
    """Return the tables of the database with their numbers of rows."""
    return {
        name: query(directory, f'SELECT count(*) FROM "{name}"')[0][0]
        for name in query_column(directory, "SELECT table_name FROM _metadata ORDER BY ALL")
    }


def ids(directory: Path, table: str = "plays") -> list[str]:
    return query_column(directory, f"SELECT insert_id FROM {table} ORDER BY ALL")


def load_of(directory: Path, table: str) -> dict[str, Any]:
    """Return the last row of the load log for a table."""
    names = "lines_read", "rows_stored", "duplicates", "rejected", "outside_day", "source"
    sql = f"SELECT {', '.join(names)} FROM _load_log WHERE table_name = '{table}' ORDER BY rowid"
    return dict(zip(names, query(directory, sql)[-1], strict=True))


# Records


def test_a_days_records_become_a_day_table_and_a_view(tmp_path: Path) -> None:
    records = [event("a", at(DAY), properties={"song": "Blue"}), event("b", at(DAY, 23))]
    plays = asset(lambda: iter(records), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert tables(tmp_path) == {"plays_20240115": 2}
    assert query(tmp_path, "FROM plays WHERE insert_id = 'a'") == [
        ("Song Played", at(DAY), "u1", "a", '{"song":"Blue"}', DAY)
    ]
    assert run.metadata["2024-01-15"]["dagster/partition_row_count"] == 2
    assert run.metadata["2024-01-15"]["dagster/table_name"] == "plays_20240115"


def test_records_of_a_range_are_split_by_day(tmp_path: Path) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield event("third", at(DAY_AFTER, 0))
        yield event("first", at(DAY))
        yield event("eve", at(DAY - timedelta(days=1), 23))
        yield event("first late", f"{DAY}T23:59:59.999999Z")
        yield event("second", at(NEXT_DAY))
        yield event("morrow", at(DAY_AFTER + timedelta(days=1), 0))

    plays = asset(records, partitions_def=daily)
    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert run.error == ""
    assert ids(tmp_path, "plays_20240115") == ["first", "first late"]
    assert ids(tmp_path, "plays_20240116") == ["second"]
    assert ids(tmp_path, "plays_20240117") == ["third"]
    logged = [load_of(tmp_path, f"plays_{day:%Y%m%d}") for day in DAYS]
    assert [load["outside_day"] for load in logged] == [2, 0, 0]
    assert [load["lines_read"] for load in logged] == [4, 1, 1]
    # Each day has metadata of its own.
    assert {
        day: (shown["dagster/table_name"], shown["dagster/partition_row_count"])
        for day, shown in run.metadata.items()
    } == {
        "2024-01-15": ("plays_20240115", 2),
        "2024-01-16": ("plays_20240116", 1),
        "2024-01-17": ("plays_20240117", 1),
    }


def test_days_begin_at_midnight_of_the_partitions_zone(tmp_path: Path) -> None:
    kolkata = dg.DailyPartitionsDefinition("2024-01-01", timezone="Asia/Kolkata")
    records = [
        event("late the day before", "2024-01-14T18:29:59Z"),
        event("first", "2024-01-14T18:30:00Z"),
        event("last", "2024-01-15T18:29:59Z"),
        event("early the next day", "2024-01-15T18:30:00Z"),
    ]
    run = materialize(
        [asset(lambda: records, partitions_def=kolkata)], resources(tmp_path), day=DAY
    )
    assert run.error == ""
    assert ids(tmp_path) == ["first", "last"]
    assert run.metadata["2024-01-15"]["outside_day"] == 2
    assert run.metadata["2024-01-15"]["timezone"] == "Asia/Kolkata"


def test_records_of_profiles_without_partitions_become_a_table(tmp_path: Path) -> None:
    people = asset(
        lambda: [
            profile("u1", properties={"plan": "free"}),
            profile("u2", properties={"plan": "family"}),
        ],
        "people",
    )
    run = materialize([people], resources(tmp_path))
    assert run.error == ""
    assert query(tmp_path, "SELECT distinct_id, properties->>'$.plan' FROM people ORDER BY 1") == [
        ("u1", "free"),
        ("u2", "family"),
    ]
    assert run.metadata[None]["dagster/row_count"] == 2
    assert "outside_day" not in run.metadata[None]


def test_records_of_events_without_partitions_become_a_table(tmp_path: Path) -> None:
    far_apart = [event("a", "2023-01-01"), event("b", "2024-06-30T10:00:00+02:00")]
    run = materialize([asset(lambda: far_apart)], resources(tmp_path))
    assert run.error == ""
    assert query(tmp_path, "SELECT insert_id, event_time FROM plays ORDER BY 1") == [
        ("a", datetime(2023, 1, 1)),
        ("b", datetime(2024, 6, 30, 8)),
    ]
    assert run.metadata[None]["dagster/row_count"] == 2


def test_no_records_are_an_empty_day(tmp_path: Path) -> None:
    plays = asset(lambda: iter(()), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert tables(tmp_path) == {"plays_20240115": 0}
    assert run.metadata["2024-01-15"]["dagster/partition_row_count"] == 0


def test_no_records_for_a_range_are_empty_days(tmp_path: Path) -> None:
    plays = asset(list, partitions_def=daily)
    run = materialize([plays], resources(tmp_path), days=(DAY, NEXT_DAY))
    assert run.error == ""
    assert tables(tmp_path) == {"plays_20240115": 0, "plays_20240116": 0}


@pytest.mark.parametrize(
    ("metadata", "columns"),
    [
        ({}, ["distinct_id", "properties", "last_seen"]),
        (
            {"table_type": "events"},
            ["event_name", "event_time", "distinct_id", "insert_id", "properties"],
        ),
    ],
)
def test_the_type_of_no_records_without_partitions_is_declared(
    tmp_path: Path, metadata: dict[str, str], columns: list[str]
) -> None:
    run = materialize([asset(list, metadata=metadata)], resources(tmp_path))
    assert run.error == ""
    assert query_column(tmp_path, "SELECT column_name FROM (DESCRIBE plays)") == columns


def test_a_key_with_a_prefix_becomes_one_name(tmp_path: Path) -> None:
    plays = asset(lambda: [event("a", at(DAY))], key_prefix=["music", "eu"], partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert tables(tmp_path) == {"music_eu_plays_20240115": 1}
    assert ids(tmp_path, "music_eu_plays") == ["a"]


def test_materializing_a_day_again_replaces_it(tmp_path: Path) -> None:
    days = {DAY: [event("old", at(DAY)), event("gone", at(DAY))], NEXT_DAY: []}
    plays = asset(lambda: days[DAY], partitions_def=daily)
    materialize([plays], resources(tmp_path), day=DAY)
    other = asset(lambda: [event("other", at(NEXT_DAY))], partitions_def=daily)
    materialize([other], resources(tmp_path), day=NEXT_DAY)
    days[DAY] = [event("old", at(DAY), event_name="Song Skipped"), event("new", at(DAY))]
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert query(tmp_path, "SELECT insert_id, event_name FROM plays ORDER BY 1") == [
        ("new", "Song Played"),
        ("old", "Song Skipped"),
        ("other", "Song Played"),
    ]


def test_materializing_a_table_again_replaces_it(tmp_path: Path) -> None:
    for users in (["u1", "u2"], ["u2", "u3"]):
        snapshot = asset(partial(map, profile, users), "people")
        assert materialize([snapshot], resources(tmp_path)).error == ""
    assert query_column(tmp_path, "SELECT distinct_id FROM people ORDER BY 1") == ["u2", "u3"]


# Files


def test_the_download_of_a_day(tmp_path: Path, client: MixpanelClient) -> None:
    directory = tmp_path / "downloads"
    plays = asset(lambda: client.export_events(DAY, directory=directory), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert set(ids(tmp_path)) == insert_ids_of(DAY)
    assert run.metadata["2024-01-15"]["lines_read"] == lines_of(DAY)
    assert run.metadata["2024-01-15"]["bytes_loaded"] > 1000
    assert files_in(directory) == set()


def test_one_download_of_several_days(tmp_path: Path, client: MixpanelClient) -> None:
    plays = asset(
        lambda: client.export_events(DAY, DAY_AFTER, directory=tmp_path / "downloads"),
        partitions_def=daily,
    )
    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert run.error == ""
    for day in DAYS:
        assert set(ids(tmp_path, f"plays_{day:%Y%m%d}")) == insert_ids_of(day)
    assert query(
        tmp_path, "SELECT from_date, to_date FROM _metadata WHERE table_name = 'plays_20240116'"
    ) == [(NEXT_DAY, NEXT_DAY)]


def test_downloads_are_loaded_and_deleted_one_by_one(
    tmp_path: Path, client: MixpanelClient
) -> None:
    directory = tmp_path / "downloads"
    waiting: list[set[str]] = []

    def downloads() -> Iterator[EventsDownload]:
        for day in DAYS:
            waiting.append(files_in(directory))
            yield replace(client.export_events(day, directory=directory), source="project 7")

    plays = asset(downloads, partitions_def=daily)
    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert run.error == ""
    assert set(ids(tmp_path)) == set().union(*map(insert_ids_of, DAYS))
    assert load_of(tmp_path, "plays_20240117")["source"] == "project 7"
    assert [run.metadata[str(day)]["lines_read"] for day in DAYS] == list(map(lines_of, DAYS))
    assert {shown["source"] for shown in run.metadata.values()} == {"project 7"}
    assert {shown["download_attempts"] for shown in run.metadata.values()} == {1}
    # The disk never holds more than one day.
    assert waiting == [set(), set(), set()]


def test_the_download_of_profiles(tmp_path: Path, client: MixpanelClient) -> None:
    people = asset(lambda: client.export_profiles(directory=tmp_path / "downloads"), "people")
    run = materialize([people], resources(tmp_path))
    assert run.error == ""
    expected = sorted(each["$distinct_id"] for each in profiles_as_of(TODAY))
    assert query_column(tmp_path, "SELECT distinct_id FROM people ORDER BY 1") == expected
    assert run.metadata[None]["dagster/row_count"] == len(expected)
    assert run.metadata[None]["pages"] == len(expected) // 500 + 1
    assert files_in(tmp_path / "downloads") == set()


def test_a_list_with_the_download_of_profiles(tmp_path: Path, client: MixpanelClient) -> None:
    def downloads() -> list[ProfilesDownload]:
        download = client.export_profiles(directory=tmp_path / "downloads")
        return [replace(download, source="project 7")]

    run = materialize([asset(downloads, "people")], resources(tmp_path))
    assert run.error == ""
    assert run.metadata[None]["source"] == "project 7"
    assert run.metadata[None]["complete"] is True
    assert run.metadata[None]["dagster/row_count"] == len(list(profiles_as_of(TODAY)))
    assert files_in(tmp_path) == {"test.duckdb"}


def export_line(insert_id: str, day: date) -> str:
    seconds = int(at(day).replace(tzinfo=UTC).timestamp())
    properties = {"time": seconds, "distinct_id": "u1", "$insert_id": insert_id}
    return json.dumps({"event": "Song Played", "properties": properties}) + "\n"


@pytest.mark.parametrize("as_given", [Path, str])
def test_the_path_of_a_file(tmp_path: Path, as_given: Callable[[Path], object]) -> None:
    file = tmp_path / "day.jsonl"
    file.write_text(export_line("a", DAY) + export_line("b", DAY))
    plays = asset(lambda: as_given(file), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert ids(tmp_path) == ["a", "b"]
    assert file.exists()  # it is the user's own


def test_the_paths_of_several_files(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    plain.write_text(export_line("a", DAY))
    packed.write_bytes(gzip.compress(export_line("b", DAY).encode()))
    run = materialize(
        [asset(lambda: [plain, packed], partitions_def=daily)], resources(tmp_path), day=DAY
    )
    assert run.error == ""
    assert ids(tmp_path) == ["a", "b"]


def test_a_file_of_events_without_partitions_needs_its_type(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text(export_line("a", DAY) + export_line("b", NEXT_DAY))
    typed = asset(lambda: file, metadata={"table_type": "events"})
    assert materialize([typed], resources(tmp_path)).error == ""
    assert ids(tmp_path) == ["a", "b"]


def test_wall_clock_times_become_utc(tmp_path: Path) -> None:
    zone = "America/New_York"
    file = tmp_path / "day.jsonl"
    file.write_text(export_line("noon", DAY))
    available = resources(tmp_path)
    available["mixpanel_duckdb"] = MixpanelDuckDBIOManager(
        duckdb=available["duckdb"], wall_clock_zone=zone
    )
    partitions = dg.DailyPartitionsDefinition("2024-01-01", timezone=zone)
    run = materialize([asset(lambda: file, partitions_def=partitions)], available, day=DAY)
    assert run.error == ""
    assert query(tmp_path, "SELECT event_time FROM plays") == [(at(DAY, 17),)]
    assert run.metadata[str(DAY)]["wall_clock_zone"] == run.metadata[str(DAY)]["timezone"] == zone


# Failures


def load_old_day(directory: Path, day: date = DAY) -> None:
    """Load a day, so that a failure has something to keep."""
    old = asset(lambda: [event("old", at(day))], partitions_def=daily)
    assert materialize([old], resources(directory), day=day).success


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "plays returned a NoneType"),
        (7, "plays returned a int"),
        (b"plays.jsonl", "plays returned a bytes"),
        ({"event_name": "Song Played"}, "plays returned a dict"),
        ([1, 2], "returned a list; return downloads of mp_pipeline.mixpanel, paths"),
        ("plays.jsonl", "plays.jsonl does not exist"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, output: object, message: str) -> None:
    run = materialize([asset(lambda: output, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert not run.success
    assert message in run.error


def test_an_unknown_table_type(tmp_path: Path) -> None:
    run = materialize([asset(list, metadata={"table_type": "eventz"})], resources(tmp_path))
    assert "table_type is 'eventz'; it must be events or profiles" in run.error


def test_a_key_that_is_not_a_table_name(tmp_path: Path) -> None:
    plays = asset(lambda: [event("a", at(DAY))], key_prefix="2024", partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "'2024_plays' is not a valid table name" in run.error


@pytest.mark.parametrize(
    ("partitions", "key"),
    [
        (dg.StaticPartitionsDefinition(["eu", "us"]), "eu"),
        (dg.HourlyPartitionsDefinition("2024-01-01-00:00"), "2024-01-15-00:00"),
    ],
)
def test_partitions_that_are_not_days(
    tmp_path: Path, partitions: dg.PartitionsDefinition[Any], key: str
) -> None:
    plays = asset(lambda: [event("a", at(DAY))], partitions_def=partitions)
    run = materialize([plays], resources(tmp_path), day=key)
    assert "plays needs daily partitions" in run.error
    assert "such as 2024-01-15" in run.error
    assert run.metadata == {}


@pytest.mark.parametrize(
    ("partitions", "key"),
    [
        (dg.WeeklyPartitionsDefinition("2023-12-31"), "2024-01-14"),
        (dg.MonthlyPartitionsDefinition("2023-12-01"), "2024-01-01"),
        (dg.DailyPartitionsDefinition("2024-01-01", hour_offset=3), "2024-01-15"),
        (dg.DailyPartitionsDefinition("20240101", fmt="%Y%m%d"), "20240115"),
    ],
)
def test_partitions_that_only_look_like_days(
    tmp_path: Path, partitions: dg.PartitionsDefinition[str], key: str
) -> None:
    plays = asset(lambda: [event("a", at(DAY))], partitions_def=partitions)
    run = materialize([plays], resources(tmp_path), day=key)
    assert "needs daily partitions that begin at midnight" in run.error
    assert run.metadata == {}


def test_a_dataframe_is_refused_with_advice(tmp_path: Path) -> None:
    frame = pd.DataFrame([event("a", at(DAY))])
    plays = asset(lambda: frame, partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "returned a DataFrame" in run.error
    assert "DataFrame.to_dict('records')" in run.error


def test_two_downloads_of_one_day_are_refused(tmp_path: Path, client: MixpanelClient) -> None:
    plays = asset(
        lambda: (
            client.export_events(DAY, directory=tmp_path / name, events=[name])
            for name in ("Page View", "Song Played")
        ),
        partitions_def=daily,
    )
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "the asset returned more than one download of 2024-01-15" in run.error


def test_two_downloads_without_partitions_are_refused(
    tmp_path: Path, client: MixpanelClient
) -> None:
    directory = tmp_path / "downloads"
    plays = asset(lambda: (client.export_events(day, directory=directory) for day in DAYS))
    run = materialize([plays], resources(tmp_path))
    assert "the asset returned more than one download of the table" in run.error


def test_profiles_have_no_days(tmp_path: Path, client: MixpanelClient) -> None:
    people = asset(
        lambda: client.export_profiles(directory=tmp_path / "downloads"),
        "people",
        partitions_def=daily,
    )
    run = materialize([people], resources(tmp_path), day=DAY)
    assert "people has partitions, but profiles have no days" in run.error


def test_a_download_of_another_day(tmp_path: Path, client: MixpanelClient) -> None:
    directory = tmp_path / "downloads"
    plays = asset(lambda: client.export_events(NEXT_DAY, directory=directory), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "the download covers 2024-01-16, outside this run's partitions" in run.error
    assert files_in(tmp_path) == set()


def test_a_download_that_covers_no_full_day(tmp_path: Path, client: MixpanelClient) -> None:
    berlin = dg.DailyPartitionsDefinition("2024-01-01", timezone="Europe/Berlin")
    plays = asset(
        lambda: client.export_events(DAY, directory=tmp_path / "downloads"), partitions_def=berlin
    )
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "does not cover any full day in Europe/Berlin: its dates are UTC dates" in run.error
    assert files_in(tmp_path) == set()


def test_days_without_a_download_fail_the_run_and_the_others_are_recorded(
    tmp_path: Path, client: MixpanelClient
) -> None:
    directory = tmp_path / "downloads"
    plays = asset(
        lambda: [client.export_events(day, directory=directory) for day in (DAY, DAY_AFTER)],
        partitions_def=daily,
    )
    last = DAY_AFTER + timedelta(days=1)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [plays],
            resources=resources(tmp_path),
            instance=instance,
            tags=range_tags(str(DAY), str(last)),
            raise_on_error=False,
        )
        partitions = instance.get_materialized_partitions(plays.key)
        log = "\n".join(str(record) for record in instance.all_logs(result.run_id))
    assert not result.success
    assert "the asset returned no data for 2024-01-16, 2024-01-18" in log
    assert (
        "2 of 4 days are loaded: 2024-01-15, 2024-01-17. Not loaded: 2024-01-16, 2024-01-18" in log
    )
    assert partitions == {"2024-01-15", "2024-01-17"}
    assert tables(tmp_path) == {
        f"plays_{day:%Y%m%d}": len(insert_ids_of(day)) for day in (DAY, DAY_AFTER)
    }
    assert files_in(directory) == set()


def test_a_bad_record_leaves_the_old_day(tmp_path: Path) -> None:
    load_old_day(tmp_path)
    records = [event("a", at(DAY)), event("b", at(DAY)) | {"event_time": "noonish"}]
    run = materialize([asset(lambda: records, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert "record 2: event_time cannot be read: noonish" in run.error
    assert ids(tmp_path) == ["old"]
    assert load_of(tmp_path, "plays_20240115")["rows_stored"] == 1


def test_an_iterator_that_breaks_leaves_the_old_day(tmp_path: Path) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield event("a", at(DAY))
        raise ConnectionError("the source went away")

    load_old_day(tmp_path)
    run = materialize([asset(records, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert "the source went away" in run.error
    assert ids(tmp_path) == ["old"]


def test_a_damaged_file_leaves_the_old_day_and_no_file(
    tmp_path: Path, client: MixpanelClient
) -> None:
    def damaged() -> EventsDownload:
        download = client.export_events(DAY, directory=tmp_path / "downloads")
        content = download.paths[0].read_bytes()
        download.paths[0].write_bytes(content[: len(content) // 2])
        return download

    load_old_day(tmp_path)
    run = materialize([asset(damaged, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert not run.success
    assert ids(tmp_path) == ["old"]
    assert "is not as it was downloaded" in run.error
    assert files_in(tmp_path / "downloads") == set()


def test_a_file_without_one_good_line_leaves_the_old_day(tmp_path: Path) -> None:
    load_old_day(tmp_path)
    file = tmp_path / "day.jsonl"
    file.write_text('{"event": "Song Played", "properties": {}}\nnot JSON\n')
    run = materialize([asset(lambda: file, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert (
        "plays of 2024-01-15: none of 2 lines could be stored; day.jsonl, line 1: no time"
        in run.error
    )
    assert ids(tmp_path) == ["old"]


def test_bad_lines_of_a_file_are_counted_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl"
    file.write_text(export_line("a", DAY) + "not JSON\n" + export_line("b", NEXT_DAY))
    run = materialize([asset(lambda: file, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert run.error == ""
    shown = run.metadata["2024-01-15"]
    assert (shown["lines_read"], shown["rejected"], shown["outside_day"]) == (3, 1, 1)
    assert query(tmp_path, "SELECT line_number, reason, line FROM _rejected") == [
        (2, "not valid JSON", "not JSON")
    ]


def test_an_error_while_recording_a_partial_run_does_not_hide_the_first_one(
    tmp_path: Path, client: MixpanelClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def downloads() -> Iterator[EventsDownload]:
        yield client.export_events(DAY, directory=tmp_path / "downloads")
        raise ConnectionError("the source went away")

    def fail(*_: object) -> None:
        raise OSError("the instance's storage is full")

    plays = asset(downloads, partitions_def=daily)
    with dg.DagsterInstance.ephemeral() as instance:
        monkeypatch.setattr(instance, "report_runless_asset_event", fail)
        result = dg.materialize(
            [plays],
            resources=resources(tmp_path),
            instance=instance,
            tags=range_tags(str(DAY), str(NEXT_DAY)),
            raise_on_error=False,
        )
        messages = [record.user_message for record in instance.all_logs(result.run_id)]
    (failure,) = result.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert error.cause is not None
    assert error.cause.message == "ConnectionError: the source went away\n"
    assert (
        "could not record the loaded days as materialized: the instance's storage is full"
    ) in messages
    assert tables(tmp_path) == {"plays_20240115": len(insert_ids_of(DAY))}


@pytest.mark.parametrize("partitions", [daily, None])
def test_the_output_of_an_op_is_stored_too(
    tmp_path: Path, partitions: dg.DailyPartitionsDefinition | None
) -> None:
    @dg.op(out=dg.Out(io_manager_key="mixpanel_duckdb"))
    def fetch() -> list[dict[str, Any]]:
        return [event("a", at(DAY))]

    @dg.graph_asset(partitions_def=partitions)
    def plays() -> Any:
        return fetch()

    run = materialize([plays], resources(tmp_path), day=DAY if partitions else None)
    assert run.error == ""
    assert ids(tmp_path) == ["a"]
    (shown,) = run.metadata.values()
    assert shown["lines_read"] == 1


# Reading


def reader(**options: Any) -> dg.AssetsDefinition:
    """Return an asset that takes plays as a DataFrame and returns it."""

    def report(plays: pd.DataFrame) -> pd.DataFrame:
        return plays

    return dg.asset(report, io_manager_key="in_memory", **options)


def of(*days: str) -> dict[str, dg.AssetIn]:
    """Return the input plays for these days, whatever the run is for."""
    chosen = dg.SpecificPartitionsPartitionMapping(days)
    return {"plays": dg.AssetIn(partition_mapping=chosen)}


@pytest.fixture
def plays(tmp_path: Path) -> dg.AssetsDefinition:
    """Return the asset plays after loading three days: one event, two events, one event."""
    records = [
        event("1", at(DAY)),
        event("2a", at(NEXT_DAY), properties={"song": "Blue", "seconds": 215}),
        event("2b", at(NEXT_DAY)),
        event("3", at(DAY_AFTER)),
    ]
    plays = asset(lambda: records, partitions_def=daily)
    assert materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER)).success
    return plays


def read(
    plays: dg.AssetsDefinition, report: dg.AssetsDefinition, directory: Path, **partitions: Any
) -> pd.DataFrame:
    run = materialize([plays, report], resources(directory), only=[report], **partitions)
    assert run.error == ""
    found: pd.DataFrame = run.outputs("report")
    return found


def read_error(
    plays: dg.AssetsDefinition, report: dg.AssetsDefinition, directory: Path, **partitions: Any
) -> str:
    run = materialize([plays, report], resources(directory), only=[report], **partitions)
    assert not run.success
    return run.error


def test_reading_one_day(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    frame = read(plays, reader(partitions_def=daily), tmp_path, day=NEXT_DAY)
    assert list(frame.columns) == [
        "event_name",
        "event_time",
        "distinct_id",
        "insert_id",
        "properties",
    ]
    assert list(frame["insert_id"]) == ["2a", "2b"]
    assert list(frame["event_time"]) == [pd.Timestamp("2024-01-16 12:00")] * 2
    assert json.loads(frame["properties"][0]) == {"song": "Blue", "seconds": 215}


def test_reading_a_range(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    report = reader(partitions_def=daily)
    frame = read(plays, report, tmp_path, days=(DAY, NEXT_DAY))
    assert list(frame["insert_id"]) == ["1", "2a", "2b"]


def test_reading_days_with_a_gap(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    report = reader(ins=of("2024-01-15", "2024-01-17"))
    assert list(read(plays, report, tmp_path)["insert_id"]) == ["1", "3"]


def test_reading_the_day_before(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
    report = reader(partitions_def=daily, ins={"plays": dg.AssetIn(partition_mapping=before)})
    assert list(read(plays, report, tmp_path, day=DAY_AFTER)["insert_id"]) == ["2a", "2b"]


TEN_DAYS = dg.DailyPartitionsDefinition("2024-01-13", end_date="2024-01-23")
"""Ten days, of which `plays` has loaded three."""

ALLOWED = {ALLOW_MISSING_PARTITIONS: True}


def plays_of_ten_days(**options: Any) -> dg.AssetsDefinition:
    return asset(list, partitions_def=TEN_DAYS, **options)


@pytest.mark.usefixtures("plays")
def test_reading_all_partitions_needs_all_of_them(tmp_path: Path) -> None:
    message = read_error(plays_of_ten_days(), reader(), tmp_path)
    assert "TableNotFoundError" in message
    assert (
        "does not contain 2024-01-13 to 2024-01-14, 2024-01-18 to 2024-01-22 of plays: "
        "materialize it first"
    ) in message
    assert 'set the input\'s metadata {"allow_missing_partitions": True}' in message


def test_reading_all_partitions_with_nine_of_ten_days_missing(tmp_path: Path) -> None:
    load_old_day(tmp_path, DAY)
    message = read_error(plays_of_ten_days(), reader(), tmp_path)
    assert "does not contain 2024-01-13 to 2024-01-14, 2024-01-16 to 2024-01-22 of plays" in message


@pytest.mark.usefixtures("plays")
def test_reading_all_partitions_when_all_are_loaded(tmp_path: Path) -> None:
    three_days = dg.DailyPartitionsDefinition("2024-01-15", end_date="2024-01-18")
    frame = read(asset(list, partitions_def=three_days), reader(), tmp_path)
    assert list(frame["insert_id"]) == ["1", "2a", "2b", "3"]


@pytest.mark.usefixtures("plays")
@pytest.mark.parametrize("where", ["input", "upstream asset"])
def test_reading_the_partitions_that_are_loaded(tmp_path: Path, where: str) -> None:
    upstream = {"upstream asset": ALLOWED}.get(where, {})
    ins = {"input": {"plays": dg.AssetIn(metadata=ALLOWED)}}.get(where, {})
    frame = read(plays_of_ten_days(metadata=upstream), reader(ins=ins), tmp_path)
    assert list(frame["insert_id"]) == ["1", "2a", "2b", "3"]


@pytest.mark.parametrize("metadata", [{}, ALLOWED])
def test_reading_partitions_of_which_none_is_loaded(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    load_old_day(tmp_path, date(2024, 3, 1))
    plays = plays_of_ten_days(metadata=metadata)
    message = read_error(plays, reader(ins={"plays": dg.AssetIn(metadata=metadata)}), tmp_path)
    assert "does not contain 2024-01-13 to 2024-01-22 of plays: materialize it first" in message


def test_reading_a_table_without_partitions(tmp_path: Path) -> None:
    people = asset(lambda: [profile("u1"), profile("u2")], "people")

    @dg.asset(io_manager_key="in_memory")
    def report(people: pd.DataFrame) -> list[str]:
        return list(people["distinct_id"])

    run = materialize([people, report], resources(tmp_path))
    assert run.error == ""
    assert run.outputs("report") == ["u1", "u2"]


def test_reading_an_asset_whose_key_has_a_prefix(tmp_path: Path) -> None:
    plays = asset(lambda: [event("a", at(DAY))], key_prefix="music", partitions_def=daily)
    ins = {"plays": dg.AssetIn(key=["music", "plays"])}
    report = reader(partitions_def=daily, ins=ins)
    run = materialize([plays, report], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert list(run.outputs("report")["insert_id"]) == ["a"]


def test_reading_needs_no_permission_to_write(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    (tmp_path / "test.duckdb").chmod(0o444)
    frame = read(plays, reader(partitions_def=daily), tmp_path, day=DAY)
    assert list(frame["insert_id"]) == ["1"]


def test_an_input_without_annotation_is_a_dataframe(
    plays: dg.AssetsDefinition, tmp_path: Path
) -> None:
    @dg.asset(io_manager_key="in_memory", ins=of(str(DAY)))
    def report(plays) -> str:  # type: ignore[no-untyped-def] # what is tested
        return type(plays).__name__

    run = materialize([plays, report], resources(tmp_path), only=[report])
    assert run.outputs("report") == "DataFrame"


def test_reading_a_day_that_is_missing(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day="2024-01-18")
    assert "does not contain 2024-01-18 of plays" in message
    assert "test.duckdb" in message
    assert "materialize it first" in message


def test_reading_days_of_which_some_are_missing(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    report = reader(ins=of("2024-01-13", "2024-01-15", "2024-01-18"))
    assert "does not contain 2024-01-13, 2024-01-18 of plays" in read_error(plays, report, tmp_path)


def test_reading_a_day_whose_table_was_dropped(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    tamper(tmp_path, "DROP TABLE plays_20240116")
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day=NEXT_DAY)
    assert "no table 'plays_20240116'" in message


def test_reading_all_partitions_of_an_asset_that_was_never_loaded(tmp_path: Path) -> None:
    load_old_day(tmp_path)
    songs = asset(list, "songs", partitions_def=daily)

    @dg.asset(io_manager_key="in_memory")
    def report(songs: pd.DataFrame) -> int:
        return len(songs)

    run = materialize([songs, report], resources(tmp_path), only=[report])
    assert "TableNotFoundError" in run.error
    advice = r"does not contain 2024-01-01 to \d{4}-\d\d-\d\d of songs: materialize it first"
    assert re.search(rf"test\.duckdb {advice}", run.error)


def test_reading_a_table_that_is_missing(tmp_path: Path) -> None:
    load_old_day(tmp_path)
    people = asset(list, "people")

    @dg.asset(io_manager_key="in_memory")
    def report(people: pd.DataFrame) -> int:
        return len(people)

    run = materialize([people, report], resources(tmp_path), only=[report])
    assert "does not contain the table of people" in run.error
    assert "materialize it first" in run.error


def test_reading_without_a_database(tmp_path: Path) -> None:
    plays = asset(list, partitions_def=daily)
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day=DAY)
    assert "no database at" in message
    assert "materialize an asset first" in message
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("annotation", [list, dict[str, int], pd.Series])
def test_an_annotation_that_cannot_be_loaded(
    plays: dg.AssetsDefinition, tmp_path: Path, annotation: object
) -> None:
    def body(plays: object) -> object:
        return plays

    body.__annotations__["plays"] = annotation
    report = dg.asset(body, name="report", io_manager_key="in_memory")
    message = read_error(plays, report, tmp_path)
    assert "only pandas.DataFrame can be loaded" in message
    assert "MixpanelDuckDBResource" in message
    assert "plays" in message
