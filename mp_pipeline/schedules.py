"""Schedules: events, profiles, and the checks. All are stopped until someone starts them."""

import dagster as dg

from mp_pipeline.assets import events, profiles
from mp_pipeline.checks import checks
from mp_pipeline.deadline import project_deadline
from mp_pipeline.partitions import daily_partitions, range_tags
from mp_pipeline.settings import load_settings

events_job = dg.define_asset_job(
    "events_job", selection=[events], description="The events of a day, or of a range of days."
)
profiles_job = dg.define_asset_job(
    "profiles_job", selection=[profiles], description="A snapshot of the user profiles."
)
checks_job = dg.define_asset_job(
    "checks_job",
    selection=dg.AssetSelection.checks(*checks),
    description="All checks of what is in the database; nothing is loaded.",
)


# Mixpanel's export lags behind by minutes: two hours after midnight yesterday is there.
@dg.schedule(
    job=events_job,
    cron_schedule="0 2 * * *",
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Load the last days (MP_PIPELINE_TRAILING_DAYS, 7 by default) again, so that late "
    "events come in, in one run at two in the project's time zone.",
)
def daily_events(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Ask for the days before the tick, however late it is evaluated; for a tick only once."""
    complete = daily_partitions.get_partition_keys(current_time=context.scheduled_execution_time)
    days = complete[-load_settings().mp_pipeline_trailing_days :]
    if not days:
        return dg.SkipReason("there is no complete day since MIXPANEL_START_DATE")
    return dg.RunRequest(run_key=days[-1], tags=range_tags(days[0], days[-1]))


daily_profiles = dg.ScheduleDefinition(
    name="daily_profiles",
    description="Load a snapshot of the profiles, at half past two in the project's time zone.",
    job=profiles_job,
    cron_schedule="30 2 * * *",
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)

daily_checks = dg.ScheduleDefinition(
    name="daily_checks",
    description="Run the checks at the deadline (MP_PIPELINE_DEADLINE_HOURS after midnight in the "
    "project's time zone): a missing day is noticed even if no run was started.",
    job=checks_job,
    cron_schedule=project_deadline.cron,
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
