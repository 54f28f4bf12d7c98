"""One of Mixpanel's APIs: how a request to it is sent."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from tenacity import AttemptManager

from mp_pipeline.mixpanel.errors import (
    IncompleteBodyError,
    MixpanelError,
    TruncatedExportError,
    UnreachableError,
)
from mp_pipeline.mixpanel.rate_limits import Place, RateLimiter
from mp_pipeline.mixpanel.retry import RetryPolicy
from mp_pipeline.mixpanel.statuses import error_for_status
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Answer, Request, Transport

_UNCOUNTED = (401, 402, 429)
"""Mixpanel does not count requests that it refuses with these statuses."""


@dataclass(frozen=True)
class Endpoint:
    """The URL of one API, and what all requests to it have in common.

    A request is sent like this::

        for attempt in endpoint.attempts(request, stop):
            with attempt, endpoint.open(request, stop) as answer:
                ...  # read the answer

    Attributes:
        url: The URL.
        project_id: The project.
        transport: Sends one request.
        retry: Says when to send it again.
        rate_limiter: Says when a request may be sent; None for no limit.
        max_rate_limit_wait_seconds: The longest wait for the rate limiter; None for any.
    """

    url: str
    project_id: str
    transport: Transport
    retry: RetryPolicy
    rate_limiter: RateLimiter | None
    max_rate_limit_wait_seconds: float | None

    def attempts(
        self, request: Request, stop: Stop, max_attempts: int | None = None
    ) -> Iterator[AttemptManager]:
        """Yield attempts as `RetryPolicy.attempts` does."""
        return self.retry.attempts(request, stop, max_attempts)

    @contextmanager
    def open(self, request: Request, stop: Stop, *, counted: bool = True) -> Iterator[Answer]:
        """Wait for the rate limiter, send a request, and check the status of the answer.

        The block reads the answer, whose status is 200.

        Args:
            request: The request.
            stop: Ends the wait and the request from another thread.
            counted: Whether Mixpanel counts the request, or only its concurrent ones.

        Raises:
            MixpanelError: The request failed. Its text is the reason alone, not scrubbed.
            RateLimitWaitError: The wait for the rate limiter would be too long.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        with self._acquire(request, stop, counted) as place:
            try:
                with self._send(request, stop) as answer:
                    yield answer
            except MixpanelError as error:
                unsent = isinstance(error, UnreachableError)
                if place is not None and (unsent or error.status in _UNCOUNTED):
                    place.give_back()
                raise

    @contextmanager
    def _send(self, request: Request, stop: Stop) -> Iterator[Answer]:
        with self.transport.send(request, stop) as answer:
            if answer.status != 200:
                raise self._refusal(answer)
            try:
                yield answer
            except IncompleteBodyError as error:
                raise incomplete_answer(answer, error) from None

    def _acquire(
        self, request: Request, stop: Stop, counted: bool
    ) -> AbstractContextManager[Place | None]:
        if self.rate_limiter is None:
            return nullcontext()
        return self.rate_limiter.acquire(
            request.description,
            stop.event,
            counted=counted,
            max_wait=self.max_rate_limit_wait_seconds,
            max_pause=self.retry.max_retry_after_seconds,
        )

    def _refusal(self, answer: Answer) -> MixpanelError:
        if self.rate_limiter is not None and answer.status == 429:
            self.rate_limiter.record_refusal(
                answer.retry_after, answer.quotas, backoff=self.retry.backoff_seconds
            )
        return error_for_status(
            answer.status,
            answer.message(),
            retry_after=answer.retry_after,
            requests_left=answer.requests_left,
            max_retry_after=self.retry.max_retry_after_seconds,
            redirected_to=answer.redirected_to,
        )


def incomplete_answer(answer: Answer, error: IncompleteBodyError) -> TruncatedExportError:
    """Return the error that an incomplete body means."""
    return TruncatedExportError(
        f"the answer is incomplete after {answer.received:,} bytes: {error}", status=answer.status
    )
