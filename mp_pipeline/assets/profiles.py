"""The asset ``profiles``: a snapshot of Mixpanel's user profiles."""

import dagster as dg

from mp_pipeline.deadline import project_deadline
from mp_pipeline.io_manager import Downloads
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource


@dg.asset(
    io_manager_key="mixpanel_duckdb",
    kinds={"mixpanel", "duckdb"},
    group_name="mixpanel",
    metadata={
        "mixpanel_documentation": dg.MetadataValue.url(
            "https://docs.mixpanel.com/reference/engage-query"
        )
    },
    freshness_policy=project_deadline.freshness_policy,
)
def profiles(
    context: dg.AssetExecutionContext, mixpanel: MixpanelResource, duckdb: MixpanelDuckDBResource
) -> Downloads:
    """User profiles of the Mixpanel project as they are now, in the table `profiles`.

    Materializing it again replaces the snapshot whole. Join it with `events` on `distinct_id`.
    """
    download = mixpanel.export_profiles(duckdb.download_directory(context.run.run_id))
    if not download.complete:
        context.log.warning(
            f"Mixpanel announced {download.total} profiles and sent {download.lines}: "
            "they change while pages are read"
        )
    return Downloads([download], mixpanel.source)
