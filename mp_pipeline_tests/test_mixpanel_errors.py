"""Errors: which one, how often tried, in which words, and never with the secret."""

import base64
import email.utils
import logging
import pickle
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from mp_pipeline.mixpanel import (
    AuthenticationError,
    BadRequestError,
    MixpanelClient,
    MixpanelError,
    PlanError,
    RateLimitError,
    ServerError,
)
from mp_pipeline.mixpanel.errors import TruncatedExportError
from mp_pipeline_tests.loopback import Loopback, Pieces, Reply, Request, chunked, reply, unused_port

DAY = date(2024, 1, 15)
SECRET = 'hush/q+"ž ?&'
BASIC = base64.b64encode(f"user:{SECRET}".encode()).decode()
PLAN = "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing"


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as loopback:
        yield loopback


@pytest.fixture
def client(server: Loopback) -> Iterator[MixpanelClient]:
    with MixpanelClient(
        "7",
        "user",
        SECRET,
        export_url=server.url,
        query_url=server.url,
        backoff_seconds=0.001,
        max_attempts=3,
        read_timeout=5,
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b"Invalid service account credentials", AuthenticationError, None),
        (400, b"Unable to authenticate request", AuthenticationError, None),
        (400, b'{"error":"Unable to authenticate request"}', AuthenticationError, "Unable to au"),
        (400, b"bad where", BadRequestError, None),
        (404, b"", BadRequestError, None),
        (402, b'{"request":"/x","error":"%s"}' % PLAN.encode(), PlanError, PLAN),
        (403, b"date range exceeded", PlanError, None),
        (304, b"", MixpanelError, None),
    ],
)
def test_not_tried_again(
    server: Loopback,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    body: bytes,
    kind: type[MixpanelError],
    words: str | None,
) -> None:
    server.replies = [reply(body, status)]
    with pytest.raises(MixpanelError) as caught:
        client.export_events(DAY, directory=tmp_path)
    error = caught.value
    assert type(error) is kind
    assert error.status == status
    assert (error.mixpanel_message or "").startswith(words or body.decode())
    message = str(error)
    assert message.startswith(f"export of 2024-01-15 failed: status {status}")
    assert f"(GET {server.url}/export, 1 attempt)" in message
    assert (error.mixpanel_message or "") in message
    assert message.endswith(kind.advice)
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_advice_for_wrong_credentials_names_the_variables() -> None:
    for name in ("USERNAME", "SECRET"):
        assert f"MIXPANEL_SERVICE_ACCOUNT_{name}" in AuthenticationError.advice
    assert "MIXPANEL_PROJECT_ID" in AuthenticationError.advice
    assert "MIXPANEL_REGION" in AuthenticationError.advice


def test_a_day_in_the_future(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply(b"to_date cannot be later than today", 400)]
    with pytest.raises(BadRequestError, match=r"later than today .*has not begun"):
        client.export_events(DAY, directory=tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(500, ServerError), (503, ServerError), (429, RateLimitError)]
)
def test_tried_again(
    server: Loopback,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    kind: type[MixpanelError],
) -> None:
    server.replies = [reply(b"too much", status), reply()]
    assert client.export_events(DAY, directory=tmp_path).attempts == 2
    server.requests.clear()
    server.replies = [reply(b"too much", status)]
    with pytest.raises(kind, match=r"too much.*3 attempts") as caught:
        client.export_events(DAY, directory=tmp_path / "other")
    assert caught.value.retry_after is None
    assert len(server.requests) == 3


def http_date(seconds: float) -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(("status", "form"), [(503, "seconds"), (429, "date")])
def test_retry_after_is_obeyed(
    server: Loopback, client: MixpanelClient, tmp_path: Path, status: int, form: str
) -> None:
    # A date has whole seconds: two seconds ahead is at least one.
    wish = "1" if form == "seconds" else http_date(2)
    server.replies = [reply(b"", status, Retry_After=wish), reply()]
    start = time.monotonic()
    client.export_events(DAY, directory=tmp_path)
    assert 0.9 <= time.monotonic() - start < 4


@pytest.mark.parametrize(
    "wish", ["-5", "Mon, 01 Jan 2024 00:00:00 GMT", "soon", "nan", "inf", "", "99999-1-1"]
)
def test_a_retry_after_without_sense(
    server: Loopback, client: MixpanelClient, tmp_path: Path, wish: str
) -> None:
    server.replies = [reply(b"", 429, Retry_After=wish), reply()]
    start = time.monotonic()
    client.export_events(DAY, directory=tmp_path)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_after_that_is_too_long(
    server: Loopback, client: MixpanelClient, tmp_path: Path, status: int, form: str
) -> None:
    wish = "3601" if form == "seconds" else http_date(3700)
    server.replies = [reply(b"Query rate limit exceeded", status, Retry_After=wish)]
    with pytest.raises(RateLimitError, match=r"asks to wait 3,\d+ seconds, more than") as caught:
        client.export_events(DAY, directory=tmp_path)
    assert caught.value.retry_after == pytest.approx(3650, abs=60)
    assert caught.value.status == status
    assert len(server.requests) == 1


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_port()}"
    with (
        MixpanelClient(
            "7", "user", "s3cret", export_url=url, backoff_seconds=0, max_attempts=2
        ) as client,
        pytest.raises(ServerError) as caught,
    ):
        client.export_events(DAY, directory=tmp_path, where="filter")
    message = str(caught.value)
    assert "Connection refused" in message
    assert f"(GET {url}/export, 2 attempts)" in message
    assert "filter" not in message
    assert caught.value.status is None


def test_mixpanels_words_are_bounded(
    server: Loopback, client: MixpanelClient, tmp_path: Path
) -> None:
    server.replies = [reply(b"long \n" * 100_000, 400)]
    with pytest.raises(BadRequestError) as caught:
        client.export_events(DAY, directory=tmp_path)
    assert len(caught.value.mixpanel_message or "") == 500
    assert len(str(caught.value)) < 1000


def test_errors_survive_pickling() -> None:
    error = RateLimitError("slow", status=429, mixpanel_message="w", retry_after=3.0)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_redirect_to_another_host_drops_the_credentials(
    server: Loopback, client: MixpanelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login n password n\nmachine 127.0.0.1 login n password n\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with Loopback([reply(b"Who are you?", 401)]) as other:
        server.replies = [reply(b"", 302, Location=f"http://localhost:{other.port}/x")]
        with pytest.raises(AuthenticationError, match="after a redirect to localhost"):
            client.export_events(DAY, directory=tmp_path)
        server.replies = [reply(b"", 307, Location=f"{other.url}/x")]  # another port is as foreign
        server.requests.clear()
        with pytest.raises(AuthenticationError):
            client.export_profiles(directory=tmp_path)
    assert ["authorization" in request.headers for request in other.requests] == [False, False]


def test_redirect_on_the_same_host_keeps_our_credentials(
    server: Loopback, client: MixpanelClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login n password n\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.replies = [reply(b"", 307, Location="/elsewhere"), reply()]
    client.export_events(DAY, directory=tmp_path)
    assert [request.path for request in server.requests] == ["/export", "/elsewhere"]
    assert {request.headers["authorization"] for request in server.requests} == {f"Basic {BASIC}"}


def test_endless_redirects(server: Loopback, client: MixpanelClient, tmp_path: Path) -> None:
    server.replies = [reply(b"", 307, Location="/export")]
    with pytest.raises(MixpanelError, match="Exceeded 30 redirects"):
        client.export_events(DAY, directory=tmp_path)


def echo(status: int, *, where: str) -> Reply:
    def play(request: Request) -> Pieces:
        said = f"{request.headers['authorization']} {SECRET} {quote(SECRET)}".encode()
        json_said = b'{"error":"you sent hush/q+\\"\\u017e ?& and %s"}' % said.split()[1]
        answers: dict[str, Pieces] = {
            "text": reply(said, status),
            "late": reply(b"x" * 480 + said, status),
            "json": reply(json_said, status),
            "encoding": reply(b"x", Content_Encoding=said.decode("latin-1")),
            "chunk length": chunked(end=said + b"\r\n"),
            "status line": [said + b"\r\n\r\n"],
            "body": reply(b"terminated early " + said),
            "page": reply(b'{"results":[' + said),
        }
        return answers[where]

    return play


@pytest.mark.parametrize(
    ("status", "where"),
    [
        (401, "text"),
        (400, "late"),
        (429, "text"),
        (500, "text"),
        (402, "json"),
        (500, "json"),
        (200, "json"),
        (200, "encoding"),
        (200, "chunk length"),
        (200, "status line"),
        (200, "body"),
        (200, "page"),
    ],
)
def test_the_secret_appears_nowhere(
    server: Loopback,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [echo(status, where=where)]
    texts = [repr(client), str(client)]
    downloads: list[Callable[[], object]] = [lambda: client.export_profiles(directory=tmp_path)]
    if (status, where) != (200, "json"):  # to an export that is a line like any other
        downloads.append(lambda: client.export_events(DAY, directory=tmp_path))
    for download in downloads:
        with pytest.raises(MixpanelError) as caught:
            download()
        error = caught.value
        texts += [str(error), repr(error), str(vars(error)), str(error.mixpanel_message)]
        texts += ["".join(traceback.format_exception(error))]
        assert error.__cause__ is None
        assert error.__context__ is None
    texts += [record.getMessage() for record in caplog.records]
    texts += [record.exc_text or "" for record in caplog.records]
    for text in texts:
        assert SECRET not in text
        assert "hush/q" not in text
        assert BASIC[:8] not in text
        assert quote(SECRET) not in text
        assert quote(SECRET, safe="") not in text


def test_the_levels_of_the_hierarchy() -> None:
    for kind in (
        AuthenticationError,
        PlanError,
        RateLimitError,
        BadRequestError,
        TruncatedExportError,
        ServerError,
    ):
        assert issubclass(kind, MixpanelError)
        assert kind.advice != MixpanelError.advice
