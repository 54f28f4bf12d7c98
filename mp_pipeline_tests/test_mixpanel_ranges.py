"""Several ranges of days: downloaded in order, the next ones while one is used."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import AuthenticationError, MixpanelClient
from mp_pipeline_tests.loopback import Loopback, Pieces, Request, chunked, reply

DAYS = [date(2024, 1, 15) + timedelta(days=number) for number in range(5)]
RANGES = [(day, day) for day in DAYS]


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def client(server: Loopback) -> MixpanelClient:
    return MixpanelClient("7", "user", "s3cret", export_url=server.url)


def a_day(request: Request) -> Pieces:
    return reply(f'{{"event":"{request.query["from_date"]}"}}\n'.encode())


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition, ten seconds at most."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def holds_at_least(directory: Path, files: int) -> bool:
    return len(list(directory.glob("*.jsonl"))) >= files


def downloading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mp_pipeline download"]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 9])
def test_the_days_come_in_order_and_the_disk_holds_few(
    server: Loopback, client: MixpanelClient, tmp_path: Path, prefetch: int
) -> None:
    server.replies = [a_day]
    days: list[date] = []
    most = 0
    for download in client.export_ranges(RANGES, directory=tmp_path, prefetch=prefetch):
        ahead = min(prefetch, len(DAYS) - len(days) - 1)
        assert until(partial(holds_at_least, tmp_path, 1 + ahead))
        most = max(most, len(list(tmp_path.iterdir())))
        days.append(download.from_date)
        assert download.paths[0].read_text() == f'{{"event":"{download.from_date}"}}\n'
        download.delete()
    assert days == DAYS
    assert most == min(prefetch + 1, len(DAYS))
    assert sorted(request.query["from_date"] for request in server.requests) == list(map(str, DAYS))


def test_wrong_credentials_cost_one_request(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    server.replies = [reply(b"Invalid service account credentials", 401)]
    with pytest.raises(AuthenticationError):
        list(client.export_ranges(RANGES, directory=tmp_path))
    assert len(server.requests) == 1


def test_an_error_comes_when_it_is_that_days_turn(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    def second_fails(request: Request) -> Pieces:
        return reply(b"", 401) if request.query["from_date"] == str(DAYS[1]) else a_day(request)

    server.replies = [second_fails]
    downloads = client.export_ranges(RANGES, directory=tmp_path)
    assert next(downloads).from_date == DAYS[0]
    with pytest.raises(AuthenticationError, match="export of 2024-01-16 failed"):
        next(downloads)
    assert until(lambda: not downloading())


@pytest.mark.parametrize(
    "endless",
    [
        reply(b"", 429, retry_after="600"),
        chunked(*[b'{"event":"a"}\n'] * 600)[:1] + [b'e\r\n{"event":"a"}\n\r\n', 0.1] * 600,
        # Without chunks and a length, a connection that ends looks like the end of the body.
        [b"HTTP/1.0 200 OK\r\n\r\n"] + [b'{"event":"a"}\n', 0.1] * 600,
    ],
    ids=["waiting", "reading", "reading to the end of the connection"],
)
def test_closing_stops_what_is_under_way(
    server: Loopback, client: MixpanelClient, tmp_path: Path, endless: list[bytes | float]
) -> None:
    server.replies = [a_day, endless]
    downloads = client.export_ranges(RANGES, directory=tmp_path, prefetch=1)
    next(downloads).delete()
    assert until(lambda: len(server.requests) == 2)
    time.sleep(0.2)  # let it read, or begin to wait
    begin = time.monotonic()
    downloads.close()
    assert time.monotonic() - begin < 3
    assert downloading() == []
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 2


def test_a_client_stays_usable_after_a_range(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    server.replies = [a_day]
    downloads = client.export_ranges(RANGES, directory=tmp_path)
    next(downloads)
    downloads.close()
    assert client.export_events(DAYS[4], directory=tmp_path).lines == 1


def test_a_negative_number_is_refused(client: MixpanelClient, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prefetch must not be negative: -1"):
        next(client.export_ranges(RANGES, directory=tmp_path, prefetch=-1))
