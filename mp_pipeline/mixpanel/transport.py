"""Requests to Mixpanel: authentication, retries, and errors in words that help.

One `Transport` serves all calls of a client. `call` is the only way out to the network.
"""

import base64
import email.utils
import html
import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import quote, quote_plus, urlsplit

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from mp_pipeline.mixpanel.body import IncompleteBodyError
from mp_pipeline.mixpanel.errors import (
    AuthenticationError,
    BadRequestError,
    MixpanelError,
    PlanError,
    RateLimitError,
    ServerError,
    TruncatedExportError,
)
from mp_pipeline.mixpanel.rate_limits import RateLimiter, TooLongError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CHUNK = 1 << 18  # bytes to read at once
_MAX_WORDS = 500  # characters of Mixpanel's own words in an error
_MAX_WAIT = 60.0  # seconds between attempts, unless Mixpanel asks for more
_ADVICE = {  # for what Mixpanel says, if the kind of error tells too little
    "later than today": (
        "That day has not begun in the project's time zone: export it once it has."
    ),
    "project id for cluster": (
        "The project is kept in another region: set MIXPANEL_REGION to us, eu or in, as its "
        "settings in Mixpanel say under Data Residency, and check MIXPANEL_PROJECT_ID."
    ),
}
_NOT_AUTHENTICATED = ("unable to authenticate", "project id for cluster")
_PASSING = (TruncatedExportError, RateLimitError, ServerError)  # worth another attempt
_CONNECTION_TROUBLE = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
    urllib3.exceptions.HTTPError,
)


@dataclass(frozen=True)
class Call:
    """One request, as often as it takes.

    Attributes:
        what: What it gets, for messages: "export of 2024-01-15".
        method: GET or POST.
        url: Without its query.
        params: The query string's parameters.
        form: The form fields of the body.
        rate_limits: What is left of the requests that Mixpanel allows; None for no limit.
    """

    what: str
    method: str
    url: str
    params: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)
    rate_limits: RateLimiter | None = None


class Stop:
    """Ends calls that are under way in other threads: waits and reads, and all later attempts."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._responses: set[requests.Response] = set()

    def set(self) -> None:
        """Stop them. What one is about to return is thrown away."""
        with self._lock:
            self.event.set()
            for response in self._responses:
                with suppress(ValueError, RuntimeError):  # it has just come to its end
                    response.raw.shutdown()

    def check(self) -> None:
        """End an attempt that is to be stopped.

        Raises:
            Failure: One that is not tried again.
        """
        if self.event.is_set():
            raise Failure(MixpanelError, "it was stopped")

    @contextmanager
    def reading(self, response: requests.Response) -> Iterator[None]:
        """Let the response be cut off while the ``with`` block reads it."""
        with self._lock:
            self.check()
            self._responses.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.discard(response)


class Answer:
    """A response with status 200 whose body is yet to be read.

    Attributes:
        received: The bytes of the body that `chunks` has given out so far.
        expected_bytes: The size of the body as transferred, 0 if the answer does not say.
        delimited: Whether the answer says where its body ends: by its length, by chunks, or, in
            HTTP/1.0, by hanging up. Without, a broken connection looks like the end; even one that
            breaks within the headers.
    """

    def __init__(self, response: requests.Response, stop: Stop) -> None:
        self.received = 0
        self._stop = stop
        body = response.raw
        self.delimited = body.chunked or body.length_remaining is not None or body.version == 10
        self.expected_bytes: int = body.length_remaining or 0
        self._response = response

    @property
    def encoding(self) -> str:
        """The Content-Encoding, in lower case; empty for none."""
        encoding = self._response.headers.get("Content-Encoding", "").strip().lower()
        return "" if encoding == "identity" else encoding

    def chunks(self, *, decode: bool = False) -> Iterator[bytes]:
        """Read the body bit by bit: as transferred, or decompressed with `decode`.

        Raises:
            urllib3.exceptions.HTTPError: It broke off or stalled before the end that its
                Content-Length or its last chunk tells.
        """
        for chunk in self._response.raw.stream(_CHUNK, decode_content=decode):
            self.received += len(chunk)
            yield chunk
        self._stop.check()  # a body that was cut off may look whole


class Failure(Exception):  # noqa: N818 - it tells of one attempt, and never leaves this package
    """Why one attempt failed; the last one's becomes the public error."""

    def __init__(
        self,
        error: type[MixpanelError],
        reason: str,
        *,
        status: int | None = None,
        words: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.error = error
        self.reason = reason
        self.status = status
        self.words = words
        self.retry_after = retry_after


class _Session(requests.Session):
    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """On a redirect, keep the credentials for the same host, and take none from netrc."""
        before, after = str(response.request.url), str(prepared_request.url)
        # The stubs of requests leave this method without types.
        if self.should_strip_auth(before, after):  # type: ignore[no-untyped-call]
            prepared_request.headers.pop("Authorization", None)


class Transport:
    """Sends requests with HTTP Basic authentication, and again when that may help.

    Its threads share only urllib3's connection pool, which is made for that.
    """

    def __init__(
        self,
        username: str,
        secret: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        max_attempts: int,
        backoff_seconds: float,
        max_retry_after_seconds: float,
        max_rate_limit_wait_seconds: float | None,
    ) -> None:
        # As bytes: requests would encode them as Latin-1.
        self._auth = HTTPBasicAuth(username.encode(), secret.encode())
        self._timeouts = (connect_timeout, read_timeout)
        self._max_attempts = max_attempts
        self._max_retry_after = max_retry_after_seconds
        self._max_rate_limit_wait = max_rate_limit_wait_seconds
        self._backoff = tenacity.wait_exponential(
            multiplier=backoff_seconds
        ) + tenacity.wait_random(0, backoff_seconds)
        self._secrets = _forms(username, secret)
        self._adapter = HTTPAdapter()

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()

    def call(
        self,
        call: Call,
        read: Callable[[Answer], _T],
        *,
        max_attempts: int | None = None,
        stop: Stop | None = None,
    ) -> tuple[_T, int]:
        """Send the request, read the answer, and try again what may pass.

        Args:
            call: The request.
            read: Reads the body; called once for each answer with status 200. What it raises ends
                the call, save a Failure, an IncompleteBodyError and urllib3's errors.
            max_attempts: Fewer attempts than the client's.
            stop: Ends the call from another thread.

        Returns:
            What `read` returned, and how many attempts it took.

        Raises:
            MixpanelError: One of its subclasses, when no attempt is left or none would help.
            StateDirectoryError: The call has a rate limits that cannot be counted.
        """
        limit = min(max_attempts or self._max_attempts, self._max_attempts)
        stop = stop or Stop()
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(limit),
            wait=self._wait,
            retry=tenacity.retry_if_exception(self._may_pass),
            sleep=tenacity.sleep_using_event(stop.event),
            before_sleep=lambda state: self._warn(call, state, limit),
            reraise=True,
        )
        try:
            result = retrying(self._attempt, call, read, stop)
        except Failure as failure:
            last, sent = failure, retrying.statistics["attempt_number"]
        except TooLongError as wait:
            last = Failure(RateLimitError, str(wait), retry_after=wait.seconds)
            sent = retrying.statistics["attempt_number"] - 1
        else:
            return result, retrying.statistics["attempt_number"]
        # Out here, so that no lower error is chained, whose text could hold what the server echoed.
        raise self._public_error(call, last, sent)

    def clean(self, text: str, limit: int = _MAX_WORDS) -> str:
        """Return text of the server without the secret, on one line, cut to the limit."""
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        text = " ".join(text.split())
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _attempt(self, call: Call, read: Callable[[Answer], _T], stop: Stop) -> _T:
        with self._allowed(call, stop):
            stop.check()
            return self._send(call, read, stop)

    def _allowed(self, call: Call, stop: Stop) -> AbstractContextManager[None]:
        """Wait until the rate limits has room for a request, and take it."""
        if call.rate_limits is None:
            return nullcontext()
        return call.rate_limits.request(
            call.what,
            stop.event,
            max_wait=self._max_rate_limit_wait,
            max_pause=self._max_retry_after,
        )

    def _send(self, call: Call, read: Callable[[Answer], _T], stop: Stop) -> _T:
        session = _Session()
        session.mount("https://", self._adapter)
        session.mount("http://", self._adapter)
        try:
            response = session.request(
                call.method,
                call.url,
                params=dict(call.params),
                data=dict(call.form) or None,
                headers={"Accept-Encoding": "gzip", "User-Agent": "mp-pipeline"},
                auth=self._auth,
                timeout=self._timeouts,
                stream=True,
            )
        except _CONNECTION_TROUBLE as error:
            raise Failure(ServerError, self._describe(error)) from None
        except requests.RequestException as error:
            raise Failure(MixpanelError, self._describe(error)) from None

        with response, stop.reading(response):
            if response.status_code != requests.codes.ok:
                failure = self._refusal(response)
                if (
                    call.rate_limits is not None
                    and response.status_code == 429
                    and failure.retry_after
                ):
                    call.rate_limits.pause(failure.retry_after)
                raise failure
            answer = Answer(response, stop)
            try:
                return read(answer)
            except (IncompleteBodyError, urllib3.exceptions.HTTPError) as error:
                raise Failure(
                    TruncatedExportError,
                    f"{self._describe(error)}, after {answer.received:,} bytes",
                    status=response.status_code,
                ) from None

    def _refusal(self, response: requests.Response) -> Failure:
        """Return what an answer with another status than 200 means."""
        status = response.status_code
        words = self._words(response)
        retry_after = _seconds(response.headers.get("Retry-After"))
        reason = f"status {status}" + (f", Mixpanel says: {words}" if words else "")
        if response.history:
            host = self.clean(str(urlsplit(str(response.url)).hostname), limit=100)
            reason += f", after a redirect to {host} (another host gets no credentials)"
        error = _error_class(status, words or "")
        if issubclass(error, _PASSING) and (retry_after or 0) > self._max_retry_after:
            error = RateLimitError
            reason += (
                f"; it asks to wait {retry_after:,.0f} seconds, more than the "
                f"{self._max_retry_after:,.0f} allowed"
            )
        return Failure(error, reason, status=status, words=words, retry_after=retry_after)

    def _words(self, response: requests.Response) -> str | None:
        """Return Mixpanel's own words about an error: `error` of a JSON body, or the text."""
        try:
            body = response.raw.read(1 << 16, decode_content=True).decode("utf-8", "replace")
        except urllib3.exceptions.HTTPError:
            return None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("error"):
            body = str(answer["error"])
        return self.clean(body) or None

    def _describe(self, error: Exception) -> str:
        """Return one line on the innermost error; those around it repeat the URL's query."""
        cause = error
        while isinstance(inner := getattr(cause, "reason", (cause.args or [None])[-1]), Exception):
            cause = inner
        kind = "" if isinstance(cause, IncompleteBodyError) else f"{type(cause).__name__}: "
        return self.clean(f"{kind}{cause}", limit=300)

    def _may_pass(self, error: BaseException) -> bool:
        return (
            isinstance(error, Failure)
            and issubclass(error.error, _PASSING)
            and (error.retry_after or 0) <= self._max_retry_after
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.retry_after if isinstance(failure, Failure) else None
        return max(min(self._backoff(state), _MAX_WAIT), asked or 0)

    def _warn(self, call: Call, state: tenacity.RetryCallState, limit: int) -> None:
        failure = state.outcome.exception() if state.outcome else None
        seconds = state.next_action.sleep if state.next_action else 0.0
        _log.warning(
            "%s failed: %s. That was attempt %d of %d; trying again in %.1f s.",
            call.what,
            failure,
            state.attempt_number,
            limit,
            seconds,
        )

    def _public_error(self, call: Call, failure: Failure, attempts: int) -> MixpanelError:
        words = (failure.words or "").lower()
        advice = next((_ADVICE[said] for said in _ADVICE if said in words), failure.error.advice)
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return failure.error(
            f"{call.what} failed: {failure.reason} ({call.method} {call.url}, {times}). {advice}",
            status=failure.status,
            mixpanel_message=failure.words,
            retry_after=failure.retry_after,
        )


def _forms(username: str, secret: str) -> list[str]:
    """Return the forms in which a server, or an error that quotes it, may show the secret."""
    basic = base64.b64encode(f"{username}:{secret}".encode()).decode()
    forms = {
        secret,
        basic,
        basic.rstrip("="),
        quote_plus(basic),
        html.escape(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        secret.encode().decode("latin-1"),
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
    }
    return sorted(forms, key=len, reverse=True)  # the long ones may hold the short ones


def _error_class(status: int, words: str) -> type[MixpanelError]:
    if status == 401 or (
        status == 400 and any(said in words.lower() for said in _NOT_AUTHENTICATED)
    ):
        return AuthenticationError
    if status in (402, 403):
        return PlanError
    if status == 429:
        return RateLimitError
    if 400 <= status < 500:
        return BadRequestError
    return ServerError if status >= 500 else MixpanelError


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait, be it seconds or an HTTP date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None
