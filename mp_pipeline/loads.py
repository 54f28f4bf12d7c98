"""Loading one output: from records, files or downloads to reports of what was stored."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from mp_pipeline.days import ONE_DAY, day_window, days_between, export_dates, format_days
from mp_pipeline.load_metadata import describe_load, load_metadata
from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.snapshots import Snapshot, snapshot_of_profiles
from mp_pipeline.storage import (
    DayWindow,
    LoadReport,
    RejectedLinesError,
    ShrinkRefusedError,
    StorageEngine,
    TableData,
    TableMetadata,
    TableType,
)

_REPLACE_ANYWAY = (
    "To replace it anyway, run it with allow_shrink: true (run config in the launchpad, or "
    "mp-pipeline backfill --allow-shrink). The setting is MP_PIPELINE_MIN_KEPT_FRACTION."
)

Downloaded = EventsDownload | ProfilesDownload | Snapshot
"""What an asset may return that was downloaded."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where an output is stored, and for which days.

    Attributes:
        name: The table or, with days, the view over the day tables. The tables of snapshots with
            a suffix start with it.
        owner: The asset key, which the catalog records as the owner of the name.
        days: The run's days in ascending order; None for an asset without partitions.
        timezone: The time zone that sets day boundaries.
        wall_clock_zone: The zone whose wall clock the export's ``time`` shows; ``UTC`` if it is
            UTC.
        max_rejected_fraction: Fraction of the lines that may be rejected.
        min_kept_fraction: Fraction of the stored rows that must come again.
        run_id: The Dagster run, for the load log.
    """

    name: str
    owner: str
    days: tuple[date, ...] | None
    timezone: str
    wall_clock_zone: str
    max_rejected_fraction: float
    min_kept_fraction: float
    run_id: str

    def table(self, suffix: str) -> str:
        """Return the name of a table without days."""
        return f"{self.name}_{suffix}" if suffix else self.name

    def window(self, day: date) -> DayWindow:
        """Return when one of the days begins and ends."""
        return day_window(day, ZoneInfo(self.timezone))

    def windows_covered_by(self, download: EventsDownload) -> list[DayWindow]:
        """Return the run's days that a download covers completely.

        Raises:
            ValueError: It covers no day completely, or days outside the run's partitions.
        """
        # Days of a zone other than UTC begin or end on the date before or after.
        dates = days_between(download.from_date - ONE_DAY, download.to_date + ONE_DAY)
        windows = []
        for window in map(self.window, dates):
            needed = export_dates(window, self.wall_clock_zone)
            if download.from_date <= needed.first and needed.last <= download.to_date:
                windows.append(window)
        if not windows:
            raise ValueError(
                f"the export of {download.from_date} to {download.to_date} does not cover any full "
                f"day in {self.timezone}: its dates are UTC dates; export all dates that the day "
                "touches"
            )
        outside = [window.day for window in windows if window.day not in (self.days or ())]
        if outside:
            raise ValueError(
                f"the download covers {format_days(outside)}, outside this run's partitions"
            )
        return windows


@dataclass(frozen=True)
class Load:
    """A finished load.

    Attributes:
        report: What the load did.
        metadata: What the UI shows of it.
    """

    report: LoadReport
    metadata: dict[str, Any]

    @property
    def day(self) -> date | None:
        """The day; None for a table that is not split by day."""
        return self.report.day

    @property
    def summary(self) -> str:
        """The load as one line of text."""
        return describe_load(self.report)


def load_downloads(
    downloads: Iterable[Downloaded], target: Target, duckdb: MixpanelDuckDBResource
) -> Generator[Load, None, None]:
    """Load downloads one after another, and delete each when it is loaded or has failed.

    The database is open only while a download is loaded.

    Args:
        downloads: The downloads; may be lazy.
        target: Where they are stored.
        duckdb: The database.

    Yields:
        A load for each day; for an asset without partitions, one load for each table.

    Raises:
        ValueError: A download does not fit the target, or repeats a day or a table.
        DamagedDownloadError: A file changed since it was downloaded.
        ShrinkRefusedError: Days or tables would have lost too many rows. It is raised when all
            downloads are loaded.
        StorageError: See ``StorageEngine.replace_events_days``.
    """
    loaded: set[date | str] = set()
    refusals: list[LoadReport] = []
    for item in downloads:
        download = snapshot_of_profiles(item) if isinstance(item, ProfilesDownload) else item
        try:
            contents = _contents(download, target)
            if repeated := contents & loaded:
                found = format_days(sorted(each for each in repeated if isinstance(each, date)))
                raise ValueError(
                    f"the asset returned more than one download of {found or 'the table'}"
                )
            loaded |= contents
            download.verify()
            with duckdb.get_engine() as engine:
                for report in _store_download(engine, target, download):
                    yield Load(report, load_metadata(engine, report, download))
        except ShrinkRefusedError as error:
            refusals += error.refusals
        finally:
            download.delete()
    if refusals:
        raise ShrinkRefusedError(refusals, _REPLACE_ANYWAY)


def load_data(
    data: TableData, table_type: TableType, target: Target, duckdb: MixpanelDuckDBResource
) -> Generator[Load, None, None]:
    """Load records, or files of JSON Lines.

    Args:
        data: The records (dicts of the data model), or paths.
        table_type: Whether they are events or profiles.
        target: Where they are stored.
        duckdb: The database.

    Yields:
        A load for each day; for an asset without partitions, one load.

    Raises:
        ValueError: A record is not valid.
        StorageError: See ``StorageEngine.replace_events_days``.
    """
    windows = None if target.days is None else [target.window(day) for day in target.days]
    metadata = TableMetadata(table_type, datetime.now(UTC))
    with duckdb.get_engine() as engine:
        for report in _store(engine, target, windows, data, metadata):
            yield Load(report, load_metadata(engine, report))


def _contents(download: EventsDownload | Snapshot, target: Target) -> set[date | str]:
    """Return the days that a download covers or, without days, the table that it replaces."""
    if isinstance(download, EventsDownload):
        if target.days is None:
            return {target.name}
        return {window.day for window in target.windows_covered_by(download)}
    if target.days is not None:
        raise ValueError(f"{target.owner} has partitions, but {download.type} have no days")
    return {target.table(download.suffix)}


def _store_download(
    engine: StorageEngine, target: Target, download: EventsDownload | Snapshot
) -> Iterator[LoadReport]:
    now = datetime.now(UTC)
    options: dict[str, Any] = {"source": download.source, "expected_lines": download.lines}
    if isinstance(download, EventsDownload):
        metadata = TableMetadata(
            "events",
            now,
            download.from_date.isoformat(),
            download.to_date.isoformat(),
            filter_events=None if download.events is None else list(download.events),
            filter_where=download.where,
        )
        windows = None if target.days is None else target.windows_covered_by(download)
        return _store(engine, target, windows, download.paths, metadata, **options)
    properties = download.properties
    metadata = TableMetadata(
        download.type,
        now,
        filter_where=download.where,
        filter_properties=None if properties is None else list(properties),
    )
    return _store(
        engine,
        replace(
            target,
            wall_clock_zone=download.wall_clock_zone,
            min_kept_fraction=0 if download.may_shrink else target.min_kept_fraction,
        ),
        None,
        download.files,
        metadata,
        suffix=download.suffix,
        **options,
    )


def _store(
    engine: StorageEngine,
    target: Target,
    windows: list[DayWindow] | None,
    data: TableData,
    metadata: TableMetadata,
    *,
    suffix: str = "",
    source: str | None = None,
    expected_lines: int | None = None,
) -> Iterator[LoadReport]:
    options: dict[str, Any] = {
        "source": source,
        "timezone": target.timezone,
        "wall_clock_zone": target.wall_clock_zone,
        "owner": target.owner,
        "run_id": target.run_id,
        "expected_lines": expected_lines,
        "max_rejected_fraction": target.max_rejected_fraction,
        "min_kept_fraction": target.min_kept_fraction,
    }
    try:
        if windows is None:
            table = target.table(suffix)
            yield engine.replace_table(table, data, metadata, dataset=target.name, **options)
        else:
            yield from engine.replace_events_days(target.name, windows, data, metadata, **options)
    except RejectedLinesError as error:
        raise RejectedLinesError(
            f"{error} The setting is MP_PIPELINE_MAX_REJECTED_FRACTION."
        ) from error
