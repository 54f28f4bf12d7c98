"""What the tests of the Mixpanel client share: a scripted server and its client, and waiting."""

import logging
import threading
import zlib
from collections.abc import Iterator
from datetime import date
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from mp_pipeline.mixpanel import MixpanelClient
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline_tests.support.servers import Pieces, Reply, Request, ScriptedServer

DAY = date(2024, 1, 15)
EVENT = b'{"event":"a","properties":{}}\n'
PATIENCE = 60.0
"""Seconds after which a test gives up. Only a test that hangs takes so long."""

FTEXT, FHCRC, FEXTRA, FNAME, FCOMMENT = 1, 2, 4, 8, 16


def client_of(server: ScriptedServer, **options: Any) -> MixpanelClient:
    """Return a client of a scripted server, which does not wait long between attempts."""
    defaults: dict[str, Any] = {
        "project_id": "7",
        "username": "user",
        "secret": "s3cret",
        "export_url": server.url,
        "query_url": server.url,
        "read_timeout": PATIENCE,
        "backoff_seconds": 0.001,
    }
    return MixpanelClient(**(defaults | options))


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A running server; the test says what it answers."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[MixpanelClient]:
    """A client of the scripted server."""
    with client_of(scripted) as client:
        yield client


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients wait between attempts, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(Stop, "wait", lambda _, each: seconds.append(each))
    return seconds


class Log:
    """The messages of the client's log, for a test that waits for one."""

    def __init__(self) -> None:
        self._records: SimpleQueue[logging.LogRecord] = SimpleQueue()
        self.handler = QueueHandler(self._records)

    def wait_for(self, text: str) -> str:
        """Return the next message that contains a text."""
        while True:
            message = self._records.get(timeout=PATIENCE).getMessage()
            if text in message:
                return message


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """The messages of the client's log, from INFO on."""
    caplog.set_level(logging.INFO, "mp_pipeline.mixpanel")
    log, logger = Log(), logging.getLogger("mp_pipeline.mixpanel")
    logger.addHandler(log.handler)
    yield log
    logger.removeHandler(log.handler)


def stall_after(*pieces: bytes) -> Reply:
    """Return a reply that stops after these pieces and leaves the connection open."""

    def play(_: Request) -> Pieces:
        yield from pieces
        threading.Event().wait()  # in a daemon thread of the server

    return play


def join_downloads() -> None:
    """Wait for the threads that download to end."""
    for thread in threading.enumerate():
        if thread.name == "mp_pipeline download":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def names(directory: Path) -> list[str]:
    """Return the names of the files in a directory."""
    return sorted(path.name for path in directory.iterdir())


def gzip_member(text: bytes, flags: int = 0) -> bytes:
    """Return a gzip member whose header has the fields that the flags announce (RFC 1952)."""
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\xff"
    if flags & FEXTRA:
        header += b"\x08\0AB\x04\0\x1f\x8b\n\0"  # a subfield that looks like a gzip header
    if flags & FNAME:
        header += "größe.jsonl\0".encode("latin-1")
    if flags & FCOMMENT:
        header += b"a comment,\nin two lines\0"
    if flags & FHCRC:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    trailer = zlib.crc32(text).to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return header + packer.compress(text) + packer.flush() + trailer
