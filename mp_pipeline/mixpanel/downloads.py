"""Downloaded files, and what is known about them."""

import logging
import zlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from mp_pipeline.mixpanel.errors import DamagedDownloadError

_log = logging.getLogger(__name__)
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Download:
    """Files that were downloaded completely.

    Attributes:
        paths: The files, JSON Lines; gzip if the name ends with `.gz`.
        bytes: Their size on disk, in bytes.
        lines: The number of their lines, without blank ones.
        complete: Whether they contain everything that Mixpanel announced.
        attempts: The number of requests that were sent: one per answer, plus the failed ones.
        seconds: How long the download took, waits included.
        checksums: The CRC-32 of each file; empty if not known.
        source: What the caller calls the project; None until the caller sets it.
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
        """Check that the files are as they were downloaded: DuckDB does not check gzip streams.

        Raises:
            DamagedDownloadError: A file is damaged or missing. The message names it.
        """
        for path, checksum in zip(self.paths, self.checksums, strict=False):
            try:
                found = _checksum(path)
            except OSError as error:
                raise _damaged(path, f"cannot be read ({error.strerror})") from error
            if found != checksum:
                raise _damaged(path, "is not as it was downloaded: it was changed or damaged")

    def delete(self) -> None:
        """Delete the files that still exist. If one cannot be deleted, the log says so."""
        for path in self.paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("cannot delete the download %s: %s", path, error.strerror)


@dataclass(frozen=True, kw_only=True)
class EventsDownload(Download):
    """The raw events of one or more days, as Mixpanel sent them.

    There are several files if one request for all of them stayed incomplete.

    Attributes:
        from_date: The first day, in the project's time zone.
        to_date: The last day, inclusive.
        events: The names of the events that were requested; None for all.
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
    """A snapshot of the profiles. `complete` is False if `distinct` differs from `total`.

    Attributes:
        total: The number of profiles that Mixpanel announced with the first page, if it did.
        distinct: The number of different profiles; `lines` counts repeated ones, too.
        pages: The number of pages.
        where: The filter expression that was sent; None for none.
        properties: The names of the properties that were requested; None for all.
    """

    total: int | None
    distinct: int
    pages: int
    where: str | None
    properties: tuple[str, ...] | None = None


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _damaged(path: Path, problem: str) -> DamagedDownloadError:
    return DamagedDownloadError(f"{path} {problem}. {DamagedDownloadError.advice}")
