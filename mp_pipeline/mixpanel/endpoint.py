"""One of Mixpanel's APIs: how a request to it is sent."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from tenacity import AttemptManager

from mp_pipeline.mixpanel.errors import IncompleteBodyError, MixpanelError, TruncatedExportError
from mp_pipeline.mixpanel.rate_limits import RateLimiter
from mp_pipeline.mixpanel.retry import RetryPolicy
from mp_pipeline.mixpanel.statuses import error_for_status
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Answer, Request, Transport


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
    def open(self, request: Request, stop: Stop) -> Iterator[Answer]:
        """Wait for the rate limiter, send a request, and check the status of the answer.

        The block reads the answer, whose status is 200.

        Raises:
            MixpanelError: The request failed. Its text is the reason alone, not scrubbed.
            RateLimitWaitError: The wait for the rate limiter would be too long.
            StateDirectoryError: Requests cannot be counted; none was sent.
        """
        with self._acquire(request, stop), self.transport.send(request, stop) as answer:
            if answer.status != 200:
                raise self._refusal(answer)
            try:
                yield answer
            except IncompleteBodyError as error:
                raise TruncatedExportError(
                    f"the answer is incomplete after {answer.received:,} bytes: {error}",
                    status=answer.status,
                ) from None

    def _acquire(self, request: Request, stop: Stop) -> AbstractContextManager[object]:
        if self.rate_limiter is None:
            return nullcontext()
        return self.rate_limiter.acquire(
            request.description,
            stop.event,
            max_wait=self.max_rate_limit_wait_seconds,
            max_pause=self.retry.max_retry_after_seconds,
        )

    def _refusal(self, answer: Answer) -> MixpanelError:
        if self.rate_limiter is not None and answer.status == 429 and answer.retry_after:
            self.rate_limiter.pause(answer.retry_after)
        return error_for_status(
            answer.status,
            answer.message(),
            retry_after=answer.retry_after,
            max_retry_after=self.retry.max_retry_after_seconds,
            redirected_to=answer.redirected_to,
        )
