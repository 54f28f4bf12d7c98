"""Downloads user profiles from Mixpanel's engage API."""

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

from mp_pipeline.mixpanel.downloads import ProfilesDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import BadRequestError
from mp_pipeline.mixpanel.pages import Page, parse_page
from mp_pipeline.mixpanel.part_file import PartFile
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Request

_log = logging.getLogger(__name__)


def download_profiles(
    endpoint: Endpoint, directory: Path, where: str | None, page_size: int
) -> ProfilesDownload:
    """Download all profiles to `profiles.jsonl.gz`, which appears only when it is complete.

    Args:
        endpoint: The engage API.
        directory: Where the file is created.
        where: A segmentation expression; None for all profiles.
        page_size: The number of profiles per page to request.

    Raises:
        MixpanelError: A page cannot be downloaded.
        StateDirectoryError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    progress = Progress("profiles", endpoint.rate_limiter)
    pages = lines = attempts = 0
    total: int | None = None

    with PartFile(directory, "profiles") as part:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=part, mtime=0) as file:
            for page, page_attempts in _read_pages(endpoint, where, page_size):
                file.write(b"".join(profile + b"\n" for profile in page.profiles))
                if pages == 0:
                    total = page.number("total")
                pages += 1
                lines += len(page.profiles)
                attempts += page_attempts
                progress.update(part.size, lines)
        path = part.publish("profiles.jsonl.gz")

    progress.finish(part.size, lines, attempts)
    if total not in (None, lines):
        _log.warning("profiles: Mixpanel announced %s and sent %s", total, lines)
    return ProfilesDownload(
        paths=(path,),
        bytes=part.size,
        lines=lines,
        complete=total in (None, lines),
        attempts=attempts,
        seconds=progress.seconds,
        checksums=(part.checksum,),
        total=total,
        pages=pages,
        where=where,
    )


def read_page(
    endpoint: Endpoint, number: int, form: dict[str, str], max_attempts: int | None = None
) -> tuple[Page, int]:
    """Request one page of profiles.

    Args:
        endpoint: The engage API.
        number: The number of the page, from 0.
        form: The form fields of the request, without the page number.
        max_attempts: Allows fewer attempts than the endpoint does.

    Returns:
        The page, and the number of attempts.

    Raises:
        MixpanelError: The page cannot be downloaded.
        StateDirectoryError: Requests cannot be counted; none was sent.
    """
    request = Request(
        f"profiles, page {number}",
        "POST",
        endpoint.url,
        {"project_id": endpoint.project_id},
        {**form, "page": str(number)},
    )
    stop = Stop()
    for attempt in endpoint.attempts(request, stop, max_attempts):
        with attempt, endpoint.open(request, stop) as answer:
            page = parse_page(b"".join(answer.chunks(decode=True)))
            if page.error:
                raise BadRequestError(
                    f"status {answer.status}", status=answer.status, mixpanel_message=page.error
                )
    return page, attempt.retry_state.attempt_number


def _read_pages(
    endpoint: Endpoint, where: str | None, page_size: int
) -> Iterator[tuple[Page, int]]:
    """Yield the pages with their numbers of attempts, until all profiles are read."""
    form = {"page_size": str(page_size)}
    if where:
        form["where"] = where
    number = read = 0
    total: int | None = None
    more = True
    while more:
        page, attempts = read_page(endpoint, number, form)
        if number == 0:
            total = page.number("total")
            if session_id := page.fields.get("session_id"):
                form["session_id"] = str(session_id)
        yield page, attempts
        number += 1
        read += len(page.profiles)
        # A page that is not full is the last one. Mixpanel may use another size than requested.
        full = len(page.profiles) >= (page.number("page_size") or page_size)
        more = bool(page.profiles) and full and read != total
