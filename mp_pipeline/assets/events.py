"""The asset ``events``: Mixpanel's raw events, one partition per day."""

from datetime import UTC, datetime

import dagster as dg

from mp_pipeline.assets.config import LoadConfig
from mp_pipeline.partitions import requested_days
from mp_pipeline.project import Project
from mp_pipeline.range_run import EventsRange

_DESCRIPTION = """\
Raw events of the Mixpanel project, one partition per day.

{tables} Materializing a day again replaces it, which picks up late-arriving events and merged
identities. Rejected lines are in `_rejected` with their reasons; every load is in `_load_log`.
"""
_TABLES_OF_FILE = "Each day is a table (`events_20240115`), and `events` is a view over all days."
_TABLE_OF_LAKE = "The table `events` has all days; its column `day` is the day."


def events_asset(project: Project) -> dg.AssetsDefinition:
    """Return the asset with the raw events of a project.

    Args:
        project: The project.
    """
    settings = project.settings
    mixpanel = project.name("mixpanel")

    # A multi_asset with one output, because @asset warns that its backfill policy is in beta.
    @dg.multi_asset(
        name=project.name("events"),
        outs={
            "events": dg.AssetOut(
                key=project.asset_key("events"),
                io_manager_key=project.name("mixpanel_duckdb"),
                kinds={"mixpanel", "duckdb"},
                description=_DESCRIPTION.format(
                    tables=_TABLE_OF_LAKE if settings.is_lake else _TABLES_OF_FILE
                ),
                metadata={
                    "mixpanel_documentation": dg.MetadataValue.url(
                        "https://docs.mixpanel.com/reference/raw-event-export"
                    )
                },
                freshness_policy=project.deadline.freshness_policy,
            )
        },
        partitions_def=project.partitions,
        backfill_policy=backfill_policy(project),
        group_name=project.group,
        required_resource_keys={mixpanel},
    )
    def events(context: dg.AssetExecutionContext, config: LoadConfig) -> EventsRange:
        return EventsRange(
            days=requested_days(context, project.partitions),
            mixpanel=getattr(context.resources, mixpanel),
            days_per_request=settings.mixpanel_days_per_request,
            failed_attempts=_failed_attempts(context),
            oldest_day=project.oldest_day(datetime.now(UTC)),
            allow_shrink=config.allow_shrink,
        )

    return events


def backfill_policy(project: Project) -> dg.BackfillPolicy:
    """Return how many days of a backfill one run loads.

    On one machine, days load one after another, into one database and within one rate limit, so
    more runs are not faster. On several machines, workers take the runs. A failed run keeps the
    days that it has loaded.
    """
    max_days = project.settings.mp_pipeline_days_per_run
    if max_days is None:
        return dg.BackfillPolicy.single_run()
    return dg.BackfillPolicy.multi_run(max_days)


def _failed_attempts(context: dg.AssetExecutionContext) -> list[str]:
    """Return the run IDs of the attempts that this run re-executes, up to one that succeeded.

    Re-executing a run that succeeded reloads everything.
    """
    run_ids = []
    run: dg.DagsterRun | None = context.run
    while run is not None and run.parent_run_id is not None:
        run = context.instance.get_run_by_id(run.parent_run_id)
        if run is None or run.status == dg.DagsterRunStatus.SUCCESS:
            break
        run_ids.append(run.run_id)
    return run_ids
