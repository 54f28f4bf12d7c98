"""The project that most tests of the Dagster edge use: the sample project, with the defaults."""

from mp_pipeline.assets import events_asset, snapshot_asset, typed_events_asset
from mp_pipeline.assets.snapshots import PROFILES
from mp_pipeline.checks import project_checks, typed_checks
from mp_pipeline.project import Project
from mp_pipeline.settings import Settings

PROJECT = Project(Settings())

events = events_asset(PROJECT)
profiles = snapshot_asset(PROJECT, PROFILES)
typed_events = typed_events_asset(PROJECT, events)

checks = project_checks(PROJECT, events, {"profiles": profiles})
blocking_checks = [check for check in checks if all(spec.blocking for spec in check.check_specs)]
checks_of_typed_events = typed_checks(PROJECT, typed_events, events)
