"""Downloads user profiles from Mixpanel's engage API."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mp_pipeline.mixpanel.downloads import ProfilesDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import IncompleteSnapshotError
from mp_pipeline.mixpanel.page_reader import PackedPage, PageReader
from mp_pipeline.mixpanel.paging import DistinctIds, Paging
from mp_pipeline.mixpanel.part_file import PartFile
from mp_pipeline.mixpanel.prefetch import prefetch_results
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline.mixpanel.stop import Stop

_log = logging.getLogger(__name__)
_PAGES_AHEAD = 4  # per concurrent request, so that a slow page does not hold up the others


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
    endpoint: Endpoint,
    directory: Path,
    query: ProfilesQuery,
    name: str = "profiles",
    *,
    concurrent: int = 5,
    max_missing_fraction: float = 0.01,
) -> ProfilesDownload:
    """Download all profiles to `<name>.jsonl.gz`, which appears only when it is complete.

    The pages after the first are requested concurrently and written in their order, so the same
    answers give the same bytes. A few pages are held in memory.

    Args:
        endpoint: The engage API.
        directory: Where the file is created.
        query: Which profiles to download.
        name: What the file and the download are called.
        concurrent: The number of pages to request at the same time.
        max_missing_fraction: The fraction of the announced profiles that may be missing.

    Raises:
        IncompleteSnapshotError: More of the announced profiles are missing.
        MixpanelError: A page cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    progress = Progress(name, endpoint.rate_limiter)
    reader = PageReader(endpoint, query.form(), name, concurrent)
    paging = Paging(query.page_size)
    attempts = 0

    with PartFile(directory, name) as part, DistinctIds() as ids:
        for page in _read_pages(reader, paging, ahead=concurrent * _PAGES_AHEAD):
            part.write(page.data)
            paging.add(
                lines=page.lines,
                new=ids.add(page.id_hashes),
                page_size=page.page_size,
                total=page.total,
            )
            attempts += page.attempts
            progress.update(part.size, paging.lines, paging)
        if paging.lacks_too_many(max_missing_fraction):
            raise _incomplete(name, paging)
        path = part.publish(f"{name}.jsonl.gz")

    progress.finish(part.size, paging.lines, attempts, paging)
    complete = paging.total in (None, paging.distinct)
    if not complete:
        _log.warning(
            "%s: Mixpanel announced %s and sent %s",
            name,
            f"{paging.total:,}",
            f"{paging.distinct:,}",
        )
    return ProfilesDownload(
        paths=(path,),
        bytes=part.size,
        lines=paging.lines,
        complete=complete,
        attempts=attempts,
        seconds=progress.seconds,
        checksums=(part.checksum,),
        total=paging.total,
        distinct=paging.distinct,
        pages=paging.pages,
        where=query.where,
        properties=None if query.properties is None else tuple(query.properties),
    )


def _read_pages(reader: PageReader, paging: Paging, ahead: int) -> Iterator[PackedPage]:
    """Yield the pages in order; the caller adds each one to `paging`, which plans the next ones."""
    yield reader.read(0, Stop())
    while paging.pages < paging.planned:
        stop = Stop()
        tasks = (partial(reader.read, number, stop) for number in paging.remaining())
        with closing(prefetch_results(tasks, ahead, stop)) as pages:
            yield from pages


def _incomplete(name: str, paging: Paging) -> IncompleteSnapshotError:
    return IncompleteSnapshotError(
        f"{name}: Mixpanel announced {paging.total:,} and sent {paging.distinct:,} different ones "
        f"({paging.lines:,} lines in {paging.pages:,} pages). {IncompleteSnapshotError.advice}"
    )
