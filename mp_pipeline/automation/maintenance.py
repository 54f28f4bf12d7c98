"""The weekly maintenance of a lake."""

from datetime import timedelta

import dagster as dg

from mp_pipeline.project import Project
from mp_pipeline.resources import MixpanelDuckDBResource


def maintenance_schedule(project: Project) -> dg.ScheduleDefinition:
    """Return the schedule of the maintenance of a project's lake, with its job."""
    days = project.settings.mp_pipeline_snapshot_days
    resource = project.name("duckdb")

    @dg.op(
        name=project.name("maintain_lake"),
        required_resource_keys={resource},
        out=dg.Out(dg.Nothing),
        description="Expires old snapshots, merges small files, removes files nobody needs.",
    )
    def maintain_lake(context: dg.OpExecutionContext) -> None:
        duckdb: MixpanelDuckDBResource = getattr(context.resources, resource)
        with duckdb.get_engine() as engine:
            done = engine.maintain(timedelta(days=days))
        context.add_output_metadata(
            {
                "expired_snapshots": done.expired_snapshots,
                "snapshots": done.after.snapshots,
                "oldest_snapshot": str(done.after.oldest),
                "merged_files": done.merged_files,
                "removed_files": done.removed_files,
                "orphaned_files": done.orphaned_files,
                "files": done.after.files,
                "bytes": done.after.bytes,
                "rows_moved_to_files": done.flushed_rows,
            }
        )
        context.log.info(
            f"{done.expired_snapshots:,} snapshots expired; {done.removed_files:,} old and "
            f"{done.orphaned_files:,} orphaned files removed; {done.merged_files:,} merged"
        )

    @dg.job(
        name=project.name("maintenance_job"),
        description="Maintains the lake; loads nothing. Loads wait meanwhile.",
        executor_def=dg.in_process_executor,
    )
    def maintenance_job() -> None:
        maintain_lake()

    return dg.ScheduleDefinition(
        name=project.name("weekly_maintenance"),
        job=maintenance_job,
        cron_schedule="0 4 * * 0",
        execution_timezone=project.settings.mixpanel_project_timezone,
        description=f"Expires the lake's snapshots older than {days} days "
        "(MP_PIPELINE_SNAPSHOT_DAYS), merges small files and removes old ones, on Sundays at 04:00 "
        "in the project's time zone.",
    )
