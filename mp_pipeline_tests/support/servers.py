"""Servers on loopback: the sample project, with faults, and a server that follows a script."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest

from mp_pipeline.sample import SampleServer, events_of_day
from mp_pipeline_tests.faults import FaultyServer

EVENTS_PER_DAY = 100
"""Events per day of the tests' servers: enough for gzip and duplicates, and quick to generate."""


# The sample project


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A running sample server with small days, no requests and no faults yet."""
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


def credentials(server: SampleServer) -> dict[str, str]:
    """Return the environment variables for a server's project."""
    return {
        "MIXPANEL_PROJECT_ID": server.project_id,
        "MIXPANEL_SERVICE_ACCOUNT_USERNAME": server.username,
        "MIXPANEL_SERVICE_ACCOUNT_SECRET": server.secret,
        "MIXPANEL_EXPORT_URL": server.export_url,
        "MIXPANEL_QUERY_URL": server.query_url,
    }


def insert_ids_of(day: date) -> set[str]:
    """Return the insert ids of a day on the tests' servers."""
    events = events_of_day(day, events_per_day=EVENTS_PER_DAY)
    return {each["properties"]["$insert_id"] for each in events}


def lines_of(day: date) -> int:
    """Return the number of lines that the tests' servers send for a day, with duplicates."""
    return sum(1 for _ in events_of_day(day, events_per_day=EVENTS_PER_DAY))


# A scripted server


@dataclass(frozen=True)
class Request:
    """A request to a `ScriptedServer`. The names of its headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]


Pieces = Iterable[bytes | float]
"""The bytes to send. A number is a pause in seconds. After the last one, the connection closes."""

Reply = Pieces | Callable[[Request], Pieces]


def reply(
    body: bytes = b"", status: int = 200, *, length: int | None = None, **headers: str
) -> list[bytes | float]:
    """Return a response with a Content-Length.

    Args:
        body: The body.
        status: The HTTP status.
        length: A Content-Length that differs from the length of the body.
        headers: More headers: `retry_after="1"` sets Retry-After.
    """
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Length: {len(body) if length is None else length}",
        *_header_lines(headers),
    ]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n", body]


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> list[bytes | float]:
    """Return a response in chunks. An `end` other than the default breaks it."""
    lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *_header_lines(headers)]
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n", *chunks, end]


class ScriptedServer:
    """Sends its replies one after another, repeats the last one, and records the requests.

    Args:
        replies: The replies. They may be changed while the server runs.

    Attributes:
        replies: The replies.
        requests: The requests, in the order in which they arrived.
    """

    def __init__(self, replies: Iterable[Reply] = ()) -> None:
        self.replies: list[Reply] = list(replies)
        self.requests: list[Request] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._tcp = _TCPServer(self)
        self._thread = threading.Thread(
            target=self._tcp.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tcp.shutdown()
        self._tcp.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._tcp.server_address[1]

    @property
    def url(self) -> str:
        """The server's URL, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def respond(self, request: Request) -> Pieces:
        """Record a request, and return the reply to it."""
        with self._lock:
            number = min(len(self.requests), len(self.replies) - 1)
            self.requests.append(request)
        script = self.replies[number]
        return script(request) if callable(script) else script


class _TCPServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, scripted: ScriptedServer) -> None:
        self.scripted = scripted
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)


class _ScriptedHandler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _TCPServer

    def handle(self) -> None:
        request = self._read_request()
        if request is None:
            return
        for piece in self.server.scripted.respond(request):
            if not isinstance(piece, bytes):
                time.sleep(piece)
                continue
            try:
                self.wfile.write(piece)
            except OSError:  # the client has closed the connection
                return

    def _read_request(self) -> Request | None:
        first = self.rfile.readline().decode()
        if not first:
            return None
        method, target, _ = first.split()
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        form = self.rfile.read(length).decode(errors="replace")  # a file is not text
        parts = urlsplit(target)
        return Request(method, parts.path, _parse_form(parts.query), headers, _parse_form(form))


def unused_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _header_lines(headers: dict[str, str]) -> list[str]:
    others = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ["Connection: close", *others]


def _parse_form(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
