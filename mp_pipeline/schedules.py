"""Schedules: yesterday's events, and the profiles. Both are stopped until someone starts them."""

import dagster as dg

from mp_pipeline.assets import events, profiles
from mp_pipeline.partitions import daily_partitions

events_job = dg.define_asset_job(
    "events_job", selection=[events], description="The events of a day, or of a range of days."
)
profiles_job = dg.define_asset_job(
    "profiles_job", selection=[profiles], description="A snapshot of the user profiles."
)


# Mixpanel's export lags behind by minutes: two hours after midnight yesterday is there.
@dg.schedule(
    job=events_job,
    cron_schedule="0 2 * * *",
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def daily_events(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Load yesterday's events, at two in the project's time zone."""
    complete = daily_partitions.get_partition_keys(current_time=context.scheduled_execution_time)
    if not complete:
        return dg.SkipReason("there is no complete day since MIXPANEL_START_DATE")
    return dg.RunRequest(partition_key=complete[-1])


daily_profiles = dg.ScheduleDefinition(
    name="daily_profiles",
    description="Load a snapshot of the profiles, at half past two in the project's time zone.",
    job=profiles_job,
    cron_schedule="30 2 * * *",
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
