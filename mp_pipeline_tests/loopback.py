"""A scripted HTTP server on the loopback interface: it answers as told, broken answers included."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]


Pieces = Iterable[bytes | float]
"""What to send, raw; a number is a pause in seconds. Behind the last one, the connection closes."""

Reply = Pieces | Callable[[Request], Pieces]


def reply(
    body: bytes = b"", status: int = 200, *, length: int | None = None, **headers: str
) -> list[bytes | float]:
    """An answer with a Content-Length, which may lie. `retry_after="1"` sets Retry-After."""
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Length: {len(body) if length is None else length}",
        "Connection: close",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n", body]


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n", **headers: str) -> list[bytes | float]:
    """An answer in chunks; an `end` other than the default breaks it."""
    lines = [
        "HTTP/1.1 200 OK",
        "Transfer-Encoding: chunked",
        "Connection: close",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return ["\r\n".join(lines).encode() + b"\r\n\r\n", *chunks, end]


@dataclass
class Loopback:
    """Plays its replies in turn, the last one again and again, and keeps the requests."""

    replies: list[Reply] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        loopback = self
        turns = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                request = self._read()
                if request is None:
                    return
                with turns:
                    turn = min(len(loopback.requests), len(loopback.replies) - 1)
                    loopback.requests.append(request)
                script = loopback.replies[turn]
                for piece in script(request) if callable(script) else script:
                    try:
                        if isinstance(piece, bytes):
                            self.wfile.write(piece)
                        else:
                            time.sleep(piece)
                    except OSError:
                        return  # the client has hung up

            def _read(self) -> Request | None:
                first = self.rfile.readline().decode()
                if not first:
                    return None
                method, target, _ = first.split()
                headers = {}
                while line := self.rfile.readline().decode().strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                form = self.rfile.read(int(headers.get("content-length", 0))).decode()
                parts = urlsplit(target)
                return Request(method, parts.path, _flat(parts.query), headers, _flat(form))

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _flat(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items()}
