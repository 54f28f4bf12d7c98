"""The asset ``events``: Mixpanel's raw events, a partition a day."""

import dagster as dg

from mp_pipeline.deadline import project_deadline
from mp_pipeline.io_manager import Downloads
from mp_pipeline.partitions import daily_partitions, day_window, export_dates, requested_days
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.settings import load_settings


# A multi_asset of one: @asset takes a backfill policy too, but prints a warning that it is beta.
@dg.multi_asset(
    name="events",
    outs={
        "events": dg.AssetOut(
            io_manager_key="mixpanel_duckdb",
            kinds={"mixpanel", "duckdb"},
            description="""\
Raw events of the Mixpanel project, a partition a day.

Each day is a table (`events_20240115`), and `events` is a view over all days. Materializing a day
again replaces it whole, so late events and merged identities come out right. Lines that could not
be stored are in `_rejected` with their reasons; every load is in `_load_log`.
""",
            metadata={
                "mixpanel_documentation": dg.MetadataValue.url(
                    "https://docs.mixpanel.com/reference/raw-event-export"
                )
            },
            freshness_policy=project_deadline.freshness_policy,
        )
    },
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="mixpanel",
)
def events(
    context: dg.AssetExecutionContext, mixpanel: MixpanelResource, duckdb: MixpanelDuckDBResource
) -> Downloads:
    """Download the days that the run asks for, as the IO manager takes them."""
    settings = load_settings()
    ranges = [
        export_dates(day_window(day, settings.zone), settings.wall_clock_zone)
        for day in requested_days(context)
    ]
    return Downloads(
        mixpanel.export_events(ranges, duckdb.download_folder(context.run.run_id)),
        mixpanel.source,
        context.add_asset_metadata,
    )
