"""The headers of a database file, which change with every checkpoint.

DuckDB 2.0 reads them before it locks the file, and not again. If another process writes and closes
the file in between, DuckDB opens an outdated state, and its next checkpoint overwrites what the
other process committed. Whoever opens a file therefore compares the headers before and after.

Closing a file drops all locks that the process has on it (POSIX), so a file that DuckDB has open
is only read through DuckDB's own descriptor.
"""

import os
from pathlib import Path

_HEADER_BYTES = 3 * 4096  # the main header, and the headers of the last two checkpoints
_DESCRIPTORS = Path("/dev/fd")


def read_headers(path: Path) -> bytes | None:
    """Return a file's headers, whether this process has it open or not; None if unreadable."""
    headers = read_open_headers(path)
    if headers is not None:
        return headers
    try:
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except OSError:  # DuckDB says what is wrong
        return None


def read_open_headers(path: Path) -> bytes | None:
    """Return the headers of a file that this process has open; None if it has not."""
    descriptor = open_descriptor(path)
    try:
        return None if descriptor is None else os.pread(descriptor, _HEADER_BYTES, 0)
    except OSError:  # closed meanwhile
        return None


def open_descriptor(path: Path) -> int | None:
    """Return the descriptor through which DuckDB has a file open; None if there is none.

    It is DuckDB's: never close it.
    """
    if not _DESCRIPTORS.is_dir():
        return None
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            if os.path.samestat(os.fstat(int(descriptor.name)), path.stat()):
                return int(descriptor.name)
        except OSError:  # closed meanwhile
            continue
    return None
