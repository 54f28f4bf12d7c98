"""Requests the pages of a snapshot of profiles."""

import gzip
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mp_pipeline.mixpanel.endpoint import Endpoint, incomplete_answer
from mp_pipeline.mixpanel.errors import BadRequestError, IncompleteBodyError, RateLimitError
from mp_pipeline.mixpanel.pages import Page, parse_page
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Answer, Request

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedPage:
    """A page, ready to be written.

    Attributes:
        data: The profiles as a gzip member of JSON Lines. Equal profiles give equal bytes.
        lines: The number of profiles.
        id_hashes: The hashes of their ids; of the whole profile if it has none.
        page_size: The page size that the page states; None if it does not.
        total: The number of all profiles that it announces; None if it does not.
        attempts: The number of requests that were sent.
    """

    data: bytes
    lines: int
    id_hashes: list[int]
    page_size: int | None
    total: int | None
    attempts: int


class PageReader:
    """Requests the pages of one snapshot. Threads may share it.

    A thread that unpacks a page leaves its turn to the next request, so that Mixpanel always works
    on as many as it allows.

    Mixpanel counts only page 0 against the requests per hour. Later pages, which carry its session,
    take one of the concurrent requests. If Mixpanel refuses such a page because no request is left,
    every further one is counted.

    Args:
        endpoint: The engage API.
        form: The form fields of the requests, without the page number and the session.
        name: What the download is called in messages.
        concurrent: The number of requests at the same time.
    """

    def __init__(
        self, endpoint: Endpoint, form: Mapping[str, str], name: str, concurrent: int = 1
    ) -> None:
        self._endpoint = endpoint
        self._form = dict(form)
        self._name = name
        self._turns = threading.Semaphore(concurrent)
        self._counts_all = False

    def read(self, number: int, stop: Stop, max_attempts: int | None = None) -> PackedPage:
        """Request one page. The first one must be page 0.

        Args:
            number: The number of the page, from 0.
            stop: Ends the request from another thread.
            max_attempts: Allows fewer attempts than the endpoint does.

        Raises:
            MixpanelError: The page cannot be downloaded.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        request = Request(
            f"{self._name}, page {number}",
            "POST",
            self._endpoint.url,
            {"project_id": self._endpoint.project_id},
            {**self._form, "page": str(number)},
        )
        for attempt in self._endpoint.attempts(request, stop, max_attempts):
            with attempt:
                with self._turns, self._open(request, number, stop) as answer:
                    body = b"".join(answer.chunks(decode=True))
                page = _parse(body, answer)
        if number == 0 and (session_id := page.fields.get("session_id")):
            self._form["session_id"] = str(session_id)
        return PackedPage(
            data=gzip.compress(
                b"".join(profile + b"\n" for profile in page.profiles), compresslevel=1, mtime=0
            ),
            lines=len(page.profiles),
            id_hashes=[
                hash(profile if id_ is None else id_)
                for profile, id_ in zip(page.profiles, page.ids, strict=True)
            ],
            page_size=page.number("page_size"),
            total=page.number("total"),
            attempts=attempt.retry_state.attempt_number,
        )

    @contextmanager
    def _open(self, request: Request, number: int, stop: Stop) -> Iterator[Answer]:
        counted = number == 0 or self._counts_all
        try:
            with self._endpoint.open(request, stop, counted=counted) as answer:
                yield answer
        except RateLimitError as error:
            if not (counted or error.requests_left or self._counts_all):
                self._counts_all = True
                _log.warning(
                    "%s: Mixpanel refused a page after the first for its rate limit, so every page "
                    "counts as a request from now on",
                    self._name,
                )
            raise


def _parse(body: bytes, answer: Answer) -> Page:
    """Return the page in a body.

    Raises:
        MixpanelError: The body is incomplete, or contains an error instead of a page.
    """
    try:
        page = parse_page(body)
    except IncompleteBodyError as error:
        raise incomplete_answer(answer, error) from None
    if page.error:
        raise BadRequestError(
            f"status {answer.status}", status=answer.status, mixpanel_message=page.error
        )
    return page
