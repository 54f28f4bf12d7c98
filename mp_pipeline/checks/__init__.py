"""Asset checks: tables are intact, no day is missing, row counts and settings are consistent."""

import dagster as dg

from mp_pipeline.checks.days import latest_day, no_gaps
from mp_pipeline.checks.row_counts import count_change, volume
from mp_pipeline.checks.settings import consistent_settings
from mp_pipeline.checks.tables import row_count, schema
from mp_pipeline.project import Project


def project_checks(
    project: Project, events: dg.AssetsDefinition, profiles: dg.AssetsDefinition
) -> list[dg.AssetChecksDefinition]:
    """Return all asset checks of a project.

    Those that judge only what a run has stored are blocking: if one fails, what depends on the
    asset is not materialized.

    Args:
        project: The project.
        events: The asset with the project's events.
        profiles: The asset with the project's profiles.
    """
    return [
        row_count(project, events, "events"),
        schema(project, events, "events"),
        row_count(project, profiles, "profiles"),
        schema(project, profiles, "profiles"),
        latest_day(project, events),
        no_gaps(project, events),
        volume(project, events),
        consistent_settings(project, events),
        count_change(project, profiles),
    ]
