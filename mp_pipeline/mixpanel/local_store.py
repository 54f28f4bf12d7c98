"""A rate limiter's records in an SQLite file, shared by the processes of this machine.

Locks are files beside it. A killed process leaves no lock behind: the operating system releases
them.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import filelock
from pyrate_limiter import AbstractBucket, Rate, SQLiteBucket

from mp_pipeline.mixpanel.errors import StateDirectoryError
from mp_pipeline.mixpanel.stores import LOCK_SECONDS, Clock, Learned, Pause, Records, T

_TABLE = "requests"
_OTHER_TABLES = (  # times in milliseconds since 1970
    "pause (asked INTEGER, until INTEGER)",
    "back_off (asked INTEGER, until INTEGER)",
    "quotas (seconds INTEGER, requests INTEGER, learned INTEGER)",
)
_LOCK_POLL_SECONDS = 0.01


class LocalStore:
    """A `Store` in the state directory.

    Args:
        path: The SQLite file. Its directory is created, for its owner only, if it is missing.
        clock: Tells the time.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock

    def transact(self, work: Callable[[Records], T], stopped: threading.Event) -> T:  # noqa: ARG002 - it waits only for the lock
        """Call a function while this thread of this process alone can use the file.

        Raises:
            StateDirectoryError: The file cannot be read or written.
        """
        directory = self._path.parent
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock("count").acquire(
                timeout=LOCK_SECONDS, poll_interval=_LOCK_POLL_SECONDS
            ):
                self._path.touch(mode=0o600)
                with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                    for table in _OTHER_TABLES:
                        connection.execute(f"CREATE TABLE IF NOT EXISTS {table}")
                    return work(_LocalRecords(self._path, connection, self._clock))
        except (OSError, sqlite3.Error) as error:
            raise StateDirectoryError(
                f"cannot count requests to Mixpanel in the state directory {directory}: "
                f"{_describe(error, self._path)}. {StateDirectoryError.advice}"
            ) from error

    def take_slot(self, slots: int) -> ExitStack | None:
        """Lock the file of one of the slots; return None if all are locked."""
        held = ExitStack()
        for number in range(1, slots + 1):
            try:
                held.enter_context(self._lock(f"slot-{number}").acquire(blocking=False))
            except filelock.Timeout:
                continue
            return held
        return None

    def _lock(self, name: str) -> filelock.FileLock:
        return filelock.FileLock(f"{self._path}.{name}.lock", mode=0o600)


class _LocalRecords:
    """The `Records` in an SQLite file; each change is permanent at once."""

    def __init__(self, path: Path, connection: sqlite3.Connection, clock: Clock) -> None:
        self._path = path
        self._connection = connection
        self._clock = clock

    def time(self) -> float:
        return self._clock.time()

    def bucket(self, rates: list[Rate]) -> AbstractBucket:
        return SQLiteBucket.init_from_file(rates, _TABLE, str(self._path))

    def end_future(self, now: int) -> None:
        self._connection.execute(
            f"UPDATE {_TABLE} SET item_timestamp = ? WHERE item_timestamp > ?",  # noqa: S608 - a constant
            (now, now),
        )

    def remove_request(self, counted_at: int) -> None:
        self._connection.execute(
            f"DELETE FROM {_TABLE} WHERE rowid = "  # noqa: S608 - a constant
            f"(SELECT rowid FROM {_TABLE} WHERE item_timestamp = ? LIMIT 1)",
            (counted_at,),
        )

    def read_pauses(self) -> list[Pause]:
        found = self._connection.execute(
            "SELECT asked, until, true FROM pause"
            " UNION ALL SELECT asked, until, false FROM back_off"
        )
        return [Pause(asked, until, bool(requested)) for asked, until, requested in found]

    def write_pauses(self, pauses: Sequence[Pause]) -> None:
        for table, is_requested in (("pause", True), ("back_off", False)):
            rows = [each[:2] for each in pauses if each.is_requested is is_requested]
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
            self._connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)  # noqa: S608

    def read_learned(self) -> list[Learned]:
        found = self._connection.execute("SELECT seconds, requests, learned FROM quotas")
        return [Learned(*row) for row in found]

    def write_learned(self, limits: Sequence[Learned]) -> None:
        self._connection.execute("DELETE FROM quotas")
        self._connection.executemany("INSERT INTO quotas VALUES (?, ?, ?)", limits)


def _describe(error: Exception, path: Path) -> str:
    """Return what is wrong with the state directory, and what helps."""
    if isinstance(error, filelock.Timeout):
        return f"another process holds {error.lock_file} and is not releasing it"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return f"{path.name} is damaged ({error}): delete it, and the count starts again"
    return str(error) or type(error).__name__
