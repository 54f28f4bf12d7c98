"""Working ahead: the next results are made in threads while the caller uses one."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")


_SECONDS_TO_STOP = 5.0


def prefetched(
    tasks: Iterable[Callable[[], _T]], number: int, stop: Callable[[], None]
) -> Generator[_T, None, None]:
    """Run tasks, each in a thread of its own, and give their results in order.

    Closing the iterator, or an error, stops the tasks under way.

    Args:
        tasks: They are begun in order, as places get free.
        number: How many may be under way, or done and not asked for yet, while the caller uses a
            result; with 0 a task begins when its result is asked for.
        stop: Makes the tasks under way end soon; called at the end.

    Raises:
        Exception: Whatever a task raises, when its turn comes.
    """
    remaining = iter(tasks)
    begun: deque[Future[_T]] = deque()
    try:
        while begun or (begun := deque(map(_begin, islice(remaining, 1)))):
            result = begun.popleft().result()
            # Not before the first is done: what is wrong with all of them then shows in one.
            begun.extend(map(_begin, islice(remaining, number - len(begun))))
            yield result
    finally:
        stop()
        wait(begun, timeout=_SECONDS_TO_STOP)


def _begin(task: Callable[[], _T]) -> "Future[_T]":
    """Run a task in a daemon thread: an executor's would keep the program from ending."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mp_pipeline download", daemon=True).start()
    return future
