"""The assets `identities`, `sessions`, `daily_metrics`, `profile_history`, and what runs them."""

from datetime import date, datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pytest

from mp_pipeline.assets import metric_assets
from mp_pipeline.checks import current_metrics
from mp_pipeline.factory import mixpanel_project
from mp_pipeline.project import Project
from mp_pipeline.settings import Settings
from mp_pipeline.storage import StorageEngine, TableMetadata
from mp_pipeline_tests.support.dagster import Run, materialize, resources
from mp_pipeline_tests.support.databases import query
from mp_pipeline_tests.support.processes import run_command
from mp_pipeline_tests.support.project import PROJECT, events, profiles
from mp_pipeline_tests.support.records import (
    DAY,
    DAY_AFTER,
    FETCHED_AT,
    NEXT_DAY,
    event,
    profile,
    window,
)

FETCHED = TableMetadata("events", FETCHED_AT)
METRICS = metric_assets(PROJECT, events, profiles)
OF_DAYS = ("identities", "sessions", "daily_metrics")


def load(
    directory: Path, day: date, *minutes: int, distinct_id: str = "u1", **fields: object
) -> None:
    """Load a day with an event at each of the given minutes after noon."""
    noon = datetime.combine(day, time(12))
    records = [
        event(
            f"{day}-{minute}", noon + timedelta(minutes=minute), distinct_id=distinct_id, **fields
        )
        for minute in minutes
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        list(engine.replace_events_days("events", [window(day)], records, FETCHED))


def run(directory: Path, first: date, last: date | None = None, project: Project = PROJECT) -> Run:
    """Make identities, sessions and daily metrics of days."""
    made = metric_assets(project, events, profiles)
    selected = dg.AssetSelection.assets(*(made[name] for name in OF_DAYS))
    days = (first, last or first)
    assets = [events, profiles, *made.values()]
    return materialize(assets, resources(directory), days=days, only=selected)


def check(directory: Path, project: Project = PROJECT) -> dg.AssetCheckEvaluation:
    current = current_metrics(project, METRICS["daily_metrics"], events)
    selected = dg.AssetSelection.checks(current)
    assets = [events, profiles, *METRICS.values(), current]
    return materialize(assets, resources(directory), only=selected).checks["current_metrics"]


def test_days_have_sessions_and_metrics(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0, 10, 60)
    linked = {"$distinct_id_before_identity": "u1"}
    load(tmp_path, NEXT_DAY, 0, distinct_id="new", properties=linked)
    done = run(tmp_path, DAY, NEXT_DAY)
    assert done.success, done.error
    users = "SELECT count(DISTINCT user_id), list(distinct_id ORDER BY distinct_id) FROM identities"
    assert query(tmp_path, users) == [(1, ["new", "u1"])]
    assert query(tmp_path, "SELECT day, count(*), sum(events) FROM sessions GROUP BY ALL") == [
        (DAY, 2, 3),
        (NEXT_DAY, 1, 1),
    ]
    metrics = "SELECT day, events, dau, wau, new_users, sessions FROM daily_metrics ORDER BY day"
    assert query(tmp_path, metrics) == [(DAY, 3, 1, 1, 1, 2), (NEXT_DAY, 1, 1, 1, 0, 1)]
    assert "events of 2024-01-15: 2 sessions of 1 users" in done.log
    assert "events of 2024-01-15: 3 events, 1 users (1 new), 1 in 7 and 1 in 30 days" in done.log


def test_what_the_ui_shows(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0)
    load(tmp_path, NEXT_DAY, 0, 10)
    selected = dg.AssetSelection.assets(*(METRICS[name] for name in OF_DAYS))
    assets = [events, profiles, *METRICS.values()]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            assets,
            resources=resources(tmp_path),
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": str(DAY),
                "dagster/asset_partition_range_end": str(NEXT_DAY),
            },
            selection=selected,
        )
    shown = {
        (event.asset_key.to_user_string(), event.partition): event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    users = shown["identities", None]
    assert (users["users_with_several_ids"].value, users["days_read"].value) == (0, 2)
    assert shown["sessions", str(DAY)]["dagster/partition_row_count"].value == 1
    assert shown["sessions", str(DAY)]["timeout_minutes"].value == 30.0
    first, last = (shown["daily_metrics", str(day)] for day in (DAY, NEXT_DAY))
    assert [last[name].value for name in ("events", "dau", "wau", "mau")] == [2, 1, 1, 1]
    assert "plot" not in first
    assert str(last["plot"].value).startswith("![Users active in 1, 7 and 30 days](data:image/png")


def test_the_timeout_is_a_setting(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0, 10)
    run(tmp_path, DAY, project=Project(Settings(mp_pipeline_session_minutes=10)))
    assert query(tmp_path, "SELECT count(*) FROM sessions") == [(2,)]
    run(tmp_path, DAY, project=Project(Settings(mp_pipeline_session_minutes=10.01)))
    assert query(tmp_path, "SELECT count(*) FROM sessions") == [(1,)]


def test_days_with_sessions_of_another_timeout_are_outdated(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0, 10)
    load(tmp_path, NEXT_DAY, 0)
    run(tmp_path, DAY, NEXT_DAY)
    assert check(tmp_path).passed
    changed = Project(Settings(mp_pipeline_session_minutes=10))
    found = check(tmp_path, changed)
    assert not found.passed
    assert found.description == (
        "missing or outdated: sessions of 2024-01-15 to 2024-01-16; "
        "daily_metrics of 2024-01-15 to 2024-01-16"
    )
    run(tmp_path, DAY, NEXT_DAY, project=changed)
    assert check(tmp_path, changed).passed
    assert query(tmp_path, "SELECT sessions FROM daily_metrics ORDER BY day") == [(2,), (1,)]


def test_days_that_are_not_loaded_fail_at_the_end(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0)
    load(tmp_path, DAY_AFTER, 0)
    done = run(tmp_path, DAY, DAY_AFTER)
    assert not done.success
    assert "2024-01-16 of events are not loaded: materialize events for them first" in done.error
    assert query(tmp_path, "SELECT day FROM sessions ORDER BY day") == [(DAY,), (DAY_AFTER,)]


def test_a_check_names_days_whose_metrics_are_outdated(tmp_path: Path) -> None:
    load(tmp_path, DAY, 0)
    load(tmp_path, NEXT_DAY, 0)
    run(tmp_path, DAY, NEXT_DAY)
    found = check(tmp_path)
    assert (found.passed, found.description) == (True, "sessions and metrics of 2 days are current")
    load(tmp_path, DAY, 0, 10, distinct_id="u2")  # so u1 is new on the next day
    load(tmp_path, DAY_AFTER, 0)
    with StorageEngine(tmp_path / "test.duckdb") as engine:
        engine.update_identities("events")  # as the asset does that runs after each load
    found = check(tmp_path)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description == (
        "missing or outdated: sessions of 2024-01-15, 2024-01-17; "
        "daily_metrics of 2024-01-15 to 2024-01-17"
    )
    run(tmp_path, DAY, DAY_AFTER)
    assert check(tmp_path).passed


def history(directory: Path, *snapshot: str, at: datetime, project: Project = PROJECT) -> Run:
    """Take a snapshot of profiles with a plan each, and make its history."""
    records = [
        profile(f"u{number}", properties={"plan": plan}, last_seen=at)
        for number, plan in enumerate(snapshot, 1)
    ]
    with StorageEngine(directory / "test.duckdb") as engine:
        engine.replace_table("profiles", records, TableMetadata("profiles", at))
    made = metric_assets(project, events, profiles)
    selected = dg.AssetSelection.assets(made["profile_history"])
    return materialize([events, profiles, *made.values()], resources(directory), only=selected)


def test_the_history_of_profiles(tmp_path: Path) -> None:
    first, second = FETCHED_AT, FETCHED_AT + timedelta(days=1)
    history(tmp_path, "free", "free", at=first)
    done = history(tmp_path, "pro", "free", "free", at=second)
    shown = done.metadata[None]
    assert [shown[name] for name in ("profiles", "appeared", "changed", "vanished")] == [3, 1, 1, 0]
    at_noon = f"FROM profiles_at(TIMESTAMP '{first + timedelta(hours=12):%Y-%m-%d %H:%M:%S}')"
    plans = f"SELECT properties->>'$.plan' {at_noon} ORDER BY distinct_id"
    assert query(tmp_path, plans) == [("free",), ("free",)]
    again = history(tmp_path, "pro", "free", "free", at=second + timedelta(days=1))
    assert again.metadata[None]["changed"] == 0


def test_last_seen_alone_is_a_change_if_that_is_set(tmp_path: Path) -> None:
    project = Project(Settings(mp_pipeline_track_last_seen=True))
    history(tmp_path, "free", at=FETCHED_AT, project=project)
    done = history(tmp_path, "free", at=FETCHED_AT + timedelta(days=1), project=project)
    assert done.metadata[None]["changed"] == 1


def test_a_snapshot_that_shrank_is_refused(tmp_path: Path) -> None:
    history(tmp_path, "free", "free", "free", at=FETCHED_AT)
    done = history(tmp_path, "free", at=FETCHED_AT + timedelta(days=1))
    assert not done.success
    assert query(tmp_path, "SELECT count(*) FROM profile_history WHERE valid_to IS NULL") == [(3,)]


def test_loaded_days_request_their_sessions_and_metrics_alone() -> None:
    """A new day changes identities, but does not request the metrics of all other days.

    Another timeout requests all days that have sessions.
    """
    selection = dg.AssetSelection.assets("identities", "sessions", "daily_metrics")
    requested: list[dict[str, set[str | None]]] = []
    cursor = None
    with dg.DagsterInstance.ephemeral() as instance:
        for minutes, loaded in (
            *((30, []), (30, ["2024-01-15"]), (30, []), (30, ["2024-01-16"]), (30, [])),
            *((10, []), (10, [])),
        ):
            definitions = mixpanel_project(Settings(mp_pipeline_session_minutes=minutes))
            for day in loaded:
                instance.report_runless_asset_event(
                    dg.AssetMaterialization(events.key, partition=day)
                )
            result = dg.evaluate_automation_conditions(
                definitions, instance, selection, cursor=cursor
            )
            cursor = result.cursor
            tick = {
                name: set(result.get_requested_partitions(dg.AssetKey(name))) for name in OF_DAYS
            }
            requested.append({name: days for name, days in tick.items() if days})
            for name, days in tick.items():
                for partition in days:
                    instance.report_runless_asset_event(
                        dg.AssetMaterialization(name, partition=partition)
                    )
    of_day = {"identities": {None}, "sessions": {"2024-01-15"}, "daily_metrics": {"2024-01-15"}}
    of_next = {"identities": {None}, "sessions": {"2024-01-16"}, "daily_metrics": {"2024-01-16"}}
    both = {"2024-01-15", "2024-01-16"}
    of_both = {"sessions": both, "daily_metrics": both}
    assert requested == [{}, of_day, {}, of_next, {}, of_both, {}]


@pytest.mark.parametrize("switched_on", [True, False])
def test_a_setting_switches_them_off(switched_on: bool) -> None:
    definitions = mixpanel_project(Settings(mp_pipeline_metrics=switched_on))
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert keys.issuperset({*OF_DAYS, "profile_history"}) is switched_on
    assert ("sessions" in keys) is switched_on


def test_backfill_makes_metrics_and_the_history(tmp_path: Path) -> None:
    run_command(tmp_path, "backfill", "--from", "2024-03-10", "--to", "2024-03-11")
    with StorageEngine.open_existing(tmp_path / "data/sample.duckdb") as storage:
        stale = storage.list_metric_days("events")
        assert [(str(d.day), d.sessions_are_stale, d.metrics_are_stale) for d in stale] == [
            ("2024-03-10", False, False),
            ("2024-03-11", False, False),
        ]
        versions = storage.execute_scalar("SELECT count(*) FROM profile_history")
        assert versions == storage.execute_scalar("SELECT count(*) FROM profiles")
        steps = storage.execute_rows(
            "SELECT event, users FROM funnel(['Page View', 'Search'], DATE '2024-03-10', "
            "DATE '2024-03-11')"
        )
        assert [name for name, _ in steps] == ["Page View", "Search"]
        assert steps[0][1] >= steps[1][1] > 0
