"""Runs the next tasks in threads while the caller uses the result of one."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from itertools import islice
from typing import TypeVar

from mp_pipeline.mixpanel.stop import Stop

_T = TypeVar("_T")
_SECONDS_TO_STOP = 5.0


def prefetch_results(
    tasks: Iterable[Callable[[], _T]], number: int, stop: Stop
) -> Generator[_T, None, None]:
    """Run each task in a thread, and yield the results in order.

    Closing the generator, or an error, stops the running tasks.

    Args:
        tasks: The tasks, which `stop` ends early.
        number: How many tasks may be running, or done and not yet yielded, while the caller uses a
            result. With 0, a task starts when its result is requested.
        stop: Is set at the end.

    Yields:
        What the tasks return.

    Raises:
        Exception: What a task raises, when it is its turn.
    """
    remaining = iter(tasks)
    started: deque[Future[_T]] = deque()
    try:
        while started or (started := deque(map(_start, islice(remaining, 1)))):
            result = started.popleft().result()
            # Only after the first result: an error that all tasks have in common shows only once.
            started.extend(map(_start, islice(remaining, number - len(started))))
            yield result
    finally:
        stop.set()
        wait(started, timeout=_SECONDS_TO_STOP)


def _start(task: Callable[[], _T]) -> "Future[_T]":
    """Run a task in a daemon thread. The threads of an executor would keep the program alive."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mp_pipeline download", daemon=True).start()
    return future
