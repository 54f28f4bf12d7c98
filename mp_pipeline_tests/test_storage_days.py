import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from mp_pipeline.storage import (
    SAMPLE_SOURCE,
    DayInfo,
    DayWindow,
    LoadReport,
    Origin,
    RejectedLinesError,
    SourceMismatchError,
    StorageEngine,
    StorageError,
    TableExistsError,
    TableMetadata,
    day_table_name,
)
from mp_pipeline.storage.statements import transaction
from mp_pipeline_tests.support.databases import column, contents, rows_of
from mp_pipeline_tests.support.engines import file_only
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import (
    DAY,
    EVENTS,
    FETCHED_AT,
    NOON,
    PROFILES,
    epoch,
    event,
    export_line,
    profile,
    window,
    write_lines,
)

TABLE = "events_20240115"
A_DAY = timedelta(days=1)
FETCHED = TableMetadata("events", FETCHED_AT)
UTC_ORIGIN = Origin(timezone="UTC", wall_clock_zone="UTC")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def replace_day(storage: StorageEngine, data: Any, **options: Any) -> LoadReport:
    """Replace the day, however many lines are rejected."""
    options = {"max_rejected_fraction": 1} | options
    (report,) = storage.replace_events_days("events", [window()], data, FETCHED, **options)
    return report


def counts(report: LoadReport) -> dict[str, int]:
    """What became of the lines; the numbers that are not 0."""
    names = ("lines_read", "rows_stored", "duplicates", "rejected", "outside_day", "repaired")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def rejected(storage: StorageEngine) -> list[tuple[Any, ...]]:
    return storage.execute_rows("SELECT line_number, reason, line FROM _rejected ORDER BY ALL")


# A day


def test_a_day_is_a_table_of_the_data_model_and_in_the_view(
    storage: StorageEngine, file: Path
) -> None:
    report = replace_day(storage, [write_lines(file, export_line("i1"), export_line("i2"))])
    assert (report.table_name, report.type, report.day) == (TABLE, "events", DAY)
    assert storage.schema_problems([TABLE], "events") == {TABLE: []}
    assert storage.execute_rows("SELECT * FROM events ORDER BY insert_id") == [
        ("Song Played", NOON, "u1", "i1", "{}", DAY),
        ("Song Played", NOON, "u1", "i2", "{}", DAY),
    ]
    assert storage.execute_rows(f"SELECT * FROM {rows_of(storage, TABLE)} ORDER BY insert_id") == (
        storage.execute_rows("SELECT * EXCLUDE (day) FROM events ORDER BY insert_id")
    )


@file_only
def test_a_query_of_a_day_reads_no_other(storage: StorageEngine) -> None:
    days = [DAY + number * A_DAY for number in range(3)]
    for day in days:
        records = [event(f"{day}", datetime(day.year, day.month, day.day))]
        list(storage.replace_events_days("events", [window(day)], records, EVENTS))
    condition = f"WHERE day = '{days[1]}'"
    assert storage.execute_rows(f"SELECT insert_id, day FROM events {condition}") == [
        (f"{days[1]}", days[1])
    ]
    ((_, plan),) = storage.execute_rows(f"EXPLAIN SELECT properties FROM events {condition}")
    assert "events_20240116" in plan
    assert "events_20240115" not in plan
    assert "events_20240117" not in plan


def test_a_day_has_its_row_in_metadata(storage: StorageEngine) -> None:
    metadata = replace(FETCHED, filter_events=["Song Played"], filter_where="true")
    list(storage.replace_events_days("events", [window()], [event()], metadata))
    assert storage.execute_rows("SELECT * FROM _metadata") == [
        (TABLE, "events", FETCHED_AT.replace(tzinfo=None), DAY, DAY, 1)
    ]
    assert storage.get_metadata(TABLE) == replace(
        metadata, from_date="2024-01-15", to_date="2024-01-15"
    )
    origin = Origin(None, ("Song Played",), "true", "UTC", "UTC")
    assert storage.list_days("events") == [DayInfo(DAY, TABLE, 1, FETCHED_AT, origin)]


def test_a_load_is_logged_as_it_is_reported(storage: StorageEngine, file: Path) -> None:
    write_lines(
        file,
        export_line("i1"),
        export_line("i1"),
        export_line("i2"),
        "",
        "terminated early",
        export_line("i3", time=epoch(NOON + A_DAY)),
        export_line("i4", text="\ud800"),
    )
    began = datetime.now(UTC)
    report = replace_day(storage, [file], source="project 1", run_id="run 7")
    assert counts(report) == {
        "lines_read": 6,
        "rows_stored": 3,
        "duplicates": 1,
        "rejected": 1,
        "outside_day": 1,
        "repaired": 1,
    }
    assert (report.source, report.run_id) == ("project 1", "run 7")
    assert report.bytes_read == file.stat().st_size
    assert began <= report.started_at <= report.finished_at <= datetime.now(UTC)
    assert report.seconds == (report.finished_at - report.started_at).total_seconds()
    (day,) = storage.count_rows([TABLE])
    assert day.last_load == report
    assert day.problems == []


def test_a_day_without_events_is_a_loaded_day(storage: StorageEngine, file: Path) -> None:
    for data in ([], [write_lines(file)], [write_lines(file, "", "  ")]):
        assert counts(replace_day(storage, data)) == {}
        assert storage.list_days("events") == [DayInfo(DAY, TABLE, 0, FETCHED_AT, UTC_ORIGIN)]
        assert storage.execute_scalar("SELECT count(*) FROM events") == 0


def test_loading_twice_gives_identical_rows(storage: StorageEngine, file: Path) -> None:
    write_lines(
        file,
        export_line("i1"),
        export_line("i1", name="Sign Up"),
        export_line("i1", distinct_id="u2"),
        export_line("i1", time=epoch(NOON) + 1),
        export_line("i2", mp_processing_time_ms=2),
        export_line("i2", mp_processing_time_ms=1),
        export_line(None, song="a"),
        export_line(None, song="b"),
        "terminated early",
    )
    first = replace_day(storage, [file])
    stored = contents(storage)
    second = replace_day(storage, [file])
    assert counts(first) == counts(second)
    assert first.rows_stored == 7
    stored_again = contents(storage)
    assert len(stored_again.pop("_load_log")) == 2 * len(stored.pop("_load_log"))
    assert stored_again == stored


def test_replacing_a_day_drops_what_is_gone(storage: StorageEngine) -> None:
    first = replace_day(storage, [event("i1"), event("i2"), event("i3")])
    second = replace_day(storage, [event("i2", properties={"late": True}), event("i4")])
    assert (first.gained, first.lost) == (None, None)
    assert (second.gained, second.lost) == (1, 2)
    assert storage.list_loads("events") == [first, second]
    assert storage.execute_rows("SELECT insert_id, properties FROM events ORDER BY ALL") == [
        ("i2", '{"late":true}'),
        ("i4", "{}"),
    ]
    assert storage.execute_rows("SELECT table_name, row_count FROM _metadata") == [(TABLE, 2)]
    assert storage.count_rows([TABLE])[0].problems == []


def test_loads_are_listed_by_dataset_and_run(storage: StorageEngine) -> None:
    days = [window(), window(DAY + A_DAY)]
    loads = [
        *storage.replace_events_days("events", days, [event()], FETCHED, run_id="run 1"),
        *storage.replace_events_days("events", days[1:], [], FETCHED, run_id="run 2"),
        storage.replace_table("profiles", [], PROFILES, run_id="run 2"),
    ]
    assert storage.list_loads("events") == loads[:3]
    assert storage.list_loads("events", ["run 1", "run 3"]) == loads[:2]
    assert storage.list_loads("EVENTS", ["run 2"]) == [loads[2]]
    assert storage.list_loads("profiles") == loads[3:]
    assert storage.list_loads("event") == []


def test_a_load_log_of_an_earlier_version_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "earlier.duckdb"
    with StorageEngine(path) as storage:
        first = replace_day(storage, [event()])
        storage.execute_rows("ALTER TABLE _load_log DROP gained")
        storage.execute_rows("ALTER TABLE _load_log DROP lost")
    with StorageEngine(path) as storage:
        second = replace_day(storage, [event(), event("i2")])
        assert (second.gained, second.lost) == (1, 0)
        assert storage.list_loads("events") == [first, second]


def test_replacing_a_day_leaves_the_others_alone(storage: StorageEngine) -> None:
    for number in range(3):
        days = [window(DAY + number * A_DAY)]
        data = [event(event_time=NOON + number * A_DAY)]
        list(storage.replace_events_days("events", days, data, FETCHED))
    replace_day(storage, [])
    assert column(storage, "events", "event_time") == [NOON + A_DAY, NOON + 2 * A_DAY]
    assert [info.row_count for info in storage.list_days("events")] == [0, 1, 1]


def test_a_load_that_fails_leaves_the_old_day(storage: StorageEngine, file: Path) -> None:
    replace_day(storage, [event("old")])
    before = contents(storage)

    def records() -> Iterator[dict[str, Any]]:
        yield event("new")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        replace_day(storage, records(), batch_size=1)
    with pytest.raises(ValueError, match="record 2: no insert_id"):
        replace_day(storage, [event("new"), event(None)])
    with pytest.raises(StorageError, match="does not exist"):
        replace_day(storage, [file])
    with pytest.raises(ValueError, match="'profiles'"):
        list(storage.replace_events_days("events", [window()], [], PROFILES))
    assert contents(storage) == before


@file_only
def test_a_load_that_fails_while_it_is_published_leaves_the_old_day(
    storage: StorageEngine,
) -> None:
    replace_day(storage, [event("old")])
    before = contents(storage)
    with storage.connection.cursor() as other:
        other.execute("BEGIN")
        other.execute("DELETE FROM _metadata")
        with pytest.raises(StorageError, match="nothing was changed"):
            replace_day(storage, [event("new")])
        other.execute("ROLLBACK")
    assert contents(storage) == before
    assert replace_day(storage, [event("new")]).rows_stored == 1


@file_only
def test_a_commit_that_fails_is_rolled_back(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE own (x INTEGER PRIMARY KEY)")
    with storage.connection.cursor() as first, storage.connection.cursor() as second:
        first.execute("BEGIN")
        first.execute("INSERT INTO own VALUES (1)")

        def insert_the_same() -> None:
            with transaction(second):
                second.execute("INSERT INTO own VALUES (1)")
                first.execute("COMMIT")

        with pytest.raises(duckdb.Error):
            insert_the_same()
        # Without the rollback, the session would refuse every other statement.
        assert second.execute("SELECT count(*) FROM own").fetchall() == [(1,)]


def test_a_truncated_download_leaves_the_old_day(storage: StorageEngine, tmp_path: Path) -> None:
    replace_day(storage, [event("old")])
    before = contents(storage)
    file = write_lines(tmp_path / "a.jsonl.gz", *[export_line(f"i{n}") for n in range(1000)])
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(StorageError, match=r"a\.jsonl\.gz"):
        replace_day(storage, [file])
    assert contents(storage) == before


# Several days


def test_several_days_of_one_iterator(storage: StorageEngine) -> None:
    records = [
        event(f"i{hour}", event_time=datetime(2024, 1, 15) + timedelta(hours=hour))
        for hour in range(72)
    ]
    windows = [window(DAY + number * A_DAY) for number in range(3)]
    reports = list(storage.replace_events_days("events", windows, records, FETCHED))
    assert [report.table_name for report in reports] == [
        "events_20240115",
        "events_20240116",
        "events_20240117",
    ]
    assert [counts(report) for report in reports] == [{"lines_read": 24, "rows_stored": 24}] * 3
    assert storage.execute_scalar("SELECT count(DISTINCT insert_id) FROM events") == 72
    assert column(storage, "events_20240116", "event_time")[0] == datetime(2024, 1, 16)


def test_several_days_of_one_file_account_for_every_line(
    storage: StorageEngine, file: Path
) -> None:
    next_noon = epoch(NOON + A_DAY)
    write_lines(
        file,
        export_line("i1"),
        export_line("i2", time=next_noon),
        export_line("i2", time=next_noon),
        export_line("i3", time=epoch(NOON + 2 * A_DAY)),
        "not JSON",
    )
    windows = [window(), window(DAY + A_DAY)]
    reports = list(
        storage.replace_events_days("events", windows, [file], FETCHED, max_rejected_fraction=1)
    )
    assert [counts(report) for report in reports] == [
        {"lines_read": 3, "rows_stored": 1, "rejected": 1, "outside_day": 1},
        {"lines_read": 2, "rows_stored": 1, "duplicates": 1},
    ]
    assert sum(report.bytes_read for report in reports) == file.stat().st_size
    days = storage.count_rows([report.table_name for report in reports])
    assert [day.problems for day in days] == [[], []]
    assert [day.last_load for day in days] == reports
    assert rejected(storage) == [(5, "not valid JSON", "not JSON")]


def test_one_insert_id_on_two_days_stays_as_it_is(storage: StorageEngine) -> None:
    records = [event("i1"), event("i1", event_time=NOON + A_DAY)]
    list(storage.replace_events_days("events", [window(), window(DAY + A_DAY)], records, FETCHED))
    assert storage.execute_rows("SELECT insert_id, properties FROM events") == [("i1", "{}")] * 2


def test_days_come_in_order(storage: StorageEngine) -> None:
    for day in (date(2024, 2, 1), date(2023, 12, 31), date(2024, 1, 15)):
        list(storage.replace_events_days("events", [window(day)], [], FETCHED))
    assert [info.day for info in storage.list_days("events")] == [
        date(2023, 12, 31),
        date(2024, 1, 15),
        date(2024, 2, 1),
    ]


def test_datasets_are_apart(storage: StorageEngine) -> None:
    for dataset in ("events", "events_eu"):
        list(storage.replace_events_days(dataset, [window()], [event(dataset)], FETCHED))
    storage.drop_table("events_eu_20240115")
    assert column(storage, "events", "insert_id") == ["events"]
    assert [info.table_name for info in storage.list_days("events")] == [TABLE]
    assert storage.list_days("events_eu") == []


def test_no_days_are_refused(storage: StorageEngine) -> None:
    with pytest.raises(ValueError, match="no days"):
        list(storage.replace_events_days("events", [], [event()], FETCHED))


def test_a_window_needs_zones_and_length() -> None:
    with pytest.raises(ValueError, match="aware"):
        DayWindow(DAY, NOON, NOON + A_DAY)
    with pytest.raises(ValueError, match="ends before it starts"):
        DayWindow(DAY, FETCHED_AT, FETCHED_AT)


# Events of other days


def test_events_outside_the_day_are_counted_and_not_stored(storage: StorageEngine) -> None:
    midnight = datetime(2024, 1, 15)
    moment = timedelta(microseconds=1)
    times = [midnight - moment, midnight, midnight + A_DAY - moment, midnight + A_DAY]
    report = replace_day(
        storage, [event(f"i{number}", event_time=time) for number, time in enumerate(times)]
    )
    assert counts(report) == {"lines_read": 4, "rows_stored": 2, "outside_day": 2}
    assert column(storage, "events", "event_time") == times[1:3]


def test_the_day_is_that_of_the_zone(storage: StorageEngine) -> None:
    tokyo = window(DAY, "Asia/Tokyo")
    times = [datetime(2024, 1, 14, 14, 59), datetime(2024, 1, 14, 15), datetime(2024, 1, 15, 15)]
    records = [event(f"i{number}", event_time=time) for number, time in enumerate(times)]
    (report,) = storage.replace_events_days("events", [tokyo], records, FETCHED)
    assert report.table_name == TABLE
    assert column(storage, "events", "event_time") == [datetime(2024, 1, 14, 15)]
    assert report.outside_day == 2


def test_a_day_of_nothing_but_other_days_is_empty(storage: StorageEngine, file: Path) -> None:
    write_lines(file, export_line("i1", time=0), "not JSON")
    report = replace_day(storage, [file])
    assert counts(report) == {"lines_read": 2, "rejected": 1, "outside_day": 1}


# Rejected lines


def test_rejected_lines_are_kept_with_number_and_reason(storage: StorageEngine, file: Path) -> None:
    lines = [
        export_line("i1"),
        "",
        "terminated early",
        '{"event":"A","properties":{"distinct_id":"u1"}}',
        export_line("i2", time="yesterday"),
        '{"properties":{"time":1705320000}}',
        '{"event":"A","properties":[]}',
        '{"event_name":"A","event_time":"2024-01-15","distinct_id":"u1","properties":{}}',
        export_line("i3"),
    ]
    report = replace_day(storage, [write_lines(file, *lines)])
    assert counts(report) == {"lines_read": 8, "rows_stored": 2, "rejected": 6}
    reasons = [
        (3, "not valid JSON"),
        (4, "no time"),
        (5, "time cannot be read: yesterday"),
        (6, "no event name"),
        (7, "properties is not an object"),
        (8, "no insert_id"),
    ]
    assert rejected(storage) == [(number, reason, lines[number - 1]) for number, reason in reasons]
    assert storage.execute_rows("SELECT DISTINCT table_name, day FROM _rejected") == [(TABLE, DAY)]


def test_rejected_lines_name_their_file(storage: StorageEngine, tmp_path: Path) -> None:
    files = [
        write_lines(tmp_path / f"{name}.jsonl", export_line(name), f"bad {name}")
        for name in ("a", "b")
    ]
    replace_day(storage, files)
    kept = storage.execute_rows("SELECT file, line_number, line FROM _rejected ORDER BY ALL")
    assert kept == [("a.jsonl", 2, "bad a"), ("b.jsonl", 2, "bad b")]


def test_rejected_lines_are_those_of_the_last_load(storage: StorageEngine, file: Path) -> None:
    replace_day(storage, [write_lines(file, export_line(), "first")])
    replace_day(storage, [write_lines(file, export_line(), "second")])
    assert rejected(storage) == [(2, "not valid JSON", "second")]
    replace_day(storage, [write_lines(file, export_line())])
    assert rejected(storage) == []
    assert column(storage, "_load_log", "rejected") == [0, 1, 1]


def test_the_beginning_of_a_long_rejected_line_is_kept(storage: StorageEngine, file: Path) -> None:
    replace_day(storage, [write_lines(file, export_line(), "é" * 30_000)])
    assert rejected(storage) == [(2, "not valid JSON", "é" * 10_000)]


def test_a_file_of_nothing_but_bad_lines_leaves_the_old_day(
    storage: StorageEngine, file: Path
) -> None:
    replace_day(storage, [event("old")])
    before = contents(storage)
    write_lines(file, "", "<html>", "Bad Gateway", "</html>")
    with pytest.raises(RejectedLinesError, match=r"none of 3 lines.*line 2: not valid JSON"):
        replace_day(storage, [file])
    assert contents(storage) == before


def lines_with_bad_ones(file: Path, good: int, bad: int) -> Path:
    return write_lines(file, *(export_line(f"i{n}") for n in range(good)), *["<html>"] * bad)


@pytest.mark.parametrize(("bad", "options"), [(1, {}), (2, {"max_rejected_fraction": 0.02})])
def test_as_many_bad_lines_as_allowed_are_rejected(
    storage: StorageEngine, file: Path, bad: int, options: dict[str, Any]
) -> None:
    lines = lines_with_bad_ones(file, 100 - bad, bad)
    (report,) = storage.replace_events_days("events", [window()], lines, FETCHED, **options)
    assert counts(report) == {"lines_read": 100, "rows_stored": 100 - bad, "rejected": bad}


def test_more_than_a_share_of_bad_lines_leaves_the_old_day(
    storage: StorageEngine, file: Path
) -> None:
    list(storage.replace_events_days("events", [window()], [event("old")], FETCHED))
    before = contents(storage)
    lines = lines_with_bad_ones(file, 98, 2)
    with pytest.raises(RejectedLinesError) as caught:
        list(storage.replace_events_days("events", [window()], lines, FETCHED))
    assert str(caught.value) == (
        "events of 2024-01-15: 2 of 100 lines (2.00%) were rejected, more than the 1.00% allowed; "
        "events.jsonl, line 99: not valid JSON: <html>; events.jsonl, line 100: not valid JSON: "
        "<html>. The existing data is kept. To allow more, raise max_rejected_fraction."
    )
    assert contents(storage) == before


def test_the_share_is_of_the_lines_of_all_days_of_a_load(
    storage: StorageEngine, file: Path
) -> None:
    windows = [window(), window(DAY + A_DAY)]
    write_lines(file, export_line("i1"), "no JSON")
    with pytest.raises(RejectedLinesError, match="events of 2024-01-15 to 2024-01-16: 1 of 2"):
        list(storage.replace_events_days("events", windows, file, FETCHED))
    assert storage.list_tables() == []


# Duplicates


@pytest.mark.parametrize("times", [[1, 3, 2], [3, 2, 1], [1, 2, "3"], [None, 3, 1], [9, 10, 3]])
def test_the_event_processed_last_wins(
    storage: StorageEngine, file: Path, times: list[object]
) -> None:
    lines = [
        export_line("i1") if time is None else export_line("i1", mp_processing_time_ms=time)
        for time in times
    ]
    report = replace_day(storage, [write_lines(file, *lines)])
    assert counts(report) == {"lines_read": 3, "rows_stored": 1, "duplicates": 2}
    newest = max(int(str(time)) for time in times if time is not None)
    kept = storage.execute_scalar("SELECT properties->>'$.mp_processing_time_ms' FROM events")
    assert kept == str(newest)


def test_of_events_processed_together_the_one_read_last_wins(
    storage: StorageEngine, tmp_path: Path
) -> None:
    files = [
        write_lines(tmp_path / f"{name}.jsonl", export_line("i1", file=name))
        for name in ("b", "c", "a")
    ]
    assert replace_day(storage, files).duplicates == 2
    assert storage.execute_scalar("SELECT properties->>'$.file' FROM events") == "a"


def test_events_that_share_only_the_insert_id_are_all_kept(
    storage: StorageEngine, file: Path
) -> None:
    write_lines(
        file,
        export_line("i1", n=1),
        export_line("i1", name="Sign Up", n=2),
        export_line("i1", distinct_id="u2", n=3),
        export_line("i1", time=epoch(NOON) + 1, n=4),
        export_line("i1", time=epoch(NOON) + 1, n=5),
        export_line("i2", n=6),
    )
    report = replace_day(storage, [file])
    assert counts(report) == {"lines_read": 6, "rows_stored": 5, "duplicates": 1}
    rows = storage.execute_rows(
        "SELECT (properties->>'$.n')::INTEGER, insert_id, properties->>'$.\"$insert_id\"' "
        "FROM events ORDER BY ALL"
    )
    # One of the four keeps the ID; the others keep it in their properties.
    assert sorted((insert_id, original) for n, insert_id, original in rows)[0] == ("i1", None)
    assert [n for n, *_ in rows] == [1, 2, 3, 5, 6]
    derived = [(insert_id, original) for _, insert_id, original in rows[:4] if insert_id != "i1"]
    assert len(set(derived)) == 3
    assert all(insert_id.startswith("i1-") for insert_id, _ in derived)
    assert {original for _, original in derived} == {"i1"}
    assert rows[4] == (6, "i2", None)


def test_an_id_made_unique_meets_the_same_id_of_another_event(
    storage: StorageEngine, file: Path
) -> None:
    shared = [
        export_line("i1", n=1, mp_processing_time_ms=1),
        export_line("i1", name="Sign Up", n=2, mp_processing_time_ms=2),
    ]
    replace_day(storage, [write_lines(file, *shared)])
    derived = storage.execute_scalar("SELECT insert_id FROM events WHERE event_name = 'Sign Up'")
    assert derived.startswith("i1-")
    other = export_line(derived, distinct_id="u3", n=3)
    originals = (
        "SELECT insert_id, properties->>'$.\"$insert_id\"' FROM events ORDER BY properties->>'$.n'"
    )
    assert counts(replace_day(storage, [write_lines(file, *shared, other)])) == {
        "lines_read": 3,
        "rows_stored": 3,
    }
    ids, kept = zip(*storage.execute_rows(originals), strict=True)
    assert ids[:2] == ("i1", derived)
    assert ids[2].startswith(f"{derived}-")
    assert kept == (None, "i1", derived)
    replace_day(storage, [write_lines(file, other, *reversed(shared))])
    assert tuple(zip(*storage.execute_rows(originals), strict=True)) == (ids, kept)


@pytest.mark.parametrize("late_first", [False, True])
@pytest.mark.parametrize("processed", [{}, {"mp_processing_time_ms": 5}])
@pytest.mark.parametrize("user", [f"u{number}" for number in range(2, 8)])
def test_a_late_event_does_not_change_the_id_of_a_stored_one(
    storage: StorageEngine, file: Path, late_first: bool, processed: dict[str, Any], user: str
) -> None:
    stored = export_line("i1", **processed)
    late = export_line("i1", distinct_id=user, mp_processing_time_ms=9)
    assert replace_day(storage, [write_lines(file, stored)]).rows_stored == 1
    lines = [late, stored] if late_first else [stored, late]
    report = replace_day(storage, [write_lines(file, *lines)])
    assert (report.rows_stored, report.gained, report.lost) == (2, 1, 0)
    ids = dict(storage.execute_rows("SELECT distinct_id, insert_id FROM events"))
    assert ids["u1"] == "i1"
    assert ids[user].startswith("i1-")
    report = replace_day(storage, [write_lines(file, *reversed(lines))])
    assert (report.gained, report.lost) == (0, 0)
    assert dict(storage.execute_rows("SELECT distinct_id, insert_id FROM events")) == ids


@file_only
def test_ids_that_an_earlier_version_derived_stay(storage: StorageEngine, file: Path) -> None:
    """It gave each of the events that share an ID a derived one."""
    shared = [export_line("i1"), export_line("i1", name="Sign Up")]
    replace_day(storage, [write_lines(file, *shared)])
    storage.execute(
        f"UPDATE {TABLE} SET insert_id = 'i1-' || md5(to_json("
        "[event_name, epoch_us(event_time)::VARCHAR, distinct_id, ''])::VARCHAR)"
    )
    ids = column(storage, "events", "insert_id")
    assert all(insert_id.startswith("i1-") for insert_id in ids)
    late = export_line("i1", name="Search")
    report = replace_day(storage, [write_lines(file, late, *shared)])
    assert (report.gained, report.lost) == (1, 0)
    assert set(ids) < set(column(storage, "events", "insert_id"))


@pytest.mark.parametrize("text", ["NaN", "nan", "inf", "Infinity", "-inf", "", "soon", True, None])
def test_a_processing_time_that_is_not_a_number_loses(
    storage: StorageEngine, file: Path, text: object
) -> None:
    lines = [
        export_line(mp_processing_time_ms=1, n=1),
        export_line(mp_processing_time_ms=text, n=2),
        export_line(mp_processing_time_ms=-5, n=3),
    ]
    for order in (lines, lines[::-1]):
        assert replace_day(storage, [write_lines(file, *order)]).duplicates == 2
        assert column(storage, "events", "(properties->>'$.n')::INTEGER") == [1]


@pytest.mark.parametrize("newest", ["1602625711875", 1602625711874.5, 10**300, "1e13"])
def test_processing_times_of_other_types_are_numbers(
    storage: StorageEngine, file: Path, newest: object
) -> None:
    lines = [
        export_line(mp_processing_time_ms=newest, n=1),
        export_line(mp_processing_time_ms=1602625711874, n=2),
    ]
    replace_day(storage, [write_lines(file, *lines)])
    assert column(storage, "events", "(properties->>'$.n')::INTEGER") == [1]


def test_the_order_of_the_lines_does_not_change_the_ids(storage: StorageEngine, file: Path) -> None:
    lines = [
        export_line("i1"),
        export_line("i1", name="Sign Up"),
        export_line("i1", distinct_id="u2"),
        export_line(None),
    ]
    replace_day(storage, [write_lines(file, *lines)])
    first = column(storage, "events", "insert_id")
    replace_day(storage, [write_lines(file, *reversed(lines))])
    assert column(storage, "events", "insert_id") == first


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_insert_id_comes_from_the_content(
    storage: StorageEngine, file: Path, missing: str | None
) -> None:
    lines = [
        export_line(missing),
        export_line(missing),
        export_line(missing, song="a"),
        export_line(missing, name="Sign Up"),
        export_line(missing, distinct_id="u2"),
        export_line(missing, time=epoch(NOON) + 1),
    ]
    report = replace_day(storage, [write_lines(file, *lines)])
    assert counts(report) == {"lines_read": 6, "rows_stored": 5, "duplicates": 1}
    ids = column(storage, "events", "insert_id")
    assert all(len(insert_id) == 32 for insert_id in ids)
    with StorageEngine.memory() as another:
        replace_day(another, [file])
        assert column(another, "events", "insert_id") == ids


# The view


def test_drop_table_takes_the_day_out_of_the_view(storage: StorageEngine) -> None:
    for number in range(2):
        day = DAY + number * A_DAY
        data = [event(event_time=NOON + number * A_DAY)]
        list(storage.replace_events_days("events", [window(day)], data, FETCHED))
    storage.drop_table(TABLE)
    assert column(storage, "events", "event_time") == [NOON + A_DAY]
    storage.drop_table("events_20240116")
    assert not storage.table_exists("events")
    assert storage.list_tables() == []


def test_the_view_itself_cannot_be_dropped(storage: StorageEngine) -> None:
    replace_day(storage, [event()])
    with pytest.raises(ValueError, match="view over its day tables"):
        storage.drop_table("events")
    assert column(storage, "events", "insert_id") == ["i1"]


def test_a_day_comes_back_after_it_was_dropped(storage: StorageEngine) -> None:
    replace_day(storage, [event()])
    storage.drop_table(TABLE)
    assert replace_day(storage, [event()]).rows_stored == 1
    assert column(storage, "events", "insert_id") == ["i1"]


def test_a_table_that_looks_like_a_day_is_none(storage: StorageEngine) -> None:
    metadata = replace(FETCHED, from_date="2024-01-15", to_date="2024-01-15")
    storage.create_events_table(day_table_name("events", DAY), [event("i1")], metadata)
    data = [event("i2", event_time=NOON + A_DAY)]
    list(storage.replace_events_days("events", [window(DAY + A_DAY)], data, FETCHED))
    assert column(storage, "events", "insert_id") == ["i2"]
    with pytest.raises(TableExistsError, match="'events_20240115' belongs to 'events_20240115'"):
        replace_day(storage, [event()])
    assert column(storage, TABLE, "insert_id") == ["i1"]


# What is not replaced


@pytest.mark.parametrize("name", ["events", TABLE, "EVENTS", "Events_20240115"])
def test_an_own_table_is_never_replaced(storage: StorageEngine, name: str) -> None:
    storage.execute(f"CREATE TABLE {name} AS SELECT 42 AS answer")
    before = contents(storage)
    with pytest.raises(TableExistsError, match=r"(?i)events"):
        replace_day(storage, [event()])
    assert contents(storage) == before


def test_an_own_view_is_not_taken_for_a_day(storage: StorageEngine) -> None:
    storage.execute(f"CREATE VIEW {TABLE} AS SELECT 42 AS answer")
    before = contents(storage)
    with pytest.raises(TableExistsError, match=TABLE):
        replace_day(storage, [event()])
    assert contents(storage) == before


def test_a_table_with_the_name_of_the_dataset_is_not_replaced(storage: StorageEngine) -> None:
    storage.create_events_table("events", [event("old")], EVENTS)
    before = contents(storage)
    with pytest.raises(TableExistsError, match="'events'"):
        replace_day(storage, [event("new")])
    assert contents(storage) == before


@pytest.mark.parametrize(
    ("there", "new"),
    [(SAMPLE_SOURCE, "project 1"), ("project 1", SAMPLE_SOURCE), ("project 1", "project 2")],
)
def test_sources_are_not_mixed(storage: StorageEngine, there: str, new: str) -> None:
    replace_day(storage, [event("old")], source=there)
    before = contents(storage)
    with pytest.raises(SourceMismatchError, match=f"'{there}'.*'{new}'"):
        replace_day(storage, [event("new")], source=new)
    with pytest.raises(SourceMismatchError, match=TABLE):
        list(storage.replace_events_days("events", [window(DAY + A_DAY)], [], FETCHED, source=new))
    assert contents(storage) == before
    assert replace_day(storage, [event("new")], source=there).rows_stored == 1


def test_sample_data_shares_the_database_with_no_other(storage: StorageEngine) -> None:
    replace_day(storage, [event()], source=SAMPLE_SOURCE)
    with pytest.raises(SourceMismatchError, match="a separate database file for each source"):
        storage.replace_table("people", [profile()], PROFILES, source="project 1")
    storage.drop_table(TABLE)
    assert storage.replace_table("people", [], PROFILES, source="project 1").rows_stored == 0


def test_two_projects_can_have_a_dataset_each(storage: StorageEngine) -> None:
    replace_day(storage, [event()], source="project 1")
    (report,) = storage.replace_events_days(
        "other_events", [window()], [event()], FETCHED, source="project 2"
    )
    assert report.rows_stored == 1


# Times


def test_every_format_of_time_is_understood(storage: StorageEngine, file: Path) -> None:
    cases: list[tuple[object, datetime]] = [
        (1705314600, datetime(2024, 1, 15, 10, 30)),
        (1705314600.5, datetime(2024, 1, 15, 10, 30, 0, 500000)),
        (1705314600000, datetime(2024, 1, 15, 10, 30)),
        (1705314600123, datetime(2024, 1, 15, 10, 30, 0, 123000)),
        (1705314600123.5, datetime(2024, 1, 15, 10, 30, 0, 123500)),
        (1.7053146e9, datetime(2024, 1, 15, 10, 30)),
        ("1705314600", datetime(2024, 1, 15, 10, 30)),
        ("1705314600123", datetime(2024, 1, 15, 10, 30, 0, 123000)),
        ("1705314600.25", datetime(2024, 1, 15, 10, 30, 0, 250000)),
        ("2024-01-15T10:30:00", datetime(2024, 1, 15, 10, 30)),
        ("2024-01-15 10:30:00.123456", datetime(2024, 1, 15, 10, 30, 0, 123456)),
        ("2024-01-15T10:30:00Z", datetime(2024, 1, 15, 10, 30)),
        ("2024-01-15T10:30:00+02:00", datetime(2024, 1, 15, 8, 30)),
        ("2024-01-15T10:30:00.5-0330", datetime(2024, 1, 15, 14, 0, 0, 500000)),
        ("2024-01-15", datetime(2024, 1, 15)),
        (0, datetime(1970, 1, 1)),
        (-1, datetime(1969, 12, 31, 23, 59, 59)),
        (10_000_000_000, datetime(2286, 11, 20, 17, 46, 40)),
        (10_000_000_001, datetime(1970, 4, 26, 17, 46, 40, 1000)),
        (-10_000_000_001, datetime(1969, 9, 7, 6, 13, 19, 999000)),
    ]
    lines = [export_line(f"{time!r}", time=time) for time, _ in cases]
    storage.replace_table("all", [write_lines(file, *lines)], EVENTS)
    rows = storage.execute_rows('SELECT insert_id, event_time FROM "all"')
    assert dict(rows) == {f"{time!r}": stored for time, stored in cases}


def test_a_time_that_cannot_be_read_is_rejected_and_never_1970(
    storage: StorageEngine, file: Path
) -> None:
    times: list[object] = [
        "",
        "yesterday",
        "2024-02-30",
        "2024-01-15T25:00:00Z",
        "infinity",
        "epoch",
        "today",
        "NaN",
        True,
        [1705314600],
        {"seconds": 1705314600},
        10**15,
        10**30,
    ]
    lines = [export_line(f"i{number}", time=time) for number, time in enumerate(times)]
    report = replace_day(storage, [write_lines(file, export_line("good"), *lines)])
    assert counts(report) == {"lines_read": 14, "rows_stored": 1, "rejected": 13}
    assert all(reason.startswith("time cannot be read: ") for _, reason, _ in rejected(storage))
    replace_day(storage, [write_lines(file, export_line("good"), export_line("i1", time=None))])
    assert [reason for _, reason, _ in rejected(storage)] == ["no time"]


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/New_York", date(2024, 3, 10)),
        ("America/New_York", date(2024, 11, 3)),
        ("Europe/Berlin", date(2024, 3, 31)),
        ("Europe/Berlin", date(2024, 10, 27)),
        ("Europe/Dublin", date(2024, 10, 27)),
        ("America/Sao_Paulo", date(2018, 11, 4)),
        ("Australia/Lord_Howe", date(2024, 10, 6)),
        ("Australia/Lord_Howe", date(2024, 4, 7)),
        ("Asia/Kathmandu", date(2024, 1, 15)),
        ("Pacific/Apia", date(2011, 12, 29)),
        ("UTC", date(2024, 1, 15)),
    ],
)
def test_wall_clock_time_becomes_utc_as_python_has_it(
    storage: StorageEngine, file: Path, zone: str, day: date
) -> None:
    walls = [
        datetime(day.year, day.month, day.day) + timedelta(minutes=15 * number)
        for number in range(96)
    ]
    lines = [
        export_line(f"{number:02} {time!r}", time=time)
        for number, wall in enumerate(walls)
        for time in (epoch(wall), epoch(wall) * 1000, wall.isoformat())
    ]
    (report,) = storage.replace_events_days(
        "events", [window(day, zone)], [write_lines(file, *lines)], FETCHED, wall_clock_zone=zone
    )
    assert counts(report) == {"lines_read": 288, "rows_stored": 288}
    stored = storage.execute_rows(
        "SELECT event_time FROM events ORDER BY left(insert_id, 2), event_time"
    )
    assert [time for (time,) in stored] == [
        wall.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC).replace(tzinfo=None)
        for wall in walls
        for _ in range(3)
    ]


def test_an_offset_in_the_text_is_stronger_than_the_zone(
    storage: StorageEngine, file: Path
) -> None:
    write_lines(
        file,
        export_line("i1", time="2024-01-15T10:30:00Z"),
        export_line("i2", time="2024-01-15T10:30:00+05:30"),
    )
    replace_day(storage, [file], wall_clock_zone="America/New_York")
    assert column(storage, "events", "event_time") == [
        datetime(2024, 1, 15, 5),
        datetime(2024, 1, 15, 10, 30),
    ]


def test_records_are_utc_in_every_zone(storage: StorageEngine, file: Path) -> None:
    line = json.dumps(event(event_time=NOON.isoformat()))
    for data in ([event()], [write_lines(file, line)]):
        replace_day(storage, data, wall_clock_zone="America/New_York")
        assert column(storage, "events", "event_time") == [NOON]


def test_an_unknown_zone_is_named(storage: StorageEngine, file: Path) -> None:
    write_lines(file, export_line())
    for zone in ("Mars/Olympus", "it's"):
        with pytest.raises(StorageError, match=zone):
            replace_day(storage, [file], wall_clock_zone=zone)
    assert storage.list_tables() == []


# Tables that are not split by day


def test_replace_profiles(storage: StorageEngine, file: Path) -> None:
    write_lines(
        file,
        '{"$distinct_id":4,"$properties":{"$last_seen":"2008-06-09T23:08:40","plan":"free"}}',
        '{"$distinct_id":4,"$properties":{"$last_seen":"2008-06-10T00:00:00","plan":"premium"}}',
        '{"$distinct_id":"u1","$properties":{"$email":"a@b.c"}}',
        '{"$distinct_id":"u2","$properties":null}',
        '{"$distinct_id":"u3","$properties":{"$last_seen":"long ago"}}',
        '{"$properties":{"$email":"nobody"}}',
        '{"$distinct_id":"u4","$properties":["no object"]}',
    )
    report = storage.replace_table(
        "people", [file], PROFILES, source="project 1", run_id="run 7", max_rejected_fraction=1
    )
    assert counts(report) == {"lines_read": 7, "rows_stored": 4, "duplicates": 1, "rejected": 2}
    assert (report.table_name, report.type, report.day) == ("people", "profiles", None)
    assert storage.execute_rows("SELECT * FROM people ORDER BY distinct_id") == [
        ("4", '{"plan":"premium"}', datetime(2008, 6, 10)),
        ("u1", '{"$email":"a@b.c"}', None),
        ("u2", "{}", None),
        ("u3", '{"$last_seen":"long ago"}', None),
    ]
    assert [(number, reason) for number, reason, _ in rejected(storage)] == [
        (6, "no distinct_id"),
        (7, "properties is not an object"),
    ]
    assert storage.count_rows(["people"])[0].last_load == report
    assert storage.count_rows(["people"])[0].problems == []


def test_replacing_profiles_drops_who_is_gone(storage: StorageEngine) -> None:
    storage.replace_table("people", [profile("u1"), profile("u2")], PROFILES)
    storage.replace_table("people", [profile("u2"), profile("u3")], PROFILES)
    assert column(storage, "people", "distinct_id") == ["u2", "u3"]
    assert [table.row_count for table in storage.list_tables()] == [2]
    assert storage.schema_problems(["people"], "profiles") == {"people": []}


def test_profiles_that_cannot_be_loaded_leave_the_old_ones(
    storage: StorageEngine, file: Path
) -> None:
    storage.replace_table("people", [profile("u1")], PROFILES)
    before = contents(storage)
    with pytest.raises(RejectedLinesError, match="none of 1 lines"):
        storage.replace_table("people", [write_lines(file, "Bad Gateway")], PROFILES)
    with pytest.raises(ValueError, match="record 1: no last_seen"):
        storage.replace_table("people", [{"distinct_id": "u2", "properties": {}}], PROFILES)
    assert contents(storage) == before


def test_a_table_of_events_that_is_not_split_by_day_is_replaced_whole(
    storage: StorageEngine, file: Path
) -> None:
    storage.create_events_table("january", [event("i1"), event("i2")], EVENTS)
    report = storage.replace_table(
        "january",
        [write_lines(file, export_line("i3", time=0), "not JSON")],
        EVENTS,
        max_rejected_fraction=1,
    )
    assert counts(report) == {"lines_read": 2, "rows_stored": 1, "rejected": 1}
    assert column(storage, "january", "event_time") == [datetime(1970, 1, 1)]
    assert storage.get_metadata("january") == EVENTS


def test_an_own_table_is_not_replaced_by_a_snapshot(storage: StorageEngine) -> None:
    storage.execute("CREATE TABLE people AS SELECT 42 AS answer")
    storage.execute("CREATE VIEW seen AS SELECT 42 AS answer")
    before = contents(storage)
    for name in ("people", "seen"):
        with pytest.raises(TableExistsError, match=name):
            storage.replace_table(name, [profile()], PROFILES)
    assert contents(storage) == before


def test_days_are_not_replaced_by_a_snapshot(storage: StorageEngine) -> None:
    replace_day(storage, [event()])
    before = contents(storage)
    with pytest.raises(TableExistsError, match="'events'"):
        storage.replace_table("events", [event("new")], EVENTS)
    with pytest.raises(TableExistsError, match="'events'"):
        storage.create_events_table("events", [event("new")], EVENTS)
    assert contents(storage) == before


def test_an_unknown_type_is_refused(storage: StorageEngine) -> None:
    metadata = TableMetadata("funnels", FETCHED_AT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="funnels"):
        storage.replace_table("groups", [], metadata)


def test_a_day_that_is_asked_for_twice_is_refused(storage: StorageEngine) -> None:
    metadata = TableMetadata("events", FETCHED_AT)
    with pytest.raises(ValueError, match="duplicate day: 2024-01-15"):
        list(storage.replace_events_days("events", [window(), window()], [event()], metadata))
    assert storage.list_tables() == []


def test_records_may_come_from_the_same_database(storage: StorageEngine) -> None:
    storage.create_events_table("old", [event(f"i{n}") for n in range(5000)], EVENTS)
    names = ("event_name", "event_time", "distinct_id", "insert_id", "properties")
    rows = storage.connection.execute("SELECT * FROM old")

    def records() -> Iterator[dict[str, Any]]:
        while batch := rows.fetchmany(10):
            for row in batch:
                yield dict(zip(names, (*row[:4], json.loads(row[4])), strict=True))

    assert storage.create_events_table("new", records(), EVENTS, batch_size=100) == 5000


def test_a_file_with_other_lines_than_expected_is_refused(
    storage: StorageEngine, tmp_path: Path
) -> None:
    metadata = TableMetadata("events", FETCHED_AT)
    list(storage.replace_events_days("events", [window()], [event("old")], metadata))
    file = write_lines(tmp_path / "a.jsonl", export_line("i1"), export_line("i2"))
    with pytest.raises(StorageError, match="expected 3 lines, read 2"):
        list(storage.replace_events_days("events", [window()], file, metadata, expected_lines=3))
    assert column(storage, "events", "insert_id") == ["old"]
