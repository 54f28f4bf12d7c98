"""Downloads events in parts if no attempt at all of them is complete.

Exports of very large days can break off each time. Smaller ones arrive.
"""

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mp_pipeline.mixpanel.downloads import EventsDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import TruncatedExportError
from mp_pipeline.mixpanel.events import EventsQuery, download_file
from mp_pipeline.mixpanel.stop import Stop

_log = logging.getLogger(__name__)
_PART_ATTEMPTS = 2
"""Attempts at a part that can be split further. The second tells an accident from a limit."""


def download_events(
    endpoint: Endpoint, query: EventsQuery, directory: Path, stop: Stop
) -> EventsDownload:
    """Download events to a file or, if that stays incomplete, to several files.

    Several days are split into days. A day is split by time into 2, 4, 8 and at last 24 parts, of
    which complete ones are kept. Each part costs an export, which the log announces.

    Args:
        endpoint: The export API.
        query: Which events to export.
        directory: Where the files are created. They appear only when they are complete.
        stop: Ends the download from another thread.

    Raises:
        TruncatedExportError: An hour stays incomplete, too. Nothing is kept.
        MixpanelError: The export failed.
        RateLimitStoreError: Requests cannot be counted; none was sent.
        OSError: A file cannot be written.
    """
    start = time.monotonic()
    downloads: list[EventsDownload] = []
    attempts = 0
    remaining = [query]
    with ExitStack() as undo:
        while remaining:
            part = remaining[0]
            # Not the part's own dates: another download in this directory may need the same day.
            number = "" if part == query else f"_part-{len(downloads) + 1:02}"
            limit = _PART_ATTEMPTS if part.is_part and part.split() else None
            try:
                download = download_file(
                    endpoint, part, directory, query.file_stem + number, stop, limit
                )
            except TruncatedExportError as error:
                if not part.split():
                    raise
                attempts += error.attempts
                remaining = _split_day(part, remaining)
                _log.warning(
                    "%s stays incomplete (attempts: %d); requesting the rest in smaller parts, "
                    "one export each: %d",
                    part.description,
                    error.attempts,
                    len(remaining),
                )
            else:
                undo.callback(download.delete)
                attempts += download.attempts
                downloads.append(download)
                remaining = remaining[1:]
        undo.pop_all()
    if len(downloads) > 1:
        _log.info("%s: done in %d parts, exports: %d", query.description, len(downloads), attempts)
    return replace(
        downloads[0],
        paths=tuple(path for each in downloads for path in each.paths),
        bytes=sum(each.bytes for each in downloads),
        lines=sum(each.lines for each in downloads),
        attempts=attempts,
        seconds=time.monotonic() - start,
        checksums=tuple(checksum for each in downloads for checksum in each.checksums),
        to_date=query.to_date,
        uncompressed_bytes=sum(each.uncompressed_bytes for each in downloads),
    )


def _split_day(part: EventsQuery, remaining: list[EventsQuery]) -> list[EventsQuery]:
    """Split a part, and what remains of the same day: it is probably as large."""
    return [
        smaller
        for each in remaining
        for smaller in (each.split() if each.from_date == part.from_date else [each])
    ]
