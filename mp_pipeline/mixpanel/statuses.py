"""What an HTTP status and Mixpanel's message mean: which error, and which advice."""

from mp_pipeline.mixpanel.errors import (
    AuthenticationError,
    BadRequestError,
    MixpanelError,
    PlanError,
    RateLimitError,
    ServerError,
    TruncatedExportError,
    UnexpectedAnswerError,
)

TRANSIENT = (TruncatedExportError, UnexpectedAnswerError, RateLimitError, ServerError)
"""Errors that may not occur on the next attempt."""

_NOT_AUTHENTICATED = ("unable to authenticate", "project id for cluster")
_ADVICE = {  # for messages that tell more than the class of the error
    "later than today": (
        "That day has not begun in the project's time zone. Export it when it has."
    ),
    "project id for cluster": (
        "The project is stored in another region. Set the region to us, eu or in "
        "(MIXPANEL_REGION), as Mixpanel's project settings say under Data Residency, and check "
        "the project id (MIXPANEL_PROJECT_ID)."
    ),
}


def error_for_status(
    status: int,
    message: str,
    *,
    retry_after: float | None,
    requests_left: int | None,
    max_retry_after: float,
    redirected_to: str | None,
) -> MixpanelError:
    """Return the error that an answer with another status than 200 means.

    Args:
        status: The HTTP status.
        message: Mixpanel's message; empty for none.
        retry_after: The seconds to wait, as the answer says; None if it does not say.
        requests_left: The requests that the rate limit still allows; None if the answer does not
            say.
        max_retry_after: The longest wait, in seconds, that the caller allows.
        redirected_to: The host that answered, if the request was redirected.

    Returns:
        The error. Its text is the reason alone; nothing in it is scrubbed.
    """
    kind = _error_class(status, message.lower())
    reason = f"status {status}"
    if redirected_to is not None:
        reason += f" after a redirect to {redirected_to} (another host gets no credentials)"
    if issubclass(kind, TRANSIENT) and (retry_after or 0) > max_retry_after:
        kind = RateLimitError
        reason += (
            f", which asks to wait {retry_after:,.0f} seconds, more than the "
            f"{max_retry_after:,.0f} allowed"
        )
    return kind(
        reason,
        status=status,
        mixpanel_message=message or None,
        retry_after=retry_after,
        requests_left=requests_left,
    )


def advice_for(error: MixpanelError) -> str:
    """Return what to do about an error."""
    message = (error.mixpanel_message or "").lower()
    return next((_ADVICE[part] for part in _ADVICE if part in message), error.advice)


def _error_class(status: int, message: str) -> type[MixpanelError]:
    if status == 401 or (status == 400 and any(part in message for part in _NOT_AUTHENTICATED)):
        return AuthenticationError
    if status in (402, 403):
        return PlanError
    if status == 429:
        return RateLimitError
    if 400 <= status < 500:
        return BadRequestError
    return ServerError if status >= 500 else MixpanelError
