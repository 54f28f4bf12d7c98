"""The sensor that reports failed runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from mp_pipeline.automation.sensors import Alert, failed_runs_sensor
from mp_pipeline.factory import mixpanel_project
from mp_pipeline.partitions import range_tags
from mp_pipeline.settings import Settings
from mp_pipeline_tests.faults import Fault, FaultyServer
from mp_pipeline_tests.support.dagster import resources
from mp_pipeline_tests.support.databases import tamper
from mp_pipeline_tests.support.processes import run_python
from mp_pipeline_tests.support.project import PROJECT, blocking_checks, events
from mp_pipeline_tests.support.records import DAY, NEXT_DAY
from mp_pipeline_tests.support.servers import EVENTS_PER_DAY

RANGE = range_tags(str(DAY), str(NEXT_DAY))


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def report(
    instance: dg.DagsterInstance, alert: Alert | None, assets: Sequence[Any], **run: Any
) -> dg.ExecuteInProcessResult:
    """Run assets between two ticks of the sensor. The first tick only notes what was before."""
    sensor = failed_runs_sensor(PROJECT, alert)
    first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    result = dg.materialize(assets, instance=instance, raise_on_error=False, **run)
    sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    return result


def test_a_failed_run_is_one_line(
    server: FaultyServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=402, body=b'{"error": "Your plan is too small"}'))
    lines: list[str] = []
    available = resources(tmp_path, server)
    run = report(instance, lines.append, [events], resources=available, tags=RANGE)
    (line,) = lines
    assert line.startswith(
        f"__ephemeral_asset_job__, run {run.run_id} (events, 2024-01-15 to 2024-01-16) failed: "
        "step events: export of 2024-01-15 failed: status 402"
    )
    assert "Your plan is too small" in line
    assert "\n" not in line
    assert "Traceback" not in line
    assert server.secret not in line


def test_a_run_of_one_day_whose_check_fails(
    server: FaultyServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    available = resources(tmp_path, server)
    lines: list[str] = []
    run = {"resources": available, "partition_key": str(DAY)}
    assert report(instance, lines.append, [events], **run).success
    assert lines == []
    tamper(tmp_path, "UPDATE _metadata SET row_count = 7")
    report(
        instance,
        lines.append,
        [events, *blocking_checks[:2]],
        resources=available,
        selection=dg.AssetSelection.checks(*blocking_checks[:2]),
    )
    (line,) = lines
    assert "failed: step events_row_count: " in line
    assert "check row_count of events: events_20240115: the table has " in line
    assert line.endswith(", _metadata says 7")


def test_a_run_that_was_lost(instance: dg.DagsterInstance) -> None:
    """Dagster's monitoring marks it as failed: there is no error, only a message."""
    lines: list[str] = []
    sensor = failed_runs_sensor(PROJECT, lines.append)
    first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    run = create_run_for_test(instance, job_name="backfill", tags=RANGE)
    instance.report_run_failed(run, "The worker first has not answered for 60 s.")
    sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    assert lines == [
        f"backfill, run {run.run_id} (2024-01-15 to 2024-01-16) failed: "
        "The worker first has not answered for 60 s."
    ]


def test_without_an_alert_the_line_is_logged(
    server: FaultyServer,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = resources(tmp_path, server, service_account_secret="not-this-one")
    run = report(instance, None, [events], resources=wrong, partition_key=str(DAY))
    printed = capfd.readouterr().err.splitlines()
    (line,) = [each for each in printed if f"run {run.run_id} (events, 2024-01-15) failed" in each]
    assert "status 401" in line
    assert "not-this-one" not in line


SECRET = """
    import dagster as dg
    from mp_pipeline.automation.sensors import failed_runs_sensor
    from mp_pipeline.project import Project
    from mp_pipeline.settings import load_settings

    @dg.asset
    def careless():
        raise ValueError("cannot log in\\nwith correct-horse-battery")

    sensor = failed_runs_sensor(Project(load_settings()), print)
    with dg.DagsterInstance.ephemeral() as instance:
        first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
        dg.materialize(
            [careless],
            instance=instance,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
"""


def test_another_assets_error_does_not_carry_the_secret_out(tmp_path: Path) -> None:
    done = run_python(
        SECRET,
        tmp_path,
        MIXPANEL_PROJECT_ID="1",
        MIXPANEL_SERVICE_ACCOUNT_USERNAME="robot",
        MIXPANEL_SERVICE_ACCOUNT_SECRET="correct-horse-battery",
    )
    assert done.returncode == 0, done.stderr
    assert "failed: step careless: cannot log in with [secret]\n" in done.stdout
    assert "correct-horse-battery" not in done.stdout + done.stderr


def test_an_alert_that_fails_is_the_ticks_error(
    server: FaultyServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    def fail(line: str) -> None:
        raise OSError(f"cannot send {len(line)} characters")

    sensor = failed_runs_sensor(PROJECT, fail)
    first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    wrong = resources(tmp_path, server, service_account_secret="not-this-one")
    dg.materialize(
        [events], instance=instance, raise_on_error=False, resources=wrong, partition_key=str(DAY)
    )
    second = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    (reaction,) = second.dagster_run_reactions or []
    assert reaction.error is not None
    assert "cannot send" in reaction.error.message
    third = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=second.cursor))
    assert third.dagster_run_reactions == []


def test_the_alert_of_the_definitions_is_called(
    server: FaultyServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    lines: list[str] = []
    defs = mixpanel_project(Settings(), alert=lines.append)
    sensor = defs.get_repository_def().get_sensor_def("failed_runs")
    first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    wrong = resources(tmp_path, server, service_account_secret="not-this-one")
    dg.materialize(
        [events], instance=instance, raise_on_error=False, resources=wrong, partition_key=str(DAY)
    )
    sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    (line,) = lines
    assert "(events, 2024-01-15) failed" in line
