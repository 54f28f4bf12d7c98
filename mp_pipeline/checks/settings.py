"""The check that all days of a dataset were loaded with the same settings."""

import dagster as dg

from mp_pipeline.checks.common import database_check, metadata_table, nothing_loaded
from mp_pipeline.days import format_days
from mp_pipeline.io_manager import table_name
from mp_pipeline.origins import describe_origin, group_by_origin
from mp_pipeline.project import Project
from mp_pipeline.storage import StorageEngine


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
