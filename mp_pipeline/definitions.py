"""What Dagster loads. It touches neither the network nor the database."""

import dagster as dg

from mp_pipeline.assets import events, profiles
from mp_pipeline.checks import checks
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.resources import duckdb_resource, mixpanel_resource
from mp_pipeline.schedules import (
    checks_job,
    daily_checks,
    daily_events,
    daily_profiles,
    events_job,
    profiles_job,
)
from mp_pipeline.sensors import failed_runs
from mp_pipeline.settings import load_settings

_settings = load_settings()
_duckdb = duckdb_resource(_settings)

defs = dg.Definitions(
    assets=[events, profiles],
    asset_checks=checks,
    jobs=[events_job, profiles_job, checks_job],
    schedules=[daily_events, daily_profiles, daily_checks],
    sensors=[failed_runs],
    # Steps of a run take turns at the database anyway, and a process each would import all again.
    executor=dg.in_process_executor,
    resources={
        "mixpanel": mixpanel_resource(_settings),
        "duckdb": _duckdb,
        "mixpanel_duckdb": MixpanelDuckDBIOManager(
            duckdb=_duckdb,
            wall_clock_zone=_settings.wall_clock_zone,
            max_rejected_fraction=_settings.mp_pipeline_max_rejected_fraction,
        ),
    },
)
