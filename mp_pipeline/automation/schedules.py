"""Schedules, each with its job. All of them are stopped until someone starts them."""

from collections.abc import Mapping, Sequence

import dagster as dg

from mp_pipeline.partitions import range_tags
from mp_pipeline.project import Project


def project_schedules(
    project: Project,
    events: dg.AssetsDefinition,
    snapshots: Mapping[str, Sequence[dg.AssetsDefinition]],
    checks: Sequence[dg.AssetChecksDefinition],
    counts: Sequence[dg.AssetChecksDefinition],
) -> list[dg.ScheduleDefinition]:
    """Return the schedules of a project.

    Args:
        project: The project.
        events: The asset with the project's events.
        snapshots: Each asset that is a snapshot, and those made of it in the same run, by what they
            contain ("user profiles").
        checks: The asset checks that need the database alone.
        counts: Those that compare with Mixpanel's counts, which costs requests; may be empty.
    """
    return [
        _daily_events(project, events),
        *(_daily_snapshot(project, title, assets) for title, assets in snapshots.items()),
        _daily_checks(project, checks),
        *([_weekly_counts(project, counts)] if counts else []),
    ]


def _daily_events(project: Project, events: dg.AssetsDefinition) -> dg.ScheduleDefinition:
    trailing_days = project.settings.mp_pipeline_trailing_days

    # Mixpanel's export lags by minutes: two hours after midnight yesterday is complete.
    @dg.schedule(
        name=project.name("daily_events"),
        job=dg.define_asset_job(
            project.name("events_job"),
            selection=[events],
            tags=project.tags,
            description="Loads the events of one day or of a range of days.",
        ),
        cron_schedule="0 2 * * *",
        execution_timezone=project.settings.mixpanel_project_timezone,
        description=f"Reloads the trailing {trailing_days} days (MP_PIPELINE_TRAILING_DAYS) at "
        "02:00 in the project's time zone, to pick up late-arriving events.",
    )
    def daily_events(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # The days before the tick, however late it is evaluated; one run per tick.
        complete = project.partitions.get_partition_keys(
            current_time=context.scheduled_execution_time
        )
        days = complete[-trailing_days:]
        if not days:
            return dg.SkipReason("no day is complete since MIXPANEL_START_DATE")
        return dg.RunRequest(run_key=days[-1], tags=range_tags(days[0], days[-1]))

    return daily_events


def _daily_snapshot(
    project: Project, title: str, assets: Sequence[dg.AssetsDefinition]
) -> dg.ScheduleDefinition:
    name = assets[0].key.path[-1]
    return dg.ScheduleDefinition(
        name=project.name(f"daily_{name}"),
        job=dg.define_asset_job(
            project.name(f"{name}_job"),
            selection=assets,
            tags=project.tags,
            description=f"Loads a snapshot of the {title}.",
        ),
        cron_schedule="30 2 * * *",
        execution_timezone=project.settings.mixpanel_project_timezone,
        description=f"Loads a snapshot of the {title} at 02:30 in the project's time zone.",
    )


def _daily_checks(
    project: Project, checks: Sequence[dg.AssetChecksDefinition]
) -> dg.ScheduleDefinition:
    hours = project.settings.mp_pipeline_deadline_hours
    return dg.ScheduleDefinition(
        name=project.name("daily_checks"),
        job=dg.define_asset_job(
            project.name("checks_job"),
            selection=dg.AssetSelection.checks(*checks),
            tags=project.tags,
            description="Runs all checks on what is in the database; loads nothing.",
        ),
        cron_schedule=project.deadline.cron,
        execution_timezone=project.settings.mixpanel_project_timezone,
        description=f"Runs all checks {hours:g} hours after midnight in the project's time zone "
        "(MP_PIPELINE_DEADLINE_HOURS), so that a missing day is noticed even if no run was "
        "started.",
    )


def _weekly_counts(
    project: Project, counts: Sequence[dg.AssetChecksDefinition]
) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=project.name("weekly_counts"),
        job=dg.define_asset_job(
            project.name("counts_job"),
            selection=dg.AssetSelection.checks(*counts),
            tags=project.tags,
            description="Compares the stored events with Mixpanel's own counts; loads nothing.",
        ),
        cron_schedule="0 3 * * 1",
        execution_timezone=project.settings.mixpanel_project_timezone,
        description="Compares the latest 30 days that are older than the trailing days with "
        "Mixpanel's own counts, on Mondays at 03:00 in the project's time zone.",
    )
