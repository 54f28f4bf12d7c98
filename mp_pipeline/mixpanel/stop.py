"""Ends requests from another thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from urllib3.response import BaseHTTPResponse

from mp_pipeline.mixpanel.errors import MixpanelError


class Stop:
    """Ends the requests that share it: their waits, their reads, and all later attempts.

    Attributes:
        event: Is set once they have to end.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self._lock = threading.Lock()
        self._responses: set[BaseHTTPResponse] = set()

    def set(self) -> None:
        """End the requests. A result that one of them is about to return is lost."""
        with self._lock:
            self.event.set()
            for response in self._responses:
                # Raised if the response has just ended by itself.
                with suppress(ValueError, RuntimeError):
                    response.shutdown()

    def wait(self, seconds: float) -> None:
        """Wait, at most until the requests have to end."""
        self.event.wait(seconds)

    def check(self) -> None:
        """End the current attempt if the requests have to end.

        Raises:
            MixpanelError: They have to. It is not worth another attempt.
        """
        if self.event.is_set():
            raise MixpanelError("it was stopped")

    @contextmanager
    def reading(self, response: BaseHTTPResponse) -> Iterator[None]:
        """Let `set` cut off a response while the block reads it.

        Raises:
            MixpanelError: The requests have to end.
        """
        with self._lock:
            self.check()
            self._responses.add(response)
        try:
            yield
        finally:
            with self._lock:
                self._responses.discard(response)
