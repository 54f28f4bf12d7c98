"""Opening a DuckDB file: waiting for its lock, and saying who holds it."""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import tenacity

from mp_pipeline.storage.errors import DatabaseLockedError, StorageError

logger = logging.getLogger(__name__)

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")
_IN_USE_HERE = "different configuration than existing connections"


def connect(
    path: Path | None,
    *,
    read_only: bool = False,
    lock_timeout: float,
    config: Mapping[str, Any] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, waiting while another process holds it.

    Args:
        path: the file, or None for a database in memory.
        read_only: open for reading; several processes may do so at once.
        lock_timeout: how long to wait for the file, in seconds.
        config: DuckDB's configuration options.

    Returns:
        A connection whose session time zone is UTC.

    Raises:
        DatabaseLockedError: the file was still in use at the end; names the process.
        StorageError: the file is no DuckDB database, or cannot be opened or made.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        stop=tenacity.stop_after_delay(lock_timeout),
        before_sleep=lambda state: _log_first_wait(state, path, lock_timeout),
        reraise=True,
    )
    try:
        connection: duckdb.DuckDBPyConnection = retrying(
            duckdb.connect,
            database=":memory:" if path is None else str(path),
            read_only=read_only,
            config=dict(config or {}),
        )
    except duckdb.Error as error:
        if _is_locked(error):
            raise DatabaseLockedError(
                f"{path} is in use: {_holder(error)}; waited {lock_timeout:g} s. "
                "Close that program (or the run that it belongs to), or allow a longer wait."
            ) from error
        raise StorageError(f"cannot open the database {path}: {error}") from error
    start_session(connection)
    return connection


def start_session(connection: duckdb.DuckDBPyConnection) -> None:
    """Set what holds for each session: text without an offset is UTC, whatever the machine's."""
    connection.execute("SET TimeZone = 'UTC'").fetchall()


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.Error) and (
        "Could not set lock" in str(error) or _IN_USE_HERE in str(error)
    )


def _holder(error: BaseException) -> str:
    if _IN_USE_HERE in str(error):
        return f"this process (PID {os.getpid()}) has it open with other settings"
    found = _HOLDER.search(str(error))
    if found is None:
        return str(error)
    return f"{found['program']} (PID {found['pid']}) holds it"


def _log_first_wait(state: tenacity.RetryCallState, path: Path | None, lock_timeout: float) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        error = state.outcome.exception()
        if error is not None:
            logger.info("waiting up to %g s for %s: %s", lock_timeout, path, _holder(error))
