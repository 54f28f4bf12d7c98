"""Waiting for what another thread or process does."""

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

PATIENCE = 120.0
"""Seconds after which a test gives up. Only a test that hangs needs so long."""


def wait_until(
    condition: Callable[[], bool],
    seconds: float = PATIENCE,
    explain: Callable[[], str] = str,
    every: float = 0.02,
    *,
    processes: Sequence["subprocess.Popen[Any]"] = (),
) -> None:
    """Wait until a condition is true.

    Args:
        condition: What to wait for.
        seconds: The seconds after which the test fails.
        explain: Returns the message of a failed test, for example the log of a service.
        every: The seconds between two looks at the condition.
        processes: The processes that bring the condition about. The test fails as soon as one
            of them ends, with what it printed.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, explain() or process.communicate()
        assert time.monotonic() < deadline, explain() or f"waited {seconds} s in vain"
        time.sleep(every)
