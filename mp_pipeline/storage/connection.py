"""Opening a DuckDB file: waiting for its lock, and saying who holds it."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import tenacity

from mp_pipeline.storage.errors import DatabaseLockedError, StorageError
from mp_pipeline.storage.scratch import making_prefix

logger = logging.getLogger(__name__)

_HOLDER = re.compile(r"Conflicting lock is held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")
_IN_USE_HERE = "different configuration than existing connections"
_DAMAGE_OF_A_FILE = re.compile(
    "not a valid DuckDB database file|Could not read enough bytes from file"
)
_LOG_DAMAGE = re.compile("Failure while replaying WAL file|This WAL was created")
DAMAGE_ADVICE = (
    "Nothing was changed. Put a copy of the file in its place, or move it away: the next load "
    "makes a new one, and all days can be loaded again."
)
# DuckDB takes a backslash for a slash, and looks for the write-ahead log before a question mark.
_NOT_IN_PATHS = "?" if os.name == "nt" else "?\\"
_USUAL_WAIT = 2.0  # seconds; runs that take turns wait that long


def connect(
    path: Path | None,
    *,
    read_only: bool = False,
    lock_timeout: float,
    config: Mapping[str, Any] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, waiting while another process holds it.

    For writing, a missing file is made, and the directories above it, for their owner only.

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
    if path is not None and any(character in str(path) for character in _NOT_IN_PATHS):
        raise StorageError(
            f"cannot open the database {path}: its path must not hold "
            f"{' or '.join(_NOT_IN_PATHS)}, which DuckDB takes for something else"
        )
    if path is not None and not read_only:
        try:
            _make_private(path.parent)
        except OSError as error:
            raise StorageError(f"cannot make the directory of the database: {error}") from error
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_locked),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1),
        stop=tenacity.stop_after_delay(lock_timeout),
        before_sleep=_wait_logger(path, lock_timeout),
        reraise=True,
    )
    try:
        connection: duckdb.DuckDBPyConnection = retrying(
            _open, path, read_only=read_only, config=dict(config or {})
        )
    except duckdb.Error as error:
        if _is_locked(error):
            raise DatabaseLockedError(
                f"{path} is in use: {_holder(error)}; waited {lock_timeout:g} s. "
                "Close that program (or the run that it belongs to), or allow a longer wait "
                "(MP_PIPELINE_LOCK_TIMEOUT, in seconds)."
            ) from error
        raise StorageError(
            f"cannot open the database {path}: {error}{_advice(path, error)}"
        ) from error
    start_session(connection)
    return connection


def is_damage(error: duckdb.Error, path: Path) -> bool:
    """Whether DuckDB means that the file is not, or no longer, a database that is whole."""
    text = str(error)
    return "Corrupt database file" in text or (
        path.name in text and _DAMAGE_OF_A_FILE.search(text) is not None
    )


def _advice(path: Path | None, error: duckdb.Error) -> str:
    if _LOG_DAMAGE.search(str(error)):
        return (
            f". Nothing was changed. {path}.wal is damaged, or belongs to another database file: "
            "move it away. What was loaded last may be lost with it: load the last days again."
        )
    return f". {DAMAGE_ADVICE}" if path is not None and is_damage(error, path) else ""


def start_session(connection: duckdb.DuckDBPyConnection) -> None:
    """Set what holds for each session: text without an offset is UTC, whatever the machine's."""
    connection.execute("SET TimeZone = 'UTC'").fetchall()


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
            if not path.exists():  # no other process made it, and removed what this one did
                raise StorageError(f"cannot make the database {path}: {error}") from error
    return duckdb.connect(
        ":memory:" if path is None else str(path), read_only=read_only, config=config
    )


def _make_if_missing(path: Path, config: dict[str, Any]) -> None:
    """Make an empty database for its owner only, unless another process does so meanwhile.

    DuckDB looks whether there is a file, and then makes it anew: what another process has made,
    filled and closed in between would be lost. A link is refused if the name is taken. And what a
    full disk or a crash leaves of a file is no database.
    """
    if path.exists() or Path(f"{path}.wal").exists():
        return
    target = path.resolve()  # the name may be a link to where the file is to be
    prefix = making_prefix(target)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as directory:
        empty = Path(directory) / path.name
        duckdb.connect(str(empty), config=config).close()
        empty.chmod(0o600)
        with suppress(OSError):  # the name is taken; or DuckDB makes it where links cannot be
            target.hardlink_to(empty)


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


def _wait_logger(
    path: Path | None, lock_timeout: float
) -> Callable[[tenacity.RetryCallState], None]:
    """Return what logs the first wait, and warns once if the waiting takes longer than usual."""
    to_log = [
        (_USUAL_WAIT, logging.WARNING, "still waiting"),
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
