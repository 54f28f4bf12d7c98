"""Replacing days and tables: stage the data once, then publish one table after another."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb

from mp_pipeline.storage import catalog
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.errors import (
    RejectedLinesError,
    ShrinkRefusedError,
    StorageError,
    TableExistsError,
)
from mp_pipeline.storage.inputs import TableData, split_data
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.loading import ProgressCallback, Staging
from mp_pipeline.storage.models import DayWindow, LoadReport, Origin, TableMetadata
from mp_pipeline.storage.sources import check_source
from mp_pipeline.storage.tables import EVENTS, TableLayout, day_table_name

_SHOWN_LINES = 3
_SHOWN_CHARACTERS = 100


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How a load is recorded, and when it is refused.

    Attributes:
        origin: Where the rows come from, and how they were selected and dated.
        owner: What the dataset belongs to, as the caller names it.
        run_id: The run, for the load log.
        expected_lines: Number of lines that the data has, if known from elsewhere.
        max_rejected_fraction: Fraction of the lines, 0 to 1, that may be rejected.
        min_kept_fraction: Fraction of the stored rows, 0 to 1, that must come again, by key.
        batch_size: Records per batch.
    """

    origin: Origin
    owner: str | None
    run_id: str | None
    expected_lines: int | None
    max_rejected_fraction: float
    min_kept_fraction: float
    batch_size: int


def check_days(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    windows: Sequence[DayWindow],
    options: LoadOptions,
) -> None:
    """Refuse days that cannot be replaced.

    Raises:
        ValueError: There are no days, or one of them twice.
        TableExistsError: A name is taken by a table or view that is not a day of the dataset, or
            the dataset belongs to another owner.
        SourceMismatchError: The database contains data of another source.
    """
    if not windows:
        raise ValueError("no days to replace")
    repeated = [day for day, n in Counter(window.day for window in windows).items() if n > 1]
    if repeated:
        raise ValueError(f"duplicate day: {repeated[0]}")
    layout = layout_of(connection)
    catalog.require_own(connection, dataset, layout.dataset_kind)
    if catalog.find_ownership(connection, dataset) is not None:
        raise TableExistsError(f"the table {dataset!r} is not split by day; rename or drop it")
    catalog.require_owner(connection, dataset, options.owner)
    for window in windows:
        table = day_table_name(dataset, window.day)
        catalog.require_own(connection, table, "BASE TABLE")
        _require_dataset(connection, table, dataset)
    check_source(connection, dataset, options.origin.source)


def check_table(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    dataset: str,
    layout: TableLayout,
    options: LoadOptions,
) -> None:
    """Refuse a table that cannot be replaced by a snapshot.

    Raises:
        TableExistsError: The name is taken by something else, or the table has another owner.
        SourceMismatchError: The database contains data of another source.
    """
    catalog.require_own(connection, name, "BASE TABLE")
    if catalog.has_days(connection, name):
        raise TableExistsError(f"{name!r} is split by day; drop its days first")
    catalog.require_owner(connection, dataset, options.owner)
    _require_dataset(connection, name, dataset)
    recorded = catalog.read_metadata(connection, name)
    if recorded is not None and recorded.type != layout.type:
        raise TableExistsError(
            f"the table {name!r} contains {recorded.type}, not {layout.type}; drop it first"
        )
    check_source(connection, dataset, options.origin.source)


def replace_days(
    connection: duckdb.DuckDBPyConnection,
    dataset: str,
    windows: Sequence[DayWindow],
    data: TableData,
    metadata: TableMetadata,
    options: LoadOptions,
) -> Iterator[LoadReport]:
    """Replace days of a dataset; the data is read once, then each ``next()`` publishes a day.

    Raises:
        ShrinkRefusedError: Days would have lost too many rows. All others are replaced first.
    """
    with explain_failure(f"loading {dataset}"), Staging(connection, EVENTS, dataset) as staging:
        insert(staging, data, options.batch_size, zone=options.origin.wall_clock_zone or "UTC")
        _check_lines(staging, f"{dataset} of {_describe_days(windows)}", options)
        staging.delete_outside(windows)
        refusals = []
        for report in _publish_days(connection, staging, dataset, windows, metadata, options):
            if report.refused:
                refusals.append(report)
            else:
                yield report
        if refusals:
            raise ShrinkRefusedError(refusals)


def replace_snapshot(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    dataset: str,
    layout: TableLayout,
    data: TableData,
    metadata: TableMetadata,
    options: LoadOptions,
) -> LoadReport:
    """Replace a table that is not split by day."""
    with explain_failure(f"loading {name}"), Staging(connection, layout, name) as staging:
        insert(staging, data, options.batch_size, zone=options.origin.wall_clock_zone or "UTC")
        _check_lines(staging, name, options)
        report = staging.publish(
            name,
            metadata,
            ownership=Ownership(dataset, day=None, owner=options.owner),
            origin=options.origin,
            run_id=options.run_id,
            replace_table=True,
            min_kept_fraction=options.min_kept_fraction,
        )
    if report.refused:
        raise ShrinkRefusedError([report])
    return report


def insert(
    staging: Staging,
    data: TableData,
    batch_size: int,
    *,
    zone: str = "UTC",
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> None:
    """Insert records or files into a staging table.

    Raises:
        ValueError: The data or ``batch_size`` is not valid, or a record (with ``strict``, also a
            line of a file) cannot be stored.
        StorageError: A file is missing or damaged.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, not a positive number of records")
    files, records = split_data(data)
    if records is None:
        staging.insert_files(files, zone=zone, strict=strict, progress=progress)
    else:
        staging.insert_records(records, batch_size=batch_size, progress=progress)


@contextmanager
def explain_failure(action: str, state: str = "nothing was changed") -> Iterator[None]:
    """Raise DuckDB's errors as StorageError, with what failed, and how the data is now."""
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(f"{action} failed, {state}: {error}") from error


def _publish_days(
    connection: duckdb.DuckDBPyConnection,
    staging: Staging,
    dataset: str,
    windows: Sequence[DayWindow],
    metadata: TableMetadata,
    options: LoadOptions,
) -> Iterator[LoadReport]:
    if len(windows) == 1:
        yield _publish_day(staging, dataset, windows[0], metadata, options)
        return
    staging.sort_by_time()
    for number, window in enumerate(windows):
        with Staging(connection, EVENTS, dataset) as day:
            if number == 0:
                day.account_for_other_lines(staging)
            day.insert_window(staging, window)
            report = _publish_day(day, dataset, window, metadata, options)
        yield report


def _publish_day(
    staging: Staging,
    dataset: str,
    window: DayWindow,
    metadata: TableMetadata,
    options: LoadOptions,
) -> LoadReport:
    day = window.day.isoformat()
    return staging.publish(
        day_table_name(dataset, window.day),
        replace(metadata, from_date=day, to_date=day),
        ownership=Ownership(dataset, window.day, options.owner),
        origin=options.origin,
        run_id=options.run_id,
        replace_table=True,
        min_kept_fraction=options.min_kept_fraction,
    )


def _require_dataset(connection: duckdb.DuckDBPyConnection, table: str, dataset: str) -> None:
    """Refuse to replace a table that belongs to another dataset."""
    ownership = catalog.find_ownership(connection, table)
    if ownership is None or not layout_of(connection).existing(connection, [table]):
        return
    if ownership.dataset.lower() != dataset.lower():
        raise TableExistsError(
            f"the table {table!r} belongs to {ownership.dataset!r}, not to {dataset!r}; rename or "
            "drop it"
        )


def _describe_days(windows: Sequence[DayWindow]) -> str:
    first, last = min(window.day for window in windows), max(window.day for window in windows)
    return f"{first}" if first == last else f"{first} to {last}"


def _check_lines(staging: Staging, name: str, options: LoadOptions) -> None:
    """Refuse a load with an unexpected number of lines, or with too many rejected ones."""
    expected = options.expected_lines
    if expected is not None and staging.lines_read != expected:
        raise StorageError(
            f"{name}: expected {expected} lines, read {staging.lines_read}: the file changed since "
            "it was downloaded. The existing data is kept."
        )
    fraction = staging.rejected / max(staging.lines_read, 1)
    allowed = options.max_rejected_fraction
    if not staging.rejected or (staging.inserted and fraction <= allowed):
        return
    problem = f"none of {staging.rejected:,} lines could be stored"
    advice = ""
    if staging.inserted:
        problem = (
            f"{staging.rejected:,} of {staging.lines_read:,} lines ({fraction:.2%}) were rejected, "
            f"more than the {allowed:.2%} allowed"
        )
        advice = " To allow more, raise max_rejected_fraction."
    examples = "; ".join(
        f"{'' if file is None else f'{file}, '}line {number}: {reason}: {line}"
        for file, number, reason, line in staging.first_rejected(_SHOWN_LINES, _SHOWN_CHARACTERS)
    )
    raise RejectedLinesError(f"{name}: {problem}; {examples}. The existing data is kept.{advice}")
