"""Two Mixpanel projects in one code location, as docs/operations.md describes it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.settings import load_settings
from mp_pipeline_tests.faults import FaultyServer
from mp_pipeline_tests.support.databases import query_file
from mp_pipeline_tests.support.records import DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY, credentials

OPERATIONS = (Path(__file__).parent.parent / "docs/operations.md").read_text()
PROJECTS = {"shop": "1001", "blog": "2002"}


@pytest.fixture
def servers() -> Iterator[dict[str, FaultyServer]]:
    """The servers of two sample projects."""
    with (
        FaultyServer(project_id=PROJECTS["shop"], events_per_day=EVENTS_PER_DAY) as shop,
        FaultyServer(project_id=PROJECTS["blog"], events_per_day=EVENTS_PER_DAY) as blog,
    ):
        yield {"shop": shop, "blog": blog}


@pytest.fixture
def definitions(
    servers: dict[str, FaultyServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dg.Definitions:
    """What the example of the documentation defines."""
    monkeypatch.chdir(tmp_path)
    for name, server in servers.items():
        prefix = f"{name.upper()}_"
        for variable, value in credentials(server).items():
            monkeypatch.setenv(prefix + variable, value)
        monkeypatch.setenv(f"{prefix}MP_PIPELINE_STATE_DIRECTORY", str(tmp_path / "state"))
        monkeypatch.setenv(f"{prefix}MP_PIPELINE_MAX_REJECTED_FRACTION", "1")
    load_settings.cache_clear()
    (code,) = re.findall(r"^# my_definitions.py\n(.*?)^```$", OPERATIONS, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    load_settings.cache_clear()
    found = names["defs"]
    assert isinstance(found, dg.Definitions)
    return found


def load(definitions: dg.Definitions, project: str) -> dg.ExecuteInProcessResult:
    """Load a day of events, and the profiles, of one of the projects."""
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        partition_key=str(DAY),
        asset_selection=[dg.AssetKey([project, "events"]), dg.AssetKey([project, "profiles"])],
    )


def test_each_project_loads_into_its_own_tables(
    definitions: dg.Definitions, servers: dict[str, FaultyServer], tmp_path: Path
) -> None:
    for name in PROJECTS:
        run = load(definitions, name)
        assert run.success
        checks = {each.asset_key.path[0]: each.passed for each in run.get_asset_check_evaluations()}
        assert set(checks) == {name}
    for name, project_id in PROJECTS.items():
        database = tmp_path / f"data/{name}_mixpanel.duckdb"
        tables = query_file(database, "SELECT table_name FROM _metadata ORDER BY table_name")
        assert tables == [(f"{name}_events_20240115",), (f"{name}_profiles",)]
        assert query_file(database, "SELECT DISTINCT source FROM _load_log") == [
            (f"project {project_id}",)
        ]
        assert query_file(database, f"SELECT count(*) FROM {name}_events")[0][0] > 0
        assert {request.path.split("?")[0] for request in servers[name].requests}


def test_projects_may_share_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    database = tmp_path / "both.duckdb"
    for name in PROJECTS:
        monkeypatch.setenv(f"{name.upper()}_MP_PIPELINE_DATABASE", str(database))
    definitions = request.getfixturevalue("definitions")
    for name in PROJECTS:
        assert load(definitions, name).success
    sources = "SELECT coalesce(dataset, table_name), source FROM _load_log ORDER BY ALL"
    assert query_file(database, sources) == [
        ("blog_events", "project 2002"),
        ("blog_profiles", "project 2002"),
        ("shop_events", "project 1001"),
        ("shop_profiles", "project 1001"),
    ]


def test_names_have_the_prefix(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    for name in PROJECTS:
        for kind, names in (
            ("schedules", {each.name for each in repository.schedule_defs}),
            ("sensors", {each.name for each in repository.sensor_defs}),
        ):
            own = {each for each in names if each.startswith(f"{name}_")}
            assert len(own) == len(names) / 2, kind
