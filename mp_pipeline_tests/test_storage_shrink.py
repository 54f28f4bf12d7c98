"""Reloads that would lose stored rows: refused below a fraction, counted by key, day by day."""

import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.storage import LoadReport, ShrinkRefusedError, StorageEngine, TableMetadata
from mp_pipeline_tests.support.databases import column, contents
from mp_pipeline_tests.support.engines import storage as storage
from mp_pipeline_tests.support.records import (
    DAY,
    DAY_AFTER,
    DAYS,
    FETCHED_AT,
    NEXT_DAY,
    NOON,
    PROFILES,
    event,
    export_line,
    profile,
    window,
    write_lines,
)

FETCHED = TableMetadata("events", FETCHED_AT)
TABLE = "events_20240115"


def load(storage: StorageEngine, *ids: str, **options: Any) -> LoadReport:
    """Load a day with these insert IDs. Half of the stored ones must come again."""
    records = [event(insert_id) for insert_id in ids]
    options = {"min_kept_fraction": 0.5} | options
    (report,) = storage.replace_events_days("events", [window()], records, FETCHED, **options)
    return report


def load_days(storage: StorageEngine, counts: dict[int, int]) -> list[LoadReport]:
    """Load three days in one request, with the given number of events on the first, second, …"""
    records = [
        event(f"{number}-{n}", NOON + timedelta(days=number))
        for number, count in counts.items()
        for n in range(count)
    ]
    windows = [window(day) for day in DAYS]
    reports = storage.replace_events_days(
        "events", windows, records, FETCHED, min_kept_fraction=0.5
    )
    return list(reports)


def test_a_reload_that_loses_most_rows_is_refused(storage: StorageEngine) -> None:
    load(storage, "a", "b", "c", "d", run_id="first")
    before = contents(storage)
    with pytest.raises(ShrinkRefusedError) as caught:
        load(storage, "a", "x", run_id="second")
    assert str(caught.value) == (
        "events_20240115: the reload would keep 1 of 4 rows (25.0%), less than the 50% required. "
        "The existing data is kept. Mixpanel may have deleted the rest (retention, a deletion "
        "request), or the filters leave out more than before. To replace it anyway, lower "
        "min_kept_fraction."
    )
    after = contents(storage)
    assert len(after.pop("_load_log")) == 1 + len(before.pop("_load_log"))
    assert after == before


def test_a_refused_load_is_in_the_log_and_nowhere_else(storage: StorageEngine) -> None:
    stored = load(storage, "a", "b", "c", "d", run_id="first")
    with pytest.raises(ShrinkRefusedError) as caught:
        load(storage, run_id="second")
    (refused,) = storage.list_loads("events", refused=True)
    assert caught.value.refusals == (refused,)
    assert (refused.run_id, refused.rows_stored, refused.lost) == ("second", 0, 4)
    assert refused.refused == (
        "the reload would keep 0 of 4 rows (0.0%), less than the 50% required"
    )
    assert storage.list_loads("events") == [stored]
    (counts,) = storage.count_rows([TABLE])
    assert counts.last_load == stored
    assert counts.problems == []


@pytest.mark.parametrize("ids", ["ab", "abc", "abxyz"])
def test_half_of_the_rows_are_enough(storage: StorageEngine, ids: str) -> None:
    load(storage, *"abcd")
    load(storage, *ids)
    assert column(storage, "events", "insert_id") == sorted(ids)


def test_rows_are_counted_by_key_not_by_number(storage: StorageEngine) -> None:
    load(storage, *"abcd")
    with pytest.raises(ShrinkRefusedError, match="would keep 1 of 4 rows"):
        load(storage, *"axyz")


def test_events_of_merged_users_are_the_same(storage: StorageEngine) -> None:
    load(storage, *"abcd")
    records = [event(insert_id, distinct_id="merged") for insert_id in "abcd"]
    reports = storage.replace_events_days(
        "events", [window()], records, FETCHED, min_kept_fraction=1
    )
    assert [(report.gained, report.lost) for report in reports] == [(0, 0)]


def test_nothing_is_refused_without_a_fraction(storage: StorageEngine) -> None:
    load(storage, *"abcd")
    assert load(storage, min_kept_fraction=0).lost == 4
    assert load(storage, "a").gained == 1  # an empty day has nothing to lose


def test_other_days_of_the_request_are_replaced(storage: StorageEngine) -> None:
    load_days(storage, {0: 4, 1: 4, 2: 4})
    reports = storage.replace_events_days(
        "events",
        [window(day) for day in DAYS],
        [
            event(f"{number}-{n}", NOON + timedelta(days=number))
            for number in (0, 2)
            for n in (1, 2)
        ],
        FETCHED,
        min_kept_fraction=0.5,
    )
    assert [next(reports).day, next(reports).day] == [DAY, DAY_AFTER]
    with pytest.raises(ShrinkRefusedError, match=r"^events_20240116: .* keep 0 of 4 rows"):
        next(reports)
    rows = {info.day: info.row_count for info in storage.list_days("events")}
    assert rows == {DAY: 2, NEXT_DAY: 4, DAY_AFTER: 2}


def test_every_refused_day_is_named(storage: StorageEngine) -> None:
    load_days(storage, {0: 4, 1: 4, 2: 4})
    with pytest.raises(ShrinkRefusedError) as caught:
        load_days(storage, {})
    assert [refusal.day for refusal in caught.value.refusals] == DAYS
    assert "events_20240115: the reload would keep 0 of 4" in str(caught.value)
    assert "events_20240117: the reload would keep 0 of 4" in str(caught.value)


def test_lines_that_are_rejected_or_outside_do_not_empty_a_day(
    storage: StorageEngine, tmp_path: Path
) -> None:
    """A few of all lines of a request may be all lines of one of its days."""
    load_days(storage, {0: 50, 1: 2, 2: 50})
    lines = [
        export_line(f"{number}-{n}", time=1705320000 + number * 86400)
        for number in (0, 2)
        for n in range(50)
    ]
    file = write_lines(tmp_path / "lines.jsonl", *lines, "not JSON", export_line("1-1", time=0))
    reports = storage.replace_events_days(
        "events", [window(day) for day in DAYS], [file], FETCHED, min_kept_fraction=0.5
    )
    assert [next(reports).rows_stored, next(reports).rows_stored] == [50, 50]
    with pytest.raises(ShrinkRefusedError, match=r"^events_20240116: .* 0 of 2 rows"):
        next(reports)


def test_settings_that_changed_are_named(storage: StorageEngine) -> None:
    load(storage, *"abcd")
    narrow = TableMetadata("events", FETCHED_AT, filter_events=["Search"])
    with pytest.raises(
        ShrinkRefusedError, match=r"required \(they were loaded with other settings"
    ):
        list(storage.replace_events_days("events", [window()], [], narrow, min_kept_fraction=0.5))


def test_a_snapshot_that_loses_most_rows_is_refused(storage: StorageEngine) -> None:
    storage.replace_table("people", [profile("a"), profile("b"), profile("c")], PROFILES)
    with pytest.raises(ShrinkRefusedError, match=r"^people: .* keep 1 of 3 rows \(33.3%\)"):
        storage.replace_table("people", [profile("a")], PROFILES, min_kept_fraction=0.5)
    assert column(storage, "people", "distinct_id") == ["a", "b", "c"]


def test_the_error_reaches_another_process(storage: StorageEngine) -> None:
    load(storage, *"abcd")
    with pytest.raises(ShrinkRefusedError) as caught:
        load(storage)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.refusals) == (str(caught.value), caught.value.refusals)
