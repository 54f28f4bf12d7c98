"""Checks of the amounts: as many events a day, and as many profiles, as usual. They only warn."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median

import dagster as dg

from mp_pipeline.checks.check import database_check, nothing_loaded, run_days, table_of
from mp_pipeline.io_manager import table_name
from mp_pipeline.partitions import listed
from mp_pipeline.storage import StorageEngine

_WEEKS = 4  # before a day, that it is compared with
_FEWEST = 2  # days to compare with, for a verdict
_LEAST, _MOST = 0.5, 2.0  # of the usual rows
_DAYS_ALONE = 7  # the last days, judged when the check runs alone
_CHANGE = 0.2  # share by which the number of profiles may change between two snapshots


def volume(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a day has about as many rows as the same weekday of past weeks.

    It judges the days of its run, and the last seven that are there when it runs alone.

    Args:
        asset: what is judged; has a partition a day.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        rows = {day.day: day.row_count for day in engine.list_days(dataset)}
        if not rows:
            return nothing_loaded(dataset)
        days = [_compared(rows, day) for day in run_days(context) or list(rows)[-_DAYS_ALONE:]]
        unusual = [day for day in days if day.is_unusual]
        comparable = sum(day.usual is not None for day in days)
        return dg.AssetCheckResult(
            passed=not unusual,
            description=listed([str(day) for day in unusual])
            or f"{comparable} of {len(days)} days compared and as usual; the others have too "
            f"little to compare with: fewer than {_FEWEST} of the {_WEEKS} same weekdays before",
            metadata={
                "unusual": len(unusual),
                "compared": comparable,
                "days": table_of(
                    {"day": str, "rows": int, "usual_rows": str, "compared_with": int, "ok": bool},
                    [
                        (
                            str(day.day),
                            day.rows,
                            "" if day.usual is None else f"{day.usual:.0f}",
                            day.compared_with,
                            not day.is_unusual,
                        )
                        for day in sorted(days, key=lambda day: not day.is_unusual)
                    ],
                ),
            },
        )

    return database_check(
        asset,
        "volume",
        f"A day has {_LEAST:.0%} to {_MOST:.0%} of the rows of the same weekday in the {_WEEKS} "
        f"weeks before (the median of those that are there, {_FEWEST} at least).",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


def count_change(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Return the check that a snapshot has about as many rows as the one before.

    Args:
        asset: what is judged; has no partitions.
    """
    dataset = table_name(asset.key)

    def check(engine: StorageEngine, _: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        last_two = engine.list_loads(dataset)[-2:]
        if not last_two:
            return nothing_loaded(dataset)
        before, after = last_two[0].rows_stored, last_two[-1].rows_stored
        change = (after - before) / before if before else 0.0
        return dg.AssetCheckResult(
            passed=abs(change) <= _CHANGE,
            description=f"{after:,} rows, {before:,} in the snapshot before: {change:+.0%}"
            if len(last_two) == 2
            else f"{after:,} rows, and no snapshot before to compare with",
            metadata={
                "snapshots": table_of(
                    {"loaded": str, "rows": int},
                    [
                        (f"{load.finished_at:%Y-%m-%d %H:%M:%S} UTC", load.rows_stored)
                        for load in reversed(last_two)
                    ],
                )
            },
        )

    return database_check(
        asset,
        "count_change",
        f"The number of rows has changed by {_CHANGE:.0%} at most since the last snapshot.",
        check,
        severity=dg.AssetCheckSeverity.WARN,
    )


@dataclass(frozen=True)
class _Day:
    """A day beside the same weekday of the weeks before."""

    day: date
    rows: int
    usual: float | None
    """The median of the days that it is compared with, None if they are too few."""
    compared_with: int

    @property
    def is_unusual(self) -> bool:
        return self.usual is not None and not (
            _LEAST * self.usual <= self.rows <= _MOST * self.usual
        )

    def __str__(self) -> str:
        return f"{self.day} has {self.rows:,} rows, usual on a {self.day:%A} are {self.usual:,.0f}"


def _compared(rows: Mapping[date, int], day: date) -> _Day:
    weeks = (day - timedelta(weeks=week) for week in range(1, _WEEKS + 1))
    before = [rows[other] for other in weeks if other in rows]
    usual = median(before) if len(before) >= _FEWEST else None
    return _Day(day, rows.get(day, 0), usual, len(before))
