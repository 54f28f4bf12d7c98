"""The checks that data was loaded with the same settings, or with those that are configured."""

import dagster as dg

from mp_pipeline.checks.common import database_check, nothing_loaded
from mp_pipeline.days import format_days
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.origins import describe_filters, describe_origin, group_by_origin
from mp_pipeline.project import Project
from mp_pipeline.storage import Origin, StorageEngine


def consistent_settings(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that all days have the filters, zones and source of the latest load.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has daily partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        days = engine.list_days(dataset)
        if not days:
            return nothing_loaded(dataset)
        groups = group_by_origin(days)
        latest = max(days, key=lambda day: day.fetched_at).origin
        others = {origin: group for origin, group in groups.items() if origin != latest}
        different = sorted(day for group in others.values() for day in group)
        description = f"all {len(days)} days were loaded with the same settings"
        if different:
            description = (
                f"{len(different)} of {len(days)} days were loaded with other settings than the "
                f"latest load ({describe_origin(latest)}): {format_days(different)}. If they "
                "should agree, reload these days"
            )
        return dg.AssetCheckResult(
            passed=not different,
            description=description,
            metadata={
                "different": len(different),
                "settings": metadata_table(
                    {"days": int, "which": str, "settings": str, "latest": bool},
                    [
                        (len(group), format_days(group), describe_origin(origin), origin == latest)
                        for origin, group in [*others.items(), (latest, groups[latest])]
                    ],
                ),
            },
        )

    return database_check(
        project,
        asset,
        "consistent_settings",
        "All days were loaded with the same source, filters, time zone and kind of timestamps.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def configured_filters(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a snapshot of profiles has the filters that are configured.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has no partitions.
    """
    dataset = table_name(asset.key)
    where = project.settings.mixpanel_profiles_where
    properties = project.settings.mixpanel_profiles_properties

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        loads = engine.list_loads(dataset)
        if not loads:
            return nothing_loaded(dataset)
        origin = loads[-1].origin
        passed = (origin.filter_where, origin.filter_properties) == (where, properties)
        found = describe_filters(origin) or "no filters"
        configured = (
            describe_filters(Origin(filter_where=where, filter_properties=properties))
            or "no filters"
        )
        return dg.AssetCheckResult(
            passed=passed,
            description=f"loaded with the configured filters: {found}"
            if passed
            else f"loaded with other filters ({found}) than are configured ({configured}). "
            "Materialize the asset to use these",
            metadata={"loaded_with": found, "configured": configured},
        )

    return database_check(
        project,
        asset,
        "configured_filters",
        "The snapshot was loaded with the filters that are configured "
        "(MIXPANEL_PROFILES_WHERE, MIXPANEL_PROFILES_PROPERTIES).",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )
