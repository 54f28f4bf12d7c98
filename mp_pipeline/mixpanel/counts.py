"""Mixpanel's own counts of events per name and day."""

import json
from collections.abc import Iterator, Sequence
from datetime import date
from urllib.parse import quote

from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.errors import IncompleteBodyError, UnexpectedAnswerError
from mp_pipeline.mixpanel.lenient import DECODER, error_message, to_text
from mp_pipeline.mixpanel.lists import read_list
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Request

EventCounts = dict[str, dict[date, int]]
"""The number of events by name and day. What is missing is 0."""

_MAX_NAMES = 50  # per request
_MAX_CHARACTERS = 4000  # of the names in a URL; servers refuse URLs of more than 8,000


def list_event_names(endpoint: Endpoint) -> list[str]:
    """Return the names of the project's events of the last 31 days, at most 255.

    Args:
        endpoint: The API that counts events.

    Raises:
        MixpanelError: They cannot be listed.
        RateLimitStoreError: Requests cannot be counted; none was sent.

    Source: https://docs.mixpanel.com/reference/query-months-top-event-names
    """
    request = Request(
        "list of event names",
        "GET",
        f"{endpoint.url}/names",
        {"project_id": endpoint.project_id, "type": "general", "limit": "255"},
    )
    items, _ = read_list(endpoint, request)
    return [str(DECODER.decode(to_text(item))) for item in items]


def count_events(
    endpoint: Endpoint,
    first: date,
    last: date,
    names: Sequence[str],
    max_attempts: int | None = None,
) -> EventCounts:
    """Request the numbers of events, of up to 50 names in one request for all days.

    Args:
        endpoint: The API that counts events.
        first: The first day, in the project's time zone.
        last: The last day, inclusive.
        names: The names of the events.
        max_attempts: Allows fewer attempts than the endpoint does; None for as many.

    Raises:
        MixpanelError: The numbers cannot be downloaded.
        RateLimitStoreError: Requests cannot be counted; none was sent.

    Source: https://docs.mixpanel.com/reference/list-recent-events
    """
    days = f"{first}" if first == last else f"{first} to {last}"
    counts: EventCounts = {}
    for some in _split_names(names):
        parameters = {
            "project_id": endpoint.project_id,
            "event": json.dumps(some, ensure_ascii=False),
            "type": "general",
            "unit": "day",
            "from_date": str(first),
            "to_date": str(last),
        }
        request = Request(f"counts of {days}", "GET", endpoint.url, parameters)
        stop = Stop()
        for attempt in endpoint.attempts(request, stop, max_attempts):
            with attempt, endpoint.open(request, stop) as answer:
                counts |= parse_counts(b"".join(answer.chunks(decode=True)))
    return counts


def parse_counts(body: bytes) -> EventCounts:
    """Parse an answer.

    Args:
        body: The decompressed body.

    Raises:
        IncompleteBodyError: The body breaks off.
        UnexpectedAnswerError: It contains no counts. `mixpanel_message` quotes it.

    Example:
        >>> parse_counts(b'{"data": {"values": {"Sign Up": {"2024-01-15": 3}}}}')
        {'Sign Up': {datetime.date(2024, 1, 15): 3}}
    """
    text = to_text(body).strip()
    try:
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        if text and not text.startswith("{"):
            raise _unexpected(body) from None
        raise IncompleteBodyError("the counts are not complete JSON") from None
    try:
        return {
            name: {date.fromisoformat(day): _number(count) for day, count in days.items()}
            for name, days in answer["data"]["values"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _unexpected(body) from None


def _number(count: object) -> int:
    """Return a count.

    Raises:
        ValueError: It is not a whole number of at least 0.
    """
    if isinstance(count, int | float) and not isinstance(count, bool) and count >= 0:
        number = int(count)
        if number == count:
            return number
    raise ValueError("not a count")


def _unexpected(body: bytes) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(
        "the answer has status 200, but contains no counts",
        status=200,
        mixpanel_message=error_message(body),
    )


def _split_names(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the names in groups that fit into one request each."""
    group: list[str] = []
    characters = 0
    for name in names:
        length = len(quote(name, errors="replace"))
        if group and (len(group) == _MAX_NAMES or characters + length > _MAX_CHARACTERS):
            yield group
            group, characters = [], 0
        group.append(name)
        characters += length
    if group:
        yield group
