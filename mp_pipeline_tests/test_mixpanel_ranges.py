"""Several ranges of days: downloaded in order, and the next ones prefetched."""

import threading
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import AuthenticationError, MixpanelClient
from mp_pipeline_tests.support.client import (
    EVENT,
    PATIENCE,
    Log,
    client_of,
    join_downloads,
    names,
    stall_after,
)
from mp_pipeline_tests.support.servers import Pieces, Reply, Request, ScriptedServer, reply

DAYS = [date(2024, 1, 15) + timedelta(days=number) for number in range(5)]
RANGES = [(day, day) for day in DAYS]


def text_of(day: object) -> str:
    return f'{{"event":"{day}","properties":{{}}}}\n'


def send_day(request: Request) -> Pieces:
    return reply(text_of(request.query["from_date"]).encode())


@pytest.mark.parametrize("prefetch", [0, 1, 2, 9])
def test_the_days_come_in_order_and_the_disk_holds_few(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, log: Log, prefetch: int
) -> None:
    scripted.replies = [send_day]
    days: list[date] = []
    done = 0
    for download in client.export_ranges(RANGES, directory=tmp_path, prefetch=prefetch):
        days.append(download.from_date)
        expected = min(len(days) + prefetch, len(DAYS))
        while done < expected:
            log.wait_for(": done, ")
            done += 1
        # These have been downloaded, and no other has been started.
        assert len(scripted.requests) == expected
        assert len(names(tmp_path)) == expected - len(days) + 1
        assert download.paths[0].read_text() == text_of(download.from_date)
        download.delete()
    assert days == DAYS
    requested = sorted(request.query["from_date"] for request in scripted.requests)
    assert requested == list(map(str, DAYS))


def test_wrong_credentials_cost_one_request(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(b"Invalid service account credentials", 401)]
    with pytest.raises(AuthenticationError):
        list(client.export_ranges(RANGES, directory=tmp_path))
    assert len(scripted.requests) == 1


def test_an_error_comes_when_it_is_that_days_turn(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    def refuse_second_day(request: Request) -> Pieces:
        return reply(b"", 401) if request.query["from_date"] == str(DAYS[1]) else send_day(request)

    scripted.replies = [refuse_second_day]
    downloads = client.export_ranges(RANGES, directory=tmp_path)
    assert next(downloads).from_date == DAYS[0]
    with pytest.raises(AuthenticationError, match="export of 2024-01-16 failed"):
        next(downloads)
    join_downloads()


ENDLESS: dict[str, Reply] = {
    "waiting": reply(b"", 429, retry_after="600"),
    "reading": stall_after(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"%x\r\n%s\r\n" % (len(EVENT), EVENT),
    ),
    # Without chunks and a length, a connection that is cut looks like the end of the body.
    "reading to the end of the connection": stall_after(b"HTTP/1.0 200 OK\r\n\r\n", EVENT * 20_000),
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_closing_stops_what_is_running(
    scripted: ScriptedServer,
    tmp_path: Path,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    endless: Reply,
) -> None:
    """Otherwise the threads would wait for ten minutes."""
    monkeypatch.setattr("mp_pipeline.mixpanel.progress._SECONDS_BETWEEN_LINES", 0)
    scripted.replies = [send_day, endless]
    with client_of(scripted, read_timeout=600) as client:
        downloads = client.export_ranges(RANGES, directory=tmp_path, prefetch=1)
        next(downloads).delete()
        # The client logs that it waits, or how much it has read.
        log.wait_for("export of 2024-01-16")
        downloads.close()
        join_downloads()
    assert names(tmp_path) == []
    assert len(scripted.requests) == 2


def test_closing_does_not_wait_for_an_answer_that_has_not_begun(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mp_pipeline.mixpanel.prefetch._SECONDS_TO_STOP", 0.1)
    arrived, released = threading.Event(), threading.Event()

    def answer_late(request: Request) -> Pieces:
        arrived.set()
        released.wait(PATIENCE)
        yield from send_day(request)

    scripted.replies = [send_day, answer_late]
    downloads = client.export_ranges(RANGES, directory=tmp_path, prefetch=1)
    next(downloads).delete()
    assert arrived.wait(PATIENCE)
    downloads.close()
    assert "mp_pipeline download" in [thread.name for thread in threading.enumerate()]
    released.set()
    join_downloads()
    assert names(tmp_path) == []
    assert len(scripted.requests) == 2


def test_a_client_stays_usable_after_a_range(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [send_day]
    downloads = client.export_ranges(RANGES, directory=tmp_path)
    next(downloads)
    downloads.close()
    assert client.export_events(DAYS[4], directory=tmp_path).lines == 1


def test_invalid_arguments_are_refused_at_the_call(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="prefetch must not be negative: -1"):
        client.export_ranges(RANGES, directory=tmp_path, prefetch=-1)
    with pytest.raises(ValueError, match="is before from_date 2024-01-16"):
        client.export_ranges([*RANGES, (DAYS[1], DAYS[0])], directory=tmp_path)
    with pytest.raises(TypeError, match="from_date must be a date without a time"):
        client.export_ranges([(datetime(2024, 1, 15), DAYS[0])], directory=tmp_path)
    with pytest.raises(ValueError, match="events must be a list of names"):
        client.export_ranges(RANGES, directory=tmp_path, events="Sign up")
    assert scripted.requests == []
