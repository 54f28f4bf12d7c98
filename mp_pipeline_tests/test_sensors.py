from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mp_pipeline.assets import events
from mp_pipeline.checks import blocking_checks
from mp_pipeline.partitions import range_tags
from mp_pipeline.sensors import failed_runs, run_failure_sensor
from mp_pipeline_tests.dagster_support import (
    DAY,
    EVENTS_PER_DAY,
    NEXT_DAY,
    python,
    resources,
    tamper,
)
from mp_pipeline_tests.faults import Fault
from mp_pipeline_tests.faults import FaultyServer as SampleServer

RANGE = range_tags(str(DAY), str(NEXT_DAY))


@pytest.fixture(scope="module")
def server() -> Iterator[SampleServer]:
    with SampleServer(events_per_day=EVENTS_PER_DAY) as running:
        yield running


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def reported(
    instance: dg.DagsterInstance, sensor: dg.SensorDefinition, assets: Sequence[Any], **run: Any
) -> dg.ExecuteInProcessResult:
    """Run assets between two ticks of a sensor; the first only takes note of what was before."""
    first = sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
    result = dg.materialize(assets, instance=instance, raise_on_error=False, **run)
    sensor.evaluate_tick(dg.build_sensor_context(instance=instance, cursor=first.cursor))
    return result


def test_a_failed_run_is_one_line(
    server: SampleServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    server.faults.append(Fault("status", status=402, body=b'{"error": "Your plan is too small"}'))
    lines: list[str] = []
    sensor = run_failure_sensor(name="alerts", alert=lines.append)
    available = resources(tmp_path, server)
    run = reported(instance, sensor, [events], resources=available, tags=RANGE)
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
    server: SampleServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    available = resources(tmp_path, server)
    lines: list[str] = []
    sensor = run_failure_sensor(name="alerts", alert=lines.append)
    run = {"resources": available, "partition_key": str(DAY)}
    assert reported(instance, sensor, [events], **run).success
    assert lines == []
    tamper(tmp_path, "UPDATE _metadata SET row_count = 7")
    reported(
        instance,
        sensor,
        [events, *blocking_checks[:2]],
        resources=available,
        selection=dg.AssetSelection.checks(*blocking_checks[:2]),
    )
    (line,) = lines
    assert "failed: step events_row_count: " in line
    assert "check row_count of events: events_20240115: the table has " in line
    assert line.endswith(", _metadata says 7")


def test_the_packaged_sensor_logs_the_line(
    server: SampleServer,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    wrong = resources(tmp_path, server, service_account_secret="not-this-one")
    run = reported(instance, failed_runs, [events], resources=wrong, partition_key=str(DAY))
    printed = capfd.readouterr().err.splitlines()
    (line,) = [each for each in printed if f"run {run.run_id} (events, 2024-01-15) failed" in each]
    assert "status 401" in line
    assert "not-this-one" not in line


SECRET = """
    import dagster as dg
    from mp_pipeline.sensors import run_failure_sensor

    @dg.asset
    def careless():
        raise ValueError("cannot log in\\nwith correct-horse-battery")

    sensor = run_failure_sensor(name="alerts", alert=print)
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
    done = python(
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
    server: SampleServer, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    def no_network(line: str) -> None:
        raise OSError(f"cannot send {len(line)} characters")

    sensor = run_failure_sensor(name="alerts", alert=no_network)
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


def test_the_sensor_joins_the_projects_definitions(tmp_path: Path) -> None:
    done = python(
        """
        import dagster as dg
        from mp_pipeline.definitions import defs as mp_pipeline
        from mp_pipeline.sensors import run_failure_sensor

        sensor = run_failure_sensor(name="alerts", alert=print)
        defs = dg.Definitions.merge(mp_pipeline, dg.Definitions(sensors=[sensor]))
        print(sorted(each.name for each in defs.get_repository_def().sensor_defs))
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr) == ("['alerts', 'failed_runs']\n", "")
