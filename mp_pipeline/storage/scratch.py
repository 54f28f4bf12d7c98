"""Temporary files of loads, in directories beside the database; those of a lake on this machine.

What a killed process leaves behind is removed the next time the database is opened for writing:
DuckDB lets one process write, so files that this process does not know are left over. With a lake,
what is older than a day is left over.
"""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import duckdb

from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake import SPILLED, find_catalog, scratch_directory

_LOADING = ".loading-"
_LOADING_INTO_LAKE = "mp_pipeline-loading-"
_BUFFER_BYTES = 1 << 20
_LEFT_SECONDS = 24 * 60 * 60.0

# Directories of this process's loads: another connection of it must not take them for leftovers.
_in_use: set[Path] = set()


@contextmanager
def directory(connection: duckdb.DuckDBPyConnection) -> Iterator[Path]:
    """Create a directory for a load, and delete it after the ``with`` block.

    Raises:
        StorageError: It cannot be created.
    """
    if find_catalog(connection) is not None:
        with tempfile.TemporaryDirectory(
            prefix=_LOADING_INTO_LAKE, dir=scratch_directory(connection)
        ) as name:
            yield Path(name)
        return
    database, _ = _places(connection)
    if database is None:  # an in-memory database
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
    """A file in such a directory, closed at the end of the ``with`` block.

    Raises:
        StorageError: It cannot be created or written, for example on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _explained(path):
            self._file = path.open("wb", buffering=_BUFFER_BYTES)

    def write(self, data: bytes) -> None:
        """Write bytes. Raises the same errors as the class."""
        try:  # inline, because a context manager costs more than the write
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
        """Close the file. After an exception, errors on closing it are ignored."""
        try:
            if exception is None:
                with _explained(self._path):
                    self._file.flush()
        finally:
            with suppress(OSError):
                self._file.close()


def making_prefix(database: Path) -> str:
    """Return the prefix of the directories in which a new database file is created."""
    return f".{database.name}-new_"


def remove_leftovers(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove the files of killed processes. The database must be open for writing.

    These are the directories of loads, the directories in which a database file was created, and
    what DuckDB spilled to disk, which it does not remove until it spills again.
    """
    if find_catalog(connection) is not None:
        _remove_old(scratch_directory(connection))
        return
    database, spilled = _places(connection)
    if database is None:
        return
    target = database.resolve()
    for parent, prefix in (
        (database.parent, database.name + _LOADING),
        (target.parent, making_prefix(target)),
    ):
        with suppress(OSError):  # the directory may not be readable
            for path in parent.iterdir():
                if path.name.startswith(prefix) and path not in _in_use:
                    shutil.rmtree(path, ignore_errors=True)
    if spilled == database.with_name(f"{database.name}.tmp") and spilled.is_dir():
        for path in spilled.glob("duckdb_temp_*"):
            if not path.name.startswith(f"duckdb_temp_{os.getpid()}_"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # in use by this process, or not empty
            spilled.rmdir()


def _remove_old(parent: Path) -> None:
    """Remove what processes on this machine left behind a day ago: others may be loading now."""
    oldest = time.time() - _LEFT_SECONDS
    with suppress(OSError):  # somebody else may be removing it
        for path in parent.iterdir():
            if (
                path.name.startswith((_LOADING_INTO_LAKE, SPILLED))
                and path.stat().st_mtime < oldest
            ):
                shutil.rmtree(path, ignore_errors=True)


def _places(connection: duckdb.DuckDBPyConnection) -> tuple[Path | None, Path]:
    """Return the database file (None if in memory) and DuckDB's spill directory."""
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
