"""The sample project's responses to Mixpanel's API calls, without HTTP."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from mp_pipeline.sample.data import events_of_day, profiles_as_of
from mp_pipeline.sample.errors import ApiError
from mp_pipeline.sample.lexicon import list_schemas
from mp_pipeline.sample.snapshots import (
    COHORTS,
    COMPANY,
    cohort_members_as_of,
    companies_as_of,
    list_annotations,
    list_cohorts,
)
from mp_pipeline.sample.where import Condition, parse_where

MAX_LIMIT = 100_000
_DAYS_OF_NAMES = 31
_ONE_DAY = timedelta(days=1)
_LINES_PER_PIECE = 128
_QUERY_PARAMETERS = ("project_id", "workspace_id", "from_date", "to_date")
_FORM_FIELDS = (
    "page",
    "session_id",
    "page_size",
    "include_all_users",
    "distinct_ids",
    "output_properties",
    "where",
    "data_group_id",
    "filter_by_cohort",
)

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class SampleProject:
    """Answers API calls from the sample data.

    Parameters are the text from the query string or the form. An empty parameter counts as
    missing. An invalid parameter, or one that the sample project does not support, raises an
    `ApiError` with status 400, so that no filter is ever ignored.

    Args:
        today: Returns the current day in UTC, which is the last day of the project.
        events_per_day: The approximate number of events per day (see `events_of_day`).
        page_size: The largest number of profiles per page.
        hold_back_late_events: Whether to leave out events that arrive after today.
        timezone: The project's time zone, which sets the days of counts. Exports have UTC days.
        compact_duplicates: Whether counts leave out duplicates.
    """

    def __init__(
        self,
        *,
        today: Callable[[], date],
        events_per_day: int,
        page_size: int,
        hold_back_late_events: bool,
        timezone: str = "UTC",
        compact_duplicates: bool = True,
    ) -> None:
        self.today = today
        self.events_per_day = events_per_day
        self.page_size = page_size
        self.hold_back_late_events = hold_back_late_events
        self.timezone = ZoneInfo(timezone)
        self.compact_duplicates = compact_duplicates
        self._sessions: dict[str, date] = {}
        self._lock = threading.Lock()

    def export(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /export`: JSON Lines, one event per line, in pieces of about 80 kB."""
        _reject_unknown(query, *_QUERY_PARAMETERS, "event", "where", "limit", "time_in_ms")
        days = self._parse_days(query)
        names = _parse_names(query, "event")
        condition = _parse_condition(query)
        limit = _parse_int(query, "limit", minimum=1, maximum=MAX_LIMIT)
        in_ms = _parse_bool(query, "time_in_ms")

        events: Iterator[dict[str, Any]]
        events = itertools.chain.from_iterable(map(self._get_events, days))
        if names is not None:
            events = (event for event in events if event["event"] in names)
        if condition is not None:
            events = (event for event in events if condition(event["properties"]))
        if in_ms:
            events = map(_with_time_in_ms, events)
        return _encode_lines(itertools.islice(events, limit))

    def engage(self, form: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `POST /engage` with one page of profiles.

        All pages of a session show the profiles as of the day on which page 0 was requested.
        """
        _reject_unknown(form, *_FORM_FIELDS)
        page = _parse_int(form, "page", minimum=0) or 0
        page_size = min(_parse_int(form, "page_size", minimum=1) or self.page_size, self.page_size)
        distinct_ids = _parse_names(form, "distinct_ids")
        output_properties = _parse_names(form, "output_properties")
        condition = _parse_condition(form)
        session_id, day = self._get_session(page, form.get("session_id", ""))

        profiles: Iterable[dict[str, Any]] = _select_profiles(form, day)
        if condition is not None:
            profiles = (each for each in profiles if condition(each["$properties"]))
        if distinct_ids is not None:
            profiles = (each for each in profiles if each["$distinct_id"] in distinct_ids)
        if output_properties is not None:
            profiles = (_with_properties(each, output_properties) for each in profiles)
        found = list(profiles)
        response = {
            "page": page,
            "page_size": page_size,
            "results": found[page * page_size : (page + 1) * page_size],
            "session_id": session_id,
            "status": "ok",
        }
        if page == 0:  # Mixpanel does not document it for the other pages
            response["total"] = len(found)
        return iter([_encode(response).encode()])

    def event_counts(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /events`: the events per name and day of the project's time zone."""
        _reject_unknown(query, *_QUERY_PARAMETERS, "event", "type", "unit")
        _require(query, type="general", unit="day")
        days = list(self._parse_days(query))
        names = _parse_names(query, "event")
        if names is None:
            raise ApiError(400, "event is required")
        counts = self._count_events(days)
        response = {
            "data": {
                "series": list(map(str, days)),
                "values": {name: {str(day): counts[name, day] for day in days} for name in names},
            },
            "legend_size": len(names),
        }
        return iter([_encode(response).encode()])

    def event_names(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /events/names`: the names of the last 31 days, the most frequent first."""
        _reject_unknown(query, *_QUERY_PARAMETERS[:2], "type", "limit")
        _require(query, type="general")
        limit = _parse_int(query, "limit", minimum=1) or 255
        first = self.today() - timedelta(days=_DAYS_OF_NAMES - 1)
        counts: Counter[str] = Counter()
        for (name, _), events in self._count_events(_days_from(first, self.today())).items():
            counts[name] += events
        return iter([_encode([name for name, _ in counts.most_common(limit)]).encode()])

    def cohorts(self, form: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `POST /cohorts/list`: all cohorts."""
        _reject_unknown(form)
        return iter([_encode(list_cohorts(self.today())).encode()])

    def data_groups(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /data-groups`: the group types."""
        _reject_unknown(query)
        return iter([_encode({"status": "ok", "results": [COMPANY]}).encode()])

    def annotations(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /annotations`: all annotations."""
        _reject_unknown(query)
        return iter([_encode({"status": "ok", "results": list_annotations()}).encode()])

    def schemas(self, query: Mapping[str, str]) -> Iterator[bytes]:
        """Answer `GET /schemas`: all schemas of the Lexicon."""
        _reject_unknown(query)
        return iter([_encode({"status": "ok", "results": list_schemas()}).encode()])

    def _parse_days(self, query: Mapping[str, str]) -> Iterator[date]:
        """Return the days from `from_date` to `to_date`, both included."""
        first, last = _parse_date(query, "from_date"), _parse_date(query, "to_date")
        if last > self.today():
            raise ApiError(400, "to_date cannot be later than today")
        if first > last:
            raise ApiError(400, "from_date cannot be later than to_date")
        return _days_from(first, last)

    def _count_events(self, days: Iterable[date]) -> Counter[tuple[str, date]]:
        """Count the events by name and by day of the project's time zone.

        Events with the same name, user, day and `$insert_id` are one event: so Mixpanel compacts
        them.
        """
        wanted = set(days)
        counts: Counter[tuple[str, date]] = Counter()
        seen: set[tuple[str, str, date, str]] = set()
        touched = {each for day in wanted for each in _days_from(day - _ONE_DAY, day + _ONE_DAY)}
        for utc_day in sorted(day for day in touched if day <= self.today()):
            for event in self._get_events(utc_day):
                properties = event["properties"]
                day = datetime.fromtimestamp(properties["time"], self.timezone).date()
                if day not in wanted:
                    continue
                key = (event["event"], properties["distinct_id"], day, properties["$insert_id"])
                if key not in seen or not self.compact_duplicates:
                    seen.add(key)
                    counts[event["event"], day] += 1
        return counts

    def _get_events(self, day: date) -> Iterator[dict[str, Any]]:
        return events_of_day(
            day,
            events_per_day=self.events_per_day,
            arrived_by=self.today() if self.hold_back_late_events else None,
        )

    def _get_session(self, page: int, session_id: str) -> tuple[str, date]:
        """Return the id and the day of a session. Page 0 starts a new one."""
        with self._lock:
            if page == 0:
                session_id = f"{len(self._sessions) + 1:010}-SAMPLE"
                self._sessions[session_id] = self.today()
            elif not session_id:
                raise ApiError(400, "session_id is required for every page but page 0")
            elif session_id not in self._sessions:
                raise ApiError(400, f"session_id {session_id} is unknown or has expired")
            return session_id, self._sessions[session_id]


def today_utc() -> date:
    """Return the current day in UTC."""
    return datetime.now(UTC).date()


def _days_from(first: date, last: date) -> Iterator[date]:
    """Yield the days from the first to the last, both included."""
    return (first + timedelta(days=number) for number in range((last - first).days + 1))


def _encode_lines(events: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    while batch := list(itertools.islice(events, _LINES_PER_PIECE)):
        yield "".join(_encode(event) + "\n" for event in batch).encode()


def _select_profiles(form: Mapping[str, str], day: date) -> Iterator[dict[str, Any]]:
    """Return the profiles of the users, of a group type, or of a cohort's members."""
    data_group_id, cohort_filter = form.get("data_group_id", ""), form.get("filter_by_cohort", "")
    if data_group_id:
        if data_group_id != COMPANY["data_group_id"]:
            raise ApiError(400, f"data_group_id {data_group_id} is unknown")
        return companies_as_of(day)
    if not cohort_filter:
        return profiles_as_of(day)
    for cohort in COHORTS:
        if cohort_filter.replace(" ", "") == f'{{"id":{cohort.id}}}':
            return cohort_members_as_of(cohort, day)
    raise ApiError(400, f"filter_by_cohort {cohort_filter} is unknown")


def _with_time_in_ms(event: dict[str, Any]) -> dict[str, Any]:
    properties = event["properties"]
    return {**event, "properties": {**properties, "time": properties["time"] * 1000}}


def _with_properties(profile: dict[str, Any], names: list[str]) -> dict[str, Any]:
    properties = profile["$properties"]
    return {**profile, "$properties": {key: properties[key] for key in names if key in properties}}


def _reject_unknown(parameters: Mapping[str, str], *known: str) -> None:
    for name, value in parameters.items():
        if value and name not in known:
            raise ApiError(400, f"{name}: the sample project does not support this parameter")


def _require(parameters: Mapping[str, str], **required: str) -> None:
    """Refuse parameters that have another value than the only one that is supported."""
    for name, only in required.items():
        if parameters.get(name, "") != only:
            raise ApiError(400, f"{name}: the sample project supports only {only}")


def _parse_date(query: Mapping[str, str], name: str) -> date:
    text = query.get(name, "")
    if not text:
        raise ApiError(400, f"{name} is required")
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:  # fromisoformat accepts 20240115, too
        raise ApiError(400, f"{name} must be a date written YYYY-MM-DD, not {text!r}")
    return day


def _parse_names(parameters: Mapping[str, str], name: str) -> list[str] | None:
    """Parse a parameter that is a JSON array of strings."""
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


def _parse_int(
    parameters: Mapping[str, str], name: str, *, minimum: int, maximum: int | None = None
) -> int | None:
    text = parameters.get(name, "")
    if not text:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ApiError(400, f"{name} must be an integer {bounds}, not {text!r}")
    return number


def _parse_bool(parameters: Mapping[str, str], name: str) -> bool:
    text = parameters.get(name, "").lower()
    if text not in ("", "true", "false", "1", "0"):
        raise ApiError(400, f"{name} must be true or false, not {text!r}")
    return text in ("true", "1")


def _parse_condition(query: Mapping[str, str]) -> Condition | None:
    expression = query.get("where", "")
    if not expression:
        return None
    try:
        return parse_where(expression)
    except ValueError as error:
        raise ApiError(400, str(error)) from None
