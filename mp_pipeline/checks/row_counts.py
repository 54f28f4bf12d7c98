"""Checks for anomalous row counts of events per day and of snapshots. They only warn."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import dagster as dg

from mp_pipeline.checks.common import database_check, metadata_table, nothing_loaded, run_days
from mp_pipeline.days import format_names
from mp_pipeline.io_manager import table_name
from mp_pipeline.project import Project
from mp_pipeline.storage import LoadReport, StorageEngine

_BASELINE_WEEKS = 4
_MIN_BASELINE_DAYS = 2
_MIN_FRACTION, _MAX_FRACTION = 0.5, 2.0  # of the baseline
_DAYS_WITHOUT_RUN = 7  # latest days to judge when the check runs by itself
_MAX_CHANGE = 0.2  # fraction by which the number of rows may change between snapshots
_SMALL_CHANGE = 2  # rows by which it may always change


def volume(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a day has about as many rows as the same weekday in past weeks.

    It judges the days of its run, and the latest seven days when it runs by itself.

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
        days = [_compare(rows, day) for day in to_judge]
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
                    {"day": str, "rows": int, "baseline": str, "compared_with": int, "ok": bool},
                    [
                        (
                            str(day.day),
                            day.rows,
                            "" if day.baseline is None else f"{day.baseline:.0f}",
                            day.compared_with,
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
        f"A day has {_MIN_FRACTION:.0%} to {_MAX_FRACTION:.0%} of the rows of the same weekday in "
        f"the {_BASELINE_WEEKS} weeks before (the median of at least {_MIN_BASELINE_DAYS} days).",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def count_change(project: Project, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a snapshot has about as many rows as the previous one.

    It judges each of the asset's tables.

    Args:
        project: The project that the asset belongs to.
        asset: The asset to judge; it has no partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        loads: dict[str, list[LoadReport]] = {}
        for load in engine.list_loads(dataset):
            loads[load.table_name] = [*loads.get(load.table_name, [])[-1:], load]
        if not loads:
            return nothing_loaded(dataset)
        changes = [_Change(table, last_two[0], last_two[-1]) for table, last_two in loads.items()]
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
                        for table, last_two in loads.items()
                        for load in reversed(last_two)
                    ],
                )
            },
        )

    return database_check(
        project,
        asset,
        "count_change",
        f"The number of rows changed by at most {_MAX_CHANGE:.0%} (or {_SMALL_CHANGE} rows) since "
        "the previous snapshot.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


@dataclass(frozen=True)
class _Change:
    """The latest two loads of a table; twice the same one if it is the only one."""

    table: str
    before: LoadReport
    after: LoadReport

    @property
    def is_anomalous(self) -> bool:
        before, after = self.before.rows_stored, self.after.rows_stored
        allowed = max(_MAX_CHANGE * before, _SMALL_CHANGE) if before else after
        return abs(after - before) > allowed

    def __str__(self) -> str:
        before, after = self.before.rows_stored, self.after.rows_stored
        if self.before is self.after:
            return f"{after:,} rows, no previous snapshot to compare with"
        change = (after - before) / before if before else 0.0
        return f"{after:,} rows, {before:,} in the previous snapshot: {change:+.0%}"


@dataclass(frozen=True)
class _Day:
    """The rows of a day, and of the same weekday in the weeks before.

    Attributes:
        day: The day.
        rows: Its rows.
        baseline: Median rows of the days compared with; None if they are too few.
        compared_with: Number of days compared with.
    """

    day: date
    rows: int
    baseline: float | None
    compared_with: int

    @property
    def is_anomalous(self) -> bool:
        return self.baseline is not None and not (
            _MIN_FRACTION * self.baseline <= self.rows <= _MAX_FRACTION * self.baseline
        )

    def __str__(self) -> str:
        return (
            f"{self.day} has {self.rows:,} rows; a {self.day:%A} normally has {self.baseline:,.0f}"
        )


def _compare(rows: Mapping[date, int], day: date) -> _Day:
    weeks = (day - timedelta(weeks=week) for week in range(1, _BASELINE_WEEKS + 1))
    before = [rows[other] for other in weeks if other in rows]
    baseline = median(before) if len(before) >= _MIN_BASELINE_DAYS else None
    return _Day(day, rows.get(day, 0), baseline, len(before))
