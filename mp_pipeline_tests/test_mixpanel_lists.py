"""Group types, cohorts, annotations and the Lexicon over HTTP."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from mp_pipeline.mixpanel import (
    BadRequestError,
    Download,
    MixpanelClient,
    MixpanelError,
    PlanError,
    RateLimits,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline.mixpanel.cohorts import Cohort, select_cohorts
from mp_pipeline.mixpanel.groups import GroupType
from mp_pipeline_tests.support.client import client_of
from mp_pipeline_tests.support.files import files_in
from mp_pipeline_tests.support.servers import ScriptedServer, reply

COHORTS = b'[{"id":1000,"name":"One","n":1.10},\n{"id":7,"name":null},{"id":null}]'
ANNOTATIONS = b'{"status":"ok","results":[{"id":23211,"date":"2022-09-07 00:00:00"}]}'

Export = Callable[[MixpanelClient, Path], Download]


def export_cohorts(client: MixpanelClient, directory: Path) -> Download:
    return client.export_cohorts(directory=directory)


def export_annotations(client: MixpanelClient, directory: Path) -> Download:
    return client.export_annotations(directory=directory)


def export_schemas(client: MixpanelClient, directory: Path) -> Download:
    return client.export_schemas(directory=directory)


EXPORTS = [export_cohorts, export_annotations, export_schemas]


def lines_of(download: Download) -> list[bytes]:
    (path,) = download.paths
    return gzip.decompress(path.read_bytes()).splitlines()


def test_cohorts(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    scripted.replies = [reply(COHORTS)]
    download = client.export_cohorts(directory=tmp_path)
    assert lines_of(download) == [
        b'{"id":1000,"name":"One","n":1.10}',
        b'{"id":7,"name":null}',
        b'{"id":null}',
    ]
    assert (download.lines, download.complete, download.attempts) == (3, True, 1)
    download.verify()
    assert client.list_cohorts() == [Cohort(1000, "One"), Cohort(7, "")]
    for request in scripted.requests:
        assert (request.method, request.path) == ("POST", "/cohorts/list")
        assert request.query == {"project_id": "7"}


def test_annotations(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    scripted.replies = [reply(gzip.compress(ANNOTATIONS), Content_Encoding="gzip")]
    download = client.export_annotations(directory=tmp_path)
    assert lines_of(download) == [b'{"id":23211,"date":"2022-09-07 00:00:00"}']
    (request,) = scripted.requests
    assert (request.method, request.path) == ("GET", "/app/projects/7/annotations")


def test_schemas(scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path) -> None:
    schema = b'{"entityType":"event","name":"Search","schemaJson":{"properties":{"n":{"max":1.0}}}}'
    scripted.replies = [reply(b'{"results":[%b],"status":"ok"}' % schema)]
    download = client.export_schemas(directory=tmp_path)
    assert download.paths == (tmp_path / "lexicon.jsonl.gz",)
    assert lines_of(download) == [schema]
    (request,) = scripted.requests
    assert (request.method, request.path) == ("GET", "/app/projects/7/schemas")


def test_group_types_are_read_leniently(
    scripted: ScriptedServer, client: MixpanelClient, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.replies = [
        reply(
            b'{"status":"ok","results":['
            b'{"data_group_id":"-12","display_name":"Company","property_name":"company_id"},'
            b'{"data_group_id":-6291034705516742039,"display_name":"Account"},'
            b'{"id":9},{"display_name":"Nameless"},"?"]}'
        )
    ]
    assert client.list_group_types() == [
        GroupType("-12", "company_id"),
        GroupType("-6291034705516742039", "Account"),
        GroupType("9", "9"),
    ]
    assert caplog.messages.count("a group type without data_group_id is left out") == 2
    (request,) = scripted.requests
    assert (request.method, request.path) == ("GET", "/app/projects/7/data-groups")


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("body", [b"[]", b'{"status":"ok","results":[]}', b"\xef\xbb\xbf [ ] "])
def test_an_empty_list(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, export: Export, body: bytes
) -> None:
    scripted.replies = [reply(body)]
    download = export(client, tmp_path)
    assert (download.lines, lines_of(download)) == (0, [])


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("status", [402, 403])
def test_a_plan_that_does_not_include_it(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path, export: Export, status: int
) -> None:
    scripted.replies = [reply(b'{"error":"Your plan does not allow it"}', status)]
    said = rf"^list of \w+ failed: status {status}, Mixpanel says: Your .*MIXPANEL_EXTRA_ASSETS"
    with pytest.raises(PlanError, match=said):
        export(client, tmp_path)
    assert len(scripted.requests) == 1
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error":"no such project","status":"error"}', BadRequestError),
        (b"<html>Sign in</html>", UnexpectedAnswerError),
        (b'[{"id":1}', TruncatedExportError),
        (b'{"status":"ok","results":[{"id":1},', TruncatedExportError),
        (b"", TruncatedExportError),
        (b'{"status":"ok"}', UnexpectedAnswerError),
    ],
)
def test_an_answer_that_is_not_a_list(
    scripted: ScriptedServer,
    client: MixpanelClient,
    tmp_path: Path,
    export: Export,
    body: bytes,
    kind: type[MixpanelError],
) -> None:
    scripted.replies = [reply(body)]
    with pytest.raises(kind):
        export(client, tmp_path)
    assert files_in(tmp_path) == set()


def test_a_list_that_breaks_off_is_requested_again(
    scripted: ScriptedServer, client: MixpanelClient, tmp_path: Path
) -> None:
    scripted.replies = [reply(COHORTS[:20]), reply(b"", 503), reply(COHORTS)]
    assert client.export_cohorts(directory=tmp_path).attempts == 3


def test_only_cohorts_count_as_requests(scripted: ScriptedServer, tmp_path: Path) -> None:
    scripted.replies = [reply(b"[]")]
    with client_of(scripted, rate_limits=RateLimits(tmp_path / "state")) as client:
        for _ in range(3):
            client.list_cohorts()
            client.list_group_types()
            client.export_annotations(directory=tmp_path / "downloads")
            client.export_schemas(directory=tmp_path / "downloads")
        assert client._engage.rate_limiter is not None
        assert client._engage.rate_limiter.remaining.startswith("57 of 60")


def test_the_app_api_is_beside_the_query_api(scripted: ScriptedServer) -> None:
    scripted.replies = [reply(b"[]")]
    with client_of(scripted, query_url=f"{scripted.url}/proxy/api/query/") as client:
        client.list_group_types()
        client.list_cohorts()
    assert [request.path for request in scripted.requests] == [
        "/proxy/api/app/projects/7/data-groups",
        "/proxy/api/query/cohorts/list",
    ]


def test_cohorts_are_selected_by_name_or_id() -> None:
    cohorts = [Cohort(1, "Same"), Cohort(2, "Same"), Cohort(3, "Other")]
    assert select_cohorts(cohorts, None) == cohorts
    assert select_cohorts(cohorts, ["3", "Same"]) == cohorts
    assert select_cohorts(cohorts, ["Same"]) == cohorts[:2]
    with pytest.raises(ValueError, match=r"no cohort 'Lost', .*Same \(1\), Same \(2\), Other \(3"):
        select_cohorts(cohorts, ["Same", "Lost"])
    with pytest.raises(ValueError, match="It has: none"):
        select_cohorts([], ["Lost"])
