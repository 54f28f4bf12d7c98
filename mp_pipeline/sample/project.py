"""The sample project's answers to Mixpanel's API calls, without the HTTP around them."""

import itertools
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

from mp_pipeline.sample.data import events_of_day, profiles_as_of
from mp_pipeline.sample.errors import ApiError
from mp_pipeline.sample.where import Condition, parse_where

MAX_LIMIT = 100_000
_LINES_AT_A_TIME = 128

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class SampleProject:
    """Answers API calls from the sample data.

    Parameters come as the text that stands in the query string or the form; an empty one counts
    as absent. A parameter that is wrong, or that the sample project does not understand, is an
    `ApiError` with status 400: no filter is ever ignored.

    Args:
        today: Gives the current day in UTC, the last one that can be asked for.
        events_per_day: About how many events a day has (see `events_of_day`).
        page_size: The largest number of profiles on a page.
        hold_back_late_events: Leave out events that arrive only after today, as Mixpanel would.
    """

    def __init__(
        self,
        *,
        today: Callable[[], date],
        events_per_day: int,
        page_size: int,
        hold_back_late_events: bool,
    ) -> None:
        self.today = today
        self.events_per_day = events_per_day
        self.page_size = page_size
        self.hold_back_late_events = hold_back_late_events
        self._sessions: dict[str, date] = {}
        self._lock = threading.Lock()

    def export(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /export`: JSON Lines, an event a line, in pieces of about 80 kB."""
        known = ("project_id", "workspace_id", "from_date", "to_date")
        _refuse_others(query, *known, "event", "where", "limit", "time_in_ms")
        days = self._days(query)
        names = _names(query, "event")
        condition = _condition(query)
        limit = _number(query, "limit", None, least=1, most=MAX_LIMIT)
        in_ms = _flag(query, "time_in_ms")

        events: Iterator[dict[str, Any]]
        events = itertools.chain.from_iterable(map(self._events, days))
        if names is not None:
            events = (event for event in events if event["event"] in names)
        if condition is not None:
            events = (event for event in events if condition(event["properties"]))
        if in_ms:
            events = map(_with_time_in_ms, events)
        return _lines(itertools.islice(events, limit))

    def engage(self, form: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `POST /engage`: one page of profiles, as they are on the day page 0 was asked."""
        known = ("page", "session_id", "page_size", "include_all_users")
        _refuse_others(form, *known, "distinct_ids", "output_properties")
        page = _number(form, "page", 0, least=0) or 0
        asked_size = _number(form, "page_size", self.page_size, least=1) or self.page_size
        page_size = min(asked_size, self.page_size)
        distinct_ids = _names(form, "distinct_ids")
        output_properties = _names(form, "output_properties")
        session_id, day = self._session(page, form.get("session_id", ""))

        profiles: Iterable[dict[str, Any]] = profiles_as_of(day)
        if distinct_ids is not None:
            profiles = (each for each in profiles if each["$distinct_id"] in distinct_ids)
        if output_properties is not None:
            profiles = (_with_properties(each, output_properties) for each in profiles)
        found = list(profiles)
        answer = {
            "page": page,
            "page_size": page_size,
            "results": found[page * page_size : (page + 1) * page_size],
            "session_id": session_id,
            "status": "ok",
        }
        if page == 0:  # Mixpanel does not promise it on the others
            answer["total"] = len(found)
        return iter([_encode(answer).encode()])

    def event_counts(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /events`: how many events of each name each day has, duplicates left out."""
        known = ("project_id", "workspace_id", "from_date", "to_date")
        _refuse_others(query, *known, "event", "type", "unit")
        for name, only in (("type", "general"), ("unit", "day")):
            if query.get(name, "") != only:
                raise ApiError(400, f"{name}: the sample project knows only {only}")
        days = list(self._days(query))
        names = _names(query, "event")
        if names is None:
            raise ApiError(400, "event is required")
        values = {name: dict.fromkeys(map(str, days), 0) for name in names}
        for day in days:
            seen = set()
            for event in self._events(day):
                insert_id = event["properties"]["$insert_id"]
                if event["event"] in values and insert_id not in seen:
                    seen.add(insert_id)
                    values[event["event"]][str(day)] += 1
        answer = {
            "data": {"series": list(map(str, days)), "values": values},
            "legend_size": len(values),
        }
        return iter([_encode(answer).encode()])

    def _days(self, query: Mapping[str, str]) -> Iterator[date]:
        """Yield the days from `from_date` to `to_date`, both included."""
        first, last = _date(query, "from_date"), _date(query, "to_date")
        if last > self.today():
            raise ApiError(400, "to_date cannot be later than today")
        if first > last:
            raise ApiError(400, "from_date cannot be later than to_date")
        return (first + timedelta(days=number) for number in range((last - first).days + 1))

    def _events(self, day: date) -> Iterator[dict[str, Any]]:
        return events_of_day(
            day,
            events_per_day=self.events_per_day,
            arrived_by=self.today() if self.hold_back_late_events else None,
        )

    def _session(self, page: int, session_id: str) -> tuple[str, date]:
        """Begin a session for page 0, find it again for the others: an id and the day of it."""
        with self._lock:
            if page == 0:
                session_id = f"{len(self._sessions) + 1:010}-SAMPLE"
                self._sessions[session_id] = self.today()
            elif not session_id:
                raise ApiError(400, "session_id is required from page 1 on")
            elif session_id not in self._sessions:
                raise ApiError(400, f"session_id {session_id} is unknown or has expired")
            return session_id, self._sessions[session_id]


def today_utc() -> date:
    """Give the current day in UTC."""
    return datetime.now(UTC).date()


def _lines(events: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    while batch := list(itertools.islice(events, _LINES_AT_A_TIME)):
        yield "".join(_encode(event) + "\n" for event in batch).encode()


def _with_time_in_ms(event: dict[str, Any]) -> dict[str, Any]:
    properties = event["properties"]
    return {**event, "properties": {**properties, "time": properties["time"] * 1000}}


def _with_properties(profile: dict[str, Any], names: list[str]) -> dict[str, Any]:
    properties = profile["$properties"]
    return {**profile, "$properties": {key: properties[key] for key in names if key in properties}}


def _refuse_others(parameters: Mapping[str, str], *known: str) -> None:
    for name, value in parameters.items():
        if value and name not in known:
            raise ApiError(400, f"{name}: the sample project does not understand this parameter")


def _date(query: Mapping[str, str], name: str) -> date:
    text = query.get(name, "")
    if not text:
        raise ApiError(400, f"{name} is required")
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:  # fromisoformat takes 20240115, too
        raise ApiError(400, f"{name} must be a date written YYYY-MM-DD, not {text!r}")
    return day


def _names(parameters: Mapping[str, str], name: str) -> list[str] | None:
    """Read a parameter that is a JSON array of strings."""
    text = parameters.get(name, "")
    if not text:
        return None
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise ApiError(400, f"{name} must be a JSON array of strings, not {text!r}")
    return names


def _number(
    parameters: Mapping[str, str],
    name: str,
    default: int | None,
    *,
    least: int,
    most: int | None = None,
) -> int | None:
    text = parameters.get(name, "")
    if not text:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ApiError(400, f"{name} must be a number {bounds}, not {text!r}")
    return number


def _flag(parameters: Mapping[str, str], name: str) -> bool:
    text = parameters.get(name, "").lower()
    if text not in ("", "true", "false", "1", "0"):
        raise ApiError(400, f"{name} must be true or false, not {text!r}")
    return text in ("true", "1")


def _condition(query: Mapping[str, str]) -> Condition | None:
    expression = query.get("where", "")
    if not expression:
        return None
    try:
        return parse_where(expression)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
