import gzip
import http.client
import json
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from datetime import date, timedelta
from email.message import Message
from typing import Any

import pytest
import requests

from mp_pipeline_tests.faults import Fault, FaultyServer, Kind
from mp_pipeline_tests.support.records import DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY
from mp_pipeline_tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def running() -> Iterator[FaultyServer]:
    with FaultyServer(today=date(2024, 1, 20), events_per_day=EVENTS_PER_DAY) as server:
        yield server


@pytest.fixture
def server(running: FaultyServer) -> Iterator[FaultyServer]:
    running.faults.clear()
    running.requests.clear()
    yield running
    running.faults.clear()


@pytest.fixture(scope="module")
def right(running: FaultyServer) -> bytes:
    """The correct body of the day's export, as text."""
    body = ask(running).content
    assert body.endswith(b"}}\n")
    return body


def ask(
    server: FaultyServer, *, day: date = DAY, coding: str = "gzip", **options: Any
) -> requests.Response:
    return requests.get(
        f"{server.export_url}/export",
        params={"project_id": server.project_id, "from_date": str(day), "to_date": str(day)},
        auth=(server.username, server.secret),
        headers={"Accept-Encoding": coding},
        **{"timeout": PATIENCE, **options},
    )


def send_request(server: FaultyServer, coding: str = "gzip") -> http.client.HTTPConnection:
    """Request an export on a connection that decodes nothing."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    account = b64encode(f"{server.username}:{server.secret}".encode()).decode()
    connection.request(
        "GET",
        f"/api/2.0/export?project_id={server.project_id}&from_date={DAY}&to_date={DAY}",
        headers={"Authorization": f"Basic {account}", "Accept-Encoding": coding},
    )
    return connection


def ask_raw(
    server: FaultyServer, coding: str = "gzip"
) -> tuple[Message, bytes, http.client.IncompleteRead | None]:
    """Return the headers, the body before decoding, and the error in the body's framing."""
    connection = send_request(server, coding)
    response = connection.getresponse()
    try:
        return response.headers, response.read(), None
    except http.client.IncompleteRead as error:
        return response.headers, error.partial, error
    finally:
        response.close()
        connection.close()


def test_dropped(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="dropped", after_bytes=500))
    headers, body, error = ask_raw(server)
    assert headers["Transfer-Encoding"] == "chunked"
    assert error is not None
    assert len(body) == 500
    assert right.startswith(zlib.decompressobj(wbits=31).decompress(body))


@pytest.mark.parametrize("coding", ["gzip", "identity"])
@pytest.mark.parametrize("kind", ["dropped", "short_body"])
def test_a_client_sees_the_socket_close(
    server: FaultyServer, right: bytes, kind: Kind, coding: str
) -> None:
    server.faults.append(Fault(kind=kind))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(server, coding=coding)
    assert ask(server, coding=coding).content == right


def test_short_body(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="short_body"))
    headers, body, error = ask_raw(server)
    assert error is not None
    assert len(body) == int(headers["Content-Length"]) // 2


def test_truncated_gzip(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="truncated_gzip", after_bytes=700))
    headers, body, error = ask_raw(server)
    assert error is None
    assert headers["Content-Encoding"] == "gzip"
    assert len(body) == 700
    with pytest.raises(EOFError):
        gzip.decompress(body)
    assert right.startswith(zlib.decompressobj(wbits=31).decompress(body))


def test_truncated_gzip_is_cut_even_if_after_bytes_is_past_the_end(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="truncated_gzip", after_bytes=10**9))
    _, body, _ = ask_raw(server)
    with pytest.raises(EOFError):
        gzip.decompress(body)


def test_corrupt_gzip(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="corrupt_gzip"))
    headers, body, error = ask_raw(server)
    assert error is None
    assert headers["Content-Encoding"] == "gzip"
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        gzip.decompress(body)


@pytest.mark.parametrize("kind", ["truncated_gzip", "corrupt_gzip"])
def test_gzip_faults_are_gzip_whatever_the_client_takes(server: FaultyServer, kind: Kind) -> None:
    server.faults.append(Fault(kind=kind))
    headers, body, _ = ask_raw(server, coding="identity")
    assert headers["Content-Encoding"] == "gzip"
    assert body.startswith(b"\x1f\x8b")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("terminated_early", b"terminated early"),
        ("export_terminated_early", b"export terminated early"),
    ],
)
@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_terminated_early(
    server: FaultyServer, right: bytes, kind: Kind, words: bytes, coding: str
) -> None:
    server.faults.append(Fault(kind=kind))
    response = ask(server, coding=coding)
    *lines, last = response.content.splitlines()
    assert response.status_code == 200
    assert last == words
    assert lines == right.splitlines()[: len(lines)]
    assert 0 < len(lines) < len(right.splitlines())


def test_too_many_lines(server: FaultyServer, right: bytes) -> None:
    lines = right.splitlines()
    server.faults.append(Fault(kind="too_many_lines", max_lines=len(lines), times=None))
    assert ask(server).content == right
    server.faults[0].max_lines -= 1
    assert ask(server).content.splitlines() == [*lines[:-1], b"terminated early"]


def test_half_line(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="half_line"))
    headers, body, error = ask_raw(server)
    assert error is None
    assert "Content-Encoding" not in headers
    assert right.startswith(body)
    assert len(body.splitlines()) == len(right.splitlines())
    with pytest.raises(json.JSONDecodeError):
        json.loads(body.splitlines()[-1])


def test_half_line_in_the_middle(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="half_line", after_bytes=len(right) // 2))
    lines = ask(server).content.splitlines()
    assert 0 < len(lines) < len(right.splitlines())
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[-1])


def test_slow(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="slow", seconds=0.02))
    begun = time.monotonic()
    assert ask(server).content == right
    assert time.monotonic() - begun >= 0.2


def test_stall(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="stall", seconds=30))
    connection = send_request(server)
    assert connection.sock is not None
    with connection.getresponse() as response:
        assert response.status == 200
        connection.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            response.read(1)
    connection.close()


def test_stall_ends(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="stall", seconds=0.05))
    _, body, error = ask_raw(server)
    assert (body, error is None) == (b"", False)


@pytest.mark.parametrize("status", [402, 403, 429, 500, 503])
def test_status(server: FaultyServer, status: int) -> None:
    server.faults.append(Fault(kind="status", status=status, body=b"words", retry_after=7))
    response = ask(server)
    assert (response.status_code, response.content) == (status, b"words")
    assert response.headers["Retry-After"] == "7"
    assert server.requests[-1].status == status


def test_status_without_retry_after(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="status"))
    response = ask(server)
    assert response.status_code == 500
    assert "Retry-After" not in response.headers


def test_redirect(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="redirect", location="http://127.0.0.1:1/elsewhere"))
    response = ask(server, allow_redirects=False)
    assert response.status_code == 302
    assert response.headers["Location"] == "http://127.0.0.1:1/elsewhere"


def test_extra_lines(server: FaultyServer, right: bytes) -> None:
    nasty = [b"", b"no json", b'{"event":"\xff"}', b'{"event":"\\ud800"}']
    server.faults.append(Fault(kind="extra_lines", lines=nasty))
    lines = ask(server).content.split(b"\n")
    expected = right.split(b"\n")
    at = lines.index(b"no json") - 1
    assert 0 < at < len(expected)
    assert lines == [*expected[:at], *nasty, *expected[at:]]


def test_extra_lines_at_the_beginning(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="extra_lines", lines=[b"first"], after_bytes=0))
    assert ask(server).content == b"first\n" + right


def test_missing_line(server: FaultyServer, right: bytes) -> None:
    server.faults.append(Fault(kind="missing_line"))
    left, lines = ask(server).content.splitlines(), right.splitlines()
    assert len(left) == len(lines) - 1
    (missing,) = set(lines) - set(left)
    assert [line for line in lines if line != missing] == left


def test_extra_lines_on_a_day_without_events(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="extra_lines", lines=[b"only"]))
    assert ask(server, day=date(2022, 1, 1)).content == b"only\n"


@pytest.mark.parametrize("body", [b"", b"\xff\x00", b"long " * 1000])
def test_body(server: FaultyServer, body: bytes) -> None:
    server.faults.append(Fault(kind="body", body=body))
    assert ask(server).content == body


@pytest.mark.parametrize(
    "kind", ["dropped", "short_body", "terminated_early", "half_line", "slow", "stall"]
)
def test_faults_of_an_empty_day_do_not_break_the_server(
    server: FaultyServer, kind: Kind, capfd: pytest.CaptureFixture[str]
) -> None:
    server.faults.append(Fault(kind=kind, seconds=0.01))
    try:
        response = ask(server, day=date(2022, 1, 1))
    except requests.exceptions.ChunkedEncodingError:
        assert kind in ("dropped", "stall")
    else:
        assert response.content == (b"terminated early\n" if kind == "terminated_early" else b"")
    assert capfd.readouterr().err == ""


def test_times(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="status", status=503, times=2))
    assert [ask(server).status_code for _ in range(3)] == [503, 503, 200]
    assert server.faults == []


def test_every_time(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="status", status=503, times=None))
    assert [ask(server).status_code for _ in range(3)] == [503, 503, 503]
    assert len(server.faults) == 1


def test_faults_come_one_after_another(server: FaultyServer) -> None:
    server.faults += [Fault(kind="status", status=500), Fault(kind="status", status=503)]
    assert [ask(server).status_code for _ in range(3)] == [500, 503, 200]


def test_day(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="status", day=DAY))
    assert ask(server, day=DAY + timedelta(days=1)).status_code == 200
    assert ask(server, day=DAY).status_code == 500


def test_path(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="truncated_gzip", path="/engage", times=1))
    assert ask(server).status_code == 200
    with pytest.raises(requests.RequestException):
        ask_engage(server).json()
    assert ask_engage(server).json()["status"] == "ok"


def ask_engage(server: FaultyServer) -> requests.Response:
    return requests.post(
        f"{server.query_url}/engage",
        params={"project_id": server.project_id},
        auth=(server.username, server.secret),
        timeout=PATIENCE,
    )


def test_requests_that_are_refused_anyway_use_no_fault_up(server: FaultyServer) -> None:
    server.faults.append(Fault(kind="status"))
    assert ask(server, day=date(2030, 1, 1)).status_code == 400
    assert requests.get(f"{server.export_url}/export", timeout=PATIENCE).status_code == 401
    assert len(server.faults) == 1


def test_stopping_ends_a_stall() -> None:
    before = set(threading.enumerate())
    server = FaultyServer(today=DAY).start()
    server.faults.append(Fault(kind="stall", seconds=600))
    with ask(server, stream=True):
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < PATIENCE
        assert set(threading.enumerate()) <= before
