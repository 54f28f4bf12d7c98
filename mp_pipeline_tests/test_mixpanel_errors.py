"""Errors: which one, after how many attempts, with which message, and never with the secret."""

import base64
import email.utils
import errno
import gzip
import logging
import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

import mp_pipeline.mixpanel
from mp_pipeline.mixpanel import (
    AuthenticationError,
    BadRequestError,
    DiskSpaceError,
    MixpanelClient,
    MixpanelError,
    PlanError,
    RateLimitError,
    RateLimits,
    ServerError,
    StateDirectoryError,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline_tests.support.client import DAY, PATIENCE, client_of
from mp_pipeline_tests.support.servers import (
    Pieces,
    Reply,
    Request,
    ScriptedServer,
    chunked,
    reply,
    unused_port,
)

SECRET = 'hush/q+"ž ?&'
BASIC = base64.b64encode(f"user:{SECRET}".encode()).decode()
PLAN = "Your plan does not allow API calls. Upgrade at mixpanel.com/pricing"


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[MixpanelClient]:
    """A client of the scripted server, with a secret that is hard to hide."""
    with client_of(scripted, secret=SECRET, max_attempts=3) as client:
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
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    body: bytes,
    kind: type[MixpanelError],
    words: str | None,
) -> None:
    scripted.replies = [reply(body, status)]
    with pytest.raises(MixpanelError) as caught:
        client.export_events(DAY, directory=tmp_path)
    error = caught.value
    assert type(error) is kind
    assert error.status == status
    assert (error.mixpanel_message or "").startswith(words or body.decode())
    message = str(error)
    assert message.startswith(f"export of 2024-01-15 failed: status {status}")
    assert f"(GET {scripted.url}/export, 1 attempt)" in message
    assert (error.mixpanel_message or "") in message
    assert message.endswith(kind.advice)
    assert len(scripted.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_advice_names_the_parameters_and_the_variables() -> None:
    for text in (
        "the service account's username and secret and the project id",
        "MIXPANEL_SERVICE_ACCOUNT_USERNAME",
        "MIXPANEL_SERVICE_ACCOUNT_SECRET",
        "MIXPANEL_PROJECT_ID",
        "MIXPANEL_REGION",
    ):
        assert text in AuthenticationError.advice
    for text in ("export_url", "query_url", "MIXPANEL_EXPORT_URL", "MIXPANEL_QUERY_URL"):
        assert text in MixpanelError.advice
        assert text in BadRequestError.advice
    for text in ("events", "where", "MIXPANEL_EVENTS", "MIXPANEL_WHERE"):
        assert text in BadRequestError.advice
    assert "MP_PIPELINE_STATE_DIRECTORY" in StateDirectoryError.advice
    assert "MP_PIPELINE_DATABASE" in DiskSpaceError.advice


def test_a_day_in_the_future(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(b"to_date cannot be later than today", 400)]
    with pytest.raises(BadRequestError, match=r"later than today .*has not begun"):
        client.export_events(DAY, directory=tmp_path)


@pytest.mark.parametrize(
    ("status", "kind"), [(500, ServerError), (503, ServerError), (429, RateLimitError)]
)
def test_tried_again(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    kind: type[MixpanelError],
) -> None:
    scripted.replies = [reply(b"too much", status), reply()]
    assert client.export_events(DAY, directory=tmp_path).attempts == 2
    scripted.requests.clear()
    scripted.replies = [reply(b"too much", status)]
    with pytest.raises(kind, match=r"too much.*3 attempts") as caught:
        client.export_events(DAY, directory=tmp_path / "other")
    assert caught.value.retry_after is None
    assert len(scripted.requests) == 3


def http_date(seconds: float) -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(("status", "form"), [(503, "seconds"), (429, "date")])
def test_retry_after_is_obeyed(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    waits: list[float],
    status: int,
    form: str,
) -> None:
    wish = "1800" if form == "seconds" else http_date(1800)
    scripted.replies = [reply(b"", status, Retry_After=wish), reply()]
    client.export_events(DAY, directory=tmp_path)
    (seconds,) = waits
    assert 1000 < seconds <= 1800  # a date comes nearer while the test runs


@pytest.mark.parametrize(
    "wish", ["-5", "Mon, 01 Jan 2024 00:00:00 GMT", "soon", "nan", "inf", "", "99999-1-1"]
)
def test_a_retry_after_that_makes_no_sense_is_ignored(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, waits: list[float], wish: str
) -> None:
    scripted.replies = [reply(b"", 429, Retry_After=wish), reply()]
    client.export_events(DAY, directory=tmp_path)
    (seconds,) = waits
    assert seconds <= 0.002


def test_the_waits_between_attempts_double_up_to_a_minute(
    scripted: ScriptedServer, tmp_path: Path, waits: list[float]
) -> None:
    scripted.replies = [reply(b"", 500)]
    with (
        client_of(scripted, backoff_seconds=2.0, max_attempts=9) as client,
        pytest.raises(ServerError, match="9 attempts"),
    ):
        client.export_events(DAY, directory=tmp_path)
    assert len(waits) == 8
    for number, seconds in enumerate(waits):
        assert min(60, 2 * 2**number) <= seconds <= min(60, 2 * 2**number + 2)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_retry_after_that_is_too_long(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, status: int, form: str
) -> None:
    wish = "3601" if form == "seconds" else http_date(3700)
    scripted.replies = [reply(b"Query rate limit exceeded", status, Retry_After=wish)]
    with pytest.raises(RateLimitError, match=r"asks to wait 3,\d+ seconds, more than") as caught:
        client.export_events(DAY, directory=tmp_path)
    assert caught.value.retry_after == pytest.approx(3650, abs=60)
    assert caught.value.status == status
    assert len(scripted.requests) == 1


def test_a_host_that_does_not_listen(tmp_path: Path) -> None:
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


def test_the_message_of_mixpanel_is_cut(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(b"long \n" * 100_000, 400)]
    with pytest.raises(BadRequestError) as caught:
        client.export_events(DAY, directory=tmp_path)
    assert len(caught.value.mixpanel_message or "") == 500
    assert len(str(caught.value)) < 1000


ERRORS = [
    kind
    for kind in vars(mp_pipeline.mixpanel).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
]


def example_of(kind: type[Exception]) -> Exception:
    if issubclass(kind, MixpanelError):
        return kind("it failed", status=429, mixpanel_message="slowly", retry_after=3.0)
    return kind(errno.ENOSPC, "it failed") if issubclass(kind, OSError) else kind("it failed")


def raise_it(error: Exception) -> None:
    raise error


def test_errors_come_out_of_other_processes_as_they_are() -> None:
    assert {kind.__name__ for kind in ERRORS} == {
        name for name in mp_pipeline.mixpanel.__all__ if name.endswith("Error")
    }
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for error in map(example_of, ERRORS):
            found = pool.submit(raise_it, error).exception(PATIENCE)
            assert type(found) is type(error)
            assert str(found) == str(error) == "it failed"
            assert vars(found) == vars(error)
            assert found.args == error.args


def test_a_real_error_comes_out_of_another_process(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    limiter = RateLimits(tmp_path / "file" / "state").export_limiter("http://one.test", "7")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(limiter.record_refusal, 1.0).exception(PATIENCE)
    assert isinstance(found, StateDirectoryError)
    assert f"in the state directory {tmp_path / 'file' / 'state'}: " in str(found)
    assert str(found).endswith(StateDirectoryError.advice)


def test_redirect_to_another_host_drops_the_credentials(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login n password n\nmachine 127.0.0.1 login n password n\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with ScriptedServer([reply(b"Who are you?", 401)]) as other:
        scripted.replies = [reply(b"", 302, Location=f"http://localhost:{other.port}/x")]
        with pytest.raises(AuthenticationError, match="after a redirect to localhost"):
            client.export_events(DAY, directory=tmp_path)
        scripted.replies = [
            reply(b"", 307, Location=f"{other.url}/x")
        ]  # another port is as foreign
        scripted.requests.clear()
        with pytest.raises(AuthenticationError):
            client.export_profiles(directory=tmp_path)
    assert ["authorization" in request.headers for request in other.requests] == [False, False]


def test_redirect_on_the_same_host_keeps_our_credentials(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login n password n\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    scripted.replies = [reply(b"", 307, Location="/elsewhere"), reply()]
    client.export_events(DAY, directory=tmp_path)
    assert [request.path for request in scripted.requests] == ["/export", "/elsewhere"]
    assert {request.headers["authorization"] for request in scripted.requests} == {f"Basic {BASIC}"}


def test_endless_redirects(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(b"", 307, Location="/export")]
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
            "end of a long line": reply(b"x" * 390 + said),
            "after gzip": reply(gzip.compress(b"") + said, Content_Encoding="gzip"),
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
        (200, "end of a long line"),
        (200, "after gzip"),
        (200, "page"),
    ],
)
def test_the_secret_appears_nowhere(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    status: int,
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    scripted.replies = [echo(status, where=where)]
    texts = [repr(client), str(client)]
    downloads: list[Callable[[], object]] = [
        lambda: client.export_profiles(directory=tmp_path),
        lambda: client.export_events(DAY, directory=tmp_path),
    ]
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


LONGEST_QUOTE = 1 << 16


@pytest.mark.parametrize("where", ["status 400", "status 500", "last line", "after gzip"])
@pytest.mark.parametrize(
    "form",
    [SECRET.encode(), quote(SECRET).encode(), BASIC.encode(), b'hush/q+\\"\\u017e ?&'],
    ids=["plain", "in a URL", "base64", "JSON"],
)
def test_a_secret_that_is_cut_in_two_is_not_shown(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    form: bytes,
    where: str,
) -> None:
    """Of a long answer only the beginning is read. Spaces are shown as one."""
    for shown in range(4, len(form)):
        text = b"x".ljust(LONGEST_QUOTE - shown) + form + b"y" * 100
        answers: dict[str, Pieces] = {
            "status 400": reply(text, 400),
            "status 500": reply(text, 500),
            "last line": reply(text),
            "after gzip": reply(gzip.compress(b"") + text, Content_Encoding="gzip"),
        }
        scripted.replies = [answers[where]]
        with pytest.raises(MixpanelError) as caught:
            client.export_events(DAY, directory=tmp_path)
        for said in (str(caught.value), caught.value.mixpanel_message or "", caplog.text):
            assert form[:4].decode() not in said
        assert "x [secret]" in str(caught.value)


def test_the_levels_of_the_hierarchy() -> None:
    for kind in (
        AuthenticationError,
        PlanError,
        RateLimitError,
        BadRequestError,
        TruncatedExportError,
        UnexpectedAnswerError,
        ServerError,
    ):
        assert issubclass(kind, MixpanelError)
        assert kind.advice != MixpanelError.advice
