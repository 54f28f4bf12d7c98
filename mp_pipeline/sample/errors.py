"""The error that ends an API call."""


class ApiError(Exception):
    """An error that the API reports to the client.

    Args:
        status: The HTTP status.
        message: What is wrong.
        headers: More headers of the response.
    """

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
