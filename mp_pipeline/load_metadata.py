"""What the UI and the log show of a load: counts, sizes, speed, origin, schema, preview."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from mp_pipeline.mixpanel import Download, EventsDownload
from mp_pipeline.snapshots import Snapshot
from mp_pipeline.storage import LoadReport, StorageEngine

_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 100

_DESCRIPTIONS = {
    "event_name": "Name of the event.",
    "event_time": "When the event occurred (UTC).",
    "distinct_id": "The user; in groups, the group.",
    "insert_id": "Unique ID of the event.",
    "properties": "All other properties, as a JSON object.",
    "last_seen": "When the user or group was last active (UTC).",
    "data_group_id": "ID of the group type.",
    "group_key": "Property of events that names the group.",
    "id": "Its ID.",
    "name": "Its name.",
    "description": "Its description.",
    "cohort_id": "The cohort: `id` in `cohorts`.",
    "count": "Number of members.",
    "visible": "Whether Mixpanel shows it.",
    "created": "When it was created (UTC).",
    "entity": "What is described: `event` or `profile`.",
    "display_name": "Name that Mixpanel shows.",
    "date": "The day in the project's time zone.",
    "time": "The time (UTC).",
    "user_name": "Who wrote it.",
    "tags": "Names of its tags.",
}

_ADDED_UP = (
    "dagster/row_count",
    "lines_read",
    "duplicates",
    "rejected",
    "repaired",
    "bytes_loaded",
)
"""What is added up over the tables of an asset."""


def load_metadata(
    engine: StorageEngine,
    report: LoadReport,
    download: EventsDownload | Snapshot | None = None,
) -> dict[str, Any]:
    """Return the metadata of a loaded table.

    Args:
        engine: The database, open.
        report: What the load did.
        download: The download that was loaded; None for records and for earlier loads.
    """
    fetched = engine.get_metadata(report.table_name)
    row_count = "dagster/row_count" if report.day is None else "dagster/partition_row_count"
    origin = report.origin
    metadata: dict[str, Any] = {
        row_count: report.rows_stored,
        "dagster/table_name": report.table_name,
        "dagster/column_schema": column_schema(engine, report.table_name),
        "from_date": fetched.from_date,
        "to_date": fetched.to_date,
        "lines_read": report.lines_read,
        "duplicates": report.duplicates,
        "rejected": report.rejected,
        "outside_day": report.outside_day if report.type == "events" else None,
        "repaired": report.repaired,
        "suppressed": report.suppressed or None,
        "erased": report.erased or None,
        "gained": report.gained,
        "lost": report.lost,
        "bytes_loaded": report.bytes_read,
    }
    if download is not None:
        metadata |= _download_metadata(download)
    metadata |= {
        "load_seconds": round(report.seconds, 2),
        "rows_per_second": report.rows_per_second,
        "source": origin.source,
        "filter_events": None if origin.filter_events is None else list(origin.filter_events),
        "filter_where": origin.filter_where,
        "filter_properties": None
        if origin.filter_properties is None
        else list(origin.filter_properties),
        "timezone": None if report.day is None else origin.timezone,
        "wall_clock_zone": None if origin.wall_clock_zone == "UTC" else origin.wall_clock_zone,
        "database": dg.MetadataValue.path(engine.name),
        "preview": preview(engine, report.table_name),
    }
    return {name: value for name, value in metadata.items() if value is not None}


def combine_metadata(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the metadata of an asset from that of each of its tables."""
    if len(tables) == 1:
        return tables[0]
    columns = ("dagster/table_name", *_ADDED_UP)
    return {
        **tables[0],
        **{name: sum(table[name] for table in tables) for name in _ADDED_UP},
        "dagster/table_name": ", ".join(table["dagster/table_name"] for table in tables),
        "tables": dg.MetadataValue.table(
            [
                dg.TableRecord({name.removeprefix("dagster/"): table[name] for name in columns})
                for table in tables
            ]
        ),
    }


def column_schema(engine: StorageEngine, table_name: str) -> dg.TableSchema:
    """Return the columns of a table as Dagster shows them."""
    primary_key = engine.get_primary_key(table_name)
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type,
                description=_DESCRIPTIONS.get(column.name),
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable, unique=[column.name] == primary_key
                ),
            )
            for column in engine.get_schema(table_name).columns
        ]
    )


def _download_metadata(download: EventsDownload | Snapshot) -> dict[str, Any]:
    downloads: Sequence[Download] = (
        [part.download for part in download.parts] if isinstance(download, Snapshot) else [download]
    )
    metadata: dict[str, Any] = {
        "download_seconds": round(sum(each.seconds for each in downloads), 2),
        "download_attempts": sum(each.attempts for each in downloads),
    }
    if isinstance(download, EventsDownload) and len(download.paths) > 1:
        metadata["download_parts"] = len(download.paths)
    if isinstance(download, Snapshot) and (profiles := download.profiles):
        totals = [each.total for each in profiles if each.total is not None]
        metadata["pages"] = sum(each.pages for each in profiles)
        metadata["total_announced"] = sum(totals) if len(totals) == len(profiles) else None
        metadata["complete"] = all(each.complete for each in profiles)
    return metadata


def preview(engine: StorageEngine, table_name: str) -> dg.TableMetadataValue:
    """Return the first rows of a table, with long values truncated."""
    rows = engine.first_rows(table_name, _PREVIEW_ROWS, _PREVIEW_CHARACTERS)
    return dg.MetadataValue.table(
        [dg.TableRecord(row) for row in rows],
        schema=dg.TableSchema(
            [dg.TableColumn(column.name) for column in engine.get_schema(table_name).columns]
        ),
    )


def describe_load(report: LoadReport) -> str:
    """Return a load as one line of text."""
    outside = f", {report.outside_day:,} outside the day" if report.type == "events" else ""
    suppressed = f", {report.suppressed:,} suppressed" if report.suppressed else ""
    changed = ""
    if report.gained is not None and report.lost is not None:
        changed = f", {report.gained:,} gained and {report.lost:,} lost since the last load"
    return (
        f"{report.table_name}: {report.rows_stored:,} rows from {report.lines_read:,} lines "
        f"({report.duplicates:,} duplicates, {report.rejected:,} rejected{outside}{suppressed}) "
        f"in {report.seconds:.1f} s ({report.rows_per_second:,} rows/s){changed}"
    )
