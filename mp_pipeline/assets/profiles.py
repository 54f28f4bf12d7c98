"""The asset ``profiles``: a snapshot of Mixpanel's user profiles."""

import dagster as dg

from mp_pipeline.mixpanel import ProfilesDownload
from mp_pipeline.project import Project
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource

_DESCRIPTION = """\
User profiles of the Mixpanel project as they are now, in the table `profiles`.

Materializing it again replaces the snapshot. Join it with `events` on `distinct_id`.
"""


def profiles_asset(project: Project) -> dg.AssetsDefinition:
    """Return the asset with the user profiles of a project.

    Args:
        project: The project.
    """
    mixpanel_key, duckdb_key = project.name("mixpanel"), project.name("duckdb")

    @dg.asset(
        key=project.asset_key("profiles"),
        io_manager_key=project.name("mixpanel_duckdb"),
        kinds={"mixpanel", "duckdb"},
        group_name=project.group,
        description=_DESCRIPTION,
        metadata={
            "mixpanel_documentation": dg.MetadataValue.url(
                "https://docs.mixpanel.com/reference/engage-query"
            )
        },
        freshness_policy=project.deadline.freshness_policy,
        required_resource_keys={mixpanel_key, duckdb_key},
    )
    def profiles(context: dg.AssetExecutionContext) -> ProfilesDownload:
        mixpanel: MixpanelResource = getattr(context.resources, mixpanel_key)
        duckdb: MixpanelDuckDBResource = getattr(context.resources, duckdb_key)
        download = mixpanel.export_profiles(duckdb.download_directory(context.run.run_id))
        if not download.complete:
            context.log.warning(
                f"Mixpanel announced {download.total} profiles and sent {download.distinct}: "
                "profiles changed while the pages were read"
            )
        return download

    return profiles
