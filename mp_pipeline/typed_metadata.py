"""What the UI shows of a typed day, and of the dictionary."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg

from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.plot import lines_plot
from mp_pipeline.storage import Drift, PropertyDescription, StorageEngine, TypedDayReport

_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_DAYS = 28
_MAX_COLUMNS = 400
_PLOTTED_EVENTS = 5
_FIRST = ("new event", "new property", "new type")


def typed_metadata(engine: StorageEngine, report: TypedDayReport) -> dict[str, Any]:
    """Return the metadata of a typed day.

    Args:
        engine: The database, open.
        report: What typing the day did.
    """
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": report.events,
        "tables": len(report.tables),
        "new_events": list(report.new_events),
        "vanished_events": list(report.vanished_events),
        "new_columns": [
            f"{report.schema_name}.{column.table_name}.{column.column_name} {column.type}"
            for column in report.new_columns[:_MAX_COLUMNS]
        ],
        "wider_columns": [
            f"{report.schema_name}.{wider.column.table_name}.{wider.column.column_name}: "
            f"{wider.old_type} to {wider.column.type}"
            for wider in report.widened_columns[:_MAX_COLUMNS]
        ],
        "typing_seconds": round(report.seconds, 2),
        "database": dg.MetadataValue.path(engine.name),
    }
    return {name: value for name, value in metadata.items() if value != []}


def dictionary_metadata(engine: StorageEngine, dataset: str, day: date) -> dict[str, Any]:
    """Return the dictionary as tables, and the schema of all typed tables together.

    Args:
        engine: The database, open.
        dataset: The view over the day tables.
        day: The day whose new and changed properties come first.
    """
    first = day - timedelta(days=_SPARKLINE_DAYS - 1)
    days = [first + timedelta(days=number) for number in range(_SPARKLINE_DAYS)]
    counts = engine.count_events_by_day(dataset, first, day)
    properties = engine.describe_properties(dataset)
    drift = {(found.event, found.property): found for found in engine.property_drift(dataset, day)}
    events = engine.describe_events(dataset)
    plotted = {each.event: counts[each.event] for each in events if each.event in counts}
    most_frequent = dict(list(plotted.items())[:_PLOTTED_EVENTS])
    metadata: dict[str, Any] = {}
    if most_frequent:
        plot = lines_plot("Events per day, the most frequent ones", most_frequent)
        metadata["plot"] = dg.MetadataValue.md(plot)
    return metadata | {
        "events": metadata_table(
            dict.fromkeys(
                ("event", f"{_SPARKLINE_DAYS} days", "events", "share", "properties", "table"), str
            ),
            [
                (
                    each.event,
                    sparkline([counts.get(each.event, {}).get(day, 0) for day in days]),
                    f"{each.events:,}",
                    f"{each.fraction:.1%}",
                    f"{each.properties:,}",
                    each.table_name,
                )
                for each in events
            ],
        ),
        "properties": metadata_table(
            dict.fromkeys(
                ("event", "property", "change", "type", "filled", "column", "json_types"), str
            ),
            [
                (
                    each.event,
                    each.property,
                    change,
                    each.column_type or "",
                    f"{each.filled_fraction:.1%}",
                    f"{each.table_name}.{each.column_name}" if each.column_name else "",
                    ", ".join(f"{name} {count:,}" for name, count in each.json_types.items()),
                )
                for each, change in _changed_first(properties, drift)
            ],
        ),
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(
                    f"{each.table_name}.{each.column_name}",
                    each.column_type,
                    description=f"{each.property} of {each.event}, filled in "
                    f"{each.filled_fraction:.0%} of the events.",
                )
                for each in properties[:_MAX_COLUMNS]
                if each.column_name is not None and each.column_type is not None
            ]
        ),
    }


def sparkline(counts: Sequence[int]) -> str:
    """Return counts as a line of bars, a dot for 0.

    Example:
        >>> sparkline([0, 1, 4, 8])
        '·▁▄█'
    """
    highest = max(counts, default=0)
    return "".join(_BARS[(len(_BARS) * count - 1) // highest] if count else "·" for count in counts)


def _changed_first(
    properties: Sequence[PropertyDescription], drift: Mapping[tuple[str, str | None], Drift]
) -> list[tuple[PropertyDescription, str]]:
    """Return the properties with what changed of them on the day; those with a change first."""
    described = []
    for each in properties:
        found = drift.get((each.event, each.property)) or drift.get((each.event, None))
        described.append((each, "" if found is None else found.change))
    return sorted(described, key=lambda item: item[1] not in _FIRST)
