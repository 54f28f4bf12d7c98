"""Events: from the network to a file that is complete, or to nothing at all."""

import gzip
import itertools
import logging
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mp_pipeline.mixpanel import (
    MixpanelClient,
    MixpanelError,
    ServerError,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline_tests.support.client import (
    DAY,
    EVENT,
    FCOMMENT,
    FHCRC,
    PATIENCE,
    client_of,
    gzip_member,
    names,
    stall_after,
)
from mp_pipeline_tests.support.servers import Pieces, Reply, Request, ScriptedServer, chunked, reply

EVENTS = b"".join(b'{"event":"a","properties":{"n":%d}}\n' % n for n in range(100))
PACKED = gzip.compress(EVENTS)


@pytest.mark.parametrize(
    "answer",
    [
        reply(PACKED, Content_Encoding="gzip"),
        chunked(PACKED[:50], PACKED[50:], Content_Encoding="gzip"),
        [b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\n", PACKED],
        chunked(*(PACKED[n : n + 1] for n in range(len(PACKED))), Content_Encoding="x-GZIP"),
    ],
)
def test_gzip_arrives_byte_for_byte(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    scripted.replies = [answer]
    day = client.export_events(DAY, directory=tmp_path)
    assert day.paths == (tmp_path / "events_2024-01-15.jsonl.gz",)
    assert day.paths[0].read_bytes() == PACKED
    assert (day.bytes, day.uncompressed_bytes, day.lines) == (len(PACKED), len(EVENTS), 100)
    assert (day.from_date, day.to_date, day.events, day.where) == (DAY, DAY, None, None)
    assert (day.complete, day.attempts) == (True, 1)
    assert day.seconds > 0
    day.delete()
    day.delete()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [
        reply(EVENTS),
        chunked(EVENTS, Content_Encoding="identity"),
        [b"HTTP/1.0 200 OK\r\n\r\n", EVENTS],
    ],
)
def test_plain_text_arrives_byte_for_byte(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    scripted.replies = [answer]
    day = client.export_events(DAY, directory=tmp_path)
    assert day.paths == (tmp_path / "events_2024-01-15.jsonl",)
    assert day.paths[0].read_bytes() == EVENTS
    assert (day.bytes, day.uncompressed_bytes, day.lines) == (len(EVENTS), len(EVENTS), 100)


@pytest.mark.parametrize(
    "answer",
    [
        reply(),
        chunked(),
        reply(Content_Encoding="gzip"),
        reply(b"\n"),
        [b"HTTP/1.0 200 OK\r\n\r\n"],
    ],
)
def test_a_day_without_events(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    scripted.replies = [answer]
    day = client.export_events(DAY, directory=tmp_path)
    assert (day.paths[0].name, day.lines) == ("events_2024-01-15.jsonl", 0)


def test_what_is_requested(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply()]
    events, where = ["Sign up", 'é"'], 'properties["a"] == "b & c"'
    day = client.export_events(
        DAY, date(2024, 1, 17), directory=tmp_path, events=events, where=where
    )
    client.export_events(DAY, directory=tmp_path)
    assert day.paths == (tmp_path / "events_2024-01-15_2024-01-17.jsonl",)
    assert (day.events, day.where) == (tuple(events), where)
    first, second = scripted.requests
    assert (first.method, first.path) == ("GET", "/export")
    assert first.query == {
        "project_id": "7",
        "from_date": "2024-01-15",
        "to_date": "2024-01-17",
        "event": '["Sign up", "\\u00e9\\""]',
        "where": where,
    }
    assert set(second.query) == {"project_id", "from_date", "to_date"}
    assert first.headers["accept-encoding"] == "gzip"
    assert first.headers["authorization"] == "Basic dXNlcjpzM2NyZXQ="


def test_invalid_arguments_send_no_request(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="to_date 2024-01-14 is before from_date 2024-01-15"):
        client.export_events(DAY, date(2024, 1, 14), directory=tmp_path)
    with pytest.raises(ValueError, match="events must be"):
        client.export_events(DAY, directory=tmp_path, events=[])
    with pytest.raises(ValueError, match="events must be"):
        client.export_events(DAY, directory=tmp_path, events="Sign up")
    with pytest.raises(TypeError, match="from_date must be a date"):
        client.export_events(datetime(2024, 1, 15, tzinfo=UTC), directory=tmp_path)
    assert scripted.requests == []


# Incomplete answers


BROKEN: dict[str, Pieces] = {
    "length": reply(PACKED[:-100], length=len(PACKED), Content_Encoding="gzip"),
    "length, plain": reply(EVENTS, length=len(EVENTS) + 1),
    "chunk": chunked(end=b"50\r\n" + PACKED[:20], Content_Encoding="gzip"),
    "no last chunk": chunked(PACKED, end=b"", Content_Encoding="gzip"),
    "no last chunk, plain": chunked(EVENTS, end=b""),
    "no chunk": chunked(EVENTS, end=b"oops\r\n"),
    "gzip": reply(PACKED[:-1], Content_Encoding="gzip"),
    "gzip header": reply(PACKED[:5], Content_Encoding="gzip"),
    "damaged": reply(PACKED[:60] + b"xyz" + PACKED[63:], Content_Encoding="gzip"),
    "line": reply(EVENTS + b"terminated early\n"),
    "line, gzip": reply(
        gzip.compress(EVENTS + b"export terminated early\n"), Content_Encoding="gzip"
    ),
    "line, with a reason": reply(EVENTS + b"export terminated early: internal error"),
    "line of JSON": chunked(EVENTS, b'{"error":"internal error"}\n'),
    "line of HTML, gzip": reply(
        gzip.compress(EVENTS + b"<html>502</html>\n\n"), Content_Encoding="gzip"
    ),
    "line after gzip": reply(PACKED + b"terminated early\n", Content_Encoding="gzip"),
    "half a line": chunked(EVENTS[:-5]),
    "half a line, HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\n", EVENTS[:-5]],
    "no length": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS],
    "half a header, gzip": [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTrans"],
    "half a header": [b"HTTP/1.1 200 OK\r\nContent-"],
}
PAGE = "<html>\n<title>Grüße vom Proxy</title>\n</html>\n \n\n".encode()
NO_EXPORT: dict[str, Pieces] = {
    "JSON": reply(b'{"error":"internal error"}'),
    "JSON, gzip": reply(gzip.compress(b'{\n"error":"internal error"\n}'), Content_Encoding="gzip"),
    "HTML": chunked(PAGE),
    "HTML, gzip": reply(gzip.compress(PAGE), Content_Encoding="gzip"),
    "empty HTML": reply(Content_Type="Text/HTML; charset=utf-8"),
}
NO_ANSWER: dict[str, Pieces] = {"no answer": [], "no http": [b"hello\r\n\r\n"]}


WORTH_ANOTHER_ATTEMPT = BROKEN | NO_EXPORT | NO_ANSWER


@pytest.mark.parametrize("broken", WORTH_ANOTHER_ATTEMPT.values(), ids=WORTH_ANOTHER_ATTEMPT)
def test_broken_then_whole(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    broken: Pieces,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted.replies = [broken, broken, reply(PACKED, Content_Encoding="gzip")]
    day = client.export_events(DAY, directory=tmp_path)
    assert day.paths[0].read_bytes() == PACKED
    assert (day.attempts, len(scripted.requests), day.lines) == (3, 3, 100)
    assert names(tmp_path) == ["events_2024-01-15.jsonl.gz"]
    ours = [record for record in caplog.records if record.name.startswith("mp_pipeline.mixpanel")]
    warnings = [record.message for record in ours if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    for number, warning in enumerate(warnings, 1):
        assert warning.startswith("export of 2024-01-15 failed: ")
        assert f"attempt {number} of 5; trying again in 0.0 s" in warning


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_for_good(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, broken: Pieces
) -> None:
    old = tmp_path / "events_2024-01-15.jsonl.gz"
    old.write_bytes(b"from an earlier run")
    scripted.replies = [broken]
    with pytest.raises(TruncatedExportError) as caught:
        client.export_events(DAY, directory=tmp_path)
    message = str(caught.value)
    # 5 for the day, 2 for its halves, quarters and eighths, and 5 for an hour.
    assert len(scripted.requests) == 5 + 3 * 2 + 5
    assert message.startswith(
        "export of 2024-01-15, 00:00 to 01:00 failed: the answer is incomplete after "
    )
    assert f"(GET {scripted.url}/export, 5 attempts)" in message
    assert message.endswith(TruncatedExportError.advice)
    assert (caught.value.status, caught.value.mixpanel_message) == (200, None)
    assert names(tmp_path) == [old.name]
    assert old.read_bytes() == b"from an earlier run"


@pytest.mark.parametrize("answer", NO_EXPORT.values(), ids=NO_EXPORT)
def test_an_error_with_status_200_is_never_taken_for_events(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    scripted.replies = [answer]
    with pytest.raises(UnexpectedAnswerError) as caught:
        client.export_events(DAY, directory=tmp_path)
    message = str(caught.value)
    assert message.startswith("export of 2024-01-15 failed: the answer has status 200, but is ")
    said = ["Mixpanel says: internal error (", "<title>Grüße vom Proxy</title>", "empty HTML page"]
    assert sum(words in message for words in said) == 1
    assert message.endswith(UnexpectedAnswerError.advice)
    assert len(scripted.requests) == 5
    assert names(tmp_path) == []


def test_how_far_an_answer_came(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(EVENTS[:1234], length=99999)]
    with pytest.raises(TruncatedExportError, match=r"after 1,234 bytes: IncompleteRead.* \(GET"):
        client.export_events(DAY, directory=tmp_path)


def test_the_last_line_of_an_incomplete_export_is_quoted_and_cut(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(EVENTS + b"export terminated early:\n internal\terror\n")]
    with pytest.raises(TruncatedExportError, match=r"not an event: internal error \(GET"):
        client.export_events(DAY, directory=tmp_path)
    scripted.replies = [reply(EVENTS + b"<p>\x1b[2J" * 100_000)]
    with pytest.raises(TruncatedExportError, match="not an event: <p>\ufffd") as caught:
        client.export_events(DAY, directory=tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


LINES = st.lists(
    st.sampled_from(
        [
            EVENT,
            b'{"event":"a","properties":{"x":NaN,"y":"\\ud800\x01"}}\r\n',
            b"\n",
            b" \t\x0b\x0c\r\n",
            b"not JSON\n",
            b'{"error":"internal error"}\n',
            b"terminated early\n",
        ]
    ),
    max_size=5,
)
ENDS = st.sampled_from([b"", EVENT.rstrip(), b"\n\n", b"terminated early", b'{"event":"a","prop'])


def is_complete(text: bytes) -> bool:
    """Whether a text that is made of these lines and ends is a complete export."""
    filled = [line for line in text.split(b"\n") if line.strip(b" \t\r\x0b\x0c")]
    return not filled or filled[-1].rstrip().endswith(b"}}")


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip with a comment": lambda text: gzip_member(text, FCOMMENT | FHCRC),
    "gzip in members": lambda text: gzip_member(text[:30]) + gzip_member(text[30:], FHCRC),
    "gzip and more": lambda text: gzip.compress(text) + b"x",
    "gzip cut off": lambda text: gzip.compress(text)[:-1],
}


@pytest.mark.parametrize("framing", ["length", "chunks", "HTTP/1.0", "length too long", "no end"])
@pytest.mark.parametrize("packing", ["plain", *PACKINGS])
@settings(
    deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lines=LINES, end=ENDS, cuts=st.sets(st.integers(1, 200), max_size=4))
def test_every_way_in_which_a_body_can_end(
    scripted: ScriptedServer,
    tmp_path: Path,
    packing: str,
    framing: str,
    lines: list[bytes],
    end: bytes,
    cuts: set[int],
) -> None:
    text = b"".join(lines) + end
    body = text if packing == "plain" else PACKINGS[packing](text)
    encoding = "identity" if packing == "plain" else "gzip"
    bounds = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    pieces = [body[start:stop] for start, stop in itertools.pairwise(bounds) if stop > start]
    answers: dict[str, Pieces] = {
        "length": reply(body, Content_Encoding=encoding),
        "chunks": chunked(*pieces, Content_Encoding=encoding),
        "HTTP/1.0": [f"HTTP/1.0 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode(), body],
        "length too long": reply(body, length=len(body) + 1, Content_Encoding=encoding),
        "no end": chunked(*pieces, end=b"", Content_Encoding=encoding),
    }
    scripted.replies = [answers[framing]]
    complete = (
        framing in ("length", "chunks", "HTTP/1.0")
        and packing not in ("gzip and more", "gzip cut off")
        and is_complete(text)
    )
    with client_of(scripted, max_attempts=1) as client:
        if complete:
            download = client.export_events(DAY, directory=tmp_path)
            assert download.paths[0].read_bytes() == body
            assert download.lines == sum(
                bool(line.strip(b" \t\r\x0b\x0c")) for line in text.split(b"\n")
            )
            download.delete()
        else:
            with pytest.raises((TruncatedExportError, UnexpectedAnswerError)):
                client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []


def test_silence_in_the_body(scripted: ScriptedServer, tmp_path: Path) -> None:
    head, body = reply(EVENTS)
    assert isinstance(head, bytes)
    assert isinstance(body, bytes)
    scripted.replies = [stall_after(head, body[:10])]
    with (
        client_of(scripted, read_timeout=0.1, max_attempts=2) as client,
        pytest.raises(TruncatedExportError, match=r"timed out.*2 attempts"),
    ):
        client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []


def test_silence_before_the_answer(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.replies = [stall_after()]
    with (
        client_of(scripted, read_timeout=0.1, max_attempts=2) as client,
        pytest.raises(ServerError, match=r"timed out.*2 attempts.*MIXPANEL_REGION"),
    ):
        client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []


def test_unknown_encoding(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    scripted.replies = [reply(EVENTS, Content_Encoding="br")]
    with pytest.raises(MixpanelError, match="another Content-Encoding than gzip"):
        client.export_events(DAY, directory=tmp_path)
    assert len(scripted.requests) == 1
    assert names(tmp_path) == []


# Files


def test_modes(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    scripted.replies = [reply(EVENTS)]
    directory = tmp_path / "a" / "b"
    day = client.export_events(DAY, directory=directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(day.paths[0].stat().st_mode) == 0o600


def test_no_answer_chooses_the_file_name(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(EVENTS, Content_Disposition='attachment; filename="../../evil"')]
    client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == ["events_2024-01-15.jsonl"]


def test_interrupted(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "update", interrupt)
    scripted.replies = [reply(EVENTS)]
    with pytest.raises(KeyboardInterrupt):
        client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []
    assert len(scripted.requests) == 1


def test_a_file_that_cannot_be_written_is_not_tried_again(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(EVENTS)]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        client.export_events(DAY, directory=tmp_path / "file")
    assert len(scripted.requests) == 1


def test_an_unfinished_file_that_cannot_be_deleted_does_not_hide_the_error(
    scripted: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Path, "unlink", refuse_to_delete)
    scripted.replies = [reply(EVENTS + b"terminated early")]
    with (
        client_of(scripted, max_attempts=1) as client,
        pytest.raises(TruncatedExportError, match="not an event: terminated early"),
    ):
        client.export_events(DAY, directory=tmp_path)
    for left in names(tmp_path):
        assert f"cannot delete the unfinished download {tmp_path / left}: " in caplog.text


def test_a_download_that_cannot_be_deleted_fails_nothing(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted.replies = [reply(EVENTS)]
    day = client.export_events(DAY, directory=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse_to_delete)
        day.delete()
    assert f"cannot delete the download {day.paths[0]}: Permission denied" in caplog.text
    day.verify()
    day.delete()
    assert names(tmp_path) == []


def refuse_to_delete(self: Path, missing_ok: bool = False) -> None:
    raise PermissionError(13, "Permission denied", str(self), missing_ok)


def test_two_downloads_of_the_same_day_at_once(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    both_are_here = threading.Barrier(2, timeout=PATIENCE)

    def answer(_: Request) -> Pieces:
        head, body = reply(PACKED, Content_Encoding="gzip")
        assert isinstance(body, bytes)
        yield head
        yield body[:50]
        both_are_here.wait()
        yield body[50:]

    scripted.replies = [answer]
    results = []

    def download() -> None:
        results.append(client.export_events(DAY, directory=tmp_path))

    threads = [threading.Thread(target=download) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.attempts for result in results] == [1, 1]
    assert results[0].paths[0].read_bytes() == PACKED
    assert names(tmp_path) == ["events_2024-01-15.jsonl.gz"]


# Progress and memory


def test_progress(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("mp_pipeline.mixpanel.progress._SECONDS_BETWEEN_LINES", 0)
    caplog.set_level(logging.INFO, "mp_pipeline.mixpanel")
    scripted.replies = [reply(EVENTS)]
    client.export_events(DAY, directory=tmp_path)
    during, done = [record.message for record in caplog.records]
    numbers = r"3,590 bytes, 100 lines, \d+\.\d s, [\d,]+ lines/s"
    assert re.fullmatch(f"export of 2024-01-15: {numbers}", during)
    assert re.fullmatch(f"export of 2024-01-15: done, {numbers}, attempts: 1", done)


MEMORY = """
import resource, sys, tempfile, datetime, pathlib
from mp_pipeline.mixpanel import MixpanelClient
with MixpanelClient("7", "user", "s3cret", export_url=sys.argv[1]) as client, \\
        tempfile.TemporaryDirectory() as directory:
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    day = datetime.date(2024, 1, 15)
    client.export_events(day, directory=pathlib.Path(directory))
    before = peak()
    large = client.export_events(day, directory=pathlib.Path(directory))
    print(large.uncompressed_bytes, peak() - before)
"""


@pytest.mark.parametrize("compressed", [True, False])
def test_bounded_memory(scripted: ScriptedServer, compressed: bool) -> None:
    block = EVENTS * 300
    piece = gzip.compress(block, 1) if compressed else block

    def answer(times: int) -> Reply:
        def play(_: Request) -> Pieces:
            yield chunked(Content_Encoding="gzip" if compressed else "identity")[0]
            for _turn in range(times):
                yield b"%x\r\n%s\r\n" % (len(piece), piece)
            yield b"0\r\n\r\n"

        return play

    times = 200_000_000 // len(block)
    scripted.replies = [answer(1), answer(times)]
    output = subprocess.check_output([sys.executable, "-c", MEMORY, scripted.url], text=True)
    size, growth = output.split()
    assert int(size) == times * len(block)
    assert float(growth) < 20  # MiB
