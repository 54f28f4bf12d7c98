"""The sensor that reports failed runs in one line each: what failed, for which days, and why."""

from collections.abc import Callable

import dagster as dg

from mp_pipeline.failures import format_error, format_failed_checks
from mp_pipeline.partitions import describe_days
from mp_pipeline.project import Project

Alert = Callable[[str], None]
"""Sends a line of text somewhere, such as to a chat or a pager."""


def failed_runs_sensor(project: Project, alert: Alert | None = None) -> dg.SensorDefinition:
    """Return the sensor that reports each failed run of a project in one line.

    The sensor is running by default. The line goes to the sensor's log and to ``alert``. A project
    without a key prefix reports all runs of its code location; one with a prefix reports the runs
    of its own assets and checks.

    Args:
        project: The project.
        alert: Called with each line. If it raises, the tick shows the error, and the run is not
            reported again.
    """

    @dg.run_failure_sensor(
        name=project.name("failed_runs"),
        description="Reports each failed run in one line: the days, the step and the reason.",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sensor(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not _is_of_project(context, project):
            return dg.SkipReason(f"run {context.dagster_run.run_id} is not of this project")
        line = failure_line(context)
        secret = project.settings.mixpanel_service_account_secret
        if secret is not None:
            line = line.replace(secret.get_secret_value(), "[secret]")
        context.log.error(line)
        if alert is not None:
            alert(line)
        return None

    return sensor


def failure_line(context: dg.RunFailureSensorContext) -> str:
    """Return what failed in a run as one line of text."""
    run = context.dagster_run
    failures = [
        f"step {event.step_key}: {format_error(event.step_failure_data.error)}"
        for event in context.get_step_failure_events()
    ]
    if not failures:  # the run failed before its first step, or its process was killed
        # There are no data if Dagster found that the run is lost.
        error = getattr(context.failure_event.event_specific_data, "error", None)
        failures = [format_error(error) if error else str(context.failure_event.message)]
    failures += format_failed_checks(
        event.asset_check_evaluation_data
        for event in _events(context, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    )
    assets = [key.to_user_string() for key in _planned_assets(context)]
    about = [*assets, *filter(None, [describe_days(run.tags)])]
    of = f" ({', '.join(about)})" if about else ""
    line = f"{run.job_name}, run {run.run_id}{of} failed: {'; '.join(failures)}"
    return " ".join(line.split())


def _is_of_project(context: dg.RunFailureSensorContext, project: Project) -> bool:
    """Return whether a run materializes or checks one of the project's assets."""
    if not project.key_prefix:
        return True
    run = context.dagster_run
    checked = {key.asset_key for key in run.asset_check_selection or ()}
    assets = {*_planned_assets(context), *(run.asset_selection or ()), *checked}
    prefix = list(project.key_prefix)
    return run.job_name == project.name("checks_job") or any(
        list(key.path[:-1]) == prefix for key in assets
    )


def _planned_assets(context: dg.RunFailureSensorContext) -> list[dg.AssetKey]:
    planned = _events(context, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
    return list(dict.fromkeys(event.asset_key for event in planned if event.asset_key is not None))


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
