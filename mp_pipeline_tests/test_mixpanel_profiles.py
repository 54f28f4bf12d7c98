"""Profiles: pages, sessions, totals, and digits."""

import gzip
import json
import logging
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline.mixpanel import (
    BadRequestError,
    IncompleteSnapshotError,
    MixpanelClient,
    ProfilesDownload,
    RateLimitError,
    RateLimits,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline_tests.support.client import PATIENCE, client_of
from mp_pipeline_tests.support.servers import Pieces, Request, ScriptedServer, reply


def pages_of(
    profiles: list[bytes], *, total: int | None = None, size: int | None = None
) -> Callable[[Request], Pieces]:
    """Return pages as Mixpanel does, of the requested size or of a size of its own."""

    def play(request: Request) -> Pieces:
        number, count = int(request.form["page"]), size or int(request.form["page_size"])
        if number > 0 and request.form.get("session_id") != "s-1":
            return reply(b'{"error":"session_id is missing","status":"error"}', 400)
        results = b",".join(profiles[number * count : (number + 1) * count])
        more = b""
        if number == 0:
            more += b',"session_id":"s-1"'
            more += b',"total":%d' % total if total is not None else b""
        if size:
            more += b',"page_size":%d' % size
        body = b'{"page":%d,"results":[%s],"status":"ok"%s}' % (number, results, more)
        return reply(gzip.compress(body), Content_Encoding="gzip")

    return play


def profiles(count: int) -> list[bytes]:
    return [b'{"$distinct_id":"u%d","$properties":{}}' % n for n in range(count)]


def pages_requested(server: ScriptedServer) -> list[int]:
    return sorted(int(request.form["page"]) for request in server.requests)


def book(
    pages: dict[int, list[bytes]], total: int | None, page_size: int | None = None
) -> Callable[[Request], Pieces]:
    """Return these pages, whatever is requested; the others are empty."""

    def play(request: Request) -> Pieces:
        number = int(request.form["page"])
        more = b',"session_id":"s-1"'
        if number == 0 and total is not None:
            more += b',"total":%d' % total
        if page_size is not None:
            more += b',"page_size":%d' % page_size
        results = b",".join(pages.get(number, []))
        return reply(b'{"page":%d,"results":[%s],"status":"ok"%s}' % (number, results, more))

    return play


def lines_of(download: ProfilesDownload) -> list[bytes]:
    return gzip.decompress(download.paths[0].read_bytes()).splitlines()


@pytest.mark.parametrize(
    ("count", "total", "pages"),
    [
        (0, 0, 1),
        (0, None, 1),
        (7, 7, 3),
        (7, None, 3),
        (6, 6, 2),  # an exact multiple: the total shows that this is all
        (6, None, 3),  # without it, only an empty page does
        (3, 3, 1),
        (1, 1, 1),
    ],
)
def test_paging(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    count: int,
    total: int | None,
    pages: int,
) -> None:
    scripted.replies = [pages_of(profiles(count), total=total)]
    download = client.export_profiles(directory=tmp_path, page_size=3)
    assert lines_of(download) == profiles(count)
    assert (download.lines, download.total, download.pages) == (count, total, pages)
    assert (download.complete, download.attempts) == (True, pages)
    assert download.paths == (tmp_path / "profiles.jsonl.gz",)
    assert download.bytes == download.paths[0].stat().st_size
    assert stat.S_IMODE(download.paths[0].stat().st_mode) == 0o600
    assert pages_requested(scripted) == list(range(pages))
    download.delete()
    assert list(tmp_path.iterdir()) == []


def test_what_is_requested(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [pages_of(profiles(4), total=4)]
    where = 'properties["é"] == "& +"'
    assert client.export_profiles(directory=tmp_path, where=where, page_size=2).where == where
    first, second = scripted.requests
    assert (first.method, first.path, first.query) == ("POST", "/engage", {"project_id": "7"})
    assert first.form == {"page": "0", "page_size": "2", "where": where}
    assert second.form == {"page": "1", "page_size": "2", "where": where, "session_id": "s-1"}
    assert first.headers["authorization"].startswith("Basic ")
    with pytest.raises(ValueError, match="page_size"):
        client.export_profiles(directory=tmp_path, page_size=0)


def test_profiles_of_a_cohort_or_of_a_group(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [pages_of(profiles(1), total=1)]
    names = ["$name", 'a "b"']
    client.export_profiles(directory=tmp_path, cohort_id=7, name="cohort_7")
    client.export_profiles(
        directory=tmp_path, data_group_id="-12", properties=names, name="group_company"
    )
    cohort, group = (request.form for request in scripted.requests)
    assert json.loads(cohort["filter_by_cohort"]) == {"id": 7}
    assert cohort["include_all_users"] == "true"
    assert (group["data_group_id"], json.loads(group["output_properties"])) == ("-12", names)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["cohort_7.jsonl.gz", "group_company.jsonl.gz"]
    with pytest.raises(ValueError, match="properties must be a list"):
        client.export_profiles(directory=tmp_path, properties="$name")


def test_a_page_size_that_the_server_chooses(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [pages_of(profiles(5), size=2)]
    assert client.export_profiles(directory=tmp_path, page_size=1000).lines == 5
    assert len(scripted.requests) == 3


def test_a_smaller_page_size_that_the_server_keeps_to_itself(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    all_of_them = profiles(55)
    pages = {n: all_of_them[n * 10 : n * 10 + 10] for n in range(6)}
    scripted.replies = [book(pages, total=55)]
    download = client.export_profiles(directory=tmp_path, page_size=1000)
    assert lines_of(download) == all_of_them
    assert (download.pages, download.attempts, download.complete) == (6, 6, True)


@pytest.mark.parametrize(("total", "announced"), [(3, "3"), (7, "7"), (1234, "1,234")])
def test_a_total_that_does_not_match(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    total: int,
    announced: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = min(total - 2, 1230) if total > 3 else 5
    scripted.replies = [pages_of(profiles(count), total=total)]
    download = client.export_profiles(directory=tmp_path, page_size=2 if total < 10 else 100)
    assert lines_of(download) == profiles(count)
    assert (download.lines, download.total, download.complete) == (count, total, False)
    assert download.distinct == count
    assert f"Mixpanel announced {announced} and sent {count:,}" in caplog.text


# Complete means complete


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param({0: range(100), 1: range(100, 200)}, id="whole"),
        pytest.param({0: range(100), 1: range(100, 150), 2: range(150, 200)}, id="short"),
        pytest.param({0: range(100), 2: range(100, 200)}, id="empty"),
        pytest.param({1: range(100), 2: range(100, 200)}, id="empty first"),
        pytest.param({0: range(100), 1: range(50, 150), 2: range(150, 200)}, id="overlapping"),
        pytest.param({0: range(100), 1: range(100), 2: range(100, 200)}, id="repeated"),
        pytest.param({0: range(1), 1: range(1, 101), 2: range(101, 200)}, id="short first"),
    ],
)
def test_odd_pages_do_not_end_a_snapshot(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, pages: dict[int, range]
) -> None:
    """Two pages would be enough: a third one is read because profiles are missing."""
    everyone = profiles(300)
    last = {max(pages) + 1: range(200, 300)}
    content = {n: [everyone[each] for each in ids] for n, ids in (pages | last).items()}
    scripted.replies = [book(content, total=300)]
    download = client.export_profiles(directory=tmp_path, page_size=100)
    assert download.complete
    assert download.distinct == 300
    assert set(lines_of(download)) == set(everyone)
    assert lines_of(download) == [each for n in sorted(content) for each in content[n]]


@pytest.mark.parametrize(
    ("pages", "total", "sent"),
    [
        pytest.param(dict.fromkeys(range(9), range(100)), 200, "100", id="always page 0"),
        pytest.param({0: range(100), 1: range(100, 199)}, 300, "199", id="too few"),
        pytest.param({1: range(100), 2: range(100, 200)}, 300, "200", id="empty first"),
        pytest.param({}, 3000, "0", id="nothing"),
        pytest.param({0: range(100), 1: range(100, 196)}, 200, "196", id="more than a few"),
    ],
)
def test_a_snapshot_that_lacks_profiles_is_refused(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    pages: dict[int, range],
    total: int,
    sent: str,
) -> None:
    (tmp_path / "profiles.jsonl.gz").write_bytes(b"the old one")
    everyone = profiles(200)
    content = {n: [everyone[each] for each in ids] for n, ids in pages.items()}
    scripted.replies = [book(content, total=total)]
    with pytest.raises(IncompleteSnapshotError) as caught:
        client.export_profiles(directory=tmp_path, page_size=100)
    message = str(caught.value)
    assert message.startswith(f"profiles: Mixpanel announced {total:,} and sent {sent} different")
    assert "MP_PIPELINE_MAX_MISSING_FRACTION" in message
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the old one"]
    assert len(scripted.requests) <= 30  # 10 that bring nothing new, and 20 ahead
    download = client.export_profiles(directory=tmp_path, page_size=100, max_missing_fraction=1)
    assert download.distinct == int(sent)
    assert not download.complete


def test_without_a_total_a_repeated_page_ends_the_snapshot(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [book(dict.fromkeys(range(99), profiles(10)), total=None)]
    download = client.export_profiles(directory=tmp_path, page_size=10)
    assert (download.pages, download.lines, download.distinct) == (2, 20, 10)


def test_ids_are_compared_as_text(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    same = [b'{"$distinct_id":4}', b'{"$distinct_id":"4"}', b'{"$distinct_id":4,"n":1}']
    without = [b'{"n":1}', b'{"n":2}', b'{"$distinct_id":null}']
    scripted.replies = [book({0: same + without}, total=None)]
    assert client.export_profiles(directory=tmp_path).distinct == 4


# Many pages at once


def test_five_pages_at_once_give_the_same_file_in_any_order(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    everyone, running, most = profiles(300), 0, 0
    lock, five = threading.Lock(), threading.Barrier(5)
    send = pages_of(everyone, total=300)

    def answer(request: Request) -> Pieces:
        nonlocal running, most
        number = int(request.form["page"])
        with lock:
            running += 1
            most = max(most, running)
        if 2 <= number < 27:  # only five at once get through
            five.wait(PATIENCE)
        with lock:
            running -= 1
        return send(request)

    scripted.replies = [answer]
    first = client.export_profiles(directory=tmp_path / "first", page_size=10)
    assert most == 5
    assert lines_of(first) == everyone
    scripted.replies = [send]
    with client_of(
        scripted, rate_limits=RateLimits(tmp_path / "state", concurrent_queries=1)
    ) as one_at_a_time:
        second = one_at_a_time.export_profiles(directory=tmp_path / "second", page_size=10)
    assert second.paths[0].read_bytes() == first.paths[0].read_bytes()
    assert second.checksums == first.checksums


def test_a_slow_page_does_not_hold_up_the_others_nor_fill_the_memory(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    send = pages_of(profiles(1000), total=1000)
    ahead = threading.Event()
    last_meanwhile = 0

    def answer(request: Request) -> Pieces:
        nonlocal last_meanwhile
        number = int(request.form["page"])
        if number == 2:
            assert ahead.wait(PATIENCE)
            last_meanwhile = max(pages_requested(scripted))
        elif number == 15:
            ahead.set()
        return send(request)

    scripted.replies = [answer]
    download = client.export_profiles(directory=tmp_path, page_size=10)
    assert lines_of(download) == profiles(1000)
    assert 15 <= last_meanwhile < 2 + 20


def test_the_log_shows_pages_and_the_time_left(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mp_pipeline.mixpanel.progress._SECONDS_BETWEEN_LINES", 0)
    scripted.replies = [pages_of(profiles(2500), total=2500)]
    with caplog.at_level(logging.INFO):
        client.export_profiles(directory=tmp_path)
    first, second, _, done = caplog.messages
    assert " bytes, 1,000 lines, " in first
    assert re.search(r", page 1 of 3, \d+ s left$", first)
    assert re.search(r", page 2 of 3, \d+ s left$", second)
    assert done.startswith("profiles: done, ")
    assert done.endswith(", pages: 3, attempts: 3")


# Only page 0 counts


@pytest.mark.parametrize(
    ("headers", "counted"),
    [
        ({}, 7),
        ({"RateLimit": '"project";r=0'}, 7),
        ({"RateLimit": '"project";r=50'}, 1),  # too many at once
    ],
)
def test_a_refused_page_makes_all_further_ones_count(
    scripted: ScriptedServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, Any],
    counted: int,
) -> None:
    send = pages_of(profiles(20), total=20)
    scripted.replies = [send, reply(b"", 429, Retry_After="0", **headers), send]
    limits = RateLimits(tmp_path / "state")
    with caplog.at_level(logging.INFO), client_of(scripted, rate_limits=limits) as client:
        download = client.export_profiles(directory=tmp_path, page_size=3)
    assert lines_of(download) == profiles(20)
    assert (download.pages, download.attempts) == (7, 8)
    assert caplog.messages[-1].endswith(f", {60 - counted} of 60 queries left this hour")
    said = [message for message in caplog.messages if "so every page counts" in message]
    assert len(said) == (counted > 1)


def test_digits_and_letters_stay(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    odd = [
        b'{"n":123456789012345678901234567890,"f":1.10,"g":1e400,"h":-0.0}',
        b'{"a":NaN,"b":"\\ud800","c":"\\u0000","d":"\xff"}',
        '{"$distinct_id": 4,"ž":"🐎\u2028"}'.encode(),
    ]
    scripted.replies = [pages_of(odd)]
    download = client.export_profiles(directory=tmp_path)
    assert gzip.decompress(download.paths[0].read_bytes()) == b"".join(p + b"\n" for p in odd)


@pytest.mark.parametrize(
    "broken",
    [
        reply(b'{"results":[{"a":1},{"b"'),
        reply(b'{"results":[{"a":1}],"status":"ok"}', length=999),
        reply(gzip.compress(b'{"results":[{"a":1}]}')[:20], Content_Encoding="gzip"),
        reply(b'{"results":[{"a":1}]}', Content_Encoding="gzip"),
        reply(b""),
        reply(b"", 503),
        reply(b"", 429, Retry_After="0"),
        [],
    ],
)
def test_a_broken_page_is_read_again(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, broken: Pieces
) -> None:
    good = pages_of(profiles(5), total=5)
    scripted.replies = [good, broken, broken, good]
    download = client.export_profiles(directory=tmp_path, page_size=2)
    assert lines_of(download) == profiles(5)
    assert (download.pages, download.attempts) == (3, 5)


def test_broken_for_good(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    scripted.replies = [pages_of(profiles(5)), reply(b'{"results":[{"a":1},')]
    with pytest.raises(TruncatedExportError) as caught:
        client.export_profiles(directory=tmp_path, page_size=2)
    message = str(caught.value)
    assert message.startswith("profiles, page 1 failed: the answer is incomplete after 20 bytes: ")
    assert "the page is not complete JSON (at character 20 of 20)" in message
    assert f"(POST {scripted.url}/engage, 5 attempts)" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("good_pages", [0, 1])
@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"where: unknown \\"x\\"","status":"error"}',
        b'{"status":"error"}',
        b'{"results":[{"a":1}],"error":"timeout","status":"ok","total":6}',
    ],
)
def test_an_error_with_status_200(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, body: bytes, good_pages: int
) -> None:
    scripted.replies = [*[pages_of(profiles(6), total=6)] * good_pages, reply(body)]
    words = json.loads(body).get("error", "status error")
    with pytest.raises(BadRequestError) as caught:
        client.export_profiles(directory=tmp_path, page_size=3)
    assert (caught.value.mixpanel_message, caught.value.status) == (words, 200)
    assert f"profiles, page {good_pages} failed: status 200, Mixpanel says: {words} (" in str(
        caught.value
    )
    assert len(scripted.requests) == good_pages + 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            reply(b"<html>\n<title>Log in</title>\n</html>\n"),
            "<html> <title>Log in</title> </html>",
        ),
        (reply(gzip.compress(b"<html>502"), Content_Encoding="gzip"), "<html>502"),
        (reply(b'{"message":"busy"}', Content_Type="text/html"), '{"message":"busy"}'),
    ],
)
def test_an_answer_that_is_not_a_page_is_quoted(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, answer: Pieces, words: str
) -> None:
    scripted.replies = [answer]
    with pytest.raises(
        UnexpectedAnswerError, match=r"not the requested JSON.*5 attempts"
    ) as caught:
        client.export_profiles(directory=tmp_path)
    assert caught.value.mixpanel_message == words
    assert list(tmp_path.iterdir()) == []


def test_a_rate_limit_in_the_middle(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [pages_of(profiles(5)), reply(b"", 429, Retry_After="7200")]
    with pytest.raises(RateLimitError) as caught:
        client.export_profiles(directory=tmp_path, page_size=2)
    assert caught.value.retry_after == 7200
    assert list(tmp_path.iterdir()) == []
