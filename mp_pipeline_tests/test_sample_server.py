import contextlib
import gc
import gzip
import http.client
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import requests

from mp_pipeline.sample import SampleServer, events_of_day, profiles_as_of
from mp_pipeline.sample.errors import ApiError
from mp_pipeline.sample.limits import RateLimit
from mp_pipeline.sample.where import Condition, parse_where
from mp_pipeline_tests.support.processes import COMMAND, environment
from mp_pipeline_tests.support.records import DAY
from mp_pipeline_tests.support.waiting import PATIENCE

TODAY = date(2024, 1, 20)

Event = dict[str, Any]
Ask = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(today=TODAY) as server:
        yield server


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture
def export(server: SampleServer, session: requests.Session) -> Ask:
    """Request an export. Keywords are parameters; None leaves one out."""

    def ask(
        *,
        auth: tuple[str, str] | None = (server.username, server.secret),
        headers: dict[str, str] | None = None,
        **parameters: Any,
    ) -> requests.Response:
        parameters = {
            "project_id": server.project_id,
            "from_date": str(DAY),
            "to_date": str(DAY),
            **parameters,
        }
        return session.get(
            f"{server.export_url}/export", params=parameters, auth=auth, headers=headers
        )

    return ask


@pytest.fixture
def engage(server: SampleServer, session: requests.Session) -> Ask:
    """Request a page of profiles. Keywords are form fields."""

    def ask(**form: Any) -> requests.Response:
        return session.post(
            f"{server.query_url}/engage",
            params={"project_id": server.project_id},
            data=form,
            auth=(server.username, server.secret),
        )

    return ask


def lines(response: requests.Response) -> list[Event]:
    assert response.status_code == 200
    return [json.loads(line) for line in response.content.splitlines()]


def get_export(
    server: SampleServer, *, stream: bool = False, **parameters: str | int
) -> requests.Response:
    """Export a day on a new connection. Keywords are further parameters."""
    return requests.get(
        f"{server.export_url}/export",
        params={
            "project_id": server.project_id,
            "from_date": str(DAY),
            "to_date": str(DAY),
            **parameters,
        },
        auth=(server.username, server.secret),
        stream=stream,
        timeout=PATIENCE,
    )


def get_counts(server: SampleServer, **parameters: str) -> requests.Response:
    """Request the numbers of events of a day. Keywords are further parameters."""
    return requests.get(
        f"{server.query_url}/events",
        params={
            "project_id": server.project_id,
            "type": "general",
            "unit": "day",
            "from_date": str(DAY),
            "to_date": str(DAY),
            **parameters,
        },
        auth=(server.username, server.secret),
        timeout=PATIENCE,
    )


def post_engage(server: SampleServer, **form: str | int) -> requests.Response:
    """Request a page of profiles on a new connection. Keywords are form fields."""
    return requests.post(
        f"{server.query_url}/engage",
        params={"project_id": server.project_id},
        data=form,
        auth=(server.username, server.secret),
        timeout=PATIENCE,
    )


# Export: the body


def test_export_gives_the_events_of_the_day(export: Ask) -> None:
    assert lines(export()) == list(events_of_day(DAY))


def test_export_of_a_range_is_its_days_one_after_another(export: Ask) -> None:
    days = [DAY + timedelta(days=number) for number in range(3)]
    bodies = [export(from_date=str(day), to_date=str(day)).content for day in days]
    assert export(from_date=str(days[0]), to_date=str(days[-1])).content == b"".join(bodies)


def test_export_is_gzip_for_those_who_take_it(
    server: SampleServer, session: requests.Session
) -> None:
    url = f"{server.export_url}/export"
    parameters = {"project_id": server.project_id, "from_date": str(DAY), "to_date": str(DAY)}
    auth = (server.username, server.secret)
    bodies = {}
    for coding in ("gzip, deflate", "identity", "gzip;q=0"):
        with session.get(
            url, params=parameters, auth=auth, headers={"Accept-Encoding": coding}, stream=True
        ) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            assert (response.headers.get("Content-Encoding") == "gzip") == (
                coding == "gzip, deflate"
            )
            bodies[coding] = response.raw.read(decode_content=False)
    assert gzip.decompress(bodies["gzip, deflate"]) == bodies["identity"] == bodies["gzip;q=0"]
    assert len(bodies["gzip, deflate"]) < len(bodies["identity"]) / 3


def test_small_bodies_are_plain(export: Ask) -> None:
    response = export(limit=1)
    assert "Content-Encoding" not in response.headers
    assert int(response.headers["Content-Length"]) == len(response.content) < 1400
    assert len(lines(response)) == 1


def test_a_day_without_events_is_empty(export: Ask) -> None:
    response = export(from_date="2022-06-01", to_date="2022-06-02")
    assert lines(response) == []
    assert response.content == b""


def test_time_in_ms(export: Ask) -> None:
    [event] = lines(export(limit=1, time_in_ms="true"))
    [expected] = lines(export(limit=1))
    assert event["properties"]["time"] == 1000 * expected["properties"]["time"]


def test_late_events_can_be_held_back() -> None:
    today = DAY
    with SampleServer(today=lambda: today, hold_back_late_events=True) as server:

        def count() -> int:
            return len(lines(get_export(server)))

        at_first = count()
        today = DAY + timedelta(days=10)
        assert at_first < count() == len(list(events_of_day(DAY)))


def test_exports_run_side_by_side(export: Ask) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = {future.result().content for future in [pool.submit(export) for _ in range(8)]}
    assert len(bodies) == 1


# Export: filters


def test_event_filter(export: Ask) -> None:
    names = ["Search", "Sign Up"]
    expected = [event for event in events_of_day(DAY) if event["event"] in names]
    assert lines(export(event=json.dumps(names))) == expected != []


def test_limit(export: Ask) -> None:
    assert lines(export(limit=7)) == list(itertools.islice(events_of_day(DAY), 7))


NOON = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ('properties["$os"] == "iOS"', lambda each: each["$os"] == "iOS"),
        ('properties["duration"] == 120', lambda each: each.get("duration") == 120),
        ('properties["completed"] == true', lambda each: each.get("completed") is True),
        ('properties["plan"] in ["family", "free"]', lambda each: each["plan"] != "premium"),
        (
            ' properties["$os"]=="iOS" and properties["$city"] == "Z\\u00fcrich"',
            lambda each: each["$os"] == "iOS" and each["$city"] == "Zürich",
        ),
        ('event["$time"] >= datetime("2024-01-15T12:00:00")', lambda each: each["time"] >= NOON),
        (
            '(properties["plan"] == "free") and event["$time"]<datetime("2024-01-15T12:00:00")',
            lambda each: each["plan"] == "free" and each["time"] < NOON,
        ),
        (
            '( (properties["$os"] == "iOS" and properties["plan"] == "free" )) and'
            ' event["$time"] >= datetime("2024-01-15T12:00:00")',
            lambda each: each["$os"] == "iOS" and each["plan"] == "free" and each["time"] >= NOON,
        ),
    ],
)
def test_where(where: str, condition: Condition) -> None:
    understood = parse_where(where)
    properties = [event["properties"] for event in events_of_day(DAY)]
    properties = [each for each in properties if each["plan"] != "student"]
    expected = list(map(condition, properties))
    assert list(map(understood, properties)) == expected
    assert any(expected)


def test_where_tells_true_from_one() -> None:
    assert not parse_where('properties["a"] == 1')({"a": True})
    assert not parse_where('properties["a"] == false')({"a": 0})


def test_where_over_http(export: Ask) -> None:
    found = lines(export(where='properties["plan"] == "family"'))
    assert found
    assert {event["properties"]["plan"] for event in found} == {"family"}


@pytest.mark.parametrize(
    "where",
    [
        'properties["a"]',
        'properties["a"] == ',
        'properties["a"] == "b" or properties["a"] == "c"',
        'properties["a"] == "b" and ',
        'properties["a"] == null',
        'properties["a"] in "b"',
        'properties["a"] in [["b"]]',
        'properties["a"] != "b"',
        'properties["a"] > 3',
        'not properties["a"] == "b"',
        'user["a"] == "b"',
        "1",
        '(properties["a"] == "b"',
        'properties["a"] == "b")',
        "(" * 1000,
        'event["$time"] > datetime("2024-01-15T12:00:00")',
        'event["$time"] >= "2024-01-15T12:00:00"',
        'event["$time"] >= datetime("2024-01-15")',
        'event["$time"] >= datetime("2024-13-15T12:00:00")',
    ],
)
def test_where_that_is_not_understood_is_refused(export: Ask, where: str) -> None:
    response = export(where=where)
    assert response.status_code == 400
    assert "where" in response.json()["error"]


# Export: what is refused


@pytest.mark.parametrize(
    "auth", [None, ("sample.account", "wrong"), ("wrong", "sample-secret"), ("sample-secret", "")]
)
def test_wrong_credentials(export: Ask, auth: tuple[str, str] | None) -> None:
    response = export(auth=auth)
    assert response.status_code == 401
    assert response.json()["error"] == "Invalid service account credentials"
    assert response.json()["request"].startswith("/api/2.0/export?")


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"project_id": None}, "project_id is required"),
        ({"project_id": "42"}, "no access to project_id 42"),
        ({"from_date": None}, "from_date is required"),
        ({"to_date": ""}, "to_date is required"),
        ({"from_date": "2024-1-5"}, "YYYY-MM-DD"),
        ({"to_date": "20240115"}, "YYYY-MM-DD"),
        ({"to_date": "2024-02-30"}, "YYYY-MM-DD"),
        ({"to_date": "2024-01-21"}, "to_date cannot be later than today"),
        ({"from_date": "2024-01-16"}, "from_date cannot be later than to_date"),
        ({"event": "Search"}, "event must be a JSON array of strings"),
        ({"event": "[]"}, "event must be a JSON array of strings"),
        ({"limit": "0"}, "limit must be an integer from 1 to 100000"),
        ({"limit": "100001"}, "limit must be"),
        ({"limit": "many"}, "limit must be"),
        ({"time_in_ms": "maybe"}, "time_in_ms must be"),
        ({"on": "properties"}, "on: the sample project does not support"),
    ],
)
def test_wrong_parameters(export: Ask, parameters: dict[str, str | None], words: str) -> None:
    response = export(**parameters)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_today_can_be_asked_for(export: Ask) -> None:
    assert lines(export(from_date=str(TODAY), to_date=str(TODAY)))


@pytest.mark.parametrize("path", ["", "/", "/api/2.0/events", "/api/2.0/export/"])
def test_unknown_paths(server: SampleServer, session: requests.Session, path: str) -> None:
    response = session.get(f"http://{server.host}:{server.port}{path}")
    assert response.status_code == 404
    assert response.json().keys() == {"request", "error"}


def test_wrong_method(server: SampleServer, session: requests.Session) -> None:
    assert session.post(f"{server.export_url}/export").status_code == 405
    assert session.get(f"{server.query_url}/engage").status_code == 405


def test_body_of_unknown_length(server: SampleServer, session: requests.Session) -> None:
    response = session.post(f"{server.query_url}/engage", data=iter([b"page=0"]))
    assert response.status_code == 411


# Engage


def test_engage_pages_hold_every_profile_once(engage: Ask) -> None:
    first = engage(page_size=300).json()
    assert first.keys() == {"page", "page_size", "results", "session_id", "status", "total"}
    assert (first["page"], first["page_size"], first["status"]) == (0, 300, "ok")
    found, page = first["results"], first
    while len(page["results"]) == page["page_size"]:
        number = page["page"] + 1
        page = engage(page_size=300, page=number, session_id=first["session_id"]).json()
        assert page["page"] == number
        assert page["session_id"] == first["session_id"]
        found += page["results"]
    assert found == list(profiles_as_of(TODAY))
    assert first["total"] == len(found)


def test_engage_needs_no_fields(engage: Ask) -> None:
    assert engage().json()["page_size"] == 1000


def test_the_server_may_give_smaller_pages_than_asked_for() -> None:
    with SampleServer(today=TODAY, page_size=50) as server:
        page = post_engage(server, page_size=1000).json()
    assert page["page_size"] == len(page["results"]) == 50


def test_a_session_stays_on_the_day_it_began() -> None:
    today = DAY
    with SampleServer(today=lambda: today, page_size=10) as server:
        first = post_engage(server).json()
        today = DAY + timedelta(days=30)
        second = post_engage(server, page=1, session_id=first["session_id"]).json()
        assert second["results"] == list(profiles_as_of(DAY))[10:20]
        assert post_engage(server).json()["total"] > first["total"]


def test_engage_of_certain_users(engage: Ask) -> None:
    page = engage(distinct_ids='["user_3", "nobody", "user_7"]').json()
    assert [each["$distinct_id"] for each in page["results"]] == ["user_3", "user_7"]
    assert page["total"] == 2


def test_engage_of_certain_properties(engage: Ask) -> None:
    page = engage(output_properties='["plan", "$email", "unknown"]').json()
    assert all(each["$properties"].keys() == {"plan", "$email"} for each in page["results"])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"page": 1}, "session_id is required"),
        ({"page": 1, "session_id": "unknown"}, "session_id unknown is unknown"),
        ({"page": -1}, "page must be an integer of at least 0"),
        ({"page_size": 0}, "page_size must be an integer of at least 1"),
        ({"where": "plan"}, "where"),
        ({"data_group_id": "-1"}, "data_group_id -1 is unknown"),
        ({"filter_by_cohort": '{"id":1}'}, "filter_by_cohort"),
        ({"distinct_ids": "user_1"}, "distinct_ids must be a JSON array"),
    ],
)
def test_engage_refuses(engage: Ask, form: dict[str, Any], words: str) -> None:
    response = engage(**form)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_engage_takes_an_empty_where(engage: Ask) -> None:
    assert engage(where="").status_code == 200


def test_engage_needs_credentials(server: SampleServer, session: requests.Session) -> None:
    assert session.post(f"{server.query_url}/engage").status_code == 401


# Counts


def test_counts_leave_duplicates_out(server: SampleServer) -> None:
    day = str(DAY + timedelta(days=1))
    answer = get_counts(server, event='["Song Played", "Nothing"]', to_date=day).json()
    played = {
        event["properties"]["$insert_id"]
        for event in events_of_day(DAY)
        if event["event"] == "Song Played"
    }
    assert answer["data"]["series"] == [str(DAY), day]
    assert answer["data"]["values"]["Song Played"][str(DAY)] == len(played)
    assert answer["data"]["values"]["Nothing"] == {str(DAY): 0, day: 0}
    assert answer["legend_size"] == 2


def test_counts_are_those_of_days_in_the_projects_zone() -> None:
    zone = ZoneInfo("America/Los_Angeles")
    with SampleServer(today=TODAY, timezone=zone.key) as server:
        answer = get_counts(server, event='["Search"]').json()
    searches = {
        event["properties"]["$insert_id"]
        for day in (DAY, DAY + timedelta(days=1))
        for event in events_of_day(day)
        if event["event"] == "Search"
        and datetime.fromtimestamp(event["properties"]["time"], zone).date() == DAY
    }
    assert answer["data"]["values"] == {"Search": {str(DAY): len(searches)}}


def test_duplicates_that_are_not_compacted_are_counted() -> None:
    with SampleServer(today=TODAY, compact_duplicates=False) as server:
        answer = get_counts(server, event='["Song Played"]').json()
    played = [event for event in events_of_day(DAY) if event["event"] == "Song Played"]
    assert answer["data"]["values"]["Song Played"][str(DAY)] == len(played)
    assert len(played) > len({event["properties"]["$insert_id"] for event in played})


def test_names_of_events(server: SampleServer, session: requests.Session) -> None:
    def names(**parameters: str) -> requests.Response:
        return session.get(
            f"{server.query_url}/events/names",
            params={"project_id": server.project_id, "type": "general", **parameters},
            auth=(server.username, server.secret),
        )

    assert names().json()[:2] == ["Song Played", "Page View"]
    assert len(names().json()) == len(set(names().json())) > 5
    assert names(limit="1").json() == ["Song Played"]
    assert names(type="unique").status_code == 400


@pytest.mark.parametrize("parameters", [{"type": "unique"}, {"unit": "hour"}, {"event": ""}])
def test_counts_refuse(server: SampleServer, parameters: dict[str, str]) -> None:
    assert get_counts(server, **{"event": '["Search"]', **parameters}).status_code == 400


# Limits


def test_too_many_exports_an_hour() -> None:
    with SampleServer(exports_per_hour=2) as server:
        statuses = [get_export(server, limit=1).status_code for _ in range(2)]
        refused = get_export(server, limit=1)
    assert statuses == [200, 200]
    assert refused.status_code == 429
    assert 3000 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.json()["error"] == (
        "Query rate limit exceeded for project_id: 1234567. 1/unlimited queries running"
        " concurrently and 3/2 queries running in the last hour"
    )


def test_too_many_exports_a_second() -> None:
    with SampleServer(exports_per_second=0) as server:
        refused = get_export(server, limit=1)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "1"


def test_too_many_exports_at_once() -> None:
    with SampleServer(concurrent_exports=1, events_per_day=50_000) as server:
        with get_export(server, stream=True) as running:
            refused = get_export(server, limit=1)
            assert running.status_code == 200
            assert len(running.content) > 20_000_000
        statuses = [get_export(server, limit=1).status_code for _ in range(20)]
    assert refused.status_code == 429
    assert "too many export requests in progress for this project" in refused.json()["error"]
    assert statuses == [200] * 20


def test_too_many_profile_queries() -> None:
    with SampleServer(engage_per_hour=1) as server:
        answers = [post_engage(server) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert get_export(server, limit=1).status_code == 200


def test_only_page_0_counts() -> None:
    with SampleServer(engage_per_hour=1) as server:
        session_id = post_engage(server, page_size=100).json()["session_id"]
        pages = [
            post_engage(server, page=number, page_size=100, session_id=session_id)
            for number in (1, 2, 1)
        ]
        refused = post_engage(server)
    assert [page.status_code for page in pages] == [200, 200, 200]
    assert refused.status_code == 429
    assert refused.headers["RateLimit-Policy"] == '"project";q=1;w=3600'
    assert refused.headers["RateLimit"] == '"project";r=0'


def test_a_refusal_states_all_limits() -> None:
    limit = RateLimit("1", per_hour=60, per_second=3, concurrent=2, clock=lambda: 0.0)
    limit.enter()
    limit.enter(counted=False)
    with pytest.raises(ApiError) as caught:
        limit.enter(counted=False)
    assert caught.value.headers == {
        "Retry-After": "1",
        "RateLimit-Policy": '"project";q=60;w=3600, "burst";q=3;w=1',
        "RateLimit": '"project";r=59, "burst";r=2',
    }


def test_windows_slide() -> None:
    now = 0.0
    limit = RateLimit("1", per_hour=3, per_second=2, clock=lambda: now)

    def wait() -> int:
        try:
            limit.enter()
        except ApiError as error:
            return int(error.headers["Retry-After"])
        limit.leave()
        return 0

    assert [wait(), wait(), wait()] == [0, 0, 1]
    now = 1.0
    assert [wait(), wait()] == [0, 3599]
    now = 3600.5
    assert [wait(), wait(), wait()] == [0, 0, 1]
    now = 3602.0
    assert wait() == 0


def test_concurrent_queries_end() -> None:
    limit = RateLimit("1", concurrent=1)
    limit.enter()
    with pytest.raises(ApiError, match="2/1 queries running concurrently"):
        limit.enter()
    limit.leave()
    limit.enter()


# The server itself


def test_requests_are_recorded_without_the_secret() -> None:
    with SampleServer(today=TODAY) as server:
        get_export(server, limit=1)
        requests.post(f"{server.query_url}/engage", data={"page": 0}, timeout=PATIENCE)
    export, engage = server.requests
    assert (export.method, export.path) == ("GET", "/api/2.0/export")
    assert export.query["from_date"] == str(DAY)
    assert (export.status, export.has_authorization) == (200, True)
    assert (engage.method, engage.form) == ("POST", {"page": "0"})
    assert (engage.status, engage.has_authorization) == (401, False)
    assert server.secret not in repr(server.requests)


def test_a_connection_is_kept(server: SampleServer) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    sockets = set()
    for path, status in (("/api/2.0/export", 401), ("/nothing", 404)):
        connection.request("GET", path)
        with connection.getresponse() as response:
            assert response.status == status
            response.read()
        sockets.add(connection.sock)
    connection.close()
    assert len(sockets) == 1


def test_stopping_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    server = SampleServer().start()
    with requests.Session() as session:
        session.get(server.export_url)  # its connection stays open
        with socket.create_connection((server.host, server.port)) as idle:
            server.stop()
            server.stop()
            assert set(threading.enumerate()) <= before
            with contextlib.suppress(ConnectionResetError):
                assert idle.recv(1) == b""
        with pytest.raises(requests.ConnectionError):
            session.get(server.export_url)
    gc.collect()


def test_stopping_during_an_export() -> None:
    before = set(threading.enumerate())
    server = SampleServer(events_per_day=1_000_000).start()
    with get_export(server, stream=True) as response:
        response.raw.read(1000)
        server.stop()
        assert set(threading.enumerate()) <= before
        with pytest.raises(requests.RequestException):
            response.content  # noqa: B018 - reads the rest


def test_it_starts_again_on_the_same_port() -> None:
    server = SampleServer()
    with pytest.raises(RuntimeError, match="start it first"):
        server.export_url  # noqa: B018 - has no URL yet
    with server:
        url = server.export_url
        with pytest.raises(RuntimeError, match="already running"):
            server.start()
    with server:
        assert server.export_url == url
        assert get_export(server, limit=1).status_code == 200


def test_clients_that_hang_up_are_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    with SampleServer(events_per_day=200_000) as server:
        for _ in range(3):
            get_export(server, stream=True).close()
    assert capfd.readouterr() == ("", "")


def test_verbose_logs_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with SampleServer(verbose=True) as server:
        get_export(server, limit=1)
    assert "GET /api/2.0/export" in capfd.readouterr().err


# On the command line


def serve(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "sample", "--port", "0", *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_variables(process: subprocess.Popen[str]) -> dict[str, str]:
    variables = {}
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").strip().partition("=")
            variables[name] = value
        if "Ctrl-C" in line:
            break
    return variables


def export_from(variables: dict[str, str]) -> requests.Response:
    """Export a day from the server whose variables these are."""
    return requests.get(
        variables["MIXPANEL_EXPORT_URL"] + "/export",
        params={
            "project_id": variables["MIXPANEL_PROJECT_ID"],
            "from_date": str(DAY),
            "to_date": str(DAY),
        },
        auth=(
            variables["MIXPANEL_SERVICE_ACCOUNT_USERNAME"],
            variables["MIXPANEL_SERVICE_ACCOUNT_SECRET"],
        ),
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_until_a_signal(number: signal.Signals) -> None:
    with serve("--events-per-day", "100", "--exports-per-hour", "1") as process:
        variables = read_variables(process)
        assert 50 < len(lines(export_from(variables))) < 150
        assert export_from(variables).status_code == 429
        assert variables["MIXPANEL_QUERY_URL"].endswith("/api/query")
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")


def test_serving_without_limits() -> None:
    with serve("--events-per-day", "100", "--exports-per-hour", "0", "--no-limits") as process:
        variables = read_variables(process)
        statuses = {export_from(variables).status_code for _ in range(5)}
        process.terminate()
    assert statuses == {200}


def test_serving_on_a_port_that_is_taken(server: SampleServer) -> None:
    with serve("--port", str(server.port)) as process:
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert stderr.startswith(f"Error: cannot listen on port {server.port}")


def test_the_command_line_imports_the_server_only_to_run_it() -> None:
    code = "import sys, mp_pipeline.cli; sys.exit('mp_pipeline.sample.server' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, mp_pipeline.sample;"
        "bad = {'requests', 'dagster', 'duckdb', 'pandas', 'pydantic'} & set(sys.modules);"
        "others = [name for name in sys.modules if name.startswith('mp_pipeline.')"
        " and not name.startswith('mp_pipeline.sample')];"
        "sys.exit(repr((bad, others)) if bad or others else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
