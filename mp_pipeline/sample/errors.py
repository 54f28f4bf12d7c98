"""The error that an API call can end with."""


class ApiError(Exception):
    """A request that Mixpanel answers with an error.

    Args:
        status: The HTTP status.
        message: What is wrong, in words for the client.
        retry_after: Seconds after which the client may try again, if that would help.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
