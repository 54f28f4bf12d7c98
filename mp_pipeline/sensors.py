"""The sensor of failed runs: what failed, of which days and why, in one line.

To be told elsewhere than in the log, add a sensor to definitions of your own::

    import dagster as dg
    import requests
    from mp_pipeline.definitions import defs as mp_pipeline
    from mp_pipeline.sensors import run_failure_sensor

    def alert(line: str) -> None:
        requests.post("https://chat.example/hook", json={"text": line}, timeout=10)

    defs = dg.Definitions.merge(
        mp_pipeline,
        dg.Definitions(sensors=[run_failure_sensor(name="alerts", alert=alert)]),
    )
"""

from collections.abc import Callable

import dagster as dg

from mp_pipeline.failures import failed_checks, unwrapped, words
from mp_pipeline.partitions import tagged_days
from mp_pipeline.settings import load_settings


def run_failure_sensor(
    name: str, alert: Callable[[str], None] | None = None
) -> dg.SensorDefinition:
    """Return a sensor that runs by itself and reports each failed run in one line.

    The line goes into the sensor's log (in the UI, and where the daemon prints), and to ``alert``.

    Args:
        name: the sensor's name; of its own in each code location.
        alert: called with the line. If it raises, the tick shows the error, and the run is not
            reported again.
    """

    @dg.run_failure_sensor(
        name=name,
        description="Reports each failed run in one line: the days, the step, the reason.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        line = failure_line(context)
        context.log.error(line)
        if alert is not None:
            alert(line)

    return sensor


failed_runs = run_failure_sensor(name="failed_runs")
"""Logs failed runs."""


def failure_line(context: dg.RunFailureSensorContext) -> str:
    """Return what failed in a run, in one line and without the service account's secret."""
    run = context.dagster_run
    failures = [
        f"step {event.step_key}: {words(unwrapped(event.step_failure_data.error))}"
        for event in context.get_step_failure_events()
    ]
    if not failures:  # it ended before its first step, or its process did
        error = unwrapped(context.failure_event.job_failure_data.error)
        failures = [words(error) if error else str(context.failure_event.message)]
    failures += failed_checks(
        event.asset_check_evaluation_data
        for event in _events(context, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    )
    planned = _events(context, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    assets = dict.fromkeys(
        event.asset_key.to_user_string() for event in planned if event.asset_key is not None
    )
    about = [*assets, *filter(None, [tagged_days(run.tags)])]
    of = f" ({', '.join(about)})" if about else ""
    line = f"{run.job_name}, run {run.run_id}{of} failed: {'; '.join(failures)}"
    secret = load_settings().mixpanel_service_account_secret
    if secret is not None:
        line = line.replace(secret.get_secret_value(), "[secret]")
    return " ".join(line.split())


def _events(
    context: dg.RunFailureSensorContext, event_type: dg.DagsterEventType
) -> list[dg.DagsterEvent]:
    records = context.instance.get_records_for_run(
        context.dagster_run.run_id, of_type=event_type
    ).records
    return [
        record.event_log_entry.dagster_event
        for record in records
        if record.event_log_entry.dagster_event is not None
    ]
