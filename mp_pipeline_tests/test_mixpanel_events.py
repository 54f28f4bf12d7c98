"""Events: from the wire to a file that is whole, or to nothing at all."""

import gzip
import logging
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import MixpanelClient, MixpanelError, ServerError, TruncatedExportError
from mp_pipeline.mixpanel import client as client_module
from mp_pipeline_tests.loopback import Loopback, Pieces, Request, chunked, reply

DAY = date(2024, 1, 15)
EVENTS = b"".join(b'{"event":"a","properties":{"n":%d}}\n' % n for n in range(100))
PACKED = gzip.compress(EVENTS)


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def client(server: Loopback) -> Iterator[MixpanelClient]:
    with MixpanelClient(
        "7", "user", "s3cret", export_url=server.url, backoff_seconds=0.001, read_timeout=5
    ) as client:
        yield client


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


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
    server: Loopback, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    server.replies = [answer]
    day = client.export_events(DAY, directory=tmp_path)
    assert day.paths == (tmp_path / "events_2024-01-15.jsonl.gz",)
    assert day.paths[0].read_bytes() == PACKED
    assert (day.bytes, day.uncompressed_bytes, day.lines) == (len(PACKED), len(EVENTS), 100)
    assert (day.from_date, day.to_date, day.events, day.where) == (DAY, DAY, None, None)
    assert (day.complete, day.attempts) == (True, 1)
    assert 0 < day.seconds < 5
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
    server: Loopback, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    server.replies = [answer]
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
    server: Loopback, client: MixpanelClient, tmp_path: Path, answer: Pieces
) -> None:
    server.replies = [answer]
    day = client.export_events(DAY, directory=tmp_path)
    assert (day.paths[0].name, day.lines) == ("events_2024-01-15.jsonl", 0)


def test_what_is_asked_for(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply()]
    events, where = ["Sign up", 'é"'], 'properties["a"] == "b & c"'
    day = client.export_events(
        DAY, date(2024, 1, 17), directory=tmp_path, events=events, where=where
    )
    client.export_events(DAY, directory=tmp_path)
    assert day.paths == (tmp_path / "events_2024-01-15_2024-01-17.jsonl",)
    assert (day.events, day.where) == (tuple(events), where)
    first, second = server.requests
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


def test_no_request_without_sense(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="to_date 2024-01-14 is before from_date 2024-01-15"):
        client.export_events(DAY, date(2024, 1, 14), directory=tmp_path)
    with pytest.raises(ValueError, match="events must be"):
        client.export_events(DAY, directory=tmp_path, events=[])
    with pytest.raises(ValueError, match="events must be"):
        client.export_events(DAY, directory=tmp_path, events="Sign up")
    with pytest.raises(TypeError, match="from_date must be a date"):
        client.export_events(datetime(2024, 1, 15, tzinfo=UTC), directory=tmp_path)
    assert server.requests == []


BROKEN = {
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
    "line behind gzip": reply(PACKED + b"terminated early\n", Content_Encoding="gzip"),
    "half a line": chunked(EVENTS[:-5]),
    "half a line, HTTP/1.0": [b"HTTP/1.0 200 OK\r\n\r\n", EVENTS[:-5]],
    "no length": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS],
    "no answer": [],
    "half a header, gzip": [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTrans"],
    "half a header": [b"HTTP/1.1 200 OK\r\nContent-"],
    "no http": [b"hello\r\n\r\n"],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_broken_then_whole(
    server: Loopback,
    client: MixpanelClient,
    tmp_path: Path,
    broken: Pieces,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.replies = [broken, broken, reply(PACKED, Content_Encoding="gzip")]
    day = client.export_events(DAY, directory=tmp_path)
    assert day.paths[0].read_bytes() == PACKED
    assert (day.attempts, len(server.requests), day.lines) == (3, 3, 100)
    assert names(tmp_path) == ["events_2024-01-15.jsonl.gz"]
    ours = [record for record in caplog.records if record.name.startswith("mp_pipeline.mixpanel")]
    warnings = [record.message for record in ours if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    for number, warning in enumerate(warnings, 1):
        assert warning.startswith("export of 2024-01-15 failed: ")
        assert f"attempt {number} of 5; trying again in 0.0 s" in warning


@pytest.mark.parametrize("broken", list(BROKEN.values())[:14], ids=list(BROKEN)[:14])
def test_broken_for_good(
    server: Loopback, client: MixpanelClient, tmp_path: Path, broken: Pieces
) -> None:
    old = tmp_path / "events_2024-01-15.jsonl.gz"
    old.write_bytes(b"from an earlier run")
    server.replies = [broken]
    with pytest.raises(TruncatedExportError) as caught:
        client.export_events(DAY, directory=tmp_path)
    message = str(caught.value)
    assert len(server.requests) == 5
    assert "export of 2024-01-15 failed" in message
    assert f"(GET {server.url}/export, 5 attempts)" in message
    assert " bytes" in message
    assert message.endswith(TruncatedExportError.advice)
    assert (caught.value.status, caught.value.mixpanel_message) == (200, None)
    assert names(tmp_path) == [old.name]
    assert old.read_bytes() == b"from an earlier run"


def test_how_far_it_came(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply(EVENTS[:1234], length=99999)]
    with pytest.raises(TruncatedExportError, match=r"IncompleteRead.*, after 1,234 bytes \("):
        client.export_events(DAY, directory=tmp_path)


def test_silence_in_the_body(server: Loopback, tmp_path: Path) -> None:
    head, body = reply(EVENTS)
    assert isinstance(body, bytes)
    server.replies = [[head, body[:10], 2.0, body[10:]]]
    with (
        MixpanelClient(
            "7",
            "u",
            "s",
            export_url=server.url,
            read_timeout=0.1,
            max_attempts=2,
            backoff_seconds=0,
        ) as client,
        pytest.raises(TruncatedExportError, match=r"timed out.*2 attempts"),
    ):
        client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []


def test_silence_before_the_answer(server: Loopback, tmp_path: Path) -> None:
    server.replies = [[2.0], reply(EVENTS)]
    with MixpanelClient(
        "7", "user", "s3cret", export_url=server.url, read_timeout=0.1, backoff_seconds=0
    ) as client:
        assert client.export_events(DAY, directory=tmp_path).attempts == 2
        server.replies = [[2.0]]
        with pytest.raises(ServerError, match=r"timed out.*MIXPANEL_REGION"):
            client.export_events(DAY, directory=tmp_path)


def test_unknown_encoding(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply(EVENTS, Content_Encoding="br")]
    with pytest.raises(MixpanelError, match="another Content-Encoding than gzip"):
        client.export_events(DAY, directory=tmp_path)
    assert len(server.requests) == 1


def test_modes(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply(EVENTS)]
    directory = tmp_path / "a" / "b"
    day = client.export_events(DAY, directory=directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(day.paths[0].stat().st_mode) == 0o600


def test_no_answer_chooses_the_file_name(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    server.replies = [reply(EVENTS, Content_Disposition='attachment; filename="../../evil"')]
    client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == ["events_2024-01-15.jsonl"]


def test_interrupted(
    server: Loopback, client: MixpanelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        raise KeyboardInterrupt

    monkeypatch.setattr(client_module._Progress, "show", interrupt)
    server.replies = [reply(EVENTS)]
    with pytest.raises(KeyboardInterrupt):
        client.export_events(DAY, directory=tmp_path)
    assert names(tmp_path) == []
    assert len(server.requests) == 1


def test_a_disk_that_fails_is_no_network_trouble(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    server.replies = [reply(EVENTS)]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        client.export_events(DAY, directory=tmp_path / "file")
    assert len(server.requests) == 1


def test_two_downloads_of_the_same_day_at_once(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    both_are_here = threading.Barrier(2, timeout=5)

    def answer(_: Request) -> Pieces:
        head, body = reply(PACKED, Content_Encoding="gzip")
        assert isinstance(body, bytes)
        yield head
        yield body[:50]
        both_are_here.wait()
        yield body[50:]

    server.replies = [answer]
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


def test_progress(
    server: Loopback,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(client_module, "_PROGRESS_SECONDS", 0)
    caplog.set_level(logging.INFO, "mp_pipeline.mixpanel")
    server.replies = [reply(EVENTS)]
    client.export_events(DAY, directory=tmp_path)
    during, done = [record.message for record in caplog.records]
    assert during.startswith("export of 2024-01-15: 3,590 bytes, 100 lines, 0.")
    assert during.endswith(" lines/s")
    assert done.startswith("export of 2024-01-15: done, 3,590 bytes, 100 lines, 0.")
    assert done.endswith("attempts: 1")


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
def test_constant_memory(server: Loopback, compressed: bool) -> None:
    block = EVENTS * 300
    piece = gzip.compress(block, 1) if compressed else block

    def answer(times: int) -> Callable[[Request], Pieces]:
        def play(_: Request) -> Pieces:
            yield chunked(Content_Encoding="gzip" if compressed else "identity")[0]
            for _turn in range(times):
                yield b"%x\r\n%s\r\n" % (len(piece), piece)
            yield b"0\r\n\r\n"

        return play

    times = 200_000_000 // len(block)
    server.replies = [answer(1), answer(times)]
    output = subprocess.check_output([sys.executable, "-c", MEMORY, server.url], text=True)
    size, growth = output.split()
    assert int(size) == times * len(block)
    assert float(growth) < 20  # MiB
