"""Downloaded files: how they come into being, and what is known of them."""

import errno
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self

from mp_pipeline.mixpanel.errors import DamagedDownloadError, DiskSpaceError

RESERVE_BYTES = 256 * 1024 * 1024
"""What a download leaves free on its disk, for the database and for everybody else."""

_CHECK_BYTES = 64 * 1024 * 1024  # the free space is looked at each time so much was written
_PIECE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, kw_only=True)
class Download:
    """Files that were downloaded whole.

    Attributes:
        paths: The files, JSON Lines; a name that ends in `.gz` means gzip.
        bytes: Their size on disk, in bytes.
        lines: Their lines that are not blank.
        complete: Whether they hold all that Mixpanel has announced.
        attempts: The requests it took, 1 for each answer that came at once.
        seconds: How long it took, waiting included.
        checksums: The CRC-32 of each file; empty where none was made.
        source: What the caller calls the project; None until it says.
    """

    paths: tuple[Path, ...]
    bytes: int
    lines: int
    complete: bool
    attempts: int
    seconds: float
    checksums: tuple[int, ...] = ()
    source: str | None = None

    def verify(self) -> None:
        """Refuse files that are not as they were downloaded: DuckDB checks no gzip stream.

        Raises:
            DamagedDownloadError: One is damaged, or gone; names it.
        """
        for path, checksum in zip(self.paths, self.checksums, strict=False):
            found = 0
            try:
                with path.open("rb") as file:
                    while piece := file.read(_PIECE_BYTES):
                        found = zlib.crc32(piece, found)
            except OSError as error:
                raise _damaged(path, f"cannot be read ({error.strerror})") from error
            if found != checksum:
                raise _damaged(path, "is not as it was downloaded: it was changed or damaged")

    def delete(self) -> None:
        """Remove the files. Those that are gone already are fine."""
        for path in self.paths:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class EventsDownload(Download):
    """The raw events of one or more days, as Mixpanel sent them.

    Attributes:
        from_date: The first day, in the project's time zone.
        to_date: The last day, inclusive.
        events: The event names that were asked for; None for all.
        where: The filter expression that was sent; None for none.
        uncompressed_bytes: The size after decompression, in bytes.
    """

    from_date: date
    to_date: date
    events: tuple[str, ...] | None
    where: str | None
    uncompressed_bytes: int


@dataclass(frozen=True, kw_only=True)
class ProfilesDownload(Download):
    """A snapshot of the user profiles. `complete` is False when `lines` differs from `total`.

    Attributes:
        total: The number of profiles that Mixpanel announced with the first page; None for none.
        pages: The pages that were read.
        where: The filter expression that was sent; None for none.
    """

    total: int | None
    pages: int
    where: str | None


class PartFile:
    """A file in the making: beside its place under a name of its own, and gone if it fails.

    A context manager. The directory, and what is missing above it, is made with mode 0700; the file
    has mode 0600. `RESERVE_BYTES` of the disk stay free.

    Args:
        directory: Where the file goes.
        stem: The beginning of its name.
        expected_bytes: How many bytes will be written, as far as that is known.

    Attributes:
        size: The bytes written so far.
        checksum: The CRC-32 of what was written so far.

    Raises:
        DiskSpaceError: The disk has no room for them.
    """

    def __init__(self, directory: Path, stem: str, expected_bytes: int = 0) -> None:
        _make_private(directory)
        _require_space(directory, expected_bytes)
        descriptor, name = tempfile.mkstemp(prefix=f"{stem}.", suffix=".part", dir=directory)
        self._file = os.fdopen(descriptor, "wb")
        self._path = directory / Path(name).name
        self._until_check = _CHECK_BYTES
        self.size = 0
        self.checksum = 0

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            DiskSpaceError: The disk is nearly full, or the user's share of it is used up.
        """
        if self._until_check <= 0:
            _require_space(self._path.parent)
            self._until_check = _CHECK_BYTES
        with _full_disk_explained(self._path.parent):
            self._file.write(data)
        self._until_check -= len(data)
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def flush(self) -> None:
        """Do nothing: whoever writes to a file may ask for it, and `publish` is what counts."""

    def publish(self, name: str) -> Path:
        """Close the file and give it its name, replacing one that is there; return its path.

        Raises:
            DiskSpaceError: The last bytes find no room.
        """
        with _full_disk_explained(self._path.parent):
            self._file.close()
        return self._path.replace(self._path.with_name(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what could not be written is thrown away
            self._file.close()
        self._path.unlink(missing_ok=True)


def _make_private(directory: Path) -> None:
    """Make a directory, and what is missing above it, for the owner only.

    `Path.mkdir` gives its mode to the last directory alone.
    """
    if not directory.is_dir():
        _make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def _damaged(path: Path, how: str) -> DamagedDownloadError:
    return DamagedDownloadError(f"{path} {how}. {DamagedDownloadError.advice}")


def _require_space(directory: Path, needed: int = 0) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed + RESERVE_BYTES:
        wanted = f"the download needs {_mebibytes(needed)} and " if needed else ""
        raise _disk_space_error(
            directory,
            f"{_mebibytes(free)} are free, {wanted}{_mebibytes(RESERVE_BYTES)} must stay free",
        )


@contextmanager
def _full_disk_explained(directory: Path) -> Iterator[None]:
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
