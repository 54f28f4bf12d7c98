"""The command ``mp-pipeline dictionary``: which events and properties there are."""

from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from mp_pipeline.terminal import console, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mp_pipeline.storage import EventDescription, PropertyDescription


@click.command()
@click.argument("event", required=False)
def dictionary(event: str | None) -> None:
    """Print the events of all typed days or, with the name of an EVENT, its properties."""
    settings = read_settings()
    from mp_pipeline.resources import duckdb_resource
    from mp_pipeline.storage import StorageError

    try:
        with duckdb_resource(settings).get_engine(read_only=True) as engine:
            events = engine.describe_events("events")
            properties = engine.describe_properties("events", event) if event else []
    except (FileNotFoundError, StorageError) as error:
        raise click.ClickException(str(error)) from error
    if not events:
        raise click.ClickException("no day is typed; materialize typed_events first")
    if event is None:
        console.print(_event_table(events))
        console.print("Properties of an event: mp-pipeline dictionary EVENT")
    elif properties:
        console.print(_property_table(properties))
    elif event in {each.event for each in events}:
        console.print(escape(f"{event} has no properties"), soft_wrap=True)
    else:
        raise click.ClickException(
            f"no event {event!r} in the typed days; mp-pipeline dictionary lists all events"
        )


def _event_table(events: "Sequence[EventDescription]") -> Table:
    table = Table("event", "table", "events", "share", "last day", "properties")
    for column in table.columns[1:]:
        column.no_wrap = True
    for number in (2, 3, 5):
        table.columns[number].justify = "right"
    for each in events:
        table.add_row(
            escape(each.event),
            each.table_name,
            f"{each.events:,}",
            f"{each.fraction:.1%}",
            str(each.last_day),
            f"{each.properties:,}",
        )
    return table


def _property_table(properties: "Sequence[PropertyDescription]") -> Table:
    title = escape(f"{properties[0].event}: {properties[0].table_name}")
    table = Table("property", "column", "type", "filled", "JSON types", title=title)
    table.columns[1].overflow = "fold"
    table.columns[3].justify = "right"
    for each in properties:
        table.add_row(
            escape(each.property),
            escape(each.column_name or ""),
            each.column_type or "",
            f"{each.filled_fraction:.1%}",
            ", ".join(f"{name} {count:,}" for name, count in each.json_types.items()),
        )
    return table
