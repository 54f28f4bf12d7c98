"""Asset checks: tables are intact, no day is missing, row counts and settings are consistent.

``mixpanel_counts`` is apart from the others: it sends requests.
"""

from collections.abc import Mapping

import dagster as dg

from mp_pipeline.checks.counts import mixpanel_counts
from mp_pipeline.checks.days import latest_day, no_gaps, only_here
from mp_pipeline.checks.metrics import current_metrics
from mp_pipeline.checks.row_counts import count_change, volume
from mp_pipeline.checks.settings import configured_filters, consistent_settings
from mp_pipeline.checks.tables import row_count, schema
from mp_pipeline.checks.typed import property_drift, typed_days
from mp_pipeline.project import Project
from mp_pipeline.storage import TableType

__all__ = ["current_metrics", "mixpanel_counts", "project_checks", "typed_checks"]


def project_checks(
    project: Project,
    events: dg.AssetsDefinition,
    snapshots: Mapping[TableType, dg.AssetsDefinition],
) -> list[dg.AssetChecksDefinition]:
    """Return the asset checks of a project that need the database alone.

    Those that judge only what a run has stored are blocking: if one fails, what depends on the
    asset is not materialized.

    Args:
        project: The project.
        events: The asset with the project's events.
        snapshots: The assets that are snapshots, by what their tables contain.
    """
    retained = project.settings.mixpanel_retention_days is not None
    return [
        row_count(project, events, "events"),
        schema(project, events, "events"),
        *(row_count(project, asset, table_type) for table_type, asset in snapshots.items()),
        *(schema(project, asset, table_type) for table_type, asset in snapshots.items()),
        latest_day(project, events),
        no_gaps(project, events),
        *([only_here(project, events)] if retained else []),
        volume(project, events),
        consistent_settings(project, events),
        *(count_change(project, asset) for asset in snapshots.values()),
        configured_filters(project, snapshots["profiles"]),
    ]


def typed_checks(
    project: Project, typed_events: dg.AssetsDefinition, events: dg.AssetsDefinition
) -> list[dg.AssetChecksDefinition]:
    """Return the asset checks of a project's typed events. They only warn.

    Args:
        project: The project.
        typed_events: The asset with the typed events.
        events: The asset with the raw events.
    """
    return [
        typed_days(project, typed_events, events),
        property_drift(project, typed_events, events),
    ]
