"""The check of metrics: they are those of the current events and users."""

import dagster as dg

from mp_pipeline.checks.common import database_check, nothing_loaded
from mp_pipeline.days import format_days
from mp_pipeline.io_manager import table_name
from mp_pipeline.project import Project
from mp_pipeline.storage import StorageEngine


def current_metrics(
    project: Project, asset: dg.AssetsDefinition, events: dg.AssetsDefinition
) -> dg.AssetChecksDefinition:
    """Return the check that sessions and metrics of all loaded days are current.

    Args:
        project: The project.
        asset: The asset with the daily metrics.
        events: The asset with the raw events.
    """
    dataset = table_name(events.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        days = engine.list_metric_days(dataset, timeout=project.settings.session_timeout)
        if not days:
            return nothing_loaded(dataset)
        sessions = [day.day for day in days if day.sessions_are_stale]
        metrics = [day.day for day in days if day.metrics_are_stale]
        problems = []
        if sessions:
            problems.append(f"sessions of {format_days(sessions)}")
        if metrics:
            problems.append(f"daily_metrics of {format_days(metrics)}")
        return dg.AssetCheckResult(
            passed=not problems,
            description=f"missing or outdated: {'; '.join(problems)}"
            if problems
            else f"sessions and metrics of {len(days)} days are current",
            metadata={"days": len(days), "sessions": len(sessions), "daily_metrics": len(metrics)},
        )

    return database_check(
        project,
        asset,
        "current_metrics",
        "Sessions and metrics of all loaded days are made of their current events and users. A "
        "reloaded day or newly linked IDs change the metrics of other days, too: materialize the "
        "days that it names.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )
