"""Everything that Dagster needs to know of a Mixpanel project, made from its settings."""

from collections.abc import Mapping, Sequence
from functools import partial

import dagster as dg

from mp_pipeline.assets import (
    events_asset,
    metric_assets,
    snapshot_asset,
    snapshot_kinds,
    typed_events_asset,
)
from mp_pipeline.automation.derived import derived_sensor
from mp_pipeline.automation.maintenance import maintenance_schedule
from mp_pipeline.automation.schedules import project_schedules
from mp_pipeline.automation.sensors import Alert, failed_runs_sensor
from mp_pipeline.checks import current_metrics, mixpanel_counts, project_checks, typed_checks
from mp_pipeline.io_manager import MixpanelDuckDBIOManager
from mp_pipeline.project import Project
from mp_pipeline.resources import duckdb_resource, mixpanel_resource
from mp_pipeline.settings import Settings


def mixpanel_project(
    settings: Settings,
    *,
    key_prefix: str | Sequence[str] = (),
    alert: Alert | None = None,
) -> dg.Definitions:
    """Return the assets, checks, jobs, schedules, sensors and resources of a Mixpanel project.

    Definitions of several projects can be merged into one code location if each project has a key
    prefix of its own. Nothing is read from the environment, the network or the database.

    Args:
        settings: The project's settings, as ``mp_pipeline.settings.load_settings`` reads them.
        key_prefix: Prefix of the project's asset keys, and of the names of its tables, jobs,
            schedules, sensors and resources; empty for none.
        alert: Called with one line of text for each failed run.

    Example:
        >>> settings = Settings(mp_pipeline_typed_events=False, mp_pipeline_metrics=False)
        >>> defs = dg.Definitions.merge(
        ...     mixpanel_project(settings, key_prefix="shop"),
        ...     mixpanel_project(settings, key_prefix="blog"),
        ... )
        >>> sorted(key.to_user_string() for key in defs.resolve_all_asset_keys())
        ['blog/events', 'blog/profiles', 'shop/events', 'shop/profiles']
    """
    prefix = [key_prefix] if isinstance(key_prefix, str) else list(key_prefix)
    project = Project(settings, tuple(part for part in prefix if part))
    events = events_asset(project)
    kinds = snapshot_kinds(settings)
    snapshots = {kind.type: snapshot_asset(project, kind) for kind in kinds}
    checks = project_checks(project, events, snapshots)
    derived: dict[str, dg.AssetsDefinition] = {}
    if settings.mp_pipeline_typed_events:
        derived["typed_events"] = typed_events_asset(project, events)
        checks += typed_checks(project, derived["typed_events"], events)
    if settings.mp_pipeline_metrics:
        derived |= metric_assets(project, events, snapshots["profiles"])
        checks.append(current_metrics(project, derived["daily_metrics"], events))
    made_of_profiles = [derived["profile_history"]] if "profile_history" in derived else []
    counts = [mixpanel_counts(project, events)] if settings.reconciles else []
    duckdb = duckdb_resource(settings)
    assets = [events, *snapshots.values(), *derived.values()]
    return dg.Definitions(
        assets=[asset.map_asset_specs(partial(_tagged, project.tags)) for asset in assets],
        asset_checks=[*checks, *counts],
        schedules=[
            *project_schedules(
                project,
                events,
                {
                    kind.title: [
                        snapshots[kind.type],
                        *(made_of_profiles if kind.type == "profiles" else []),
                    ]
                    for kind in kinds
                },
                checks,
                counts,
            ),
            *([maintenance_schedule(project)] if settings.is_lake else []),
        ],
        sensors=[
            failed_runs_sensor(project, alert),
            *([derived_sensor(project, list(derived.values()))] if derived else []),
        ],
        # The steps of a run take turns at the database, and each process would import everything.
        executor=dg.in_process_executor,
        resources={
            project.name("mixpanel"): mixpanel_resource(settings),
            project.name("duckdb"): duckdb,
            project.name("mixpanel_duckdb"): MixpanelDuckDBIOManager(
                duckdb=duckdb,
                wall_clock_zone=settings.wall_clock_zone,
                max_rejected_fraction=settings.mp_pipeline_max_rejected_fraction,
                min_kept_fraction=settings.mp_pipeline_min_kept_fraction,
            ),
        },
    )


def _tagged(tags: Mapping[str, str], spec: dg.AssetSpec) -> dg.AssetSpec:
    return spec.merge_attributes(tags=tags)
