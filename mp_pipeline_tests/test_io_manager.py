import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mp_pipeline.io_manager import Downloads, MixpanelDuckDBIOManager
from mp_pipeline.mixpanel import EventsDownload, MixpanelClient, ProfilesDownload
from mp_pipeline.sample import SampleServer, profiles_as_of
from mp_pipeline_tests.dagster_support import (
    DAY,
    DAY_AFTER,
    DAYS,
    EVENTS_PER_DAY,
    NEXT_DAY,
    asset,
    column,
    daily,
    event,
    files_in,
    insert_ids_of,
    lines_of,
    materialize,
    mixpanel,
    profile,
    query,
    resources,
    tamper,
)

TODAY = date(2024, 1, 20)
"""The current day of the tests' server."""


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY, today=TODAY, page_size=500) as running:
        yield running


@pytest.fixture
def client(server: SampleServer) -> Iterator[MixpanelClient]:
    with mixpanel(server).get_client() as made:
        yield made


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour)


def tables(directory: Path) -> dict[str, int]:
    """The tables that are there, with the rows that are in them."""
    return {
        name: query(directory, f'SELECT count(*) FROM "{name}"')[0][0]
        for name in column(directory, "SELECT table_name FROM _metadata ORDER BY ALL")
    }


def ids(directory: Path, table: str = "plays") -> list[str]:
    return column(directory, f"SELECT insert_id FROM {table} ORDER BY ALL")


def load_of(directory: Path, table: str) -> dict[str, Any]:
    """The last row of the load log for a table."""
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
        ("Song Played", at(DAY), "u1", "a", '{"song":"Blue"}')
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
    # The range shares its metadata, so a table has the days apart.
    assert len(run.metadata) == 3
    shown = run.metadata["2024-01-16"]["days"]
    assert [(row["table"], row["rows_stored"]) for row in shown] == [
        ("plays_20240115", 2),
        ("plays_20240116", 1),
        ("plays_20240117", 1),
    ]


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
def test_no_records_without_partitions_are_what_the_asset_says(
    tmp_path: Path, metadata: dict[str, str], columns: list[str]
) -> None:
    run = materialize([asset(list, metadata=metadata)], resources(tmp_path))
    assert run.error == ""
    assert column(tmp_path, "SELECT column_name FROM (DESCRIBE plays)") == columns


def test_a_key_with_a_prefix_is_joined(tmp_path: Path) -> None:
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
    for people in (["u1", "u2"], ["u2", "u3"]):
        snapshot = asset(partial(map, profile, people), "people")
        assert materialize([snapshot], resources(tmp_path)).error == ""
    assert column(tmp_path, "SELECT distinct_id FROM people ORDER BY 1") == ["u2", "u3"]


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


def test_downloads_that_come_one_by_one(tmp_path: Path, client: MixpanelClient) -> None:
    directory = tmp_path / "downloads"
    waiting: list[set[str]] = []

    def days() -> Iterator[EventsDownload]:
        for day in DAYS:
            waiting.append(files_in(directory))
            yield client.export_events(day, directory=directory)

    @dg.asset(partitions_def=daily, io_manager_key="mixpanel_duckdb")
    def plays(context: dg.AssetExecutionContext) -> Downloads:
        return Downloads(days(), "project 7", context)

    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert run.error == ""
    assert set(ids(tmp_path)) == set().union(*map(insert_ids_of, DAYS))
    assert load_of(tmp_path, "plays_20240117")["source"] == "project 7"
    assert [run.metadata[str(day)]["lines_read"] for day in DAYS] == list(map(lines_of, DAYS))
    # The disk never holds more than one day.
    assert waiting == [set(), set(), set()]


def test_the_download_of_profiles(tmp_path: Path, client: MixpanelClient) -> None:
    people = asset(lambda: client.export_profiles(directory=tmp_path / "downloads"), "people")
    run = materialize([people], resources(tmp_path))
    assert run.error == ""
    expected = sorted(each["$distinct_id"] for each in profiles_as_of(TODAY))
    assert column(tmp_path, "SELECT distinct_id FROM people ORDER BY 1") == expected
    assert run.metadata[None]["dagster/row_count"] == len(expected)
    assert run.metadata[None]["pages"] == len(expected) // 500 + 1
    assert files_in(tmp_path / "downloads") == set()


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


def test_wall_clock_times_are_turned_into_utc(tmp_path: Path) -> None:
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


# Failures


def loaded_day(directory: Path, day: date = DAY) -> None:
    """Have a day that is there before something fails."""
    old = asset(lambda: [event("old", at(day))], partitions_def=daily)
    assert materialize([old], resources(directory), day=day).success


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "plays returned a NoneType"),
        (7, "plays returned a int"),
        (b"plays.jsonl", "plays returned a bytes"),
        ({"event_name": "Song Played"}, "plays returned a dict"),
        ([1, 2], "returned a list; return Downloads"),
        ("plays.jsonl", "plays.jsonl does not exist"),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, output: object, message: str) -> None:
    run = materialize([asset(lambda: output, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert not run.success
    assert message in run.error


def test_an_unknown_table_type(tmp_path: Path) -> None:
    run = materialize([asset(list, metadata={"table_type": "eventz"})], resources(tmp_path))
    assert "table_type is 'eventz': events or profiles" in run.error


def test_a_key_that_is_no_table_name(tmp_path: Path) -> None:
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
def test_partitions_that_are_no_days(
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


def test_a_dataframe_is_told_how_to_become_records(tmp_path: Path) -> None:
    frame = pd.DataFrame([event("a", at(DAY))])
    plays = asset(lambda: frame, partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "returned a DataFrame" in run.error
    assert "DataFrame.to_dict('records')" in run.error


def test_downloads_of_a_range_without_a_place_for_metadata(
    tmp_path: Path, client: MixpanelClient
) -> None:
    plays = asset(
        lambda: Downloads(client.export_events(day, directory=tmp_path / "d") for day in DAYS),
        partitions_def=daily,
    )
    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert run.success, run.error
    tables = [row["table"] for row in run.metadata[str(DAY)]["days"]]
    assert tables == ["plays_20240115", "plays_20240116", "plays_20240117"]


def test_two_downloads_of_one_day_are_refused(tmp_path: Path, client: MixpanelClient) -> None:
    plays = asset(
        lambda: Downloads(
            client.export_events(DAY, directory=tmp_path / name, events=[name])
            for name in ("Page View", "Song Played")
        ),
        partitions_def=daily,
    )
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "more than one download of 2024-01-15" in run.error


def test_two_downloads_without_partitions_are_refused(
    tmp_path: Path, client: MixpanelClient
) -> None:
    plays = asset(
        lambda: Downloads(client.export_events(day, directory=tmp_path / "d") for day in DAYS)
    )
    run = materialize([plays], resources(tmp_path))
    assert "more than one download of the table" in run.error


def test_metadata_of_a_table_without_partitions_is_its_own(
    tmp_path: Path, client: MixpanelClient
) -> None:
    @dg.asset(io_manager_key="mixpanel_duckdb")
    def people(context: dg.AssetExecutionContext) -> Downloads:
        download = client.export_profiles(directory=tmp_path / "d")
        return Downloads([download], "project 1", context)

    run = materialize([people], resources(tmp_path))
    assert run.success, run.error
    assert run.metadata[None]["dagster/row_count"] > 0


def test_profiles_have_no_days(tmp_path: Path, client: MixpanelClient) -> None:
    people = asset(
        lambda: client.export_profiles(directory=tmp_path / "downloads"),
        "people",
        partitions_def=daily,
    )
    run = materialize([people], resources(tmp_path), day=DAY)
    assert "people has partitions; profiles have no days" in run.error


def test_a_download_of_another_day(tmp_path: Path, client: MixpanelClient) -> None:
    directory = tmp_path / "downloads"
    plays = asset(lambda: client.export_events(NEXT_DAY, directory=directory), partitions_def=daily)
    run = materialize([plays], resources(tmp_path), day=DAY)
    assert "the download holds 2024-01-16, which the run is not for" in run.error
    assert tables(tmp_path) == {}


def test_downloads_that_lack_a_day(tmp_path: Path, client: MixpanelClient) -> None:
    directory = tmp_path / "downloads"
    plays = asset(
        lambda: Downloads([client.export_events(DAY, directory=directory)]),
        partitions_def=daily,
    )
    run = materialize([plays], resources(tmp_path), days=(DAY, DAY_AFTER))
    assert "the asset returned no data of 2024-01-16, 2024-01-17" in run.error
    assert run.metadata == {}


def test_a_bad_record_leaves_the_old_day(tmp_path: Path) -> None:
    loaded_day(tmp_path)
    records = [event("a", at(DAY)), event("b", at(DAY)) | {"event_time": "noonish"}]
    run = materialize([asset(lambda: records, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert "record 2: event_time cannot be read: noonish" in run.error
    assert ids(tmp_path) == ["old"]
    assert load_of(tmp_path, "plays_20240115")["rows_stored"] == 1


def test_an_iterator_that_breaks_leaves_the_old_day(tmp_path: Path) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield event("a", at(DAY))
        raise ConnectionError("the source went away")

    loaded_day(tmp_path)
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

    loaded_day(tmp_path)
    run = materialize([asset(damaged, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert not run.success
    assert ids(tmp_path) == ["old"]
    assert "is not as it was downloaded" in run.error
    assert files_in(tmp_path / "downloads") == set()


def test_a_file_without_one_good_line_leaves_the_old_day(tmp_path: Path) -> None:
    loaded_day(tmp_path)
    file = tmp_path / "day.jsonl"
    file.write_text('{"event": "Song Played", "properties": {}}\nno JSON\n')
    run = materialize([asset(lambda: file, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert "plays of 2024-01-15: none of 2 lines could be stored; line 1: no time" in run.error
    assert ids(tmp_path) == ["old"]


def test_bad_lines_of_a_file_are_counted_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl"
    file.write_text(export_line("a", DAY) + "no JSON\n" + export_line("b", NEXT_DAY))
    run = materialize([asset(lambda: file, partitions_def=daily)], resources(tmp_path), day=DAY)
    assert run.error == ""
    shown = run.metadata["2024-01-15"]
    assert (shown["lines_read"], shown["rejected"], shown["outside_day"]) == (3, 1, 1)
    assert query(tmp_path, "SELECT line_number, reason, line FROM _rejected") == [
        (2, "not valid JSON", "no JSON")
    ]


# Reading


def reader(**options: Any) -> dg.AssetsDefinition:
    """An asset that takes plays as a DataFrame and gives it back."""

    def report(plays: pd.DataFrame) -> pd.DataFrame:
        return plays

    return dg.asset(report, io_manager_key="in_memory", **options)


def of(*days: str) -> dict[str, dg.AssetIn]:
    """The input plays, for these days whatever the run is for."""
    chosen = dg.SpecificPartitionsPartitionMapping(days)
    return {"plays": dg.AssetIn(partition_mapping=chosen)}


@pytest.fixture
def plays(tmp_path: Path) -> dg.AssetsDefinition:
    """Plays of three days in January, of which the middle one has two."""
    records = [
        event("1", at(DAY)),
        event("2a", at(NEXT_DAY), properties={"song": "Blue", "seconds": 215}),
        event("2b", at(NEXT_DAY)),
        event("3", at(DAY_AFTER)),
    ]
    made = asset(lambda: records, partitions_def=daily)
    assert materialize([made], resources(tmp_path), days=(DAY, DAY_AFTER)).success
    return made


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


def test_without_partitions_everything_that_is_there_is_read(
    plays: dg.AssetsDefinition, tmp_path: Path
) -> None:
    later = date(2024, 3, 1)
    more = asset(lambda: [event("later", at(later))], partitions_def=daily)
    assert materialize([more], resources(tmp_path), day=later).success
    frame = read(plays, reader(), tmp_path)
    assert list(frame["insert_id"]) == ["1", "2a", "2b", "3", "later"]


def test_reading_a_table_without_partitions(tmp_path: Path) -> None:
    people = asset(lambda: [profile("u1"), profile("u2")], "people")

    @dg.asset(io_manager_key="in_memory")
    def report(people: pd.DataFrame) -> list[str]:
        return list(people["distinct_id"])

    run = materialize([people, report], resources(tmp_path))
    assert run.error == ""
    assert run.outputs("report") == ["u1", "u2"]


def test_a_key_with_a_prefix_is_read_too(tmp_path: Path) -> None:
    plays = asset(lambda: [event("a", at(DAY))], key_prefix="music", partitions_def=daily)
    ins = {"plays": dg.AssetIn(key=["music", "plays"])}
    report = reader(partitions_def=daily, ins=ins)
    run = materialize([plays, report], resources(tmp_path), day=DAY)
    assert run.error == ""
    assert list(run.outputs("report")["insert_id"]) == ["a"]


def test_reading_does_not_need_to_write(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    (tmp_path / "test.duckdb").chmod(0o444)
    frame = read(plays, reader(partitions_def=daily), tmp_path, day=DAY)
    assert list(frame["insert_id"]) == ["1"]


def test_an_input_without_annotation_is_a_dataframe(
    plays: dg.AssetsDefinition, tmp_path: Path
) -> None:
    @dg.asset(io_manager_key="in_memory")
    def report(plays) -> str:  # type: ignore[no-untyped-def]
        return type(plays).__name__

    run = materialize([plays, report], resources(tmp_path), only=[report])
    assert run.outputs("report") == "DataFrame"


def test_reading_a_day_that_is_missing(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day="2024-01-18")
    assert "does not hold 2024-01-18 of plays" in message
    assert "test.duckdb" in message
    assert "materialize it first" in message


def test_reading_days_of_which_some_are_missing(plays: dg.AssetsDefinition, tmp_path: Path) -> None:
    report = reader(ins=of("2024-01-13", "2024-01-15", "2024-01-18"))
    assert "does not hold 2024-01-13, 2024-01-18 of plays" in read_error(plays, report, tmp_path)


def test_reading_a_day_whose_table_was_dropped_behind_the_back(
    plays: dg.AssetsDefinition, tmp_path: Path
) -> None:
    tamper(tmp_path, "DROP TABLE plays_20240116")
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day=NEXT_DAY)
    assert "there is no table 'plays_20240116'" in message


def test_reading_everything_when_nothing_is_there(tmp_path: Path) -> None:
    loaded_day(tmp_path)
    songs = asset(list, "songs", partitions_def=daily)

    @dg.asset(io_manager_key="in_memory")
    def report(songs: pd.DataFrame) -> int:
        return len(songs)

    run = materialize([songs, report], resources(tmp_path), only=[report])
    assert "of songs: materialize it first" in run.error
    assert "materialize it first" in run.error


def test_reading_a_table_that_is_missing(tmp_path: Path) -> None:
    loaded_day(tmp_path)
    people = asset(list, "people")

    @dg.asset(io_manager_key="in_memory")
    def report(people: pd.DataFrame) -> int:
        return len(people)

    run = materialize([people, report], resources(tmp_path), only=[report])
    assert "does not hold the table of people" in run.error
    assert "materialize it first" in run.error


def test_reading_without_a_database(tmp_path: Path) -> None:
    plays = asset(list, partitions_def=daily)
    message = read_error(plays, reader(partitions_def=daily), tmp_path, day=DAY)
    assert "there is no database at" in message
    assert "load something first" in message
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


def test_the_download_of_profiles_tells_its_type(tmp_path: Path, client: MixpanelClient) -> None:
    def downloads() -> Downloads:
        download = client.export_profiles(directory=tmp_path / "downloads")
        assert isinstance(download, ProfilesDownload)
        return Downloads([download], source="project 7")

    run = materialize([asset(downloads, "people")], resources(tmp_path))
    assert run.error == ""
    assert run.metadata[None]["source"] == "project 7"
    assert run.metadata[None]["complete"] is True
