"""What the UI shows of a load: counts, sizes, speed, schema, preview."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.storage import LoadReport, StorageEngine

_PREVIEW_ROWS = 5
_PREVIEW_CHARACTERS = 300


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
    metadata: dict[str, Any] = {
        row_count: report.rows_stored,
        "dagster/table_name": report.table_name,
        "dagster/column_schema": column_schema(engine, report.table_name),
        "database": dg.MetadataValue.path(str(engine.path)),
        "lines_read": report.lines_read,
        "duplicates": report.duplicates,
        "rejected": report.rejected,
        "repaired": report.repaired,
        "bytes_loaded": report.bytes_read,
        "load_seconds": round(report.seconds, 2),
        "rows_per_second": round(report.rows_stored / max(report.seconds, 0.001)),
        "preview": preview(engine, report.table_name),
    }
    if report.type == "events":
        metadata["outside_day"] = report.outside_day
    if fetched.from_date and fetched.to_date:
        metadata["from_date"] = fetched.from_date
        metadata["to_date"] = fetched.to_date
    if report.source is not None:
        metadata["source"] = report.source
    if fetched.filter_events is not None:
        metadata["filter_events"] = fetched.filter_events
    if fetched.filter_where is not None:
        metadata["filter_where"] = fetched.filter_where
    if download is not None:
        metadata["download_seconds"] = round(download.seconds, 2)
        metadata["download_attempts"] = download.attempts
    if isinstance(download, ProfilesDownload):
        metadata["pages"] = download.pages
        metadata["complete"] = download.complete
        if download.total is not None:
            metadata["total_announced"] = download.total
    return metadata


def days_metadata(reports: Sequence[LoadReport]) -> dict[str, Any]:
    """Return one table of several days, for a range whose days share their metadata."""
    return {"days": dg.MetadataValue.table([day_record(report) for report in reports])}


def day_record(report: LoadReport) -> dg.TableRecord:
    """Return a load's counts as a row of a table."""
    return dg.TableRecord(
        {
            "table": report.table_name,
            "lines_read": report.lines_read,
            "rows_stored": report.rows_stored,
            "duplicates": report.duplicates,
            "rejected": report.rejected,
            "outside_day": report.outside_day,
        }
    )


def column_schema(engine: StorageEngine, table_name: str) -> dg.TableSchema:
    """Return a table's columns as Dagster shows them."""
    primary_key = engine.get_primary_key(table_name)
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type,
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
    return (
        f"{report.table_name}: {report.rows_stored:,} rows from {report.lines_read:,} lines "
        f"({report.duplicates:,} duplicates, {report.rejected:,} rejected{outside}) "
        f"in {report.seconds:.1f} s"
    )
