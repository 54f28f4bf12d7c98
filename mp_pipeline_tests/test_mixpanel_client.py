"""The client itself: its arguments, its regions, its check of access, its documentation."""

import inspect
import textwrap
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import mp_pipeline.mixpanel
from mp_pipeline.mixpanel import MixpanelClient, PlanError, Region, ServerError
from mp_pipeline.mixpanel.regions import EXPORT_URLS, QUERY_URLS
from mp_pipeline_tests.loopback import Loopback, reply


@pytest.fixture
def server() -> Iterator[Loopback]:
    with Loopback() as loopback:
        yield loopback


@pytest.mark.parametrize(
    ("region", "export", "engage"),
    [
        ("us", "https://data.mixpanel.com/api/2.0/export", "https://mixpanel.com/api/query/engage"),
        (
            "eu",
            "https://data-eu.mixpanel.com/api/2.0/export",
            "https://eu.mixpanel.com/api/query/engage",
        ),
        (
            "in",
            "https://data-in.mixpanel.com/api/2.0/export",
            "https://in.mixpanel.com/api/query/engage",
        ),
    ],
)
def test_regions(region: Region, export: str, engage: str) -> None:
    shown = repr(MixpanelClient("7", "somebody", "s3cret", region=region))
    assert shown == f"MixpanelClient(project_id='7', export_url={export!r}, engage_url={engage!r})"


@pytest.mark.parametrize(
    "changed",
    [
        {"project_id": ""},
        {"username": " "},
        {"secret": ""},
        {"region": "mars"},
        {"export_url": "ftp://example.org"},
        {"export_url": "example.org"},
        {"query_url": ""},
        {"query_url": "https://user:hidden@example.org"},
        {"query_url": "https://example.org/?a=hidden"},
        {"connect_timeout": 0},
        {"read_timeout": -1},
        {"max_attempts": 0},
        {"backoff_seconds": -1},
        {"max_retry_after_seconds": -1},
    ],
)
def test_bad_arguments_are_named(changed: dict[str, Any]) -> None:
    good: dict[str, Any] = {"project_id": "7", "username": "u", "secret": "s"}
    with pytest.raises(ValueError, match=next(iter(changed))) as caught:
        MixpanelClient(**good | changed)
    assert "hidden" not in str(caught.value)


def test_check_access(server: Loopback) -> None:
    server.replies = [reply(b'{"event":"a"}\n'), reply(b'{"results":[],"status":"ok"}')]
    with MixpanelClient(
        "7", "user", "s3cret", export_url=server.url, query_url=server.url
    ) as client:
        client.check_access()
    export, engage = server.requests
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    assert export.query == {
        "project_id": "7",
        "from_date": yesterday,
        "to_date": yesterday,
        "limit": "1",
    }
    assert engage.form == {"page": "0", "page_size": "1"}


def test_check_access_fails(server: Loopback) -> None:
    with MixpanelClient(
        "7", "user", "s3cret", export_url=server.url, query_url=server.url, backoff_seconds=0
    ) as client:
        server.replies = [reply(b"", 500)]
        with pytest.raises(ServerError, match="2 attempts"):
            client.check_access()
        server.requests.clear()
        server.replies = [reply(), reply(b"no profiles in your plan", 402)]
        with pytest.raises(PlanError, match=r"profiles, page 0 failed: .*no profiles in your plan"):
            client.check_access()


def test_a_trailing_slash_and_a_closed_client(server: Loopback, tmp_path: Path) -> None:
    server.replies = [reply()]
    client = MixpanelClient("7", "user", "s3cret", export_url=server.url + "/api/")
    client.close()
    client.close()
    client.export_events(date(2024, 1, 15), directory=tmp_path)
    client.close()
    assert server.requests[0].path == "/api/export"


def test_the_documented_example(
    server: Loopback,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPORT_URLS, "eu", server.url)
    monkeypatch.setitem(QUERY_URLS, "eu", server.url)
    event, page = b'{"event":"a"}\n', b'{"results":[{"$distinct_id":4}],"status":"ok","total":1}'
    server.replies = [reply(event), reply(page), reply(event), reply(page)]
    documentation = inspect.getdoc(mp_pipeline.mixpanel) or ""
    example = documentation.partition("::\n")[2].partition("All dates")[0]
    exec(textwrap.dedent(example), {})
    assert capsys.readouterr().out == (
        "1 events in downloads/events_2024-01-15.jsonl\n1 profiles in downloads/profiles.jsonl.gz\n"
    )
