"""Downloads raw events from Mixpanel's export API, one file per request."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from mp_pipeline.mixpanel.body import ExportBody
from mp_pipeline.mixpanel.downloads import EventsDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import MixpanelError
from mp_pipeline.mixpanel.part_file import PartFile
from mp_pipeline.mixpanel.progress import Progress
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Answer, Request

_HOURS = 24
_SMALLER_PARTS = {24: 12, 12: 6, 6: 3, 3: 1}
"""The hours of the parts into which so many hours are split."""


@dataclass(frozen=True)
class EventsQuery:
    """Which events to export.

    Attributes:
        from_date: The first day.
        to_date: The last day, inclusive.
        events: The names of the events; None for all.
        where: A segmentation expression; None for none.
        from_hour: The hour of a single day at which the events begin, in the project's time.
        to_hour: The hour at which they end, exclusive.

    Raises:
        ValueError: `to_date` is before `from_date`, or `events` is not a list of names.
        TypeError: A date has a time.
    """

    from_date: date
    to_date: date
    events: Sequence[str] | None = None
    where: str | None = None
    from_hour: int = 0
    to_hour: int = _HOURS

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
        conditions = [self.where] if self.where else []
        # No bound at the beginning and at the end of the day: Mixpanel alone says what is in it.
        if self.from_hour > 0:
            conditions.append(f'event["$time"] >= {self._time(self.from_hour)}')
        if self.to_hour < _HOURS:
            conditions.append(f'event["$time"] < {self._time(self.to_hour)}')
        if len(conditions) == 1:
            filters["where"] = conditions[0]
        elif conditions:
            filters["where"] = " and ".join(f"({condition})" for condition in conditions)
        return filters

    @property
    def description(self) -> str:
        """What is exported, in messages."""
        if self.from_date < self.to_date:
            return f"export of {self.from_date} to {self.to_date}"
        if self.is_part:
            return f"export of {self.from_date}, {self.from_hour:02}:00 to {self.to_hour:02}:00"
        return f"export of {self.from_date}"

    @property
    def file_stem(self) -> str:
        """The name of the file for all events of the days, without an ending."""
        if self.from_date < self.to_date:
            return f"events_{self.from_date}_{self.to_date}"
        return f"events_{self.from_date}"

    @property
    def is_part(self) -> bool:
        """Whether it is for a part of a day."""
        return (self.from_hour, self.to_hour) != (0, _HOURS)

    def split(self) -> "list[EventsQuery]":
        """Return smaller queries that together select the same events, each event once.

        Several days are split into days, and a day into 2, 4, 8 and at last 24 parts. An hour is
        not split.

        Example:
            >>> day = EventsQuery(date(2024, 1, 15), date(2024, 1, 15))
            >>> morning, afternoon = day.split()
            >>> morning.filters["where"]
            'event["$time"] < datetime("2024-01-15T12:00:00")'
            >>> afternoon.filters["where"]
            'event["$time"] >= datetime("2024-01-15T12:00:00")'
        """
        if self.from_date < self.to_date:
            count = (self.to_date - self.from_date).days + 1
            days = (self.from_date + timedelta(days=number) for number in range(count))
            return [replace(self, from_date=day, to_date=day) for day in days]
        smaller = _SMALLER_PARTS.get(self.to_hour - self.from_hour)
        if smaller is None:
            return []
        hours = range(self.from_hour, self.to_hour, smaller)
        return [replace(self, from_hour=hour, to_hour=hour + smaller) for hour in hours]

    def _time(self, hour: int) -> str:
        return f'datetime("{self.from_date}T{hour:02}:00:00")'


def download_file(
    endpoint: Endpoint,
    query: EventsQuery,
    directory: Path,
    stem: str,
    stop: Stop,
    max_attempts: int | None = None,
) -> EventsDownload:
    """Download events in one request to a file, which appears only when it is complete.

    Args:
        endpoint: The export API.
        query: Which events to export.
        directory: Where the file is created.
        stem: Its name, without an ending.
        stop: Ends the download from another thread.
        max_attempts: Allows fewer attempts than the endpoint does.

    Raises:
        MixpanelError: The export failed.
        RateLimitStoreError: Requests cannot be counted; none was sent.
        OSError: The file cannot be written.
    """
    request = _request(endpoint, query)
    progress = Progress(request.description, endpoint.rate_limiter)

    for attempt in endpoint.attempts(request, stop, max_attempts):
        with (
            attempt,
            endpoint.open(request, stop) as answer,
            PartFile(directory, stem, answer.expected_bytes) as part,
        ):
            body = _body_of(answer)
            for chunk in answer.chunks():
                part.write(chunk)
                body.feed(chunk)
                progress.update(answer.received, body.lines)
            body.finish()
            suffix = ".jsonl.gz" if answer.encoding and answer.received else ".jsonl"
            path = part.publish(stem + suffix)

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
        RateLimitStoreError: Requests cannot be counted; none was sent.
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
        query.description,
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
