"""The storage engine: tables of events and snapshots in DuckDB, loaded atomically.

It depends on neither Dagster nor HTTP, and can be used by itself::

    from datetime import UTC, datetime
    from mp_pipeline.storage import StorageEngine, TableMetadata

    with StorageEngine("mixpanel.duckdb") as storage:
        storage.create_events_table(
            "events_january",
            ["events_2024-01.jsonl.gz"],
            TableMetadata("events", datetime.now(UTC), "2024-01-01", "2024-01-31"),
        )
        print(storage.execute_df("SELECT event_name, count(*) FROM events_january GROUP BY ALL"))
"""

from mp_pipeline.storage.connection import connect
from mp_pipeline.storage.copying import Backup, back_up, rewrite
from mp_pipeline.storage.engine import DEFAULT_MAX_REJECTED_FRACTION, StorageEngine
from mp_pipeline.storage.erasure import DEFAULT_MAX_IDS, Erasure
from mp_pipeline.storage.errors import (
    DatabaseLockedError,
    QueryError,
    RejectedLinesError,
    ShrinkRefusedError,
    SnapshotRefusedError,
    SourceMismatchError,
    StorageError,
    TableExistsError,
    TableNotFoundError,
)
from mp_pipeline.storage.inputs import LabeledFile, TableData
from mp_pipeline.storage.lake import S3, Lake, is_lake_name
from mp_pipeline.storage.maintenance import LakeInfo, Maintenance
from mp_pipeline.storage.metrics.models import (
    DailyMetricsReport,
    IdentitiesReport,
    MetricDayInfo,
    ProfileHistoryReport,
    SessionsDayReport,
)
from mp_pipeline.storage.migration import MigratedTable
from mp_pipeline.storage.models import (
    ColumnInfo,
    DayInfo,
    DayWindow,
    LoadReport,
    Origin,
    Reconciliation,
    RowCounts,
    TableInfo,
    TableMetadata,
    TableSchema,
    TableType,
)
from mp_pipeline.storage.paths import path_problem
from mp_pipeline.storage.sources import SAMPLE_SOURCE
from mp_pipeline.storage.tables import day_table_name
from mp_pipeline.storage.typed.models import (
    Drift,
    EventDescription,
    PropertyDescription,
    TypedColumn,
    TypedDayInfo,
    TypedDayReport,
    WidenedColumn,
)

__all__ = [
    "DEFAULT_MAX_IDS",
    "DEFAULT_MAX_REJECTED_FRACTION",
    "S3",
    "SAMPLE_SOURCE",
    "Backup",
    "ColumnInfo",
    "DailyMetricsReport",
    "DatabaseLockedError",
    "DayInfo",
    "DayWindow",
    "Drift",
    "Erasure",
    "EventDescription",
    "IdentitiesReport",
    "LabeledFile",
    "Lake",
    "LakeInfo",
    "LoadReport",
    "Maintenance",
    "MetricDayInfo",
    "MigratedTable",
    "Origin",
    "ProfileHistoryReport",
    "PropertyDescription",
    "QueryError",
    "Reconciliation",
    "RejectedLinesError",
    "RowCounts",
    "SessionsDayReport",
    "ShrinkRefusedError",
    "SnapshotRefusedError",
    "SourceMismatchError",
    "StorageEngine",
    "StorageError",
    "TableData",
    "TableExistsError",
    "TableInfo",
    "TableMetadata",
    "TableNotFoundError",
    "TableSchema",
    "TableType",
    "TypedColumn",
    "TypedDayInfo",
    "TypedDayReport",
    "WidenedColumn",
    "back_up",
    "connect",
    "day_table_name",
    "is_lake_name",
    "path_problem",
    "rewrite",
]
