"""Days that no single request delivers: they arrive in parts, which together are the day."""

import gzip
import json
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mp_pipeline.mixpanel import (
    BadRequestError,
    EventsDownload,
    MixpanelClient,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline.mixpanel.events import EventsQuery
from mp_pipeline.sample import events_of_day
from mp_pipeline.sample.where import parse_where
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.client import DAY, names
from mp_pipeline_tests.support.databases import query
from mp_pipeline_tests.support.runs import Runs
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY

NEXT_DAY = DAY + timedelta(days=1)
PLAN = 'properties["plan"] == "free"'


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


@pytest.fixture
def client(server: FaultyServer, waits: list[float]) -> Iterator[MixpanelClient]:  # noqa: ARG001
    """A client of the sample project, which does not wait between attempts."""
    with MixpanelClient(
        server.project_id,
        server.username,
        server.secret,
        export_url=server.export_url,
        query_url=server.query_url,
    ) as client:
        yield client


def limit(server: FaultyServer, max_lines: int, day: date | None = None) -> None:
    """Let every longer export of the server break off."""
    server.faults.append(Fault("too_many_lines", max_lines=max_lines, day=day, times=None))


def events_in(download: EventsDownload) -> list[dict[str, Any]]:
    lines = []
    for path in download.paths:
        data = path.read_bytes()
        lines += (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    assert download.lines == len(lines)
    assert download.bytes == sum(path.stat().st_size for path in download.paths)
    return [json.loads(line) for line in lines]


def sorted_events(events: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(event, sort_keys=True) for event in events)


def day_of(day: date) -> list[str]:
    return sorted_events(events_of_day(day, events_per_day=EVENTS_PER_DAY))


def requested_parts(server: FaultyServer) -> list[str]:
    return [request.query.get("where", "") for request in server.requests]


def at(hour: int, day: date = DAY) -> str:
    return f'datetime("{day}T{hour:02}:00:00")'


# A day


@pytest.mark.parametrize(
    ("max_lines", "parts"),
    [
        (80, 2),  # of 12 hours
        (50, 4),  # of 12, 6, 3 and 3 hours
        (17, 18),  # of 3 hours until 9 o'clock, then of one
    ],
)
def test_a_day_that_arrives_only_in_parts(
    server: FaultyServer,
    client: MixpanelClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    max_lines: int,
    parts: int,
) -> None:
    caplog.set_level(logging.INFO, "mp_pipeline.mixpanel")
    limit(server, max_lines)
    download = client.export_events(DAY, directory=tmp_path)
    assert sorted_events(events_in(download)) == day_of(DAY)
    stems = [path.name.partition(".")[0] for path in download.paths]
    assert stems == [f"events_2024-01-15_part-{number:02}" for number in range(1, parts + 1)]
    assert download.complete
    assert (download.from_date, download.to_date, download.where) == (DAY, DAY, None)
    assert download.attempts == len(server.requests)
    done = f"export of 2024-01-15: done in {parts} parts, exports: {len(server.requests)}"
    assert done in caplog.text
    download.verify()
    download.delete()
    assert names(tmp_path) == []


def test_what_is_requested_and_what_the_log_says(
    server: FaultyServer,
    client: MixpanelClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit(server, 50)
    client.export_events(DAY, directory=tmp_path)
    afternoon = f'event["$time"] >= {at(12)}'
    evening = f'event["$time"] >= {at(18)}'
    assert requested_parts(server) == [
        *[""] * 5,
        f'event["$time"] < {at(12)}',
        *[afternoon] * 2,
        f'({afternoon}) and (event["$time"] < {at(18)})',
        *[evening] * 2,
        f'({evening}) and (event["$time"] < {at(21)})',
        f'event["$time"] >= {at(21)}',
    ]
    split = [record.message for record in caplog.records if "smaller parts" in record.message]
    assert split == [
        f"export of 2024-01-15{part} stays incomplete (attempts: {attempts}); "
        "requesting the rest in smaller parts, one export each: 2"
        for part, attempts in (("", 5), (", 12:00 to 24:00", 2), (", 18:00 to 24:00", 2))
    ]


def test_only_the_part_that_broke_is_requested_again(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    server.faults += [Fault("terminated_early", times=5), Fault("dropped", times=1)]
    download = client.export_events(DAY, directory=tmp_path)
    assert sorted_events(events_in(download)) == day_of(DAY)
    morning, afternoon = f'event["$time"] < {at(12)}', f'event["$time"] >= {at(12)}'
    assert requested_parts(server) == [*[""] * 5, morning, morning, afternoon]
    assert download.attempts == 8


def test_filters_apply_to_every_part(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    server.faults.append(Fault("terminated_early", times=5))
    download = client.export_events(DAY, directory=tmp_path, where=PLAN, events=["Song Played"])
    assert requested_parts(server)[5:] == [
        f'({PLAN}) and (event["$time"] < {at(12)})',
        f'({PLAN}) and (event["$time"] >= {at(12)})',
    ]
    assert {request.query["event"] for request in server.requests} == {'["Song Played"]'}
    expected = [
        event
        for event in events_of_day(DAY, events_per_day=EVENTS_PER_DAY)
        if event["event"] == "Song Played" and event["properties"]["plan"] == "free"
    ]
    assert sorted_events(events_in(download)) == sorted_events(expected)
    assert expected
    assert (download.where, download.events) == (PLAN, ("Song Played",))


def test_an_hour_that_stays_incomplete_fails_the_day_and_leaves_nothing(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    limit(server, 16)
    with pytest.raises(TruncatedExportError) as caught:
        client.export_events(DAY, directory=tmp_path)
    assert str(caught.value).startswith("export of 2024-01-15, 09:00 to 10:00 failed: ")
    assert "5 attempts" in str(caught.value)
    assert names(tmp_path) == []
    # 5 for the day, 2 for each size of its parts, 3 of which arrived, and 5 for the hour.
    assert len(server.requests) == 5 + 2 + 2 + 3 + 2 + 5


def test_another_error_in_a_part_fails_the_day_and_leaves_nothing(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    afternoon = f'event["$time"] >= {at(12)}'
    server.faults += [
        Fault("terminated_early", times=5),
        Fault("slow", times=1, seconds=0),
        Fault("status", status=400, body=b"where: unknown function datetime"),
    ]
    with pytest.raises(BadRequestError, match=r"12:00 to 24:00 failed.*unknown function datetime"):
        client.export_events(DAY, directory=tmp_path)
    assert requested_parts(server)[-1] == afternoon
    assert names(tmp_path) == []


def test_an_error_page_is_not_requested_in_parts(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    server.faults.append(Fault("body", body=b"<html>Log in</html>", times=None))
    with pytest.raises(UnexpectedAnswerError, match="5 attempts"):
        client.export_events(DAY, directory=tmp_path)
    assert requested_parts(server) == [""] * 5


# Several days


def test_several_days_are_requested_one_by_one_before_a_day_is_split(
    server: FaultyServer, client: MixpanelClient, tmp_path: Path
) -> None:
    limit(server, 110)  # the first day has more, the second one fewer
    download = client.export_events(DAY, NEXT_DAY, directory=tmp_path)
    assert sorted_events(events_in(download)) == sorted(day_of(DAY) + day_of(NEXT_DAY))
    assert (download.from_date, download.to_date) == (DAY, NEXT_DAY)
    assert names(tmp_path) == [
        f"events_2024-01-15_2024-01-16_part-{number:02}.jsonl.gz" for number in (1, 2, 3)
    ]
    dates = [(each.query["from_date"], each.query["to_date"]) for each in server.requests]
    assert dates == [
        *[(str(DAY), str(NEXT_DAY))] * 5,
        *[(str(DAY), str(DAY))] * 7,
        (str(NEXT_DAY), str(NEXT_DAY)),
    ]
    assert download.attempts == 13


# The parts add up


def all_parts(query: EventsQuery, splits: list[bool]) -> list[EventsQuery]:
    """Return the parts if those are split whose turn says so."""
    smaller = query.split() if not splits or splits.pop() else []
    return [part for each in smaller for part in all_parts(each, splits)] or [query]


DAYS_OF_CHANGED_CLOCKS = [date(2024, 3, 10), date(2024, 11, 3), date(2024, 3, 31), DAY]
SECONDS = st.integers(0, 24 * 3600) | st.integers(0, 24).map(lambda hour: 3600 * hour)


@given(
    day=st.sampled_from(DAYS_OF_CHANGED_CLOCKS),
    offset=SECONDS.flatmap(lambda second: st.sampled_from([second, second - 1, second + 0.5]))
    | st.integers(-(10**9), 10**9),
    splits=st.lists(st.booleans(), max_size=30),
    where=st.none() | st.just(PLAN),
)
def test_every_event_is_in_exactly_one_part(
    day: date, offset: float, splits: list[bool], where: str | None
) -> None:
    """Also at the bounds, and with a time outside the day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
    properties = {"plan": "free", "time": midnight + offset}
    parts = all_parts(EventsQuery(day, day, where=where), splits)
    expressions = [part.filters.get("where") for part in parts]
    found = [each is None or parse_where(each)(properties) for each in expressions]
    assert sum(found) == 1


def test_a_day_has_at_most_24_parts() -> None:
    assert len(all_parts(EventsQuery(DAY, DAY), [])) == 24


# Loaded


@pytest.mark.usefixtures("waits")
@pytest.mark.parametrize("local_timestamps", ["", "true"], ids=["UTC", "wall clock"])
@pytest.mark.parametrize(
    "day", [date(2024, 3, 10), date(2024, 11, 3)], ids=["23 hours", "25 hours"]
)
def test_the_parts_of_days_with_changed_clocks_are_loaded_into_their_days(
    server: FaultyServer,
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    day: date,
    local_timestamps: str,
) -> None:
    monkeypatch.setenv("MIXPANEL_PROJECT_TIMEZONE", "America/Los_Angeles")
    monkeypatch.setenv("MIXPANEL_LOCAL_TIMESTAMPS", local_timestamps)
    monkeypatch.setenv("MIXPANEL_DAYS_PER_REQUEST", "2")
    days = [day - timedelta(days=1), day, day + timedelta(days=1)]

    def stored() -> list[list[tuple[Any, ...]]]:
        rows = "SELECT event_time, insert_id FROM events_{:%Y%m%d} ORDER BY ALL"
        return [query(tmp_path, rows.format(each)) for each in days]

    assert runs.run(days[0], days[-1]).success
    whole = stored()
    assert all(whole)
    limit(server, 40)
    assert runs.run(days[0], days[-1]).success
    assert stored() == whole
    shown = runs.metadata()
    assert all(shown[str(each)]["download_parts"] > 2 for each in days)
    assert all(shown[str(each)]["lost"] == 0 for each in days)
