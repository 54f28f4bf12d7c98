"""Sends a request again when that may help, and says what happened when it does not."""

import logging
from collections.abc import Iterator

import tenacity

from mp_pipeline.mixpanel.errors import MixpanelError, RateLimitError, RateLimitWaitError
from mp_pipeline.mixpanel.scrub import Scrubber
from mp_pipeline.mixpanel.statuses import TRANSIENT, advice_for
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Request

_log = logging.getLogger(__name__)
_MAX_WAIT_SECONDS = 60.0  # between attempts, unless Mixpanel asks for more
_REASON_CHARACTERS = 400


class RetryPolicy:
    """How often a request is sent, and how long to wait in between.

    Args:
        scrubber: Removes the secret from messages.
        max_attempts: The largest number of attempts.
        backoff_seconds: The wait after the first attempt. It doubles each time, with jitter, up to
            60 seconds. A longer Retry-After is obeyed.
        max_retry_after_seconds: The longest Retry-After to wait for.
    """

    def __init__(
        self,
        scrubber: Scrubber,
        *,
        max_attempts: int,
        backoff_seconds: float,
        max_retry_after_seconds: float,
    ) -> None:
        self.max_retry_after_seconds = max_retry_after_seconds
        self.backoff_seconds = backoff_seconds
        self._scrubber = scrubber
        self._max_attempts = max_attempts
        self._backoff = tenacity.wait_exponential(
            multiplier=backoff_seconds
        ) + tenacity.wait_random(0, backoff_seconds)

    def attempts(
        self, request: Request, stop: Stop, max_attempts: int | None = None
    ) -> Iterator[tenacity.AttemptManager]:
        """Yield one attempt after another until one succeeds, and wait in between.

        Each attempt is a context manager for the block that sends the request and reads the
        answer. It catches what the block raises, and this iterator decides what follows.

        Args:
            request: The request.
            stop: Ends the waits from another thread.
            max_attempts: Allows fewer attempts than the policy does.

        Yields:
            The attempts.

        Raises:
            MixpanelError: The last attempt failed, or another one would not help. Its message names
                the request, the reason, the number of attempts and what to do, without the secret.
            Exception: Any other exception that an attempt raises.
        """
        limit = min(max_attempts or self._max_attempts, self._max_attempts)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(limit),
            wait=self._seconds_to_wait,
            retry=tenacity.retry_if_exception(self._may_pass),
            sleep=stop.wait,
            before_sleep=lambda state: self._warn(request, state, limit),
            reraise=True,
        )
        error: MixpanelError
        try:
            yield from retrying
        except MixpanelError as failure:
            error, sent = failure, retrying.statistics["attempt_number"]
        except RateLimitWaitError as wait:
            error = RateLimitError(str(wait), retry_after=wait.seconds)
            sent = retrying.statistics["attempt_number"] - 1
        else:
            return
        # Raised here so that no error is chained whose text may contain what the server sent.
        raise self._final_error(request, error, sent)

    def _may_pass(self, error: BaseException) -> bool:
        return (
            isinstance(error, TRANSIENT)
            and (error.retry_after or 0) <= self.max_retry_after_seconds
        )

    def _seconds_to_wait(self, state: tenacity.RetryCallState) -> float:
        backoff = min(self._backoff(state), _MAX_WAIT_SECONDS)
        return max(backoff, _error_of(state).retry_after or 0)

    def _warn(self, request: Request, state: tenacity.RetryCallState, limit: int) -> None:
        _log.warning(
            "%s failed: %s. That was attempt %d of %d; trying again in %.1f s.",
            request.description,
            self._reason(_error_of(state)),
            state.attempt_number,
            limit,
            state.upcoming_sleep,
        )

    def _reason(self, error: MixpanelError) -> str:
        reason = self._scrubber.clean(str(error), _REASON_CHARACTERS)
        if not error.mixpanel_message:
            return reason
        return f"{reason}, Mixpanel says: {self._scrubber.clean(error.mixpanel_message)}"

    def _final_error(self, request: Request, error: MixpanelError, sent: int) -> MixpanelError:
        attempts = "1 attempt" if sent == 1 else f"{sent} attempts"
        message = error.mixpanel_message and self._scrubber.clean(error.mixpanel_message)
        return type(error)(
            f"{request.description} failed: {self._reason(error)} "
            f"({request.method} {request.url}, {attempts}). {advice_for(error)}",
            status=error.status,
            mixpanel_message=message,
            retry_after=error.retry_after,
            requests_left=error.requests_left,
            attempts=sent,
        )


def _error_of(state: tenacity.RetryCallState) -> MixpanelError:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, MixpanelError)  # noqa: S101 - no other is tried again
    return error
