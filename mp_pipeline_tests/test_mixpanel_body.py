"""What counts as a complete body of an export, whichever library decompresses it."""

import gzip
import itertools
import zlib
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mp_pipeline.mixpanel import body as body_module
from mp_pipeline.mixpanel.body import LONGEST_LINE, ExportBody
from mp_pipeline.mixpanel.errors import IncompleteBodyError, UnexpectedAnswerError
from mp_pipeline_tests.support.client import EVENT, FHCRC, gzip_member

EVENTS = b'{"event":"a","properties":{}}\n{"event":"b","properties":{"time":1}}\n'
BOM = b"\xef\xbb\xbf"


LIBRARIES: dict[str, ModuleType] = {"standard": zlib, "chosen": vars(body_module)["zlib"]}


@pytest.fixture(autouse=True, params=LIBRARIES.values(), ids=list(LIBRARIES))
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The library that decompresses: the standard one, or the faster one if it is installed."""
    monkeypatch.setattr(body_module, "zlib", request.param)
    chosen: ModuleType = request.param
    return chosen


def read(body: bytes, *, compressed: bool = False, size: int = 1 << 20) -> ExportBody:
    reader = ExportBody(compressed=compressed)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.finish()
    return reader


def read_pieces(*pieces: bytes) -> ExportBody:
    body = ExportBody(compressed=False)
    for piece in pieces:
        body.feed(piece)
    body.finish()
    return body


# Complete bodies


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"\n\n\n", 0),
        (b" \r\n\t\n\x0b\x0c", 0),
        (EVENTS, 2),
        (EVENTS.rstrip(), 2),
        (b"\n\n" + EVENTS + b"\n\n \n", 2),
        (EVENTS.replace(b"\n", b"\r\n\r\n"), 2),
        (EVENTS.replace(b"\n", b"\x0b\n \n\x0c"), 2),
        (EVENTS + b"   \n\t", 2),
        (b"not json\n" + EVENT, 2),
        (b'not json\n{"error":"x"}\n[]\n' + EVENT, 4),
        (b"terminated early\n" + EVENT, 2),
    ],
)
def test_complete(text: bytes, lines: int, compressed: bool, size: int) -> None:
    body = read(gzip.compress(text) if compressed else text, compressed=compressed, size=size)
    assert (body.lines, body.uncompressed_bytes) == (lines, len(text))


@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n\n"])
@pytest.mark.parametrize(
    "event",
    [
        b'{"event":"terminated early","properties":{}}',
        b' \t{ "properties" : { "a" : 1 } , "event" : "x", "error": "y" } \r',
        b'{"event":null,"properties":{}}',
        b'{"event":{"a":1},"properties":{}}',
        b'{"event":"a","properties":{"x":NaN,"y":-Infinity}}',
        b'{"event":"a","properties":{"x":"\\ud800"}}',
        b'{"event":"a","properties":{"x":"\\u0000\x01\t\x1f"}}',
        b'{"event":"a\xff","properties":{"x":"\xed\xa0\x80"}}',
        '{"event":"\u2028","properties":{"x":"\x85"}}'.encode(),
        b'{"event":"a","properties":{"x":' + b"9" * 5000 + b"}}",
        b'{"event":"a","properties":{"x":' + b"[" * 500 + b"]" * 500 + b"}}",
        BOM + b'{"event":"a","properties":{}}',
    ],
)
def test_last_lines_that_are_events(event: bytes, after: bytes) -> None:
    assert read(EVENT + event + after).lines == 2
    assert read(event + after).lines == 1


# Incomplete bodies

NOT_EVENTS = {
    "terminated early": b"terminated early",
    "export terminated early": b"export terminated early",
    "a reason": b"export terminated early: internal error",
    "in quotes": b' "Export Terminated Early." \r',
    "an error": b'{"error":"internal error"}',
    "an error with more": b'{"request":"/x","error":"timeout","status":"error"}',
    "HTML": b"<html><body>502 Bad Gateway</body></html>",
    "a text": b'"event, properties"',
    "null": b"null",
    "a number": b"0",
    "an array": b'[{"event":"a","properties":{}}]',
    "an empty object": b"{}",
    "no event": b'{"properties":{}}',
    "a bracket too many": b'{"properties":{},"event":"a"}}',
    "deep": b"[" * 100_000,
    "a byte order mark": BOM,
    "zero bytes": bytes(10),
    "not UTF-8": b"\xff\xfe",
    "Unicode whitespace": "\u00a0\u2028".encode(),
}


@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n \n\t"])
@pytest.mark.parametrize("last", NOT_EVENTS.values(), ids=NOT_EVENTS)
def test_a_last_line_that_is_not_an_event(last: bytes, after: bytes) -> None:
    text = EVENTS + last + after
    for body, compressed in ((text, False), (gzip.compress(text), True)):
        for size in (3, 1000):
            with pytest.raises(IncompleteBodyError) as incomplete:
                read(body, compressed=compressed, size=size)
            reason, _, quote = str(incomplete.value).partition(": ")
            assert reason == "the last line is not an event"
            assert quote == last.decode(errors="replace").strip()[: 1 << 16]


HTML = "<!DOCTYPE html>\n<html>\n<title>Bitte anmelden: für Gäste</title>\n</html>"


@pytest.mark.parametrize("before", [b"", BOM, b"\r\n \n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n\n \t\n"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error":"internal error"}', "internal error"),
        ('{\n  "request": "/x",\n  "error": "Project not found"\n}', "Project not found"),
        ('{"status":"error"}', '{"status":"error"}'),
        ("{}", "{}"),
        (HTML, HTML),
        ("<html>502</html>", "<html>502</html>"),
    ],
)
def test_an_error_in_the_place_of_an_export_is_quoted(
    text: str, message: str, before: bytes, after: bytes
) -> None:
    body = before + text.encode() + after
    for data, compressed in ((body, False), (gzip.compress(body), True)):
        for size in (3, 1000):
            with pytest.raises(UnexpectedAnswerError, match="is not an export") as caught:
                read(data, compressed=compressed, size=size)
            assert (caught.value.mixpanel_message, caught.value.status) == (message, 200)


@pytest.mark.parametrize("text", [b"", b"\n", b" \r\n"])
def test_an_empty_html_page_is_not_a_day_without_events(text: bytes) -> None:
    body = ExportBody(compressed=False, is_html=True)
    body.feed(text)
    with pytest.raises(UnexpectedAnswerError, match="an empty HTML page"):
        body.finish()


def test_events_are_events_whatever_their_type() -> None:
    body = ExportBody(compressed=False, is_html=True)
    body.feed(EVENTS)
    body.finish()
    assert body.lines == 2


@pytest.mark.parametrize("text", [b"terminated early", b"Bad gateway\n\n"])
def test_a_text_without_events_is_an_export_that_ended_before_the_first(text: bytes) -> None:
    with pytest.raises(IncompleteBodyError, match=f"is not an event: {text.decode().strip()}"):
        read(text)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event":"c',
        b' { "event": "c", "properties": {"$email": "a',
        b'{"event":"c","properties":{}}terminated early',
        b'{"event":"c","properties":{}}{"event":"d","properties":{}}',
        b'{"event":"c","properties":{"a":"x"y"}}',
        b'{"event":"c"}',
        b'{"event":"c","properties":[]}',
    ],
)
def test_an_event_that_is_cut_off_or_malformed_is_not_quoted(line: bytes) -> None:
    with pytest.raises(IncompleteBodyError) as incomplete:
        read(EVENTS + line)
    assert str(incomplete.value) == "the last line is an event that is cut off or malformed"


def test_every_cut_of_a_last_line_is_seen() -> None:
    line = b'{"event":"c","properties":{"a":{"b":[1,2]}}}'
    for end in range(1, len(line)):
        with pytest.raises(IncompleteBodyError):
            read(EVENTS + line[:end])
        with pytest.raises(IncompleteBodyError):
            read(EVENTS + line[:end] + b"\n")


EVENT_LINES = [
    b'{"event":"a","properties":{}}',
    b'\x0b{"properties":{"a":"\xff"},"event":1}\r',
    BOM + b'{"event":"a","properties":{}}',
]
BLANK_LINES = [b"", b" ", b"\r", b"\t\x0b\x0c "]
OTHER_LINES = [BOM, b"x y", b"{}", b'{"event":"a"}', b"\xc2\xa0", b'{"event":"a","proper']


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from(EVENT_LINES + BLANK_LINES + OTHER_LINES)),
    ended=st.booleans(),
    cuts=st.lists(st.integers(0, 150)),
    level=st.integers(0, 9),
)
def test_lines_are_judged_alike_however_the_body_is_cut(
    lines: list[bytes], ended: bool, cuts: list[int], level: int
) -> None:
    text = b"\n".join(lines) + (b"\n" if ended else b"")
    filled = [line for line in lines if line not in BLANK_LINES]
    for body, compressed in ((text, False), (gzip.compress(text, level), True)):
        reader = ExportBody(compressed=compressed)
        for start, end in itertools.pairwise([0, *sorted(cuts), max(len(body), *cuts, 0)]):
            reader.feed(body[start:end])
        try:
            reader.finish()
            complete = True
        except (IncompleteBodyError, UnexpectedAnswerError):
            complete = False
        assert complete == (not filled or filled[-1] in EVENT_LINES)
        assert (reader.lines, reader.uncompressed_bytes) == (len(filled), len(text))


# Byte order marks


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (BOM + b"\n" + EVENT, 2),
        (BOM + b" \n" + EVENT, 2),
        (BOM + EVENT, 1),
        (b"\n" + BOM + b"\n" + EVENT, 2),
        (EVENT + BOM + b"\n" + EVENT, 3),
        (BOM + BOM + b"\n" + EVENT, 2),
    ],
)
def test_a_mark_alone_is_a_line(text: bytes, lines: int, size: int) -> None:
    assert read(text, size=size).lines == lines
    assert read(gzip.compress(text), compressed=True, size=size).lines == lines


# Long lines


def test_a_long_last_line_is_complete_or_cut_off() -> None:
    start = b'{"event":"a","properties":{"a":"'
    line = start + b"x" * (LONGEST_LINE - len(start) - 3) + b'"}}'
    assert read_pieces(EVENT, line).lines == 2
    assert read_pieces(EVENT, line, b"\n\n").lines == 2
    with pytest.raises(IncompleteBodyError, match="an event that is cut off"):
        read_pieces(EVENT, line[:-1])


def test_a_last_line_that_is_too_long_to_be_checked_is_not_complete() -> None:
    line = [b'{"event":"a","properties":{"a":"', *[b"x" * 2**20] * (LONGEST_LINE >> 20), b'"}}']
    for end in (b"", b"\n", b"\n \n"):
        with pytest.raises(
            IncompleteBodyError, match="the last line is longer than 67,108,864 bytes"
        ):
            read_pieces(EVENT, *line, end)
    assert read_pieces(EVENT, *line, b"\n", EVENT).lines == 3
    with pytest.raises(IncompleteBodyError, match="not an event: terminated early"):
        read_pieces(*line, b"\nterminated early")


def test_any_amount_of_whitespace_is_a_blank_line() -> None:
    blanks = [b" " * 2**20] * ((LONGEST_LINE >> 20) + 1)
    assert read_pieces(*blanks).lines == 0
    assert read_pieces(EVENT, *blanks, b"\n", *blanks, EVENT).lines == 2
    assert read_pieces(EVENT, *blanks, b"\n").lines == 1
    with pytest.raises(IncompleteBodyError, match="not an event: terminated early"):
        read_pieces(EVENT, *blanks, b"terminated early", *blanks[:2])


# gzip


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_gzip_of_several_members(size: int) -> None:
    body = b"".join(gzip.compress(part) for part in (EVENTS[:20], b"", EVENTS[20:]))
    assert read(body, compressed=True, size=size).lines == 2


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("flags", range(32))
def test_every_field_of_a_gzip_header(flags: int, size: int) -> None:
    assert gzip.decompress(gzip_member(EVENTS, flags)) == EVENTS  # Python agrees
    assert read(gzip_member(EVENTS, flags), compressed=True, size=size).lines == 2
    members = gzip_member(EVENTS[:20]) + gzip_member(EVENTS[20:], flags)
    assert read(members, compressed=True, size=size).lines == 2


@pytest.mark.parametrize("flag", [0x20, 0x40, 0x80])
def test_reserved_flags_of_a_gzip_header_are_damage(flag: int) -> None:
    for body in (gzip_member(EVENTS, flag), gzip_member(EVENTS) + gzip_member(EVENTS, flag)):
        with pytest.raises(IncompleteBodyError, match=r"damaged .*unknown header flags"):
            read(body, compressed=True)


def test_a_wrong_checksum_of_a_gzip_header_is_damage() -> None:
    body = bytearray(gzip_member(EVENTS, FHCRC))
    body[4] ^= 1  # the time of the file, which nobody reads
    with pytest.raises(IncompleteBodyError, match=r"damaged .*header crc"):
        read(bytes(body), compressed=True)


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (b"terminated early\n", "is followed by terminated early"),
        (b"\nExport terminated early.", "is followed by Export terminated early."),
        (b'{"error":"x"}', 'is followed by {"error":"x"}'),
        (b"<html>", "is followed by <html>"),
        (b"\n", "is followed by "),
        (bytes(8), "is followed by "),
        (EVENT, "is followed by {"),
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
    line = b'{"event":"a","properties":{"a":"' + b"x" * 5_000_000 + b'"}}\n'
    text = line + b"\n" * 3_000_000 + EVENT
    body = read(gzip.compress(text), compressed=True)
    assert (body.lines, body.uncompressed_bytes) == (2, len(text))


def test_the_end_must_be_known() -> None:
    for text, compressed in ((EVENTS, False), (b"", False), (b"", True)):
        body = ExportBody(compressed=compressed, delimited=False)
        body.feed(text)
        with pytest.raises(IncompleteBodyError, match="does not say where it ends"):
            body.finish()
    body = ExportBody(compressed=True, delimited=False)
    body.feed(gzip.compress(EVENTS))
    body.finish()


def test_the_library_checks_what_we_rely_on(library: ModuleType) -> None:
    stream = library.decompressobj(16 + zlib.MAX_WBITS)
    stream.decompress(gzip.compress(EVENTS)[:-1])
    assert not stream.eof
