"""Generated malformed files: every line is accounted for, and reloading changes nothing."""

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.support.engines import LAYOUTS, open_layout
from mp_pipeline_tests.support.records import (
    DAY,
    FETCHED_AT,
    NOON,
    epoch,
    event,
    export_line,
    window,
)

FETCHED = TableMetadata("events", FETCHED_AT)
WINDOWS = [window(DAY), window(DAY + timedelta(days=1))]
IDS = st.sampled_from([None, "", "i1", "i2", "i3", "i1-0"])
TIMES: st.SearchStrategy[object] = st.integers(
    epoch(NOON) - 86_400, epoch(NOON) + 2 * 86_400
) | st.sampled_from(
    [
        None,
        "",
        "soon",
        "2024-01-15",
        "2024-01-15T25:00:00",
        "2024-01-15T12:00:00+99:00",
        1705363199.9999998,
        -1e300,
        10**30,
        True,
        [],
        {},
    ]
)
GOOD_LINES = st.builds(
    lambda insert_id, name, user, time, processed: export_line(
        insert_id, name, distinct_id=user, time=time, mp_processing_time_ms=processed
    ).encode(),
    IDS,
    st.sampled_from(["Search", "Sign Up", "'); DROP TABLE events; --"]),
    st.sampled_from(["u1", "", 7, None]),
    TIMES,
    st.sampled_from([1, 2, "2", None]),
)
NASTY_LINES = st.sampled_from(
    [
        b"",
        b"   ",
        b"\t\r",
        b"\v\f",
        b"\x1c",
        b"\xef\xbb\xbf",
        b"\xc2\xa0",
        b'\v{"event":"A","properties":{"time":1705320000}}\f\r',
        b"\x00",
        b"null",
        b"[]",
        b"{}",
        b"0",
        b'"',
        b"{",
        b"terminated early",
        b"<html>",
        b"\xff\xfe",
        b'{"event":"\xff","properties":{"time":1705320000}}',
        b'{"event":"\\ud800","properties":{"time":1705320000,"a":"\\udc00\\ud800"}}',
        b'{"event":"a\x01b","properties":{"time":1705320000,"c":"\x1f"}}',
        b'{"event":"A","properties":null}',
        b'{"event":null,"properties":{"time":1705320000}}',
        b'{"event":"A","event":"B","properties":{"time":1705320000,"time":1}}',
        b'\xef\xbb\xbf{"event":"A","properties":{"time":1705320000}}',
        b'{"event":"A","properties":{"time":1705320000}} trailing',
        b'{"event":"A","properties":{"time":1705320000,"x":' + b"[" * 300 + b"]" * 300 + b"}}",
        b'{"event":"A","properties":{"time":1705320000,"n":-0.0,"m":1e999,"o":NaN}}',
    ]
)
CUT_LINES = st.builds(lambda line, end: line[:end], GOOD_LINES, st.integers(1, 60))
FILES = st.lists(GOOD_LINES | NASTY_LINES | CUT_LINES | st.binary(max_size=20), max_size=25)


@pytest.fixture(scope="module", params=LAYOUTS)
def storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StorageEngine]:
    with open_layout(request.param, tmp_path_factory.mktemp("storage")) as engine:
        yield engine


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nasty")


def rows(storage: StorageEngine) -> list[tuple[object, ...]]:
    return storage.execute_rows("SELECT * FROM events ORDER BY ALL")


@settings(max_examples=30, deadline=None)
@given(lines=FILES, days=st.sampled_from([WINDOWS[:1], WINDOWS]))
def test_every_line_of_a_nasty_file_is_accounted_for(
    storage: StorageEngine, directory: Path, lines: list[bytes], days: list[object]
) -> None:
    # With one good line, so that they are not all rejected, and without line ends inside a line.
    lines = [line.replace(b"\n", b" ") for line in lines] + [export_line("always").encode()]
    file = directory / "day.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n".join(lines)))
    loads = []
    for _ in range(2):
        reports = list(
            storage.replace_events_days(
                "events",
                WINDOWS[: len(days)],
                file,
                FETCHED,
                max_rejected_fraction=1,
                expected_lines=sum(1 for line in lines if line and not line.isspace()),
            )
        )
        for report in reports:
            assert report.lines_read == (
                report.rows_stored + report.duplicates + report.rejected + report.outside_day
            )
        tables = [report.table_name for report in reports]
        for counted in storage.count_rows(tables):
            assert counted.problems == []
        numbers = storage.execute_rows("SELECT line_number, reason FROM _rejected ORDER BY ALL")
        assert len(numbers) == sum(report.rejected for report in reports)
        assert all(lines[number - 1].strip() and reason for number, reason in numbers)
        loads.append((rows(storage), numbers))
    assert loads[0] == loads[1]
    for stored in loads[0][0]:
        assert isinstance(stored[1], datetime)
        assert any(w.start <= stored[1].replace(tzinfo=UTC) < w.end for w in WINDOWS[: len(days)])
    for (table,) in storage.execute_rows(
        "SELECT table_name FROM _metadata WHERE table_name LIKE 'events_2%'"
    ):
        storage.drop_table(table)


@settings(max_examples=20, deadline=None)
@given(
    records=st.lists(
        st.builds(
            event,
            st.sampled_from(["i1", "i2", "i3"]),
            event_name=st.sampled_from(["Search", "Sign Up"]),
            event_time=st.integers(-30, 30).map(lambda hours: NOON + timedelta(hours=hours)),
            properties=st.fixed_dictionaries({"mp_processing_time_ms": st.integers(0, 3)}),
        ),
        max_size=20,
    )
)
def test_every_record_is_accounted_for(
    storage: StorageEngine, directory: Path, records: list[dict[str, object]]
) -> None:
    file = directory / "records.jsonl"
    file.write_text("".join(json.dumps(record, default=str) + "\n" for record in records))
    loads = []
    for data in (iter(records), file):
        (report,) = storage.replace_events_days("events", WINDOWS[:1], data, FETCHED)
        assert report.lines_read == len(records)
        assert len(records) == report.rows_stored + report.duplicates + report.outside_day
        assert storage.count_rows([report.table_name])[0].problems == []
        loads.append((report.duplicates, report.outside_day, rows(storage)))
    assert loads[0] == loads[1]
