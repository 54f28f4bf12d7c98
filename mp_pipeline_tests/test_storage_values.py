"""Generated lines and records of every kind: all ways of loading them store the same rows.

What must be stored is computed by `parsing_oracle`, in Python.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.parsing_oracle import (
    Expected,
    Row,
    expected_event,
    expected_profile,
    parse_time,
)
from mp_pipeline_tests.support.records import (
    EVENTS,
    NOON,
    PROFILES,
    epoch,
    event,
    profile,
    write_lines,
)

Record = dict[str, Any]

# A value is generated as JSON text, so that its spelling varies as well.

INTEGERS = st.one_of(
    st.integers(-5, 5),
    st.integers(-(10**40), 10**40),
    st.sampled_from([2**53 + 1, 2**63, -(2**63) - 1, 2**64, 2**128, 10**15, 10**16, 10**21]),
).map(str)
SPELLINGS_OF_FLOATS = st.sampled_from([repr, "{:.17g}".format, "{:e}".format, "{:.3E}".format])
FLOATS = st.builds(
    lambda value, spell: spell(value),
    st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1.2345678901234568e18, 1e16, 1e20, 1e21, 1e22, 1e-4, 1e-5, 1e-6, 1e-7])
    | st.builds(
        lambda digits, power: digits * 10.0**power, st.integers(1, 99), st.integers(-9, 25)
    ),
    SPELLINGS_OF_FLOATS,
)
NUMBERS = (
    INTEGERS
    | FLOATS
    | st.sampled_from(
        ["-0", "-0.0", "0.0", "1e5", "1E5", "1.50", "1e999", "-1E999", "1e-999", "NaN", "-Infinity"]
    )
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", " ", "null", "1e16", "1.0", "\x00", "\x1f", "\x7f", "\x85", "\u2028", "\ufeff", "\\ud800"]
)
STRINGS = TEXTS.flatmap(lambda text: st.booleans().map(lambda a: json.dumps(text, ensure_ascii=a)))
NESTED = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["true", "false", "null"]),
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: f"[{' , '.join(items)}]")
        | st.lists(st.tuples(STRINGS, values), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key} : {value}" for key, value in pairs) + "}"
        )
    ),
    max_leaves=5,
)
TIME_NUMBERS = st.one_of(
    st.integers(epoch(NOON) - 86_400, epoch(NOON) + 86_400).map(str),
    st.integers(-(10**11), 10**15).map(str),
    st.builds(
        lambda whole, fraction: f"{whole}.{fraction}",
        st.integers(-(10**12), 10**12),
        st.text("0123456789", min_size=1, max_size=20) | st.just("999999999999"),
    ),
    st.floats(-(10**14), 3 * 10**14).map(repr),
    st.sampled_from(["1705363199.9999998", "-0.0000001", "10000000000", "10000000001", "1e9"]),
)
BAD_TIMES = [
    "1_705_320_000", "0x65A4F140", "+1705320000", " 1705320000", "1705320000 ", "1705320000\t",
    ".5", "5.", "1e9", "1.5E3", "--1", "-", "1705320000f", "\u0661\u0662\u0663", "1705320000\x00",
    "2024-W03-1", "2024-015", "2024-1-5", "2024-02-30", "2023-02-29", "2024-13-01", "2024-01-00",
    "0000-01-01", "10000-01-01", "-2024-01-15", "2024-01-15T", "2024-01-15T12", "2024-01-15T1:00",
    "2024-01-15T12:00:60", "2024-01-15T23:59:60Z", "2024-01-15T12:60", "2024-01-15T25:00",
    "2024-01-15T24:00:01", "2024-01-15T24:00:00.1", "2024-01-15T24:30", "2024-01-15T12:00:00.",
    "2024-01-15T12:00:00,5", "2024-01-15Z", "2024-01-15+05:00", "2024-01-15T12:00:00 Z",
    "2024-01-15T12:00:00+99:00", "2024-01-15T12:00:00+05:99", "2024-01-15T12:00:00+16:00",
    "2024-01-15T12:00:00-16", "2024-01-15T12:00:00+5", "2024-01-15T12:00:00+05:60",
    "2024-01-15T12:00:00+05:30:15", "2024-01-15T12:00:00+5:30", "2024-01-15T12:00:00+05:3",
    "2024-01-15T12:00:00Zulu", "2024-01-15T12:00:00 UTC", "2024-01-15T12:00:00Z ",
    " 2024-01-15", "2024-01-15\n", "20240115T120000Z", "2024/01/15", "15.01.2024", "infinity",
    "epoch", "now", "today", "NaN", "", "9999-12-31T23:59:59-00:01", "0001-01-01T00:00:00+00:01",
]  # fmt: skip
GOOD_TIMES = [
    "0", "-1", "0001705320000", "1705320000.0", "1705320000123.4567", "2024-01-15",
    "2024-01-15T24:00", "2024-02-29T24:00:00", "2024-01-15T24:00:00.000Z", "2024-01-15 12:00",
    "2024-01-15t12:00:00z", "2024-01-15T12:00Z", "2024-01-15T12:00+05", "2024-01-15T12:00-0330",
    "2024-01-15T12:00:00+14:00", "2024-01-15T12:00:00-12:00", "2024-01-15T12:00:00+15:59",
    "2024-01-15T12:00:00-15:59", "2024-01-15T12:00:00-00:00", "2024-01-15T23:59:59.9999999",
    "1969-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.9999999", "9999-12-31T23:59:59+00:01", "0001-01-01T00:00:00-00:01",
]  # fmt: skip
ISO_TIMES = st.builds(
    lambda date, separator, clock, offset: f"{date}{separator}{clock}{offset}",
    st.dates(date(1, 1, 2), date(9999, 12, 30)).map(str)
    | st.sampled_from(["2024-03-10", "2024-11-03", "1900-02-29"]),
    st.sampled_from("Tt "),
    st.times().map(str) | st.sampled_from(["00:00", "01:30", "02:30:00.5", "24:00:00", "23:59:60"]),
    st.just("")
    | st.sampled_from(["Z", "z"])
    | st.builds("{}{:02}{}{:02}".format, st.sampled_from("+-"), st.integers(0, 17),
                st.sampled_from(["", ":"]), st.integers(0, 65)),
)  # fmt: skip
TIMES = (
    TIME_NUMBERS
    | (TIME_NUMBERS | ISO_TIMES | st.sampled_from(BAD_TIMES + GOOD_TIMES)).map(json.dumps)
    | NESTED
)


def objects(**fields: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Objects with all of the fields, sometimes with some of them missing, in any order."""
    members = [values.map(f"{json.dumps(name)}:{{}}".format) for name, values in fields.items()]
    complete = st.tuples(*members).map(list)
    some = st.permutations(range(len(members))).flatmap(
        lambda order: st.tuples(*(members[index] for index in order[1:])).map(list)
    )
    return st.one_of(complete, complete, complete, some).map(
        lambda chosen: "{" + ",".join(chosen) + "}"
    )


PROPERTIES = st.lists(st.tuples(STRINGS, NESTED), max_size=3).map(
    lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
)
EXPORT_LINES = objects(
    event=NESTED,
    properties=objects(**{"time": TIMES, "distinct_id": NESTED, "$insert_id": NESTED, "a": NESTED}),
)
EVENT_RECORDS = objects(
    event_name=NESTED,
    event_time=TIMES,
    distinct_id=NESTED,
    insert_id=NESTED,
    properties=PROPERTIES | NESTED,
)
ENGAGE_LINES = objects(
    **{"$distinct_id": NESTED, "$properties": objects(**{"$last_seen": TIMES, "a": NESTED})}
)
PROFILE_RECORDS = objects(distinct_id=NESTED, properties=PROPERTIES | NESTED, last_seen=TIMES)
WHITESPACE = st.text(" \t\r\v\f", max_size=3).map(str.encode)
BOM = b"\xef\xbb\xbf"
MARKS = WHITESPACE | st.sampled_from(
    [
        *(BOM, BOM + BOM, b" " + BOM, BOM + b"\v", b"\x00", b"\x85", b"\xc2\x85", b"\xc2\xa0"),
        *(b"\x1c", b"\x1f", b"\xe2\x80\xa8", b"\xe3\x80\x80", b"}"),
    ]
)
DAMAGE = st.sampled_from(
    [b"", b"x", b"terminated early", b"\xff", b"{", b"[]", b"{}", b'"text"', b"null", b"5", b"#"]
)
REPAIRS = st.sampled_from([b'"\\ud800"', b'"x\\udc00\\ud800"', b'"\xff"', b'"\x01\x1f"', b'"\xe9"'])


ZONES = st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"])
EVENT_THAT_IS_GOOD = b'{"event":"A","properties":{"time":1705320000,"$insert_id":"good"}}'
PROFILE_THAT_IS_GOOD = b'{"$distinct_id":"good"}'

# A line, and whether DuckDB's own reader must accept it if the line can be stored.
Line = tuple[bytes, bool]


def nasty(lines: st.SearchStrategy[str]) -> st.SearchStrategy[list[Line]]:
    """Lists of lines, plain ones and some with marks around them, damaged, or to be repaired."""
    whole = lines.map(str.encode)

    def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        return st.tuples(*parts).map(b"".join)

    plain = st.one_of(whole, joined(WHITESPACE, whole, WHITESPACE))
    other = st.one_of(
        joined(MARKS, whole, MARKS),
        joined(MARKS, DAMAGE, MARKS),
        whole.map(lambda line: line[:-1] + b"," + line[1:]),
        st.builds(lambda line, text: line.replace(b"null", text, 1), whole, REPAIRS),
        st.builds(lambda line, end: line[:end], whole, st.integers(1, 80)),
    )
    return st.lists(st.tuples(plain, st.just(True)) | st.tuples(other, st.just(False)), max_size=12)


class LineByLineLog(logging.Handler):
    """Counts the files that DuckDB refused, so that they were read line by line."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.files = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.files += "line by line" in record.getMessage()


class Loader:
    """Loads lines or records and returns what is stored."""

    def __init__(self, directory: Path) -> None:
        self.storage = StorageEngine.memory()
        self.log = LineByLineLog()
        self._file = directory / "lines.jsonl"

    def load(
        self, metadata: TableMetadata, data: list[bytes] | list[Record], zone: str = "UTC"
    ) -> tuple[list[Row], list[Row]]:
        """Return the rows and the rejected lines (number and reason) of a load."""
        lines = [item for item in data if isinstance(item, bytes)]
        report = self.storage.replace_table(
            metadata.type,
            [write_lines(self._file, *lines)] if lines else iter(cast(list[Record], data)),
            metadata,
            wall_clock_zone=zone,
            max_rejected_fraction=1,
        )
        rows = self.storage.execute_rows(f"SELECT * FROM {metadata.type}")
        rejected = self.storage.execute_rows(
            "SELECT line_number, reason FROM _rejected "
            f"WHERE table_name = '{metadata.type}' ORDER BY line_number"
        )
        assert report.lines_read == len(rows) + len(rejected)
        return sorted(rows, key=repr), rejected


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    loader = Loader(tmp_path_factory.mktemp("values"))
    logger = logging.getLogger("mp_pipeline.storage.loading")
    level = logger.level
    logger.addHandler(loader.log)
    logger.setLevel(logging.INFO)
    with loader.storage:
        yield loader
    logger.setLevel(level)
    logger.removeHandler(loader.log)


def check_lines(
    loader: Loader,
    metadata: TableMetadata,
    lines: list[Line],
    expect: Callable[[bytes], Expected],
    zone: str = "UTC",
) -> None:
    """Load lines with and without bad neighbours, and compare with what they must become."""
    first = EVENT_THAT_IS_GOOD if metadata is EVENTS else PROFILE_THAT_IS_GOOD
    outcomes: list[tuple[bytes, bool, Expected]] = []
    keys = set()
    for line, accepted in [(first, True), *lines]:
        outcome = expect(line)
        if isinstance(outcome, tuple):
            key = outcome[3 if metadata is EVENTS else 0]
            if key in keys:  # what becomes of duplicates is not the question here
                continue
            keys.add(key)
        outcomes.append((line, accepted, outcome))

    rows = sorted((row for _, _, row in outcomes if isinstance(row, tuple)), key=repr)
    rejected = [(n, why) for n, (_, _, why) in enumerate(outcomes, 1) if isinstance(why, str)]
    assert loader.load(metadata, [line for line, _, _ in outcomes], zone) == (rows, rejected)

    # The lines that DuckDB's own reader can read: first without and then with a bad neighbour.
    good = [
        (line, row) for line, accepted, row in outcomes if accepted and not isinstance(row, str)
    ]
    rows = sorted((row for _, row in good if row is not None), key=repr)
    files = loader.log.files
    assert loader.load(metadata, [line for line, _ in good], zone) == (rows, [])
    assert loader.log.files == files
    with_bad_line = [*[line for line, _ in good], b"terminated early"]
    assert loader.load(metadata, with_bad_line, zone)[0] == rows
    assert loader.log.files == files + 1


@settings(max_examples=30, deadline=None)
@given(lines=nasty(EXPORT_LINES | EVENT_RECORDS), zone=ZONES)
def test_generated_events_become_what_python_says(
    loader: Loader, lines: list[Line], zone: str
) -> None:
    check_lines(loader, EVENTS, lines, lambda line: expected_event(line, zone), zone)


@settings(max_examples=20, deadline=None)
@given(lines=nasty(ENGAGE_LINES | PROFILE_RECORDS))
def test_generated_profiles_become_what_python_says(loader: Loader, lines: list[Line]) -> None:
    check_lines(loader, PROFILES, lines, expected_profile)


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(EVENT_RECORDS, max_size=12) | st.lists(PROFILE_RECORDS, max_size=12))
def test_generated_records_become_what_their_json_becomes(loader: Loader, texts: list[str]) -> None:
    for metadata, expect, key in ((EVENTS, expected_event, 3), (PROFILES, expected_profile, 0)):
        records: dict[object, Record] = {}
        rows: dict[object, Row] = {}
        for record in map(json.loads, texts):
            row = expect(json.dumps(record).encode())
            complete = len(record) == (5 if metadata is EVENTS else 3)
            if isinstance(row, tuple) and complete and row[key] not in rows:
                records[row[key]], rows[row[key]] = record, row
        stored, _ = loader.load(metadata, list(records.values()))
        assert stored == sorted(rows.values(), key=repr)


def test_what_is_not_a_time_is_rejected_by_every_way(loader: Loader) -> None:
    assert [time for time in BAD_TIMES if parse_time(time) is not None] == []
    events: list[Line] = []
    profiles: list[Line] = []
    for time in BAD_TIMES:
        record = event(event_time=time)
        exported = {"event": "A", "properties": {"time": time}}
        events += [(json.dumps(line).encode(), True) for line in (exported, record)]
        profiles.append((json.dumps(profile(last_seen=time)).encode(), True))
        with pytest.raises(ValueError, match=f"event_time cannot be read: {re.escape(time)}"):
            loader.storage.create_events_table("refused", [record], EVENTS)
    check_lines(loader, EVENTS, events, expected_event)
    check_lines(loader, PROFILES, profiles, expected_profile)


def test_a_time_is_the_same_by_every_way(loader: Loader) -> None:
    moments = {f"i{n}": parse_time(time) for n, time in enumerate(GOOD_TIMES)}
    assert None not in moments.values()
    ids = dict(zip(moments, GOOD_TIMES, strict=True))
    lines = [
        json.dumps({"event": "A", "properties": {"time": time, "$insert_id": key}}).encode()
        for key, time in ids.items()
    ]
    records = [event(key, event_time=time) for key, time in ids.items()]
    for data in (lines, [*lines, b"bad"], records):
        rows, _ = loader.load(EVENTS, cast(list[Record], data))
        assert {row[3]: row[1] for row in rows} == moments
    lines = [
        json.dumps({"$distinct_id": key, "$properties": {"$last_seen": time}}).encode()
        for key, time in ids.items()
    ]
    records = [profile(key, last_seen=time) for key, time in ids.items()]
    for data in (lines, [*lines, b"bad"], records):
        rows, _ = loader.load(PROFILES, cast(list[Record], data))
        assert {row[0]: row[2] for row in rows} == moments


ID_TOKENS = [
    "1.2345678901234568e+18", "1e16", "123456789012345680.0", "1e5", "1.50", "0.00001", "1e-7",
    "1e21", "1e999", "-0", "-0.0", "5", "18446744073709551616", "-9223372036854775809",
    "123456789012345678901234567890123456789012345678901234567890", "true", "false", '{"a": 1e16}',
    "[1.50, null]", '"1e+16"', '"5"', '"\\u00e9"',
]  # fmt: skip


@pytest.mark.parametrize("events_end", [[], [b"terminated early"]])
@pytest.mark.parametrize("profiles_end", [[], [b"terminated early"]])
def test_events_join_with_the_profiles_of_the_same_ids(
    loader: Loader, events_end: list[bytes], profiles_end: list[bytes]
) -> None:
    events = [
        f'{{"event":{token},"properties":{{"time":1705320000,"$insert_id":"i{number}",'
        f'"distinct_id":{token}}}}}'.encode()
        for number, token in enumerate(ID_TOKENS)
    ]
    profiles = [f'{{"$distinct_id":{token}}}'.encode() for token in ID_TOKENS[:-2]]
    loader.load(PROFILES, [*profiles, b'{"$distinct_id":"\xc3\xa9"}', *profiles_end])
    loader.load(EVENTS, [*events, *events_end])
    assert loader.storage.execute_rows(
        "SELECT count(*), count(DISTINCT distinct_id), bool_and(event_name = distinct_id) "
        "FROM events JOIN profiles USING (distinct_id)"
    ) == [(len(ID_TOKENS), len(ID_TOKENS) - 1, True)]
