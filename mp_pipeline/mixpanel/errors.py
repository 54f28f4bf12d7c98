"""The errors of this package.

Each message says what failed, where, and what to do next. None contains the secret.
"""

from typing import ClassVar


class MixpanelError(Exception):
    """A request failed because of Mixpanel's answer, or because there was none.

    Attributes:
        status: The HTTP status of the answer; None if there was no answer.
        mixpanel_message: What Mixpanel said, up to 500 characters; None if it said nothing.
        retry_after: The seconds to wait before the next request; None if not known.
        requests_left: The requests that the rate limit still allows; None if Mixpanel did not say.
        attempts: The number of requests that were sent.
    """

    advice: ClassVar[str] = (
        "Check the base URLs export_url and query_url (MIXPANEL_EXPORT_URL, MIXPANEL_QUERY_URL)."
    )
    """What to do next. It ends the message."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        mixpanel_message: str | None = None,
        retry_after: float | None = None,
        requests_left: int | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.mixpanel_message = mixpanel_message
        self.retry_after = retry_after
        self.requests_left = requests_left
        self.attempts = attempts


class AuthenticationError(MixpanelError):
    """The credentials are wrong, or do not belong to this project and region.

    Status 401, or status 400 with `Unable to authenticate` or `invalid project id for cluster`.
    """

    advice = (
        "Check the service account's username and secret and the project id "
        "(MIXPANEL_SERVICE_ACCOUNT_USERNAME, MIXPANEL_SERVICE_ACCOUNT_SECRET, "
        "MIXPANEL_PROJECT_ID), and that the service account is a member of the project. If it "
        "worked before, it has probably expired or was deleted: create another one in Mixpanel's "
        "settings. A project in the EU or in India needs its region "
        "(MIXPANEL_REGION=eu or MIXPANEL_REGION=in)."
    )


class PlanError(MixpanelError):
    """The project's plan or the account's role does not allow the request: status 402 or 403."""

    advice = (
        "The project's plan must include what was requested (the raw data export for these dates, "
        "profiles, groups, cohorts, annotations, Lexicon or counts), and the service account's "
        "role must allow it. Ask an owner of the project to change the plan or the role, export "
        "days that the plan includes, remove the asset from MIXPANEL_EXTRA_ASSETS, or set "
        "MIXPANEL_RECONCILE=false."
    )


class RateLimitError(MixpanelError):
    """A rate limit is reached: status 429 on the last attempt, or a wait longer than allowed.

    `retry_after` is the number of seconds to wait, as Mixpanel asks or as the rate limits require.
    """

    advice = (
        "Try again later, with fewer requests at once: Mixpanel allows a project 60 requests "
        "per hour by default."
    )


class BadRequestError(MixpanelError):
    """Mixpanel does not accept the request: any other status 4xx, or an `error` in the answer."""

    advice = (
        "Correct what Mixpanel names: the filters events and where (MIXPANEL_EVENTS, "
        "MIXPANEL_WHERE; MIXPANEL_PROFILES_WHERE for profiles), the group types (MIXPANEL_GROUPS), "
        "the project id (MIXPANEL_PROJECT_ID), or the base URLs export_url and query_url "
        "(MIXPANEL_EXPORT_URL, MIXPANEL_QUERY_URL)."
    )


class TruncatedExportError(MixpanelError):
    """The answer was incomplete on every attempt."""

    advice = (
        "Nothing was kept. Try again later. If it breaks off at about the same place each time, "
        "export fewer events (MIXPANEL_EVENTS, MIXPANEL_WHERE), and check the proxies on the way."
    )


class UnexpectedAnswerError(MixpanelError):
    """An answer with status 200 was something else than data: an HTML page, or an error as JSON.

    `mixpanel_message` quotes it.
    """

    advice = (
        "Nothing was kept. If the answer is a web page, a proxy, a firewall or a login page on the "
        "way sent it, or a base URL leads to another server (MIXPANEL_EXPORT_URL, "
        "MIXPANEL_QUERY_URL). If Mixpanel reports an error, correct what it names, or try again "
        "later."
    )


class IncompleteSnapshotError(MixpanelError):
    """Mixpanel sent fewer different profiles than it announced, and more than a few are missing."""

    advice = (
        "Nothing was kept. Run it again: profiles that are deleted or merged while pages are read "
        "can be missing, but not so many. If they are missing each time, allow a larger fraction "
        "(MP_PIPELINE_MAX_MISSING_FRACTION)."
    )


class ServerError(MixpanelError):
    """Status 5xx on the last attempt, or the server cannot be reached or does not respond."""

    advice = (
        "Check the network, proxies and firewalls, and the host name, which follows from the "
        "region or the base URLs (MIXPANEL_REGION, MIXPANEL_EXPORT_URL, MIXPANEL_QUERY_URL). "
        "Check Mixpanel's status page, and try again later."
    )


class UnreachableError(ServerError):
    """No connection to the server could be opened on the last attempt, so no request was sent."""


class RateLimitStoreError(Exception):
    """Requests cannot be counted, so none may be sent."""

    advice: ClassVar[str] = "No request was sent."
    """What to do next. It ends the message."""


class StateDirectoryError(RateLimitStoreError):
    """Requests cannot be counted in the state directory, so none may be sent."""

    advice: ClassVar[str] = (
        "No request was sent. Choose another state directory (MP_PIPELINE_STATE_DIRECTORY), on a "
        "local disk that this user can write to."
    )


class SharedRateLimitsError(RateLimitStoreError):
    """Requests cannot be counted in the PostgreSQL database, so none may be sent."""

    advice = (
        "No request was sent. Check that the server runs and can be reached from here, and the "
        "user, the password, the host and the database in MP_PIPELINE_RATE_LIMITS. The user must "
        "own the schema mp_pipeline_rate_limits, or be allowed to create it."
    )


class DamagedDownloadError(Exception):
    """A file is no longer as it was downloaded."""

    advice: ClassVar[str] = "Do not load it. Run it again to download it again."
    """What to do next. It ends the message."""


class DiskSpaceError(OSError):
    """The disk does not have enough space for a download. Nothing was kept."""

    advice: ClassVar[str] = (
        "Nothing was kept. Make room there, or download to a directory on a larger disk "
        "(mp_pipeline downloads beside its database, MP_PIPELINE_DATABASE)."
    )
    """What to do next. It ends the message."""

    def __str__(self) -> str:
        """Return the message without the error number."""
        return str(self.strerror)


# The following errors never leave this package: the user sees one of those above.


class IncompleteBodyError(Exception):
    """The body of an answer is incomplete. The message says how that shows."""


class RateLimitWaitError(Exception):
    """The rate limits require a longer wait than the caller allows.

    Attributes:
        seconds: The length of the wait.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds
