"""Doing again what DuckDB refuses for a while."""

import re
from collections.abc import Callable

import duckdb
import tenacity


def is_like(error: BaseException, problems: str) -> bool:
    """Return whether DuckDB's message of an error matches a regular expression."""
    return isinstance(error, duckdb.Error) and re.search(problems, str(error)) is not None


def retrying(
    problems: str,
    seconds: float,
    *,
    first_wait: float,
    longest_wait: float,
    before_sleep: Callable[[tenacity.RetryCallState], None] | None = None,
) -> tenacity.Retrying:
    """Return what calls a function again while DuckDB reports certain problems.

    The waits grow from call to call and are random, so that processes do not stay in step. When the
    time is over, the latest error is raised.

    Args:
        problems: A regular expression that their messages match.
        seconds: How long to go on after the first problem. The call may have waited for a lock
            before it.
        first_wait: The longest first wait in seconds.
        longest_wait: The longest of all waits in seconds.
        before_sleep: Called before each wait.
    """
    first_problem = 0.0

    def is_over(state: tenacity.RetryCallState) -> bool:
        nonlocal first_problem
        now = state.outcome_timestamp or 0.0
        if state.attempt_number == 1:
            first_problem = now
        return now - first_problem >= seconds

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: is_like(error, problems)),
        wait=tenacity.wait_random_exponential(multiplier=first_wait, max=longest_wait),
        stop=is_over,
        before_sleep=before_sleep,
        reraise=True,
    )
