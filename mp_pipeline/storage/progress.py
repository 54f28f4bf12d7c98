"""Log lines during long statements."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

_log = logging.getLogger(__name__)
_SECONDS = 10.0  # between two log lines


@contextmanager
def logged_progress(
    connection: duckdb.DuckDBPyConnection, what: str, seconds: float = _SECONDS
) -> Iterator[None]:
    """Log the progress of the statement that runs in the ``with`` block.

    Args:
        connection: The connection that runs it; its session has ``enable_progress_bar`` set.
        what: What the statement does, for the log line.
        seconds: How long to wait before each line.
    """
    begin = time.monotonic()
    done = threading.Event()

    def report() -> None:
        while not done.wait(seconds):
            percent = connection.query_progress()
            so_far = f"{percent:.0f} % after " if percent >= 0 else ""
            _log.info("%s: %s%.0f s", what, so_far, time.monotonic() - begin)

    thread = threading.Thread(target=report, name="mp_pipeline progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
