"""The asset ``typed_events``: one table per event, with a typed column for each property."""

import dagster as dg

from mp_pipeline.assets.events import backfill_policy
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import requested_days
from mp_pipeline.project import Project
from mp_pipeline.typed_range import TypedRange

_DESCRIPTION = """\
Events with a typed column for each property, one table per event: `event.song_played`,
`event.page_view` and so on.

Names are lower case, `mp_` stands for a leading `$`. Types become wider when a value does not fit.
A loaded day is typed by itself while the sensor `after_loading` runs; a day that was reloaded since
is stale until it is materialized again. The views `event_dictionary` and `property_dictionary`
describe all tables.
"""


def typed_events_asset(project: Project, events: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """Return the asset with the typed events of a project.

    Args:
        project: The project.
        events: The asset with the raw events.
    """
    # Days of any age, not only the latest: backfills and late-arriving events are typed too.
    condition = dg.AutomationCondition.eager().without(
        dg.AutomationCondition.in_latest_time_window()
    )

    @dg.multi_asset(
        name=project.name("typed_events"),
        outs={
            "typed_events": dg.AssetOut(
                key=project.asset_key("typed_events"),
                io_manager_key=project.name("mixpanel_duckdb"),
                kinds={"duckdb"},
                description=_DESCRIPTION,
                automation_condition=condition,
            )
        },
        deps=[events],
        partitions_def=project.partitions,
        backfill_policy=backfill_policy(project),
        group_name=project.group,
    )
    def typed_events(context: dg.AssetExecutionContext) -> TypedRange:
        return TypedRange(
            dataset=table_name(events.key), days=requested_days(context, project.partitions)
        )

    return typed_events
