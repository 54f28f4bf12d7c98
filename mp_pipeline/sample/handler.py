"""The HTTP side of the sample server: routes, authorization, compression and framing."""

import base64
import hmac
import itertools
import json
import re
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mp_pipeline.sample.errors import ApiError
from mp_pipeline.sample.http_server import HTTPServer
from mp_pipeline.sample.limits import RateLimit

if TYPE_CHECKING:
    from mp_pipeline.sample.server import SampleServer

MIN_GZIP_BYTES = 1400
"""Smaller bodies are sent uncompressed."""

MAX_FORM_BYTES = 10_000_000

_APP_PROJECT = re.compile("^/api/app/projects/([^/]+)")

_Endpoint = Callable[[Mapping[str, str]], Iterator[bytes]]


@dataclass(frozen=True)
class Request:
    """A request that the server has answered, recorded just before its response is sent.

    Attributes:
        method: `GET` or `POST`.
        path: The path without the query string.
        query: The parameters in the query string.
        form: The form fields in the request body.
        status: The HTTP status of the response.
        has_authorization: Whether the request had an `Authorization` header. Its value is not
            recorded.
    """

    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    status: int
    has_authorization: bool


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection.

    To change how a successful response is sent, override `send_body` in a subclass and set
    `SampleServer.handler_class` to it.

    Args:
        sample: The sample server that the client is connected to.
        request: The connection.
        client_address: The client's host and port.
        server: The HTTP server of the sample server.

    Attributes:
        sample: The sample server that the client is connected to.
        route: The path of the current request, without the query string.
        query: The parameters in its query string.
        form: The form fields in its body.
    """

    protocol_version = "HTTP/1.1"
    server_version = "SampleMixpanel"
    sys_version = ""
    disable_nagle_algorithm = True

    _entered: RateLimit | None = None  # the rate limit that counts the current request

    def __init__(
        self,
        sample: "SampleServer",
        request: socket.socket,
        client_address: tuple[str, int],
        server: HTTPServer,
    ) -> None:
        self.sample = sample
        super().__init__(request, client_address, server)  # answers the requests

    def do_GET(self) -> None:
        """Answer a GET request."""
        self._answer()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log the request to stderr if the server is verbose."""
        if self.sample.verbose:
            super().log_message(format, *args)

    def send_body(self, pieces: Iterator[bytes]) -> None:
        """Send a successful response, each piece as soon as it is generated."""
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None and len(first) < MIN_GZIP_BYTES:
            self.send_whole(200, first, {"Content-Type": self.content_type()})
            return
        pieces = itertools.chain([first], [] if second is None else [second], pieces)
        headers = {"Content-Type": self.content_type(), "Transfer-Encoding": "chunked"}
        if self.accepts_gzip():
            headers["Content-Encoding"] = "gzip"
            pieces = compress(pieces)
        self.send_head(200, headers)
        for piece in pieces:
            self.send_chunk(piece)
        # Before the last chunk: a client that has received it may send its next request at once.
        self.leave_limit()
        self.send_chunk(b"")

    def send_whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a response whose body is complete in memory."""
        self.leave_limit()
        self.send_head(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the request, then send the status line and the headers."""
        self.sample.requests.append(
            Request(
                method=self.command,
                path=self.route,
                query=self.query,
                form=self.form,
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

    def send_chunk(self, piece: bytes) -> None:
        """Send one chunk of a chunked body. An empty chunk ends the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def content_type(self) -> str:
        """Return the content type of a successful response to the current request."""
        return "text/plain; charset=utf-8" if self.route.endswith("/export") else "application/json"

    def accepts_gzip(self) -> bool:
        """Return whether the client accepts a compressed body."""
        for coding in self.headers.get("Accept-Encoding", "").lower().split(","):
            name, _, weight = coding.partition(";")
            if name.strip() in ("gzip", "*"):
                return weight.replace(" ", "") not in ("q=0", "q=0.0")
        return False

    def leave_limit(self) -> None:
        """Tell the rate limit that the request has ended. Further calls do nothing."""
        if self._entered is not None:
            self._entered.leave()
            self._entered = None

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self.route = url.path
        self.query = dict(parse_qsl(url.query, keep_blank_values=True))
        self.form: dict[str, str] = {}
        try:
            self._read_form()
            endpoint, parameters, limit = self._find_endpoint()
            self._check_credentials()
            # A page after the first belongs to a query that has been counted.
            limit.enter(counted=self.form.get("page", "0") in ("", "0"))
            self._entered = limit
            self.send_body(endpoint(parameters))
        except ApiError as error:
            self._send_error(error)
        finally:
            self.leave_limit()

    def _find_endpoint(
        self,
    ) -> tuple[_Endpoint, Mapping[str, str], RateLimit]:
        """Return the method that answers the request, its parameters, and its rate limit."""
        sample, project = self.sample, self.sample.project
        routes: dict[str, tuple[str, _Endpoint, RateLimit]] = {
            "/api/2.0/export": ("GET", project.export, sample.export_limit),
            "/api/query/engage": ("POST", project.engage, sample.query_limit),
            "/api/query/events": ("GET", project.event_counts, sample.query_limit),
            "/api/query/events/names": ("GET", project.event_names, sample.query_limit),
            "/api/query/cohorts/list": ("POST", project.cohorts, sample.query_limit),
            "/api/app/project/data-groups": ("GET", project.data_groups, sample.app_limit),
            "/api/app/project/annotations": ("GET", project.annotations, sample.app_limit),
            "/api/app/project/schemas": ("GET", project.schemas, sample.app_limit),
        }
        route = _APP_PROJECT.sub("/api/app/project", self.route)
        if route not in routes:
            raise ApiError(404, f"{self.route} does not exist")
        method, endpoint, limit = routes[route]
        if self.command != method:
            raise ApiError(405, f"{self.command} is not allowed for {self.route}")
        return endpoint, self.query if method == "GET" else self.form, limit

    def _read_form(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True  # where the next request starts is unknown
            raise ApiError(411, "the request needs a Content-Length header")
        if int(length) > MAX_FORM_BYTES:
            self.close_connection = True
            raise ApiError(413, f"the request body is larger than {MAX_FORM_BYTES} bytes")
        body = self.rfile.read(int(length)).decode(errors="replace")
        self.form = dict(parse_qsl(body, keep_blank_values=True))

    def _check_credentials(self) -> None:
        account = f"{self.sample.username}:{self.sample.secret}".encode()
        expected = b"Basic " + base64.b64encode(account)
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, expected):
            raise ApiError(401, "Invalid service account credentials")
        in_path = _APP_PROJECT.match(self.route)
        project_id = in_path[1] if in_path else self.query.get("project_id", "")
        if not project_id:
            raise ApiError(400, "project_id is required with a service account")
        if project_id != self.sample.project_id:
            raise ApiError(400, f"the service account has no access to project_id {project_id}")

    def _send_error(self, error: ApiError) -> None:
        body = {"request": self.path, "error": error.message}
        headers = {"Content-Type": "application/json", **error.headers}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="sample"'
        self.send_whole(error.status, json.dumps(body).encode(), headers)


def compress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a gzip stream of the pieces: compressed fast, and the same bytes for the same text."""
    compressor = zlib.compressobj(level=1, wbits=31)
    for piece in pieces:
        if compressed := compressor.compress(piece):
            yield compressed
    yield compressor.flush()
