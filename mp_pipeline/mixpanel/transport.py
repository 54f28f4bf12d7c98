"""One HTTP request and its answer."""

import email.utils
import math
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from mp_pipeline.mixpanel.errors import (
    IncompleteBodyError,
    MixpanelError,
    ServerError,
    UnreachableError,
)
from mp_pipeline.mixpanel.lenient import error_message
from mp_pipeline.mixpanel.quotas import parse_quotas, parse_requests_left
from mp_pipeline.mixpanel.stop import Stop

_CHUNK_BYTES = 1 << 18
_MESSAGE_BYTES = 1 << 16
_CONNECTION_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
)

_NEVER_OPENED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ssl.SSLCertVerificationError,
)


@dataclass(frozen=True)
class Request:
    """A request.

    Attributes:
        description: What the request is for, in messages: "export of 2024-01-15".
        method: GET or POST.
        url: The URL without a query string.
        params: The parameters of the query string.
        form: The form fields of the body.
    """

    description: str
    method: str
    url: str
    params: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)


class Answer:
    """An answer whose body has not been read yet.

    Attributes:
        status: The HTTP status.
        encoding: The Content-Encoding in lower case; empty for none.
        is_html: Whether the Content-Type is that of an HTML page.
        expected_bytes: The size of the body as transferred; 0 if the answer does not tell.
        delimited: Whether the answer tells where its body ends: by a length, by chunks, or, in
            HTTP/1.0, by closing the connection. If it does not, a broken connection looks like the
            end, even one that breaks within the headers.
        retry_after: The seconds to wait, as Retry-After says or, with status 429, RateLimit; None
            if neither does.
        quotas: The rate limits that the answer states.
        requests_left: The requests that they still allow; None if the answer does not say.
        redirected_to: The host that answered, if the request was redirected; otherwise None.
        received: The number of bytes that `chunks` has yielded so far.
    """

    def __init__(self, response: requests.Response, stop: Stop) -> None:
        body, encoding = response.raw, response.headers.get("Content-Encoding", "").strip().lower()
        self.status = response.status_code
        self.encoding = "" if encoding == "identity" else encoding
        content_type = response.headers.get("Content-Type", "").partition(";")[0]
        self.is_html = content_type.strip().lower() == "text/html"
        self.expected_bytes: int = body.length_remaining or 0
        self.delimited = body.chunked or body.length_remaining is not None or body.version == 10
        self.quotas = parse_quotas(response.headers.get("RateLimit-Policy"))
        self.requests_left, wait = parse_requests_left(response.headers.get("RateLimit"))
        self.retry_after = _parse_retry_after(response.headers.get("Retry-After"))
        if self.retry_after is None and self.status == 429 and wait is not None:
            self.retry_after = float(wait)
        self.redirected_to = str(urlsplit(response.url).hostname) if response.history else None
        self.received = 0
        self._body = body
        self._stop = stop

    def chunks(self, *, decode: bool = False) -> Iterator[bytes]:
        """Yield the body piece by piece.

        Args:
            decode: Whether to decompress it. Without, the pieces are as transferred.

        Raises:
            IncompleteBodyError: The body broke off or stalled before the end that its
                Content-Length or its last chunk tells.
            MixpanelError: The request was stopped.
        """
        try:
            for chunk in self._body.stream(_CHUNK_BYTES, decode_content=decode):
                self.received += len(chunk)
                yield chunk
        except urllib3.exceptions.HTTPError as error:
            raise IncompleteBodyError(_describe(error)) from None
        self._stop.check()  # a body that was cut off may look complete

    def message(self) -> str:
        """Return the server's message about an error: `error` of a JSON body, or its text.

        Only the beginning of a long body is read. Empty if it cannot be read.
        """
        try:
            data = self._body.read(_MESSAGE_BYTES, decode_content=True)
        except urllib3.exceptions.HTTPError:
            return ""
        return error_message(data)


class Transport:
    """Sends requests with HTTP Basic authentication. Threads may share it.

    They share only the connection pool of urllib3, which is made for that.

    Args:
        username: The user name.
        secret: The password.
        connect_timeout: Seconds until a connection must be open.
        read_timeout: Seconds that the server may stay silent, before and within an answer.
    """

    def __init__(
        self, username: str, secret: str, *, connect_timeout: float, read_timeout: float
    ) -> None:
        # As bytes: requests would encode text as Latin-1.
        self._auth = HTTPBasicAuth(username.encode(), secret.encode())
        self._timeouts = (connect_timeout, read_timeout)
        self._adapter = HTTPAdapter()

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    @contextmanager
    def send(self, request: Request, stop: Stop) -> Iterator[Answer]:
        """Send a request. The block reads the answer, whatever its status.

        Args:
            request: The request.
            stop: Ends the request from another thread.

        Raises:
            UnreachableError: No connection to the server could be opened.
            ServerError: The server does not respond.
            MixpanelError: The request cannot be sent, or was stopped.
        """
        stop.check()
        session = _Session()
        session.mount("https://", self._adapter)
        session.mount("http://", self._adapter)
        try:
            response = session.request(
                request.method,
                request.url,
                params=dict(request.params),
                data=dict(request.form) or None,
                headers={"Accept-Encoding": "gzip", "User-Agent": "mp-pipeline"},
                auth=self._auth,
                timeout=self._timeouts,
                stream=True,
            )
        except _CONNECTION_ERRORS as error:
            cause = _innermost(error)
            kind = UnreachableError if isinstance(cause, _NEVER_OPENED) else ServerError
            raise kind(_describe(error)) from None
        except requests.RequestException as error:
            raise MixpanelError(_describe(error)) from None
        with response, stop.reading(response.raw):
            yield Answer(response, stop)


class _Session(requests.Session):
    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """On a redirect, keep the credentials for the same host, and take none from netrc."""
        before, after = str(response.request.url), str(prepared_request.url)
        # The stubs of requests leave this method without types.
        if self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


def _describe(error: Exception) -> str:
    """Describe the innermost error. The errors around it repeat the URL with its query string."""
    cause = _innermost(error)
    return f"{type(cause).__name__}: {cause}"


def _innermost(error: Exception) -> Exception:
    cause = error
    while isinstance(inner := getattr(cause, "reason", (cause.args or [None])[-1]), Exception):
        cause = inner
    return cause


def _parse_retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or an HTTP date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
