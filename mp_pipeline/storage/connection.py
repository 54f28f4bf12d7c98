"""Opening a DuckDB file: waiting for its lock, and naming the process that holds it."""

import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import tenacity

from mp_pipeline.storage.errors import DatabaseLockedError, StorageError
from mp_pipeline.storage.headers import read_headers, read_open_headers
from mp_pipeline.storage.lake import LAKE, Lake, connect_lake
from mp_pipeline.storage.paths import path_problem
from mp_pipeline.storage.scratch import making_prefix

logger = logging.getLogger(__name__)

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")
_IN_USE_HERE = "different configuration than existing connections"
_DAMAGE_OF_A_FILE = re.compile(
    "not a valid DuckDB database file|Could not read enough bytes from file"
)
_LOG_DAMAGE = re.compile("Failure while replaying WAL file|This WAL was created")
DAMAGE_ADVICE = (
    "Nothing was changed. Restore the file from a backup, or move it away: the next load creates "
    "a new one, and all days can be reloaded."
)
_EXPECTED_WAIT = 2.0  # seconds; runs that take turns wait about that long

_opening = threading.Lock()  # a thread that reads headers must not drop another one's lock


class _OutdatedError(StorageError):
    """Another process changed the file while it was opened."""


def connect(
    path: Path | Lake | None,
    *,
    read_only: bool = False,
    lock_timeout: float,
    config: Mapping[str, Any] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, waiting while another process holds it; or a lake.

    For writing, a missing file and its parent directories are created, readable by their owner
    only.

    Args:
        path: The file, the lake, or None for an in-memory database.
        read_only: Open for reading; several processes may do so at once.
        lock_timeout: How long to wait for the file, in seconds.
        config: DuckDB configuration options.

    Returns:
        A connection whose session time zone is UTC.

    Raises:
        FileNotFoundError: ``read_only``, and there is no such lake.
        DatabaseLockedError: The file was still in use after the wait; names the process.
        StorageError: The file is not a DuckDB database, or cannot be opened or created.
    """
    if isinstance(path, Lake):
        connection = connect_lake(
            path, read_only=read_only, lock_timeout=lock_timeout, config=config
        )
        start_session(connection, is_lake=True)
        return connection
    if path is not None and (problem := path_problem(path)):
        raise StorageError(f"cannot open the database {path}: its path {problem}")
    if path is not None and not read_only:
        try:
            _make_private(path.parent)
        except OSError as error:
            raise StorageError(f"cannot create the directory of the database: {error}") from error
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked)
        | tenacity.retry_if_exception_type(_OutdatedError),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        stop=tenacity.stop_after_delay(lock_timeout),
        before_sleep=_wait_logger(path, lock_timeout),
        reraise=True,
    )
    try:
        connection = retrying(_open, path, read_only=read_only, config=dict(config or {}))
    except duckdb.Error as error:
        if _is_locked(error):
            raise DatabaseLockedError(
                f"{path} is in use: {_holder(error)}; waited {lock_timeout:g} s. "
                "Close that program or end its run, or wait longer (lock_timeout)."
            ) from error
        raise StorageError(
            f"cannot open the database {path}: {error}{_advice(path, error)}"
        ) from error
    start_session(connection)
    return connection


def is_damage(error: duckdb.Error, path: Path) -> bool:
    """Return whether an error of DuckDB means that the file is not an intact database."""
    text = str(error)
    return "Corrupt database file" in text or (
        path.name in text and _DAMAGE_OF_A_FILE.search(text) is not None
    )


def _advice(path: Path | None, error: duckdb.Error) -> str:
    if _LOG_DAMAGE.search(str(error)):
        return (
            f". Nothing was changed. {path}.wal is damaged, or belongs to another database file: "
            "move it away. The latest loads may be lost with it: reload the last days."
        )
    return f". {DAMAGE_ADVICE}" if path is not None and is_damage(error, path) else ""


def start_session(connection: duckdb.DuckDBPyConnection, *, is_lake: bool = False) -> None:
    """Set the session's time zone: text without an offset is UTC, whatever the machine's zone.

    Args:
        connection: The session.
        is_lake: Whether to use the lake that is attached.
    """
    connection.execute("SET TimeZone = 'UTC'").fetchall()
    if is_lake:
        connection.execute(f"USE {LAKE}")


def _make_private(directory: Path) -> None:
    """Create a directory and its parents: ``mkdir`` would set the mode of the last one only."""
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _open(
    path: Path | None, *, read_only: bool, config: dict[str, Any]
) -> duckdb.DuckDBPyConnection:
    if path is not None and not read_only:
        try:
            _make_if_missing(path, config)
        except (OSError, duckdb.Error) as error:
            if not path.exists():  # otherwise another process created it meanwhile
                raise StorageError(f"cannot create the database {path}: {error}") from error
    if path is None or os.name == "nt":  # Windows lets nobody read a file that is open for writing
        return duckdb.connect(
            ":memory:" if path is None else str(path), read_only=read_only, config=config
        )
    with _opening:
        return _open_current(path, read_only, config)


def _open_current(path: Path, read_only: bool, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """Open a file as it was when DuckDB locked it (see ``headers``).

    Raises:
        _OutdatedError: It changed before.
    """
    outdated = _OutdatedError(f"another process keeps changing {path} while it is opened")
    before = read_headers(path)
    try:
        connection = duckdb.connect(str(path), read_only=read_only, config=config)
    except duckdb.Error as error:
        if not _is_locked(error) and read_headers(path) != before:
            raise outdated from error
        raise
    if read_open_headers(path) != before:
        connection.close()
        raise outdated
    return connection


def _make_if_missing(path: Path, config: dict[str, Any]) -> None:
    """Create an empty database that only its owner can read, unless another process is faster.

    DuckDB checks whether the file exists and then creates it, which would overwrite what another
    process created in between. Linking a complete file fails if the name is taken, and a full disk
    or a crash leaves no partial file.
    """
    if path.exists() or Path(f"{path}.wal").exists():
        return
    target = path.resolve()  # the path may be a symbolic link
    prefix = making_prefix(target)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as directory:
        empty = Path(directory) / path.name
        duckdb.connect(str(empty), config=config).close()
        empty.chmod(0o600)
        with suppress(OSError):  # the name is taken, or links are not supported
            target.hardlink_to(empty)


def _is_locked(error: BaseException) -> bool:
    return isinstance(error, duckdb.Error) and (
        "Could not set lock" in str(error) or _IN_USE_HERE in str(error)
    )


def _holder(error: BaseException) -> str:
    if _IN_USE_HERE in str(error):
        return f"this process (PID {os.getpid()}) has it open with different settings"
    found = _HOLDER.search(str(error))
    if found is None:
        return str(error)
    return f"{found['program']} (PID {found['pid']}) holds it"


def _wait_logger(
    path: Path | None, lock_timeout: float
) -> Callable[[tenacity.RetryCallState], None]:
    """Return a callback that logs the first wait, and warns once if it takes long."""
    to_log = [
        (_EXPECTED_WAIT, logging.WARNING, "still waiting"),
        (0.0, logging.INFO, "waiting"),
    ]

    def log(state: tenacity.RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        elapsed = state.seconds_since_start
        if to_log and error is not None and elapsed is not None and elapsed >= to_log[-1][0]:
            _, level, waiting = to_log.pop()
            logger.log(
                level, "%s, up to %g s, for %s: %s", waiting, lock_timeout, path, _holder(error)
            )

    return log
