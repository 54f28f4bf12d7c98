"""Downloads raw events from Mixpanel's export API."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from mp_pipeline.mixpanel.body import ExportBody
from mp_pipeline.mixpanel.downloads import EventsDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import MixpanelError
from mp_pipeline.mixpanel.part_file import PartFile
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Answer, Request


@dataclass(frozen=True)
class EventsQuery:
    """Which events to export.

    Attributes:
        from_date: The first day.
        to_date: The last day, inclusive.
        events: The names of the events; None for all.
        where: A segmentation expression; None for none.

    Raises:
        ValueError: `to_date` is before `from_date`, or `events` is not a list of names.
        TypeError: A date has a time.
    """

    from_date: date
    to_date: date
    events: Sequence[str] | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        for name, day in (("from_date", self.from_date), ("to_date", self.to_date)):
            if isinstance(day, datetime):
                raise TypeError(f"{name} must be a date without a time, not {day!r}")
        if self.to_date < self.from_date:
            raise ValueError(f"to_date {self.to_date} is before from_date {self.from_date}")
        if isinstance(self.events, str) or (self.events is not None and not self.events):
            raise ValueError("events must be a list of names, or None for all events")

    @property
    def filters(self) -> dict[str, str]:
        """The parameters of the request that select events."""
        filters = {}
        if self.events is not None:
            filters["event"] = json.dumps(list(self.events))
        if self.where:
            filters["where"] = self.where
        return filters

    def days(self, separator: str) -> str:
        """Return the day, or the first and the last day."""
        if self.from_date == self.to_date:
            return str(self.from_date)
        return f"{self.from_date}{separator}{self.to_date}"


def download_events(
    endpoint: Endpoint, query: EventsQuery, directory: Path, stop: Stop
) -> EventsDownload:
    """Download events to a file, which appears only when it is complete.

    Args:
        endpoint: The export API.
        query: Which events to export.
        directory: Where the file is created.
        stop: Ends the download from another thread.

    Raises:
        MixpanelError: The export failed.
        StateDirectoryError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    request = _request(endpoint, query)
    name = f"events_{query.days('_')}"
    progress = Progress(request.description, endpoint.rate_limiter)

    for attempt in endpoint.attempts(request, stop):
        with (
            attempt,
            endpoint.open(request, stop) as answer,
            PartFile(directory, name, answer.expected_bytes) as part,
        ):
            body = _body_of(answer)
            for chunk in answer.chunks():
                part.write(chunk)
                body.feed(chunk)
                progress.update(answer.received, body.lines)
            body.finish()
            suffix = ".jsonl.gz" if answer.encoding and answer.received else ".jsonl"
            path = part.publish(name + suffix)

    attempts = attempt.retry_state.attempt_number
    progress.finish(part.size, body.lines, attempts)
    return EventsDownload(
        paths=(path,),
        bytes=part.size,
        lines=body.lines,
        complete=True,
        attempts=attempts,
        seconds=progress.seconds,
        checksums=(part.checksum,),
        from_date=query.from_date,
        to_date=query.to_date,
        events=None if query.events is None else tuple(query.events),
        where=query.where,
        uncompressed_bytes=body.uncompressed_bytes,
    )


def check_export(endpoint: Endpoint, day: date, max_attempts: int) -> None:
    """Request one event of a day and check the answer, but keep nothing of it.

    Args:
        endpoint: The export API.
        day: The day.
        max_attempts: Allows fewer attempts than the endpoint does.

    Raises:
        MixpanelError: The export failed.
        StateDirectoryError: Requests cannot be counted; none was sent.
    """
    request = _request(endpoint, EventsQuery(day, day), limit="1")
    stop = Stop()
    for attempt in endpoint.attempts(request, stop, max_attempts):
        with attempt, endpoint.open(request, stop) as answer:
            body = _body_of(answer)
            for chunk in answer.chunks():
                body.feed(chunk)
            body.finish()


def _request(endpoint: Endpoint, query: EventsQuery, **parameters: str) -> Request:
    dates = {"from_date": str(query.from_date), "to_date": str(query.to_date)}
    return Request(
        f"export of {query.days(' to ')}",
        "GET",
        endpoint.url,
        {"project_id": endpoint.project_id, **dates, **query.filters, **parameters},
    )


def _body_of(answer: Answer) -> ExportBody:
    if answer.encoding not in ("", "gzip", "x-gzip"):
        raise MixpanelError(
            "the answer has another Content-Encoding than gzip", status=answer.status
        )
    return ExportBody(
        compressed=bool(answer.encoding), delimited=answer.delimited, is_html=answer.is_html
    )
