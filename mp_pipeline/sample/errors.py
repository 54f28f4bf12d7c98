"""The error that ends an API call."""


class ApiError(Exception):
    """An error that the API reports to the client.

    Args:
        status: The HTTP status.
        message: What is wrong.
        retry_after: The seconds after which the client may try again, if that can help.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
