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
daily_events = dg.build_schedule_from_partitioned_job(
    events_job,
    name="daily_events",
    description="Loads yesterday's events, at two in the project's time zone.",
    hour_of_day=2,
    minute_of_hour=0,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
daily_profiles = dg.ScheduleDefinition(
    name="daily_profiles",
    description="Loads a snapshot of the profiles, at half past two in the project's time zone.",
    job=profiles_job,
    cron_schedule="30 2 * * *",
    execution_timezone=daily_partitions.timezone,
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
