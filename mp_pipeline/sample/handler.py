"""HTTP around the sample project: authorization, framing, compression, faults."""

import base64
import hmac
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mp_pipeline.sample.errors import ApiError
from mp_pipeline.sample.faults import Fault, gzip_compressor
from mp_pipeline.sample.limits import RateLimit

if TYPE_CHECKING:
    from mp_pipeline.sample.server import SampleServer, _HTTPServer

GZIP_FROM_BYTES = 1400
"""Smaller bodies are sent as they are."""

MAX_FORM_BYTES = 10_000_000


@dataclass(frozen=True)
class Request:
    """A request that the server has answered, recorded as its answer began.

    Attributes:
        method: `GET` or `POST`.
        path: The path without the query string.
        query: The parameters in the query string.
        form: The fields of the form in the body.
        status: The HTTP status of the answer.
        has_authorization: Whether an `Authorization` header was there; never what it said.
    """

    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    status: int
    has_authorization: bool


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "SampleMixpanel"
    sys_version = ""
    disable_nagle_algorithm = True
    server: "_HTTPServer"

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log to stderr if the server is verbose."""
        if self._sample.verbose:
            super().log_message(format, *args)

    @property
    def _sample(self) -> "SampleServer":
        return self.server.sample

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._route = url.path
        self._query = dict(parse_qsl(url.query, keep_blank_values=True))
        self._form: dict[str, str] = {}
        self._running: RateLimit | None = None
        try:
            self._read_form()
            endpoint, parameters, limit = self._endpoint()
            self._authorize()
            limit.enter()
            self._running = limit
            body = endpoint(parameters)
            fault = self._sample.take_fault(self._route, self._query)
            if fault is None:
                self._send(body)
            else:
                self._send_faulty(fault, body)
        except ApiError as error:
            self._send_error(error)
        finally:
            self._leave()

    def _endpoint(
        self,
    ) -> tuple[Callable[[Mapping[str, str]], Iterator[bytes]], Mapping[str, str], RateLimit]:
        """Find what answers the request, with the parameters and the limit that apply to it."""
        sample = self._sample
        match self.command, self._route:
            case "GET", "/api/2.0/export":
                return sample.project.export, self._query, sample.export_limit
            case "POST", "/api/query/engage":
                return sample.project.engage, self._form, sample.query_limit
            case "GET", "/api/query/events":
                return sample.project.event_counts, self._query, sample.query_limit
            case _, "/api/2.0/export" | "/api/query/engage" | "/api/query/events":
                raise ApiError(405, f"{self.command} is not allowed here")
            case _:
                raise ApiError(404, f"there is nothing at {self._route}")

    def _read_form(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True  # where the next request begins is unknown
            raise ApiError(411, "a request needs a Content-Length")
        if int(length) > MAX_FORM_BYTES:
            self.close_connection = True
            raise ApiError(413, f"a form may have {MAX_FORM_BYTES} bytes")
        body = self.rfile.read(int(length)).decode(errors="replace")
        self._form = dict(parse_qsl(body, keep_blank_values=True))

    def _authorize(self) -> None:
        account = f"{self._sample.username}:{self._sample.secret}".encode()
        expected = b"Basic " + base64.b64encode(account)
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise ApiError(401, "Invalid service account credentials")
        project_id = self._query.get("project_id", "")
        if not project_id:
            raise ApiError(400, "project_id is required with a service account")
        if project_id != self._sample.project_id:
            raise ApiError(400, f"the service account has no access to project_id {project_id}")

    def _send(self, pieces: Iterator[bytes]) -> None:
        """Send a right answer, piece by piece as it is made."""
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None and len(first) < GZIP_FROM_BYTES:
            self._send_whole(200, first, {"Content-Type": self._content_type()})
            return
        pieces = itertools.chain([first], [] if second is None else [second], pieces)
        headers = {"Content-Type": self._content_type(), "Transfer-Encoding": "chunked"}
        if self._accepts_gzip():
            headers["Content-Encoding"] = "gzip"
            pieces = _compressed(pieces)
        self._send_head(200, headers)
        for piece in pieces:
            self._send_chunk(piece)
        # Before the end: a client that has seen it may come back at once.
        self._leave()
        self._send_chunk(b"")

    def _send_faulty(self, fault: Fault, pieces: Iterator[bytes]) -> None:
        if fault.kind == "status":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            self._send_whole(fault.status, fault.body, headers)
            return
        if fault.kind == "redirect":
            self._send_whole(302, b"", {"Location": fault.location})
            return
        headers = {"Content-Type": self._content_type()}
        if fault.kind == "stall":
            self._send_head(200, {**headers, "Transfer-Encoding": "chunked"})
            self._sample.stopping.wait(fault.seconds)
            self.close_connection = True
            return
        body = fault.spoil_text(b"".join(pieces))
        worth_it = len(body) >= GZIP_FROM_BYTES and fault.kind != "half_line"
        if fault.needs_gzip or (worth_it and self._accepts_gzip()):
            headers["Content-Encoding"] = "gzip"
            body = fault.spoil_body(b"".join(_compressed([body])))
        match fault.kind:
            case "dropped":
                self._send_head(200, {**headers, "Transfer-Encoding": "chunked"})
                if sent := body[: fault.cut(body)]:  # an empty chunk would be the end
                    self._send_chunk(sent)
                self.close_connection = True
            case "short_body":
                self._send_head(200, {**headers, "Content-Length": str(len(body))})
                self.wfile.write(body[: fault.cut(body)])
                self.close_connection = True
            case "slow":
                self._send_head(200, {**headers, "Content-Length": str(len(body))})
                self._send_slowly(body, fault)
            case _:
                self._send_whole(200, body, headers)

    def _send_slowly(self, body: bytes, fault: Fault) -> None:
        size = max(1, -(-len(body) // 10) if fault.after_bytes is None else fault.after_bytes)
        for begin in range(0, len(body), size):
            if self._sample.stopping.wait(fault.seconds):
                self.close_connection = True
                return
            if begin + size >= len(body):
                self._leave()
            self.wfile.write(body[begin : begin + size])

    def _send_error(self, error: ApiError) -> None:
        answer = {"request": self.path, "error": error.message}
        headers = {"Content-Type": "application/json"}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="sample"'
        self._send_whole(error.status, json.dumps(answer).encode(), headers)

    def _send_whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._leave()
        self._send_head(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _send_head(self, status: int, headers: Mapping[str, str]) -> None:
        self._sample.requests.append(
            Request(
                method=self.command,
                path=self._route,
                query=self._query,
                form=self._form,
                status=status,
                has_authorization="Authorization" in self.headers,
            )
        )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send_chunk(self, piece: bytes) -> None:
        """Send a piece in chunked transfer encoding; an empty one is the end of the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _content_type(self) -> str:
        return (
            "text/plain; charset=utf-8" if self._route.endswith("/export") else "application/json"
        )

    def _accepts_gzip(self) -> bool:
        for coding in self.headers.get("Accept-Encoding", "").lower().split(","):
            name, _, weight = coding.partition(";")
            if name.strip() in ("gzip", "*"):
                return weight.replace(" ", "") not in ("q=0", "q=0.0")
        return False

    def _leave(self) -> None:
        """Tell the rate limit, once, that the query has ended."""
        if self._running is not None:
            self._running.leave()
            self._running = None


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compressor = gzip_compressor()
    for piece in pieces:
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()
