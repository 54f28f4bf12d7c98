"""Files that are needed for a while: in directories beside the database, gone when they have served.

What a killed process left is removed at the next open for writing, like its tables: DuckDB lets one
process write, so files that this process does not know are nobody's.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from mp_pipeline.storage.errors import StorageError

_LOADING = ".loading-"
_BUFFER_BYTES = 1 << 20

# Directories of loads under way in this process: a second connection must not take them for leftovers.
_in_use: set[Path] = set()


@contextmanager
def directory(connection: duckdb.DuckDBPyConnection) -> Iterator[Path]:
    """Give a load a directory of its own for the ``with`` block.

    Raises:
        StorageError: it cannot be made.
    """
    database, _ = _places(connection)
    if database is None:  # it is in memory
        with tempfile.TemporaryDirectory(prefix="mp_pipeline-") as name:
            yield Path(name)
        return
    path = database.with_name(f"{database.name}{_LOADING}{uuid.uuid4().hex}")
    _in_use.add(path)
    try:
        with _explained(path):
            path.mkdir(mode=0o700)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _in_use.discard(path)


class ScratchFile:
    """A file in such a directory, to be written and closed by a ``with`` block.

    Raises:
        StorageError: it cannot be made or written, such as on a full disk; names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _explained(path):
            self._file = path.open("wb", buffering=_BUFFER_BYTES)

    def write(self, data: bytes) -> None:
        """Write bytes; see the class for what it raises."""
        try:  # not _explained, which costs more than the writing
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; if the block failed, what is still to be written does not matter."""
        try:
            if exception is None:
                with _explained(self._path):
                    self._file.flush()
        finally:
            with suppress(OSError):
                self._file.close()


def making_prefix(database: Path) -> str:
    """Return how the name of a directory begins in which a database is made."""
    return f".{database.name}-new_"


def remove_leftovers(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove the files of killed processes; the database must be open for writing.

    Those are the directories of loads, those in which the database was made (a process that is about
    to finds that it is there), and what DuckDB put beside it for want of memory: that, it removes
    by itself only when it is short of memory again.
    """
    database, spilled = _places(connection)
    if database is None:
        return
    target = database.resolve()
    for parent, prefix in (
        (database.parent, database.name + _LOADING),
        (target.parent, making_prefix(target)),
    ):
        with suppress(OSError):  # a directory that may be used, but not listed
            for path in parent.iterdir():
                if path.name.startswith(prefix) and path not in _in_use:
                    shutil.rmtree(path, ignore_errors=True)
    if spilled == database.with_name(f"{database.name}.tmp") and spilled.is_dir():
        for path in spilled.glob("duckdb_temp_*"):
            if not path.name.startswith(f"duckdb_temp_{os.getpid()}_"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # this process uses it, or there is something else in it
            spilled.rmdir()


def _places(connection: duckdb.DuckDBPyConnection) -> tuple[Path | None, Path]:
    """Return the database's file, None if it is in memory, and where DuckDB puts what it must."""
    ((file, spilled),) = connection.execute(
        "SELECT path, current_setting('temp_directory') FROM duckdb_databases() "
        "WHERE database_name = current_database()"
    ).fetchall()
    return None if file is None else Path(file), Path(spilled or "")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path}: {error.strerror or error}. Nothing was changed.")
