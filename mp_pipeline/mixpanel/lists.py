"""Downloads what Mixpanel answers as one JSON list: cohorts, annotations, group types, schemas."""

import codecs
import gzip
from pathlib import Path

from mp_pipeline.mixpanel.downloads import Download
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import BadRequestError
from mp_pipeline.mixpanel.pages import Page, parse_page
from mp_pipeline.mixpanel.part_file import PartFile
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Request


def read_list(endpoint: Endpoint, request: Request) -> tuple[list[bytes], int]:
    """Request a list.

    Args:
        endpoint: The API.
        request: The request.

    Returns:
        The items, each a JSON text without newlines, and the number of attempts.

    Raises:
        MixpanelError: The list cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.
    """
    stop = Stop()
    for attempt in endpoint.attempts(request, stop):
        with attempt, endpoint.open(request, stop) as answer:
            page = parse_list(b"".join(answer.chunks(decode=True)))
            if page.error:
                raise BadRequestError(
                    f"status {answer.status}", status=answer.status, mixpanel_message=page.error
                )
    return page.profiles, attempt.retry_state.attempt_number


def parse_list(body: bytes) -> Page:
    """Split the body of an answer into its items. It is an array, or an object with `results`.

    Args:
        body: The decompressed body.

    Raises:
        IncompleteBodyError: The body is neither. The message quotes nothing.

    Example:
        >>> parse_list(b'[{"id": 1}, {"id": 2.0}]').profiles
        [b'{"id": 1}', b'{"id": 2.0}']
        >>> parse_list(b'{"status": "ok", "results": [{"id": 1}]}').profiles
        [b'{"id": 1}']
    """
    text = body.removeprefix(codecs.BOM_UTF8).strip()
    return parse_page(b'{"results":%b}' % text if text.startswith(b"[") else text)


def download_list(endpoint: Endpoint, request: Request, directory: Path, name: str) -> Download:
    """Download a list to `<name>.jsonl.gz`, one item per line as Mixpanel sent it.

    Args:
        endpoint: The API.
        request: The request.
        directory: Where the file is created.
        name: What the file is called.

    Raises:
        MixpanelError: The list cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    progress = Progress(request.description, endpoint.rate_limiter)
    items, attempts = read_list(endpoint, request)
    with PartFile(directory, name) as part:
        lines = b"".join(item + b"\n" for item in items)
        part.write(gzip.compress(lines, compresslevel=1, mtime=0))
        path = part.publish(f"{name}.jsonl.gz")
    progress.finish(part.size, len(items), attempts)
    return Download(
        paths=(path,),
        bytes=part.size,
        lines=len(items),
        complete=True,
        attempts=attempts,
        seconds=progress.seconds,
        checksums=(part.checksum,),
    )
