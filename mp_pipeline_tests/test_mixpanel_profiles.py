"""Profiles: pages, sessions, totals, and digits."""

import gzip
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import (
    BadRequestError,
    MixpanelClient,
    ProfilesDownload,
    RateLimitError,
    TruncatedExportError,
    UnexpectedAnswerError,
)
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
    assert [request.form["page"] for request in scripted.requests] == [str(n) for n in range(pages)]
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


def test_a_page_size_that_the_server_chooses(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [pages_of(profiles(5), size=2)]
    assert client.export_profiles(directory=tmp_path, page_size=1000).lines == 5
    assert len(scripted.requests) == 3


@pytest.mark.parametrize("total", [3, 9])
def test_a_total_that_does_not_match(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    total: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scripted.replies = [pages_of(profiles(5), total=total)]
    download = client.export_profiles(directory=tmp_path, page_size=2)
    assert (download.lines, download.total, download.complete) == (5, total, False)
    assert f"Mixpanel announced {total} and sent 5" in caplog.text


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
        UnexpectedAnswerError, match=r"not a page of profiles.*5 attempts"
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
