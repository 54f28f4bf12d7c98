"""Downloads user profiles from Mixpanel's engage API."""

import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ProfilesQuery:
    """Which profiles to download, and what of them.

    Attributes:
        where: A segmentation expression; None for none.
        properties: The names of the properties to include; None for all.
        data_group_id: The group type whose profiles to download; None for user profiles.
        cohort_id: The cohort whose members to download, those without a profile included; None
            for no cohort.
        page_size: The number of profiles per page to request.

    Raises:
        ValueError: `page_size` is less than 1, or `properties` is not a list of names.

    Source: https://docs.mixpanel.com/reference/engage-query

    Example:
        >>> ProfilesQuery(properties=["$email"], cohort_id=7).form()
        {'page_size': '1000', 'output_properties': '["$email"]', 'filter_by_cohort': '{"id": 7}', \
'include_all_users': 'true'}
    """

    where: str | None = None
    properties: Sequence[str] | None = None
    data_group_id: str | None = None
    cohort_id: int | None = None
    page_size: int = 1000

    def __post_init__(self) -> None:
        if self.page_size < 1:
            raise ValueError(f"page_size must be at least 1, not {self.page_size}")
        if isinstance(self.properties, str) or (
            self.properties is not None and not self.properties
        ):
            raise ValueError("properties must be a list of names, or None for all properties")

    def form(self) -> dict[str, str]:
        """Return the form fields of the requests, without the page number and the session."""
        form = {"page_size": str(self.page_size)}
        if self.where:
            form["where"] = self.where
        if self.properties is not None:
            form["output_properties"] = json.dumps(list(self.properties))
        if self.data_group_id is not None:
            form["data_group_id"] = self.data_group_id
        if self.cohort_id is not None:
            form["filter_by_cohort"] = json.dumps({"id": self.cohort_id})
            form["include_all_users"] = "true"
        return form


def download_profiles(
    endpoint: Endpoint, directory: Path, query: ProfilesQuery, name: str = "profiles"
) -> ProfilesDownload:
    """Download all profiles to `<name>.jsonl.gz`, which appears only when it is complete.

    Args:
        endpoint: The engage API.
        directory: Where the file is created.
        query: Which profiles to download.
        name: What the file and the download are called.

    Raises:
        MixpanelError: A page cannot be downloaded.
        StateDirectoryError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    progress = Progress(name, endpoint.rate_limiter)
    pages = lines = attempts = 0
    total: int | None = None

    with PartFile(directory, name) as part:
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=part, mtime=0) as file:
            for page, page_attempts in _read_pages(endpoint, query, name):
                file.write(b"".join(profile + b"\n" for profile in page.profiles))
                if pages == 0:
                    total = page.number("total")
                pages += 1
                lines += len(page.profiles)
                attempts += page_attempts
                progress.update(part.size, lines)
        path = part.publish(f"{name}.jsonl.gz")

    progress.finish(part.size, lines, attempts)
    if total not in (None, lines):
        _log.warning("%s: Mixpanel announced %s and sent %s", name, total, lines)
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
        where=query.where,
    )


def read_page(
    endpoint: Endpoint,
    number: int,
    form: dict[str, str],
    max_attempts: int | None = None,
    name: str = "profiles",
) -> tuple[Page, int]:
    """Request one page of profiles.

    Args:
        endpoint: The engage API.
        number: The number of the page, from 0.
        form: The form fields of the request, without the page number.
        max_attempts: Allows fewer attempts than the endpoint does.
        name: What the download is called in messages.

    Returns:
        The page, and the number of attempts.

    Raises:
        MixpanelError: The page cannot be downloaded.
        StateDirectoryError: Requests cannot be counted; none was sent.
    """
    request = Request(
        f"{name}, page {number}",
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


def _read_pages(endpoint: Endpoint, query: ProfilesQuery, name: str) -> Iterator[tuple[Page, int]]:
    """Yield the pages with their numbers of attempts, until all profiles are read."""
    form = query.form()
    number = read = 0
    total: int | None = None
    more = True
    while more:
        page, attempts = read_page(endpoint, number, form, name=name)
        if number == 0:
            total = page.number("total")
            if session_id := page.fields.get("session_id"):
                form["session_id"] = str(session_id)
        yield page, attempts
        number += 1
        read += len(page.profiles)
        # A page that is not full is the last one. Mixpanel may use another size than requested.
        full = len(page.profiles) >= (page.number("page_size") or query.page_size)
        more = bool(page.profiles) and full and read != total
