"""What the UI shows of a load: counts, sizes, speed, schema, preview."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.storage import LoadReport, StorageEngine

_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 100

_DESCRIPTIONS = {
    "event_name": "Name of the event.",
    "event_time": "When the event occurred (UTC).",
    "distinct_id": "The user.",
    "insert_id": "Unique id of the event.",
    "properties": "All other properties, as a JSON object.",
    "last_seen": "When the user was last active (UTC).",
}


def load_metadata(
    engine: StorageEngine,
    report: LoadReport,
    download: EventsDownload | ProfilesDownload | None,
) -> dict[str, Any]:
    """Return the metadata of a table that was just loaded.

    Args:
        engine: the database, open.
        report: what the load did.
        download: the files that were loaded, None for records.
    """
    fetched = engine.get_metadata(report.table_name)
    row_count = "dagster/row_count" if report.day is None else "dagster/partition_row_count"
    shown: dict[str, Any] = {
        row_count: report.rows_stored,
        "dagster/table_name": report.table_name,
        "dagster/column_schema": column_schema(engine, report.table_name),
        "from_date": fetched.from_date,
        "to_date": fetched.to_date,
        "lines_read": report.lines_read,
        "duplicates": report.duplicates,
        "rejected": report.rejected,
        "outside_day": None if report.type == "profiles" else report.outside_day,
        "repaired": report.repaired,
        "gained": report.gained,
        "lost": report.lost,
        "bytes_loaded": report.bytes_read,
    }
    if download is not None:
        shown["download_seconds"] = round(download.seconds, 2)
        shown["download_attempts"] = download.attempts
    if isinstance(download, ProfilesDownload):
        shown["pages"] = download.pages
        shown["total_announced"] = download.total
        shown["complete"] = download.complete
    shown |= {
        "load_seconds": round(report.seconds, 2),
        "rows_per_second": report.rows_per_second,
        "source": report.source,
        "filter_events": fetched.filter_events,
        "filter_where": fetched.filter_where,
        "database": dg.MetadataValue.path(str(engine.path)),
        "preview": preview(engine, report.table_name),
    }
    return {name: value for name, value in shown.items() if value is not None}


def days_metadata(reports: Sequence[LoadReport]) -> dict[str, Any]:
    """Return one table of several days, for a range whose days share their metadata."""
    rows = [
        dg.TableRecord(
            {
                "table": report.table_name,
                "lines_read": report.lines_read,
                "rows_stored": report.rows_stored,
                "duplicates": report.duplicates,
                "rejected": report.rejected,
                "outside_day": report.outside_day,
                "gained": _or_blank(report.gained),
                "lost": _or_blank(report.lost),
            }
        )
        for report in reports
    ]
    return {"days": dg.MetadataValue.table(rows)}


def column_schema(engine: StorageEngine, table_name: str) -> dg.TableSchema:
    """Return a table's columns as Dagster shows them."""
    primary_key = engine.get_primary_key(table_name)
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type,
                description=_DESCRIPTIONS.get(column.name),
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable, unique=column.name in primary_key
                ),
            )
            for column in engine.get_schema(table_name).columns
        ]
    )


def preview(engine: StorageEngine, table_name: str) -> dg.TableMetadataValue:
    """Return the first rows of a table; long values are cut."""
    rows = engine.first_rows(table_name, _PREVIEW_ROWS, _PREVIEW_CHARACTERS)
    return dg.MetadataValue.table(
        [dg.TableRecord(row) for row in rows],
        schema=dg.TableSchema(
            [dg.TableColumn(column.name) for column in engine.get_schema(table_name).columns]
        ),
    )


def sentence(report: LoadReport) -> str:
    """Return a load in a line of the log."""
    outside = f", {report.outside_day:,} outside the day" if report.type == "events" else ""
    changed = ""
    if report.gained is not None and report.lost is not None:
        changed = f", {report.gained:,} gained, {report.lost:,} lost since the last load"
    return (
        f"{report.table_name}: {report.rows_stored:,} rows from {report.lines_read:,} lines "
        f"({report.duplicates:,} duplicates, {report.rejected:,} rejected{outside}) "
        f"in {report.seconds:.1f} s ({report.rows_per_second:,} rows/s){changed}"
    )


def _or_blank(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
