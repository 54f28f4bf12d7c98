"""What Dagster loads from `definitions.py`, in subprocesses with variables of their own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mp_pipeline_tests.support.processes import environment, run_python

REPOSITORY = Path(__file__).parent.parent

ACCOUNT = {
    "MIXPANEL_PROJECT_ID": "1234567",
    "MIXPANEL_SERVICE_ACCOUNT_USERNAME": "robot.7a3f",
    "MIXPANEL_SERVICE_ACCOUNT_SECRET": "correct-horse-battery",
}

DESCRIBE = """
    import json
    from datetime import datetime
    from zoneinfo import ZoneInfo

    import dagster as dg
    from mp_pipeline.definitions import defs

    def tick(name):
        at = datetime(2024, 3, 11, 2, 0, tzinfo=ZoneInfo(schedules[name].execution_timezone))
        context = dg.build_schedule_context(
            scheduled_execution_time=at, repository_def=repository
        )
        return [
            [request.partition_key, request.run_key, request.tags]
            for request in schedules[name].evaluate_tick(context).run_requests
        ]

    def freshness(name):
        policy = graph.get(dg.AssetKey(name)).freshness_policy
        return [policy.deadline_cron, str(policy.lower_bound_delta), policy.timezone]

    repository = defs.get_repository_def()
    graph = repository.asset_graph
    events = graph.get(dg.AssetKey("events"))
    keys = events.partitions_def.get_partition_keys(current_time=datetime(2024, 3, 11, 12))
    schedules = {each.name: each for each in repository.schedule_defs}
    print(json.dumps({
        "assets": sorted(key.to_user_string() for key in graph.materializable_asset_keys),
        "checks": sorted(key.to_user_string() for key in graph.asset_check_keys),
        "groups": [events.group_name, graph.get(dg.AssetKey("profiles")).group_name],
        "kinds": sorted(events.kinds),
        "described": [
            name for name in ("events", "profiles") if graph.get(dg.AssetKey(name)).description
        ],
        "backfill": [
            events.backfill_policy.policy_type.value, events.backfill_policy.max_partitions_per_run
        ],
        "jobs": sorted(name for name in repository.job_names if name != "__ASSET_JOB"),
        "checks_of_jobs": {
            name: sorted(
                key.to_user_string()
                for key in repository.get_job(name).asset_layer.asset_graph.asset_check_keys
            )
            for name in repository.job_names if name in ("checks_job", "counts_job")
        },
        "first_day": keys[0],
        "last_day": keys[-1],
        "timezone": events.partitions_def.timezone,
        "schedules": {
            name: [each.cron_schedule, each.execution_timezone, each.default_status.value,
                   each.job_name]
            for name, each in schedules.items()
        },
        "tick": {name: tick(name) for name in schedules},
        "sensors": {each.name: each.default_status.value for each in repository.sensor_defs},
        "freshness": [freshness(name) for name in ("events", "profiles")],
    }))
"""


def described(directory: Path, **variables: str) -> dict[str, Any]:
    """Return what Dagster loads in a subprocess with these variables."""
    done = run_python(DESCRIBE, directory, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return described(tmp_path_factory.mktemp("default"))


def test_assets_and_checks(default: dict[str, Any]) -> None:
    assert default["assets"] == [
        "daily_metrics",
        "events",
        "identities",
        "profile_history",
        "profiles",
        "sessions",
        "typed_events",
    ]
    assert default["checks"] == [
        "daily_metrics:current_metrics",
        "events:consistent_settings",
        "events:latest_day",
        "events:mixpanel_counts",
        "events:no_gaps",
        "events:row_count",
        "events:schema",
        "events:volume",
        "profiles:configured_filters",
        "profiles:count_change",
        "profiles:row_count",
        "profiles:schema",
        "typed_events:property_drift",
        "typed_events:typed_days",
    ]
    assert default["groups"] == ["mixpanel", "mixpanel"]
    assert default["kinds"] == ["duckdb", "mixpanel"]
    assert default["described"] == ["events", "profiles"]
    assert default["backfill"] == ["SINGLE_RUN", None]


def test_days_end_yesterday(default: dict[str, Any]) -> None:
    assert (default["first_day"], default["last_day"]) == ("2024-01-01", "2024-03-10")
    assert default["timezone"] == "UTC"


def test_schedules_are_stopped(default: dict[str, Any]) -> None:
    assert default["jobs"] == ["checks_job", "counts_job", "events_job", "profiles_job"]
    assert default["schedules"] == {
        "daily_checks": ["0 6 * * *", "UTC", "STOPPED", "checks_job"],
        "daily_events": ["0 2 * * *", "UTC", "STOPPED", "events_job"],
        "daily_profiles": ["30 2 * * *", "UTC", "STOPPED", "profiles_job"],
        "weekly_counts": ["0 3 * * 1", "UTC", "STOPPED", "counts_job"],
    }


def test_counts_of_a_real_project_are_compared_only_if_it_wants_it(tmp_path: Path) -> None:
    for variables, compares in (({}, False), ({"MIXPANEL_RECONCILE": "true"}, True)):
        found = described(tmp_path, **ACCOUNT, **variables)
        assert ("events:mixpanel_counts" in found["checks"]) is compares
        assert ("weekly_counts" in found["schedules"]) is compares
        assert ("counts_job" in found["jobs"]) is compares
    found = described(tmp_path, MIXPANEL_RECONCILE="false")
    assert "events:mixpanel_counts" not in found["checks"]


def test_daily_checks_send_no_requests(default: dict[str, Any]) -> None:
    assert default["checks_of_jobs"] == {
        "checks_job": [key for key in default["checks"] if key != "events:mixpanel_counts"],
        "counts_job": ["events:mixpanel_counts"],
    }


def test_a_lake_is_maintained_weekly(tmp_path: Path) -> None:
    found = described(
        tmp_path,
        MP_PIPELINE_DATABASE="ducklake:lake.ducklake",
        MIXPANEL_PROJECT_TIMEZONE="Europe/Berlin",
        **ACCOUNT,
    )
    assert "maintenance_job" in found["jobs"]
    maintenance = found["schedules"]["weekly_maintenance"]
    assert maintenance == ["0 4 * * 0", "Europe/Berlin", "STOPPED", "maintenance_job"]
    assert len(found["tick"]["weekly_maintenance"]) == 1


def requested_days(found: dict[str, Any]) -> list[str]:
    """Return the first and last day of the only run that the schedule of the events requests."""
    ((partition_key, run_key, tags),) = found["tick"]["daily_events"]
    days = [tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")]
    assert partition_key is None
    assert run_key == days[1]
    return days


def test_schedules_ask_for_a_week_and_for_the_profiles(default: dict[str, Any]) -> None:
    assert requested_days(default) == ["2024-03-04", "2024-03-10"]
    assert [tick[0] for tick in default["tick"]["daily_profiles"]] == [None]
    assert len(default["tick"]["daily_checks"]) == 1


def test_failed_runs_are_reported_and_days_typed_by_default(default: dict[str, Any]) -> None:
    assert default["sensors"] == {"failed_runs": "RUNNING", "after_loading": "RUNNING"}


def test_assets_are_fresh_if_they_are_loaded_between_midnight_and_the_deadline(
    default: dict[str, Any],
) -> None:
    assert default["freshness"] == [["0 6 * * *", "6:00:00", "UTC"]] * 2


def test_days_and_schedules_follow_the_project(tmp_path: Path) -> None:
    found = described(
        tmp_path,
        **ACCOUNT,
        MIXPANEL_PROJECT_TIMEZONE="America/New_York",
        MIXPANEL_START_DATE="2024-03-08",
        MP_PIPELINE_DEADLINE_HOURS="6.5",
        MP_PIPELINE_DAYS_PER_RUN="31",
    )
    assert found["backfill"] == ["MULTI_RUN", 31]
    assert (found["first_day"], found["last_day"]) == ("2024-03-08", "2024-03-10")
    assert found["timezone"] == "America/New_York"
    assert [each[1] for each in found["schedules"].values()] == ["America/New_York"] * 3
    assert found["schedules"]["daily_checks"][0] == "30 6 * * *"
    assert found["freshness"] == [["30 6 * * *", "6:30:00", "America/New_York"]] * 2
    # The first partition is the 8th, and the clock of New York skipped an hour on the 10th.
    assert requested_days(found) == ["2024-03-08", "2024-03-10"]


def test_one_trailing_day_is_requested_as_a_range(tmp_path: Path) -> None:
    found = described(tmp_path, MP_PIPELINE_TRAILING_DAYS="1", MP_PIPELINE_DEADLINE_HOURS="24")
    assert requested_days(found) == ["2024-03-10", "2024-03-10"]
    assert found["schedules"]["daily_checks"][0] == "0 0 * * *"


UNTOUCHED = """
    import socket, sys

    def refuse(event, arguments):
        if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
            raise AssertionError(f"{event} {arguments}")

    HEAVY = ("mp_pipeline.sample", "matplotlib", "pandas", "requests")  # slow to import
    sys.addaudithook(refuse)
    import mp_pipeline.definitions
    opened = sorted(name for name in HEAVY if name in sys.modules)
    assert not opened, opened
"""


def test_loading_touches_neither_network_nor_disk_and_is_silent(tmp_path: Path) -> None:
    directory = tmp_path / "empty"
    directory.mkdir()
    done = run_python(UNTOUCHED, directory, **ACCOUNT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(directory.iterdir()) == []


def test_incomplete_credentials_do_not_load(tmp_path: Path) -> None:
    del (half := dict(ACCOUNT))["MIXPANEL_PROJECT_ID"]
    done = run_python("import mp_pipeline.definitions", tmp_path, **half)
    assert done.returncode == 1
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("mp_pipeline.settings.SettingsError: MIXPANEL_PROJECT_ID must be")
    assert "set all three credentials, or none of them" in last_line
    assert "correct-horse-battery" not in done.stderr


def test_dagster_validates_the_definitions() -> None:
    before = {path.name for path in REPOSITORY.iterdir()}
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate"],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Validation successful for code location mp_pipeline" in done.stdout + done.stderr
    assert {path.name for path in REPOSITORY.iterdir()} <= before
