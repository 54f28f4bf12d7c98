"""The assets that MIXPANEL_EXTRA_ASSETS switches on, end to end on the sample project."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mp_pipeline.factory import mixpanel_project
from mp_pipeline.sample import profiles_as_of
from mp_pipeline.sample.snapshots import COHORTS, COMPANIES, COMPANY
from mp_pipeline.settings import Settings
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import Run, materialize, plain, resources
from mp_pipeline_tests.support.databases import query, query_column, tamper
from mp_pipeline_tests.support.files import files_in

TODAY = date(2024, 1, 15)
EXTRA = Settings(mixpanel_extra_assets=("groups", "cohorts", "annotations", "lexicon"))
NAMES = ["profiles", "groups", "cohorts", "cohort_members", "annotations", "lexicon"]
TABLES = {name: name for name in NAMES} | {"groups": "groups_company"}


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer(today=TODAY) as running:
        yield running


def project(settings: Settings = EXTRA) -> dict[str, Any]:
    """Return the assets and checks of a project's snapshots, by name."""
    defs = mixpanel_project(settings)
    checks: dict[str, list[Any]] = {}
    for check in defs.asset_checks or ():
        assert isinstance(check, dg.AssetChecksDefinition)
        checks.setdefault(check.check_key.asset_key.path[-1], []).append(check)
    found: dict[str, Any] = {}
    for asset in defs.assets or ():
        assert isinstance(asset, dg.AssetsDefinition)
        name = asset.key.path[-1]
        found[name] = [asset, *checks.get(name, [])]
    return found


def run(name: str, available: dict[str, Any], settings: Settings = EXTRA) -> Run:
    """Materialize an asset, and run its checks."""
    return materialize(project(settings)[name], available)


def judge(name: str, available: dict[str, Any], settings: Settings = EXTRA) -> Run:
    """Run the checks of an asset alone."""
    asset, *checks = project(settings)[name]
    return materialize([asset, *checks], available, only=dg.AssetSelection.checks_for_assets(asset))


@pytest.mark.parametrize("name", NAMES)
def test_a_snapshot_on_the_sample_project(server: FaultyServer, tmp_path: Path, name: str) -> None:
    available = resources(tmp_path, server)
    for _ in range(2):  # the second one replaces the first
        done = run(name, available)
        assert done.error == ""
        assert all(each.passed for each in done.checks.values())
        assert {"row_count", "schema", "count_change"} <= set(done.checks)
    shown = done.metadata[None]
    ((rows,),) = query(tmp_path, f"SELECT count(*) FROM {TABLES[name]}")
    assert shown["dagster/row_count"] == shown["lines_read"] == rows > 0
    assert shown["dagster/table_name"] == TABLES[name]
    assert shown["gained"] == shown["lost"] == 0
    assert shown["source"] == "project 1234567"
    assert len(shown["preview"]) == min(rows, 5)
    assert all(each.description for each in shown["dagster/column_schema"].columns[:1])
    assert query(tmp_path, "SELECT table_name, dataset, owner FROM _tables") == [
        (TABLES[name], name, name)
    ]
    assert files_in(tmp_path) == {"test.duckdb"}


def test_companies(server: FaultyServer, tmp_path: Path) -> None:
    assert run("groups", resources(tmp_path, server)).success
    assert query(
        tmp_path, "SELECT data_group_id, group_key, count(*) FROM groups_company GROUP BY ALL"
    ) == [(COMPANY["data_group_id"], "company", COMPANIES)]


def test_members_are_users_of_their_cohort(server: FaultyServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)
    for name in ("profiles", "cohorts", "cohort_members"):
        assert run(name, available).success
    for cohort in COHORTS:
        expected = {
            each["$distinct_id"]
            for each in profiles_as_of(TODAY)
            if cohort.contains(each["$properties"])
        }
        members = f"SELECT distinct_id FROM cohort_members WHERE cohort_id = {cohort.id}"
        assert set(query_column(tmp_path, members)) == expected
        assert query_column(tmp_path, f"SELECT count FROM cohorts WHERE id = {cohort.id}") == [
            len(expected)
        ]
    assert query_column(
        tmp_path, "SELECT count(*) FROM cohort_members ANTI JOIN profiles USING (distinct_id)"
    ) == [0]
    lists = [each for each in server.requests if each.path.endswith("/cohorts/list")]
    assert len(lists) == 2  # one for each asset


def test_cohorts_that_a_setting_names(server: FaultyServer, tmp_path: Path) -> None:
    done = run("cohort_members", resources(tmp_path, server, cohorts=["1001", "Power listeners"]))
    assert done.error == ""
    assert query_column(tmp_path, "SELECT DISTINCT cohort_id FROM cohort_members ORDER BY 1") == [
        1001,
        1003,
    ]
    assert done.metadata[None]["filter_where"] == 'cohort in ["1001", "Power listeners"]'
    requested = [each.form["filter_by_cohort"] for each in server.requests if "page" in each.form]
    assert set(requested) == {'{"id": 1001}', '{"id": 1003}'}

    done = run("cohort_members", resources(tmp_path, server, cohorts=["Lost"]))
    assert "no cohort 'Lost', which MIXPANEL_COHORTS names. It has: Paying users (1001)" in (
        done.error
    )
    assert query_column(tmp_path, "SELECT count(DISTINCT cohort_id) FROM cohort_members") == [2]


def test_annotations_are_dated_in_the_projects_zone(server: FaultyServer, tmp_path: Path) -> None:
    done = run("annotations", resources(tmp_path, server, timezone="Asia/Tokyo"))
    assert done.metadata[None]["wall_clock_zone"] == "Asia/Tokyo"
    assert query(
        tmp_path,
        "SELECT date::VARCHAR, time::VARCHAR, user_name, tags FROM annotations WHERE id = 103",
    ) == [("2024-02-29", "2024-02-29 01:30:00", "Ada Berger", ["release", "player"])]


def test_the_lexicon_describes_typed_tables(server: FaultyServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)
    assert run("lexicon", available).success
    assert materialize(project()["events"][:1], available, day=TODAY).success
    with available["duckdb"].get_engine() as storage:
        storage.type_events_day("events", TODAY)
        storage.comment_typed_tables("events")
    comments = "SELECT comment FROM {} WHERE table_name = 'search' AND contains(comment, '. ')"
    assert query_column(tmp_path, comments.format("duckdb_tables()")) == [
        "Event: Search. A user searched for songs."
    ]
    assert query_column(tmp_path, comments.format("duckdb_columns()")) == [
        "Property: query, filled in 100 % of the events. What the user typed.",
        "Property: results, filled in 100 % of the events. Number of songs found.",
    ]


def test_several_group_types(server: FaultyServer, tmp_path: Path) -> None:
    same = COMPANY["data_group_id"]
    available = resources(tmp_path, server, groups={"company": same, "Team ID": same})
    done = run("groups", available)
    assert done.error == ""
    assert all(each.passed for each in done.checks.values())
    shown = done.metadata[None]
    assert shown["dagster/row_count"] == 2 * COMPANIES
    assert shown["dagster/table_name"] == "groups_company, groups_team_id"
    assert [(row["table_name"], row["row_count"]) for row in shown["tables"]] == [
        ("groups_company", COMPANIES),
        ("groups_team_id", COMPANIES),
    ]
    assert not [each for each in server.requests if each.path.endswith("data-groups")]

    @dg.asset(ins={"groups": dg.AssetIn("groups")}, io_manager_key="in_memory")
    def read(groups: pd.DataFrame) -> int:
        return len(groups)

    loaded = materialize([project()["groups"][0], read], available, only=[read])
    assert loaded.outputs("read") == 2 * COMPANIES


def test_a_project_without_group_types(server: FaultyServer, tmp_path: Path) -> None:
    server.faults.append(Fault("body", path="/data-groups", body=b'{"results": []}'))
    done = run("groups", resources(tmp_path, server))
    assert not done.success
    assert "Mixpanel lists no group types" in done.error
    assert "MIXPANEL_GROUPS" in done.error


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("groups", "/data-groups"),
        ("groups", "/engage"),
        ("cohorts", "/cohorts/list"),
        ("cohort_members", "/engage"),
        ("annotations", "/annotations"),
        ("lexicon", "/schemas"),
    ],
)
@pytest.mark.parametrize("status", [402, 403])
def test_a_refused_snapshot_is_kept(
    server: FaultyServer, tmp_path: Path, name: str, path: str, status: int
) -> None:
    available = resources(tmp_path, server)
    assert run(name, available).success
    before = query(tmp_path, f"FROM {TABLES[name]} ORDER BY ALL")
    server.faults.append(Fault("status", path=path, status=status, body=b'{"error":"Upgrade"}'))
    done = run(name, available)
    assert not done.success
    assert f"status {status}, Mixpanel says: Upgrade" in done.error
    assert "remove the asset from MIXPANEL_EXTRA_ASSETS" in done.error
    assert query(tmp_path, f"FROM {TABLES[name]} ORDER BY ALL") == before
    assert files_in(tmp_path) == {"test.duckdb"}


def test_members_whose_second_cohort_is_refused_leave_no_files(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.faults.append(Fault("body", path="/cohorts/list", body=b'[{"id":1001},{"id":9}]'))
    done = run("cohort_members", resources(tmp_path, server))
    assert "cohort_members_9, page 0 failed: status 400" in done.error
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize("name", NAMES)
def test_checks_notice_what_is_wrong(server: FaultyServer, tmp_path: Path, name: str) -> None:
    available = resources(tmp_path, server)
    assert run(name, available).success
    table = TABLES[name]
    tamper(
        tmp_path,
        f"DELETE FROM {table} WHERE rowid = 0",
        f"ALTER TABLE {table} ADD COLUMN more INTEGER",
        "UPDATE _load_log SET rows_stored = rows_stored * 2",
        "INSERT INTO _load_log BY NAME (SELECT * REPLACE (1000 AS rows_stored) FROM _load_log)",
    )
    checks = judge(name, available).checks
    assert checks["row_count"].passed is False
    assert "the table has" in str(checks["row_count"].description)
    assert checks["schema"].passed is False
    assert f"{table}: unexpected column more" in str(checks["schema"].description)
    assert checks["count_change"].passed is False

    tamper(tmp_path, f"DROP TABLE {table}")
    checks = judge(name, available).checks
    assert f"there is no table '{table}'" in str(checks["row_count"].description)


def test_a_change_of_two_rows_is_normal(server: FaultyServer, tmp_path: Path) -> None:
    available = resources(tmp_path, server)
    assert run("annotations", available).success
    server.faults.append(
        Fault("body", path="/annotations", body=b'[{"id":1,"date":"2024-01-01"},'
              b'{"id":2,"date":"2024-01-01"}]')
    )  # fmt: skip
    check = run("annotations", available).checks["count_change"]
    assert (check.passed, check.description) == (True, "2 rows, 4 in the previous snapshot: -50%")


def test_the_filters_of_profiles(server: FaultyServer, tmp_path: Path) -> None:
    where, properties = 'properties["plan"] == "family"', ["plan", "$email"]
    settings = Settings(
        mixpanel_profiles_where=where, mixpanel_profiles_properties=tuple(properties)
    )
    available = resources(tmp_path, server, profiles_where=where, profiles_properties=properties)
    done = run("profiles", available, settings)
    assert done.error == ""
    assert done.metadata[None]["filter_where"] == where
    assert done.metadata[None]["filter_properties"] == properties
    assert query(tmp_path, "SELECT DISTINCT json_keys(properties) FROM profiles") == [
        (["plan", "$email"],)
    ]
    assert query_column(tmp_path, "SELECT DISTINCT properties->>'$.plan' FROM profiles") == [
        "family"
    ]
    check = done.checks["configured_filters"]
    assert check.passed
    assert check.description == (
        f"loaded with the configured filters: where {where}, properties plan, $email"
    )
    check = judge("profiles", available, Settings()).checks["configured_filters"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == (
        f"loaded with other filters (where {where}, properties plan, $email) than are configured "
        "(no filters). Materialize the asset to use these"
    )
    assert plain(check.metadata["configured"]) == "no filters"


def test_extra_assets_are_off_by_default() -> None:
    default = set(project(Settings()))
    assert {"events", "profiles"} <= default
    assert set(project(Settings(mixpanel_extra_assets=("cohorts",)))) - default == {
        "cohorts",
        "cohort_members",
    }
    assert not default & {"groups", "cohorts", "annotations", "lexicon"}


def test_each_snapshot_has_a_schedule() -> None:
    repository = mixpanel_project(EXTRA).get_repository_def()
    schedules = {each.name: each for each in repository.schedule_defs}
    for name in NAMES:
        schedule = schedules[f"daily_{name}"]
        assert (schedule.cron_schedule, schedule.job_name) == ("30 2 * * *", f"{name}_job")
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    (planned,) = repository.get_job("groups_job").asset_layer.executable_asset_keys
    assert planned == dg.AssetKey("groups")


def test_two_projects_have_tables_of_their_own(server: FaultyServer, tmp_path: Path) -> None:
    both = dg.Definitions.merge(
        mixpanel_project(EXTRA, key_prefix="shop"), mixpanel_project(EXTRA, key_prefix="blog")
    )
    own = resources(tmp_path, server)
    for prefix in ("shop", "blog"):
        wanted = [["shop", name] if prefix == "shop" else ["blog", name] for name in NAMES]
        done = materialize(
            [*(both.assets or ())],
            {f"{each}_{name}": value for each in ("shop", "blog") for name, value in own.items()},
            only=dg.AssetSelection.assets(*wanted),
        )
        assert done.error == ""
    tables = query(tmp_path, "SELECT table_name, owner FROM _tables ORDER BY ALL")
    assert tables == sorted(
        (f"{prefix}_{TABLES[name]}", f"{prefix}/{name}")
        for prefix in ("shop", "blog")
        for name in NAMES
    )
