"""Lines as files hold them: repaired, rejected, blank, long, compressed."""

import gzip
import json
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.mixpanel.body import ExportBody
from mp_pipeline.storage import LoadReport, QueryError, StorageEngine, StorageError, lines
from mp_pipeline_tests.support.databases import column
from mp_pipeline_tests.support.records import (
    EVENTS,
    NOON,
    PROFILES,
    epoch,
    export_line,
    write_lines,
)

GOOD = export_line("good")
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def storage() -> Iterator[StorageEngine]:
    """One engine for all tests: each test replaces the table that it reads."""
    with StorageEngine.memory() as engine:
        yield engine


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def load(storage: StorageEngine, file: Path, *content: str | bytes) -> LoadReport:
    return storage.replace_table(
        "events", [write_lines(file, *content)], EVENTS, max_rejected_fraction=1
    )


def line_with(properties: str | bytes, insert_id: str = "i1") -> bytes:
    """Return a line of the export with these properties, byte by byte as given."""
    raw = properties if isinstance(properties, bytes) else properties.encode()
    beginning = f'{{"event":"A","properties":{{"time":{epoch(NOON)},"$insert_id":"{insert_id}",'
    return beginning.encode() + raw + b"}}"


def rejected(storage: StorageEngine, table: str = "events") -> list[tuple[Any, ...]]:
    return storage.execute_rows(
        f"SELECT line_number, reason FROM _rejected WHERE table_name = '{table}' ORDER BY ALL"
    )


def stored_properties(storage: StorageEngine, insert_id: str = "i1") -> Any:
    (text,) = storage.execute_rows(
        f"SELECT properties FROM events WHERE insert_id = '{insert_id}'"
    )[0]
    return json.loads(text)


# Repaired


def test_raw_control_characters_stay(storage: StorageEngine, file: Path) -> None:
    controls = "".join(map(chr, [*range(10), *range(11, 32)]))
    report = load(storage, file, line_with(f'"a{controls}":"b{controls}"'), GOOD)
    assert (report.lines_read, report.rows_stored, report.rejected) == (2, 2, 0)
    assert stored_properties(storage) == {f"a{controls}": f"b{controls}"}


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (r'"a":"\ud800"', {"a": "\ufffd"}),
        (r'"a":"x\udfffy"', {"a": "x\ufffdy"}),
        (r'"\ud83d":1', {"\ufffd": 1}),
        (r'"a":"\ud83d\ud83d\ude00"', {"a": "\ufffd😀"}),
        (r'"a":"\ude00\ud83d"', {"a": "\ufffd\ufffd"}),
        (r'"a":"\uD800\n\\ud800"', {"a": "\ufffd\n\\ud800"}),
        (b'"a":"\xff"', {"a": "\ufffd"}),
        (b'"a":"caf\xe9","b":"caf\xc3\xa9"', {"a": "caf\ufffd", "b": "café"}),
        (b'"a":"\xed\xa0\x80"', {"a": "\ufffd\ufffd\ufffd"}),
        (b'"a":"\xf0\x9f\x98"', {"a": "\ufffd"}),
    ],
)
def test_text_that_is_not_unicode_is_repaired(
    storage: StorageEngine, file: Path, given: str | bytes, stored: dict[str, Any]
) -> None:
    report = load(storage, file, GOOD, line_with(given))
    assert (report.rows_stored, report.rejected, report.repaired) == (2, 0, 1)
    assert stored_properties(storage) == stored


def test_a_lone_surrogate_in_a_name_or_an_id_is_repaired(
    storage: StorageEngine, file: Path
) -> None:
    load(storage, file, export_line("i\ud800", "A\ud800", distinct_id="u\ud800"))
    assert storage.execute_rows("SELECT event_name, distinct_id, insert_id FROM events") == [
        ("A\ufffd", "u\ufffd", "i\ufffd")
    ]


@pytest.mark.parametrize(
    "given",
    [
        r'"a":"\ud83d\ude00"',
        r'"a":"\\ud800"',
        r'"a":"\"\\","b":"\u0000","\u0000":1',
        '"a":"\u2028\u2029\x7f\x85","b":"😀\U0010ffff"',
        '"a":"\ufeff"',
        '"$a.b":1,"it\'s":2,"K":3,"k":4,"":5," ":6,"a\\"b":7',
        '"a":123456789012345678901234567890,"b":-9223372036854775809,"c":18446744073709551616',
        '"a":null,"b":[null,true,false,{}],"c":{"d":{"e":[[]]}}',
    ],
)
@pytest.mark.parametrize("with_a_bad_line", [False, True])
def test_whatever_json_allows_stays(
    storage: StorageEngine, file: Path, given: str, with_a_bad_line: bool
) -> None:
    bad_lines = ["terminated early"] * with_a_bad_line
    report = load(storage, file, line_with(given), *bad_lines)
    assert (report.rows_stored, report.repaired) == (1, 0)
    assert stored_properties(storage) == json.loads(f"{{{given}}}")


def test_a_byte_order_mark_is_no_part_of_the_line(storage: StorageEngine, file: Path) -> None:
    report = load(storage, file, b"\xef\xbb\xbf" + GOOD.encode(), export_line("i2"))
    assert (report.rows_stored, report.rejected) == (2, 0)


# Rejected


@pytest.mark.parametrize("line", ["terminated early", "export terminated early", "{", "\x00"])
def test_what_is_no_json_is_rejected(storage: StorageEngine, file: Path, line: str) -> None:
    report = load(storage, file, GOOD, line)
    assert (report.lines_read, report.rows_stored, report.rejected) == (2, 1, 1)
    assert rejected(storage) == [(2, "not valid JSON")]


def test_a_line_that_was_cut_off_is_rejected(storage: StorageEngine, file: Path) -> None:
    report = load(storage, file, export_line("i1"), export_line("i2")[:-10])
    assert (report.rows_stored, report.rejected) == (1, 1)
    assert rejected(storage) == [(2, "not valid JSON")]


@pytest.mark.parametrize("line", ["[]", "5", "null", "true", '"text"', f"[{GOOD}]"])
def test_json_that_is_no_object_is_rejected(storage: StorageEngine, file: Path, line: str) -> None:
    for position, content in ((1, [line, GOOD]), (2, [GOOD, line])):
        report = load(storage, file, *content)
        assert (report.lines_read, report.rows_stored, report.rejected) == (2, 1, 1)
        assert rejected(storage) == [(position, "not a JSON object")]


@pytest.mark.parametrize("between", ["", " ", ",", "\t", "\r"])
def test_two_objects_on_a_line_are_rejected(
    storage: StorageEngine, file: Path, between: str
) -> None:
    two = export_line("i1") + between + export_line("i2")
    report = load(storage, file, GOOD, two, export_line("i3"))
    assert (report.lines_read, report.rows_stored, report.rejected) == (3, 2, 1)
    assert rejected(storage) == [(2, "not valid JSON")]
    assert column(storage, "events", "insert_id") == ["good", "i3"]


@pytest.mark.parametrize("after", [" terminated early", "}", "]", " 5"])
def test_what_follows_an_object_on_its_line_rejects_it(
    storage: StorageEngine, file: Path, after: str
) -> None:
    report = load(storage, file, GOOD, export_line("i1") + after)
    assert (report.rows_stored, report.rejected) == (1, 1)


def test_keys_are_taken_exactly(storage: StorageEngine, file: Path) -> None:
    line = GOOD.replace('"event"', '"Event"').replace('"properties"', '"PROPERTIES"')
    load(storage, file, export_line("i1"), line)
    assert rejected(storage) == [(2, "no event name")]


def test_lines_of_a_compressed_file_are_treated_alike(
    storage: StorageEngine, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl.gz"
    content: list[str | bytes] = [
        GOOD,
        "",
        line_with(r'"a":"\ud800"'),
        "terminated early",
        export_line("i2") + "\r",
    ]
    report = load(storage, file, *content)
    assert (report.lines_read, report.rows_stored, report.repaired) == (4, 3, 1)
    assert rejected(storage) == [(4, "not valid JSON")]
    assert column(storage, "events", "insert_id") == ["good", "i1", "i2"]


def test_a_compressed_file_may_have_several_parts(storage: StorageEngine, tmp_path: Path) -> None:
    parts = [[GOOD], ["terminated early"], [export_line("i2")]]
    files = [write_lines(tmp_path / f"{n}.gz", *part) for n, part in enumerate(parts)]
    whole = tmp_path / "whole.jsonl.gz"
    whole.write_bytes(b"".join(file.read_bytes() for file in files))
    report = storage.replace_table("events", [whole], EVENTS, max_rejected_fraction=1)
    assert (report.lines_read, report.rows_stored, report.rejected) == (3, 2, 1)


# Line ends


@pytest.mark.parametrize("bad_line", ["", "terminated early"])
def test_blank_lines_are_no_lines(storage: StorageEngine, file: Path, bad_line: str) -> None:
    content = ["", export_line("i1"), "", "   ", "\t", "\r", export_line("i2"), bad_line, ""]
    report = load(storage, file, *content)
    assert report.rows_stored == 2
    assert report.lines_read == 2 + report.rejected
    assert rejected(storage) == ([(8, "not valid JSON")] if bad_line else [])


@pytest.mark.parametrize("bad_lines", [[], ["terminated early\r"]])
def test_lines_may_end_in_crlf(storage: StorageEngine, file: Path, bad_lines: list[str]) -> None:
    load(storage, file, export_line("i1") + "\r", export_line("i2") + "\r", *bad_lines)
    assert column(storage, "events", "insert_id") == ["i1", "i2"]
    kept = storage.execute_rows("SELECT line FROM _rejected WHERE table_name = 'events'")
    assert kept == [("terminated early",)] * len(bad_lines)


def test_the_last_line_needs_no_end(storage: StorageEngine, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{export_line('i1')}\n{export_line('i2')}")
    assert storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1).rows_stored == 2


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1e", "\x85", "\r"])
def test_a_line_ends_at_a_line_feed_alone(
    storage: StorageEngine, file: Path, separator: str
) -> None:
    report = load(storage, file, line_with(f'"a":"b{separator}c"'), "not JSON")
    assert (report.lines_read, report.rows_stored) == (2, 1)
    assert stored_properties(storage) == {"a": f"b{separator}c"}


# Duplicate keys


@pytest.mark.parametrize("bad_lines", [[], ["terminated early"]])
def test_the_first_of_duplicate_keys_counts(
    storage: StorageEngine, file: Path, bad_lines: list[str]
) -> None:
    line = (
        f'{{"event":"A","event":"B","properties":{{"time":{epoch(NOON)},"time":0,'
        '"distinct_id":"u1","distinct_id":"u2","$insert_id":"i1","$insert_id":"i2",'
        '"a":1,"a":2},"properties":{"time":0}}'
    )
    load(storage, file, line, *bad_lines)
    assert storage.execute_rows("SELECT * FROM events") == [
        ("A", NOON, "u1", "i1", '{"a":1,"a":2}')
    ]


def test_what_the_export_does_not_have_is_ignored(storage: StorageEngine, file: Path) -> None:
    load(storage, file, GOOD[:-1] + ', "extra": {"a": 1}}')
    assert column(storage, "events", "insert_id") == ["good"]


# Values of other types


def test_names_and_ids_of_other_types_are_stored_as_text(
    storage: StorageEngine, file: Path
) -> None:
    values: list[object] = [5, 12345678901234567890123, 1.5, True, {"a": 1}, [1], "", "null"]
    load(
        storage,
        file,
        *[export_line(f"i{number}", distinct_id=value) for number, value in enumerate(values)],
        export_line("i8", distinct_id=None),
        f'{{"event":7,"properties":{{"time":{epoch(NOON)},"$insert_id":9}}}}',
    )
    assert storage.execute_rows(
        "SELECT insert_id, distinct_id, event_name FROM events ORDER BY insert_id DESC"
    ) == [
        ("i8", "", "Song Played"),
        ("i7", "null", "Song Played"),
        ("i6", "", "Song Played"),
        ("i5", "[1]", "Song Played"),
        ("i4", '{"a":1}', "Song Played"),
        ("i3", "true", "Song Played"),
        ("i2", "1.5", "Song Played"),
        ("i1", "12345678901234567890123", "Song Played"),
        ("i0", "5", "Song Played"),
        ("9", "", "7"),
    ]


def test_both_shapes_may_be_mixed(storage: StorageEngine, file: Path) -> None:
    record = {
        "event_name": "A",
        "event_time": "2024-01-15T12:00:00Z",
        "distinct_id": "u1",
        "insert_id": "i2",
        "properties": {"$insert_id": "stays", "time": 5},
    }
    load(storage, file, export_line("i1"), json.dumps(record))
    assert storage.execute_rows("SELECT * FROM events ORDER BY insert_id") == [
        ("Song Played", NOON, "u1", "i1", "{}"),
        ("A", NOON, "u1", "i2", '{"$insert_id":"stays","time":5}'),
    ]


def test_lines_of_profiles_are_treated_alike(storage: StorageEngine, file: Path) -> None:
    write_lines(
        file,
        '{"$distinct_id":"u1","$properties":{"a":"\\ud800"}}',
        '{"$distinct_id":"u2","$properties":{"b":"\t"}}\r',
        b'{"$distinct_id":"u3","$properties":{"c":"\xff"}}',
        '["$distinct_id"]',
        '{"$distinct_id":"u4"} {"$distinct_id":"u5"}',
        '{"distinct_id":"u6","properties":{"$last_seen":"stays"},"last_seen":"2024-01-15"}',
    )
    report = storage.replace_table("people", [file], PROFILES, max_rejected_fraction=1)
    assert (report.lines_read, report.rows_stored, report.rejected) == (6, 4, 2)
    rows = storage.execute_rows("SELECT distinct_id, properties FROM people ORDER BY distinct_id")
    assert [(user, json.loads(properties)) for user, properties in rows] == [
        ("u1", {"a": "\ufffd"}),
        ("u2", {"b": "\t"}),
        ("u3", {"c": "\ufffd"}),
        ("u6", {"$last_seen": "stays"}),
    ]
    assert rejected(storage, "people") == [(4, "not a JSON object"), (5, "not valid JSON")]


# Long lines


@pytest.mark.parametrize("megabytes", [20, 34])
def test_a_huge_line_is_loaded(storage: StorageEngine, tmp_path: Path, megabytes: int) -> None:
    file = tmp_path / "a.jsonl"
    text = "y" * megabytes * MEGABYTE
    report = load(storage, file, GOOD, export_line("i1", text=text), export_line("i2"))
    assert (report.lines_read, report.rows_stored, report.rejected) == (3, 3, 0)
    assert stored_properties(storage)["text"] == text


def test_a_line_that_is_too_long_is_rejected(
    storage: StorageEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", MEGABYTE)
    report = load(
        storage,
        tmp_path / "a.jsonl",
        GOOD,
        export_line("i1", text="y" * 17 * MEGABYTE),
        export_line("i2"),
        "terminated early",
    )
    assert (report.lines_read, report.rows_stored, report.rejected) == (4, 2, 2)
    assert rejected(storage) == [
        (2, f"longer than {MEGABYTE} bytes"),
        (4, "not valid JSON"),
    ]
    kept = "SELECT max(length(line)) FROM _rejected WHERE table_name = 'events'"
    assert storage.execute_scalar(kept) == 10_000
    assert column(storage, "events", "insert_id") == ["good", "i2"]


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize(("too_many", "stored"), [(0, 2), (1, 1)])
def test_the_longest_line_is_as_long_as_said(
    storage: StorageEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: bytes,
    too_many: int,
    stored: int,
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 1000)
    line = export_line("i1", text="")
    line = export_line("i1", text="y" * (1000 - len(line) + too_many))
    assert len(line) == 1000 + too_many
    file = tmp_path / "a.jsonl"
    file.write_bytes(f"{GOOD}\nnot JSON\n{line}".encode() + end)
    assert (
        storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1).rows_stored
        == stored
    )


def test_many_lines_are_numbered_through(
    storage: StorageEngine, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", 1000)
    content = [
        "not JSON" if number % 10 == 0 else export_line(f"i{number}") for number in range(1, 101)
    ]
    report = load(storage, file, *content)
    assert (report.lines_read, report.rows_stored, report.rejected) == (100, 90, 10)
    assert [number for number, _ in rejected(storage)] == list(range(10, 101, 10))


def test_the_case_of_the_ending_does_not_matter(storage: StorageEngine, tmp_path: Path) -> None:
    compressed = write_lines(tmp_path / "a.gz", export_line(), "not JSON")
    report = storage.replace_table(
        "events", [compressed.rename(tmp_path / "A.GZ")], EVENTS, max_rejected_fraction=1
    )
    assert (report.rows_stored, report.rejected) == (1, 1)


# Whitespace and marks around lines

BOM = b"\xef\xbb\xbf"
BLANK = [b"", b" ", b"\t", b"\r", b"\v", b"\f", b" \t\r\v\f"]
NOT_BLANK = [BOM, BOM + BOM, BOM + b" ", b"\x00", b"\x1c", b"\x1f", b"\x85", b"\xc2\x85"]
NOT_BLANK += [b"\xc2\xa0", b"\xe2\x80\xa8", b"#", b","]


@pytest.mark.parametrize("bad_lines", [[], [b"terminated early"]])
@pytest.mark.parametrize("line", BLANK + NOT_BLANK)
def test_the_client_and_the_database_count_the_same_lines(
    storage: StorageEngine, file: Path, line: bytes, bad_lines: list[bytes]
) -> None:
    contents: list[list[str | bytes]] = [
        [line, GOOD, *bad_lines],
        [GOOD, line, *bad_lines],
        [GOOD, line, export_line("i2"), line, *bad_lines],
    ]
    for content in contents:
        report = load(storage, file, *content)
        body = ExportBody(compressed=False)
        body.feed(file.read_bytes())
        assert report.lines_read == body.lines
        places = [number for number, text in enumerate(content, 1) if text == line]
        expected = [(number, "not valid JSON") for number in places if line in NOT_BLANK]
        expected += [(len(content), "not valid JSON")] * len(bad_lines)
        assert rejected(storage) == expected


@pytest.mark.parametrize("bad_lines", [[], ["terminated early"]])
@pytest.mark.parametrize("around", BLANK)
def test_whitespace_around_a_line_is_not_part_of_it(
    storage: StorageEngine, file: Path, around: bytes, bad_lines: list[str]
) -> None:
    second = export_line("i2").encode()
    contents: list[list[str | bytes]] = [
        [around + second + around, GOOD],
        [GOOD, around + second + around],
    ]
    for content in contents:
        report = load(storage, file, *content, *bad_lines)
        assert (report.rows_stored, report.repaired) == (2, 0)
        assert report.rejected == len(bad_lines)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("content", [BOM, b"\x00", b"#", b"x"])
def test_a_file_of_one_bad_line_is_not_taken_for_an_empty_one(
    storage: StorageEngine, tmp_path: Path, content: bytes, compressed: bool
) -> None:
    file = tmp_path / ("a.jsonl.gz" if compressed else "a.jsonl")
    file.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=r"a\.jsonl.*, line 1: not valid JSON"):
        storage.create_events_table("one", [file], EVENTS)


# Messages

# DuckDB quotes the beginning of the line, which ends within the last letter.
CUT = b'{"event":{"000\\u001f\xe0\xa0\x80" : []},"event":{"000\\u001f\xe0\xa0\x80" : []}}'


def test_a_line_that_is_quoted_up_to_half_a_letter_is_rejected(
    storage: StorageEngine, file: Path
) -> None:
    report = load(storage, file, GOOD, CUT)
    assert (report.rows_stored, report.rejected) == (1, 1)
    statement = f"SELECT * FROM read_json('{file}', columns = {{event: 'JSON'}})"
    for query in (storage.execute, storage.execute_df, storage.execute_rows):
        with pytest.raises(QueryError, match='has duplicate key "event"'):
            query(statement)


# Gzip

FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT = 1, 2, 4, 8, 16


def gzip_member(content: bytes, flags: int) -> bytes:
    """Return a member of a gzip file, with those parts in its header that the flags announce."""
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\x03"
    if flags & FEXTRA:
        header += struct.pack("<H", 6) + b"ab\x02\x00xy"
    if flags & FNAME:
        header += b"export.jsonl\0"
    if flags & FCOMMENT:
        header += b"a comment\0"
    if flags & FHCRC:
        header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    return header + body + struct.pack("<II", zlib.crc32(content), len(content))


def load_gzip(storage: StorageEngine, directory: Path, content: bytes) -> LoadReport:
    file = directory / "events.jsonl.gz"
    file.write_bytes(content)
    assert gzip.decompress(content)  # the standard library reads all of it
    return storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1)


@pytest.mark.parametrize("flags", range(32))
def test_every_gzip_header_is_read(storage: StorageEngine, tmp_path: Path, flags: int) -> None:
    first = f"{GOOD}\n\n".encode()
    rest = f"not JSON\n{export_line('i2')}\n".encode()
    for content in (
        gzip_member(first + rest, flags),
        gzip_member(first, 0) + gzip_member(rest, flags),
        gzip_member(first[:20], flags) + gzip_member(first[20:] + rest, 0),
    ):
        report = load_gzip(storage, tmp_path, content)
        assert (report.lines_read, report.rows_stored) == (3, 2)
        assert report.bytes_read == len(content)
        assert rejected(storage) == [(3, "not valid JSON")]


@pytest.mark.parametrize("zeros", [1, 8, 511, 100_000])
def test_zeros_after_a_gzip_member_are_padding(
    storage: StorageEngine, tmp_path: Path, zeros: int
) -> None:
    padded = gzip.compress(f"{GOOD}\n".encode()) + bytes(zeros)
    assert load_gzip(storage, tmp_path, padded).rows_stored == 1
    two = padded + gzip.compress(f"{export_line('i2')}\n".encode()) + bytes(zeros)
    assert load_gzip(storage, tmp_path, two).rows_stored == 2


@pytest.mark.parametrize("flags", [0, FCOMMENT, FHCRC | FNAME])
@pytest.mark.parametrize("damage", ["cut", "flipped", "followed by text"])
def test_a_damaged_gzip_file_is_named(
    storage: StorageEngine, tmp_path: Path, flags: int, damage: str
) -> None:
    text = "".join(export_line(f"i{number}") + "\n" for number in range(1000))
    whole = gzip_member(text.encode(), flags)
    middle = len(whole) // 2
    file = tmp_path / "events.jsonl.gz"
    file.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle:]),
            "followed by text": whole + b"export terminated early\n",
        }[damage]
    )
    load(storage, tmp_path / "before.jsonl", GOOD)
    with pytest.raises(StorageError, match=r"events\.jsonl\.gz.* is damaged .*nothing was loaded"):
        storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1)
    assert column(storage, "events", "insert_id") == ["good"]


def test_a_plain_file_named_gz_is_named(storage: StorageEngine, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl.gz"
    file.write_text(f"{GOOD}\n")
    with pytest.raises(StorageError, match=r"events\.jsonl\.gz is damaged \(Not a gzipped file"):
        storage.replace_table("events", [file], EVENTS, max_rejected_fraction=1)


def test_an_ordinary_gzip_file_is_read_directly(
    storage: StorageEngine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mp_pipeline.storage")
    ordinary = gzip.compress(f"{GOOD}\n".encode())
    load_gzip(storage, tmp_path, ordinary)
    assert "decompressing" not in caplog.text
    assert "line by line" not in caplog.text
    load_gzip(storage, tmp_path, ordinary + b"\0")
    assert "decompressing events.jsonl.gz first" in caplog.text
