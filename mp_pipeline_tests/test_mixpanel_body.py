"""What counts as a whole body of an export."""

import gzip
import itertools
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.mixpanel.body import ExportBody, IncompleteBodyError

EVENTS = b'{"event":"a"}\n{"event":"b"}\n'


def read(body: bytes, *, compressed: bool, size: int = 1 << 20) -> ExportBody:
    reader = ExportBody(compressed=compressed)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.finish()
    return reader


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"\n\n\n", 0),
        (b" \r\n\t\n", 0),
        (EVENTS, 2),
        (EVENTS.rstrip(), 2),
        (b"\n\n" + EVENTS + b"\n\n \n", 2),
        (b'{"a":1}\r\n\r\n{"a":2}\r\n', 2),
        (b'{"a":1}\n   \n{"a":2}   ', 2),
        (b'{"a":"\xe2\x80\xa8 \x01"}', 1),
        (b'{"a":"\xff"}', 1),
        (b'{"a":"\\ud800", "b":NaN, "c":' + b"9" * 5000 + b"}", 1),
        (b'not json\n{"a":1}\nnor this\n', 3),
        (b'terminated early\n{"a":1}\n', 2),
        (b'{"a":"terminated early"}\n', 1),
    ],
)
def test_whole(text: bytes, lines: int, compressed: bool, size: int) -> None:
    body = read(gzip.compress(text) if compressed else text, compressed=compressed, size=size)
    assert (body.lines, body.uncompressed_bytes) == (lines, len(text))


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"terminated early", "ended the export early"),
        (EVENTS + b"terminated early\n", "ended the export early"),
        (EVENTS + b"export terminated early", "ended the export early"),
        (EVENTS + b' "Export Terminated Early." \r\n\n', "ended the export early"),
        (EVENTS + b'{"event":"c', "the last line is cut off"),
        (EVENTS + b'{"event":"c"', "the last line is cut off"),
        (EVENTS + b"[" * 100_000, "the last line is cut off"),
    ],
)
def test_not_whole(text: bytes, reason: str, compressed: bool, size: int) -> None:
    with pytest.raises(IncompleteBodyError, match=reason):
        read(gzip.compress(text) if compressed else text, compressed=compressed, size=size)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_gzip_of_several_members(size: int) -> None:
    body = b"".join(gzip.compress(part) for part in (EVENTS[:20], b"", EVENTS[20:]))
    assert read(body, compressed=True, size=size).lines == 2


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (b"terminated early\n", "ended the export early"),
        (b"\nExport terminated early.", "ended the export early"),
        (b"<html>", "no gzip"),
        (b"\x1f\x8b\x08", "ends early"),
        (b"\x1f", "ends early"),
        (gzip.compress(EVENTS, mtime=0)[:-3], "ends early"),
    ],
)
def test_bytes_after_the_gzip_stream(after: bytes, reason: str, size: int) -> None:
    with pytest.raises(IncompleteBodyError, match=reason):
        read(gzip.compress(EVENTS) + after, compressed=True, size=size)


def test_every_cut_of_a_gzip_stream_is_seen() -> None:
    body = gzip.compress(EVENTS)
    for end in range(1, len(body)):
        with pytest.raises(IncompleteBodyError, match="ends early"):
            read(body[:end], compressed=True)


def test_damage_in_a_gzip_stream_is_seen() -> None:
    body = bytearray(gzip.compress(EVENTS))
    body[-6] ^= 1  # in the CRC
    with pytest.raises(IncompleteBodyError, match="damaged"):
        read(bytes(body), compressed=True)
    with pytest.raises(IncompleteBodyError, match="damaged"):
        read(EVENTS, compressed=True)


def test_text_that_shrinks_a_thousandfold() -> None:
    text = b'{"a":"' + b"x" * 5_000_000 + b'"}\n' + b"\n" * 3_000_000 + b"{}\n"
    body = read(gzip.compress(text), compressed=True)
    assert (body.lines, body.uncompressed_bytes) == (2, len(text))


@settings(deadline=None)
@given(
    lines=st.lists(st.sampled_from([b"{}", b'{"a":" "}', b"", b" ", b"\r", b"x y"])),
    cuts=st.lists(st.integers(0, 60)),
    level=st.integers(0, 9),
)
def test_lines_are_counted_alike_however_the_body_is_cut(
    lines: list[bytes], cuts: list[int], level: int
) -> None:
    text = b"".join(line + b"\n" for line in lines)
    packed = gzip.compress(text, level)
    for body, compressed in ((text, False), (packed, True)):
        reader = ExportBody(compressed=compressed)
        bounds = [0, *sorted(cuts), len(body)]
        for start, end in itertools.pairwise(bounds):
            reader.feed(body[start:end])
        reader.finish()
        assert reader.lines == sum(1 for line in lines if line.strip())
        assert reader.uncompressed_bytes == len(text)


def test_the_end_must_be_known() -> None:
    for text, compressed in ((EVENTS, False), (b"", False), (b"", True)):
        body = ExportBody(compressed=compressed, delimited=False)
        body.feed(text)
        with pytest.raises(IncompleteBodyError, match="does not say where it ends"):
            body.finish()
    body = ExportBody(compressed=True, delimited=False)
    body.feed(gzip.compress(EVENTS))
    body.finish()


def test_zlib_checks_what_we_rely_on() -> None:
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    stream.decompress(gzip.compress(EVENTS)[:-1])
    assert not stream.eof
