"""What can go wrong between this program and Mixpanel.

Each message says what was wrong, where, and what to do next. None holds the secret.
"""

from pathlib import Path
from typing import ClassVar


class MixpanelError(Exception):
    """Mixpanel's answer, or the lack of one, made the call impossible.

    Attributes:
        status: The HTTP status of Mixpanel's answer; None when there was no answer.
        mixpanel_message: Mixpanel's own words, at most 500 characters; None when there are none.
        retry_after: The seconds that Mixpanel asked to wait; None when it did not say.
    """

    advice: ClassVar[str] = "Check the base URLs: MIXPANEL_EXPORT_URL and MIXPANEL_QUERY_URL."
    """What to do next; the end of the message."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        mixpanel_message: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.mixpanel_message = mixpanel_message
        self.retry_after = retry_after


class AuthenticationError(MixpanelError):
    """The credentials are wrong, or are none of this project and region.

    Status 401, or 400 with `Unable to authenticate` or `invalid project id for cluster`.
    """

    advice = (
        "Check MIXPANEL_SERVICE_ACCOUNT_USERNAME, MIXPANEL_SERVICE_ACCOUNT_SECRET and "
        "MIXPANEL_PROJECT_ID, and that the service account is a member of the project. "
        "A project in the EU or in India needs MIXPANEL_REGION=eu or MIXPANEL_REGION=in."
    )


class PlanError(MixpanelError):
    """The project's plan or the account's role does not allow the call: status 402 or 403."""

    advice = (
        "The project's plan must include the raw data export for these dates, and the service "
        "account's role in the project must allow it: ask an owner of the project to change the "
        "plan or the role, or load days that the plan includes."
    )


class RateLimitError(MixpanelError):
    """Too many queries: status 429 after the last attempt, or a wait longer than allowed.

    Mixpanel allows a project 60 queries an hour; `retry_after` holds the seconds to wait, as it
    asks for or as the rate limits needs.
    """

    advice = "Try again later, with fewer queries at once: a project has 60 an hour."


class BadRequestError(MixpanelError):
    """Mixpanel does not accept the request as it is: any other 4xx, or `error` in an answer."""

    advice = (
        "Correct what Mixpanel names: the filters (MIXPANEL_EVENTS, MIXPANEL_WHERE), "
        "MIXPANEL_PROJECT_ID, or the base URLs (MIXPANEL_EXPORT_URL, MIXPANEL_QUERY_URL)."
    )


class TruncatedExportError(MixpanelError):
    """An answer began and did not come to its end, in the last attempt as in those before."""

    advice = (
        "Nothing of it was kept. Run it again later; should it break each time at about the same "
        "place, export fewer days or fewer events at once, and look at proxies in between."
    )


class ServerError(MixpanelError):
    """Status 5xx after the last attempt, or the host cannot be reached or stays silent."""

    advice = (
        "Check the network, a proxy or firewall, and the host's name (MIXPANEL_REGION, "
        "MIXPANEL_EXPORT_URL, MIXPANEL_QUERY_URL), look at Mixpanel's status page, try again later."
    )


class StateDirectoryError(Exception):
    """The count of requests cannot be kept, so that none may be sent.

    Args:
        directory: The state directory.
        problem: What is wrong with it.
    """

    advice: ClassVar[str] = (
        "MP_PIPELINE_STATE_DIRECTORY can name another one, on a local disk, that this user may write "
        "to. No request was sent."
    )
    """What to do next; the end of the message."""

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(
            f"cannot count the requests to Mixpanel in the state directory {directory}: {problem}. "
            f"{self.advice}"
        )


class DamagedDownloadError(Exception):
    """A file on disk is no longer what was downloaded."""

    advice: ClassVar[str] = "Nothing of it was loaded. Run it again: it is downloaded anew."
    """What to do next; the end of the message."""


class DiskSpaceError(OSError):
    """The disk has too little room for a download, of which nothing was kept."""

    advice: ClassVar[str] = (
        "Nothing of it was kept. Make room there, or put the database (MP_PIPELINE_DATABASE) on a "
        "larger disk: downloads are made beside it."
    )

    def __str__(self) -> str:
        """Return the message without the error's number."""
        return str(self.strerror)
