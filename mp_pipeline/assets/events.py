"""The asset ``events``: Mixpanel's raw events, a partition a day."""

from datetime import date

import dagster as dg

from mp_pipeline.deadline import project_deadline
from mp_pipeline.io_manager import Downloads, table_name
from mp_pipeline.partitions import (
    daily_partitions,
    day_window,
    export_dates,
    in_requests,
    listed_spans,
    requested_days,
)
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.retries import loads_of_failed_attempts
from mp_pipeline.settings import load_settings

_days_per_run = load_settings().mp_pipeline_days_per_run
# Days load one after the other, in one database, within one rate_limits: more runs are no faster. What
# is done stays when a run fails.
_backfill_policy = (
    dg.BackfillPolicy.single_run()
    if _days_per_run is None
    else dg.BackfillPolicy.multi_run(_days_per_run)
)


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
    backfill_policy=_backfill_policy,
    group_name="mixpanel",
)
def events(
    context: dg.AssetExecutionContext, mixpanel: MixpanelResource, duckdb: MixpanelDuckDBResource
) -> Downloads:
    """Download the days that the run asks for, as the IO manager takes them."""
    settings = load_settings()
    days = requested_days(context)
    loaded_before = loads_of_failed_attempts(context, duckdb, table_name(context.asset_key), days)
    done = {load.day for load in loaded_before}
    if done:
        context.log.info(
            f"{len(done)} of {len(days)} days were loaded by the failed attempt before, and are "
            f"not downloaded again: {listed_spans([day for day in days if day in done])}"
        )

    def dates(day: date) -> tuple[date, date]:
        return export_dates(day_window(day, settings.zone), settings.wall_clock_zone)

    requests = in_requests(
        [day for day in days if day not in done], settings.mixpanel_days_per_request
    )
    ranges = [(dates(request.first)[0], dates(request.last)[1]) for request in requests]
    return Downloads(
        mixpanel.export_events(ranges, duckdb.download_directory(context.run.run_id)),
        mixpanel.source,
        context,
        loaded_before,
    )
