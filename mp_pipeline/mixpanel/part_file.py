"""Files that appear under their name only when they are complete."""

import errno
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mp_pipeline.mixpanel.errors import DiskSpaceError

RESERVE_BYTES = 256 * 1024 * 1024
"""The free space, in bytes, that a download leaves on the disk for everything else."""

_log = logging.getLogger(__name__)
_CHECK_BYTES = 64 * 1024 * 1024  # bytes written between two looks at the free space
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PartFile:
    """A file that is written under a temporary name (`….part`) and then published.

    A context manager: at the end of the block, a file that was not published is deleted. The
    directory and its missing parents get mode 0700, the file gets mode 0600. `RESERVE_BYTES` of the
    disk stay free.

    Args:
        directory: Where the file is created.
        stem: How the temporary name begins.
        expected_bytes: The size that the file will have; 0 if not known.

    Attributes:
        size: The number of bytes written so far.
        checksum: The CRC-32 of the bytes written so far.

    Raises:
        DiskSpaceError: The disk does not have enough space.
    """

    def __init__(self, directory: Path, stem: str, expected_bytes: int = 0) -> None:
        _make_private(directory)
        _require_space(directory, expected_bytes)
        descriptor, name = tempfile.mkstemp(prefix=f"{stem}.", suffix=".part", dir=directory)
        self._file = os.fdopen(descriptor, "wb")
        self._path = directory / Path(name).name
        self._published = False
        self._until_check = _CHECK_BYTES
        self.size = 0
        self.checksum = 0

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            DiskSpaceError: The disk is nearly full, or the user's quota is used up.
        """
        if self._until_check <= 0:
            _require_space(self._path.parent)
            self._until_check = _CHECK_BYTES
        with _explain_full_disk(self._path.parent):
            self._file.write(data)
        self._until_check -= len(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def flush(self) -> None:
        """Do nothing. `gzip.GzipFile` requires this method; `publish` writes everything."""

    def publish(self, name: str) -> Path:
        """Close the file and rename it, replacing an existing file.

        Args:
            name: The file's name, without a directory.

        Returns:
            The file's path.

        Raises:
            DiskSpaceError: There is no space for the last bytes.
        """
        with _explain_full_disk(self._path.parent):
            self._file.close()
        published = self._path.replace(self._path.with_name(name))
        self._published = True
        return published

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._published:
            return
        # The caller must see the error that ended the block, not one from cleaning up.
        with suppress(OSError):  # bytes that could not be written are discarded anyway
            self._file.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as problem:
            _log.warning("cannot delete the unfinished download %s: %s", self._path, problem)


def _make_private(directory: Path) -> None:
    """Create a directory and its missing parents with mode 0700.

    `Path.mkdir` applies its mode to the last directory only.
    """
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _require_space(directory: Path, needed: int = 0) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + RESERVE_BYTES:
        wanted = f"the download needs {_mebibytes(needed)} and " if needed else ""
        raise _disk_space_error(
            directory,
            f"{_mebibytes(free)} are free, {wanted}{_mebibytes(RESERVE_BYTES)} must stay free",
        )


@contextmanager
def _explain_full_disk(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _disk_space_error(directory, str(error.strerror)) from error


def _disk_space_error(directory: Path, reason: str) -> DiskSpaceError:
    return DiskSpaceError(
        errno.ENOSPC, f"no room for a download in {directory}: {reason}. {DiskSpaceError.advice}"
    )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
