"""Checks for anomalous row counts of events per day and of snapshots. They only warn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import dagster as dg

from mp_pipeline.checks.common import database_check, nothing_loaded, run_days
from mp_pipeline.days import format_names
from mp_pipeline.io_manager import table_name
from mp_pipeline.metadata_tables import metadata_table
from mp_pipeline.project import Project
from mp_pipeline.storage import LoadReport, StorageEngine

_BASELINE_WEEKS = 8
_MIN_BASELINE_DAYS = 2
_MIN_FRACTION, _MAX_FRACTION = 0.5, 2.0  # of the baseline
_DAYS_WITHOUT_RUN = 7  # latest days to judge when the check runs by itself
_MAX_LOST_FRACTION = 0.05  # of a day's rows, in its latest load
_MAX_CHANGE = 0.2  # fraction by which the number of rows may change between snapshots
_SMALL_CHANGE = 2  # rows by which it may always change
_BASELINE_SNAPSHOTS = 8


def volume(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a day has about as many rows as the same weekday in past weeks.

    A day is anomalous, too, if its latest load lost rows that it had before. The check judges the
    days of its run, and the latest seven days when it runs by itself.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has daily partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        rows = {day.day: day.row_count for day in engine.list_days(dataset)}
        if not rows:
            return nothing_loaded(dataset)
        to_judge = run_days(context) or list(rows)[-_DAYS_WITHOUT_RUN:]
        latest = {load.day: load for load in engine.list_loads(dataset)}
        days = [_compare(rows, day, latest.get(day)) for day in to_judge]
        anomalous = [day for day in days if day.is_anomalous]
        compared = sum(day.baseline is not None for day in days)
        return dg.AssetCheckResult(
            passed=not anomalous,
            description=format_names([str(day) for day in anomalous])
            or f"{compared} of {len(days)} days have normal row counts; the others have no "
            f"baseline: fewer than {_MIN_BASELINE_DAYS} of the same weekdays in the "
            f"{_BASELINE_WEEKS} weeks before are loaded",
            metadata={
                "anomalous": len(anomalous),
                "compared": compared,
                "days": metadata_table(
                    {
                        "day": str,
                        "rows": int,
                        "baseline": str,
                        "compared_with": int,
                        "lost": int,
                        "ok": bool,
                    },
                    [
                        (
                            str(day.day),
                            day.rows,
                            "" if day.baseline is None else f"{day.baseline:.0f}",
                            day.compared_with,
                            day.lost,
                            not day.is_anomalous,
                        )
                        for day in sorted(days, key=lambda day: not day.is_anomalous)
                    ],
                ),
            },
        )

    return database_check(
        project,
        asset,
        "volume",
        f"A day has more than {_MIN_FRACTION:.0%} and less than {_MAX_FRACTION:.0%} of the rows of "
        f"the same weekday in the {_BASELINE_WEEKS} weeks before (the median of at least "
        f"{_MIN_BASELINE_DAYS} days), and its latest load lost at most {_MAX_LOST_FRACTION:.0%} of "
        f"the rows that it had (or {_SMALL_CHANGE}).",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def count_change(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a snapshot has about as many rows as the previous ones.

    It is compared with the previous one and, so that many small losses show, with the median of the
    last eight. The check judges each of the asset's tables.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has no partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        loads: dict[str, list[LoadReport]] = {}
        for load in engine.list_loads(dataset):
            previous = loads.get(load.table_name, [])[-_BASELINE_SNAPSHOTS:]
            loads[load.table_name] = [*previous, load]
        if not loads:
            return nothing_loaded(dataset)
        changes = [
            _Change(table, [load.rows_stored for load in latest]) for table, latest in loads.items()
        ]
        changed = [change for change in changes if change.is_anomalous]
        return dg.AssetCheckResult(
            passed=not changed,
            description=str(changes[0])
            if len(changes) == 1
            else format_names([f"{change.table}: {change}" for change in changed or changes]),
            metadata={
                "snapshots": metadata_table(
                    {"table": str, "loaded": str, "rows": int},
                    [
                        (table, f"{load.finished_at:%Y-%m-%d %H:%M:%S} UTC", load.rows_stored)
                        for table, latest in loads.items()
                        for load in reversed(latest)
                    ],
                )
            },
        )

    return database_check(
        project,
        asset,
        "count_change",
        f"The number of rows changed by at most {_MAX_CHANGE:.0%} (or {_SMALL_CHANGE} rows) since "
        "the previous snapshot, and is not that much lower than the median of the "
        f"{_BASELINE_SNAPSHOTS} before.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


@dataclass(frozen=True)
class _Change:
    """The rows of the latest snapshots of a table, oldest first; at least one."""

    table: str
    rows: Sequence[int]

    @property
    def is_anomalous(self) -> bool:
        *before, after = self.rows
        return bool(before) and (
            not _is_small(after - before[-1], before[-1]) or self._is_below_baseline
        )

    @property
    def _is_below_baseline(self) -> bool:
        *before, after = self.rows
        baseline = median(before)
        return after < baseline and not _is_small(after - baseline, baseline)

    def __str__(self) -> str:
        *before, after = self.rows
        if not before:
            return f"{after:,} rows, no previous snapshot to compare with"
        text = f"{after:,} rows, {before[-1]:,} in the previous snapshot"
        if before[-1]:
            text += f": {(after - before[-1]) / before[-1]:+.0%}"
        if self._is_below_baseline and len(before) > 1:
            text += f"; {median(before):,.0f} in the median of the last {len(before)}"
        return text


def _is_small(change: float, before: float) -> bool:
    return abs(change) <= max(_MAX_CHANGE * before, _SMALL_CHANGE)


@dataclass(frozen=True)
class _Day:
    """The rows of a day, and of the same weekday in the weeks before.

    Attributes:
        day: The day.
        rows: Its rows.
        baseline: Median rows of the days compared with; None if they are too few.
        compared_with: Number of days compared with.
        rows_before: Rows before the day's latest load; 0 for its first one.
        lost: How many of these the latest load did not contain.
    """

    day: date
    rows: int
    baseline: float | None
    compared_with: int
    rows_before: int
    lost: int

    @property
    def is_anomalous(self) -> bool:
        return self.has_lost or not (
            self.baseline is None
            or self.rows == self.baseline
            or _MIN_FRACTION * self.baseline < self.rows < _MAX_FRACTION * self.baseline
        )

    @property
    def has_lost(self) -> bool:
        return self.lost > max(_MAX_LOST_FRACTION * self.rows_before, _SMALL_CHANGE)

    def __str__(self) -> str:
        if self.has_lost:
            return f"{self.day} lost {self.lost:,} of {self.rows_before:,} rows in its latest load"
        return (
            f"{self.day} has {self.rows:,} rows; a {self.day:%A} normally has {self.baseline:,.0f}"
        )


def _compare(rows: Mapping[date, int], day: date, load: LoadReport | None) -> _Day:
    weeks = (day - timedelta(weeks=week) for week in range(1, _BASELINE_WEEKS + 1))
    before = [rows[other] for other in weeks if other in rows]
    baseline = median(before) if len(before) >= _MIN_BASELINE_DAYS else None
    rows_before, lost = (load.rows_before or 0, load.lost or 0) if load else (0, 0)
    return _Day(day, rows.get(day, 0), baseline, len(before), rows_before, lost)
