"""Downloaded files: how they come into being, and what is known of them."""

import os
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self


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
    """

    paths: tuple[Path, ...]
    bytes: int
    lines: int
    complete: bool
    attempts: int
    seconds: float

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

    A context manager. The folder is made (mode 0700) when it is missing; the file has mode 0600.
    """

    def __init__(self, folder: Path, stem: str) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f"{stem}.", suffix=".part", dir=folder)
        self.file = os.fdopen(descriptor, "wb")
        self._path = folder / Path(name).name

    def publish(self, name: str) -> Path:
        """Close the file and give it its name, replacing one that is there; return its path."""
        self.file.close()
        return self._path.replace(self._path.with_name(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.file.close()
        finally:
            self._path.unlink(missing_ok=True)
