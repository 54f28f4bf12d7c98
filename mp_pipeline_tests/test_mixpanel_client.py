"""The client itself: its arguments, its regions, its check of access, its documentation."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import mp_pipeline.mixpanel
from mp_pipeline.mixpanel import (
    MixpanelClient,
    MixpanelError,
    PlanError,
    Region,
    ServerError,
    UnexpectedAnswerError,
)
from mp_pipeline_tests.support.client import DAY, EVENT, client_of
from mp_pipeline_tests.support.servers import ScriptedServer, reply


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
        {"max_rate_limit_wait_seconds": -1},
    ],
)
def test_bad_arguments_are_named(changed: dict[str, Any]) -> None:
    good: dict[str, Any] = {"project_id": "7", "username": "u", "secret": "s"}
    with pytest.raises(ValueError, match=next(iter(changed))) as caught:
        MixpanelClient(**good | changed)
    assert "hidden" not in str(caught.value)


def test_check_access(scripted: ScriptedServer, client: MixpanelClient) -> None:
    scripted.replies = [reply(EVENT), reply(b'{"results":[],"status":"ok"}')]
    client.check_access()
    export, engage = scripted.requests
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    assert export.query == {
        "project_id": "7",
        "from_date": yesterday,
        "to_date": yesterday,
        "limit": "1",
    }
    assert engage.form == {"page": "0", "page_size": "1"}


def test_check_access_fails(scripted: ScriptedServer, client: MixpanelClient) -> None:
    scripted.replies = [reply(b"", 500)]
    with pytest.raises(ServerError, match="2 attempts"):
        client.check_access()
    scripted.requests.clear()
    scripted.replies = [reply(), reply(b"no profiles in your plan", 402)]
    with pytest.raises(PlanError, match=r"profiles, page 0 failed: .*no profiles in your plan"):
        client.check_access()


def test_check_access_reads_the_answer(scripted: ScriptedServer, client: MixpanelClient) -> None:
    scripted.replies = [reply(b"<html>Please log in to the proxy</html>")]
    with pytest.raises(UnexpectedAnswerError, match=r"Please log in to the proxy.* 2 attempts"):
        client.check_access()
    scripted.replies = [reply(b"x", Content_Encoding="br")]
    with pytest.raises(MixpanelError, match="another Content-Encoding than gzip"):
        client.check_access()


def test_a_trailing_slash_and_a_closed_client(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.replies = [reply(), reply(b'{"results":[]}')]
    client = client_of(
        scripted, export_url=scripted.url + "/api/", query_url=scripted.url + "/query/"
    )
    client.close()
    client.close()
    client.export_events(DAY, directory=tmp_path)
    client.close()
    client.export_profiles(directory=tmp_path)
    client.close()
    assert [request.path for request in scripted.requests] == ["/api/export", "/query/engage"]


def test_importing_the_package_imports_no_http() -> None:
    """Dagster imports the package to load the definitions, and sends requests in runs only."""
    code = "import sys, mp_pipeline.mixpanel; print('requests' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
    for name in mp_pipeline.mixpanel.__all__:
        assert getattr(mp_pipeline.mixpanel, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Client'"):
        getattr(mp_pipeline.mixpanel, "Client")  # noqa: B009 - mypy knows that it does not exist
