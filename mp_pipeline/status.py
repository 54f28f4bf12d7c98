"""What a database contains: its days, months, snapshots and refused loads, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mp_pipeline.days import ONE_DAY, Span, days_between, find_gaps, format_days
from mp_pipeline.origins import describe_filters, describe_origin, group_by_origin
from mp_pipeline.storage import (
    DayInfo,
    LakeInfo,
    LoadReport,
    Reconciliation,
    StorageEngine,
    TableInfo,
)

_AGREES = ("equal", "close")  # outcomes of a comparison with Mixpanel's counts
_MAX_DAYS_LISTED = 62  # more days are summed up by month


@dataclass(frozen=True)
class Day:
    """A loaded day.

    Attributes:
        info: The day, its table, and how it was loaded.
        problems: Why the table does not agree with what was recorded; empty if it does.
        refused: Why the latest reload was refused; None if it was not.
        reconciliation: The latest comparison with Mixpanel's own counts; None if there was none.
        reconciled: Its outcome; ``outdated`` if rows of the day were loaded or erased since, empty
            if there was no comparison.
    """

    info: DayInfo
    problems: Sequence[str]
    refused: str | None
    reconciliation: Reconciliation | None
    reconciled: str

    @property
    def anomalies(self) -> list[str]:
        """What a user should know, one line each."""
        lines = list(self.problems)
        if self.refused is not None:
            lines.append(f"the latest reload was refused: {self.refused}")
        if self.reconciliation is not None and self.reconciled in ("warning", "error"):
            lines.append(_describe(self.reconciliation))
        return lines


@dataclass(frozen=True)
class Snapshot:
    """A table that is not split by day.

    Attributes:
        info: The table.
        filters: The filters of its load as text; empty for none.
    """

    info: TableInfo
    filters: str


@dataclass(frozen=True)
class Status:
    """What a database contains.

    Attributes:
        database: The file.
        days: The loaded days in ascending order.
        missing: The days that are missing in between.
        snapshots: The other tables, by name.
        not_loaded: Names of assets that are snapshots and that were never loaded.
        lake: The snapshots and files of a lake; None for a DuckDB file.
    """

    database: str
    days: Sequence[Day]
    missing: Sequence[Span] = field(default=())
    snapshots: Sequence[Snapshot] = field(default=())
    not_loaded: Sequence[str] = field(default=())
    lake: LakeInfo | None = None


@dataclass(frozen=True)
class DayReport:
    """Everything that is known about one day.

    Attributes:
        day: The day, as ``Status`` shows it; None if it is not loaded.
        loads: Its loads, oldest first.
        refused: The loads of it that were refused, oldest first.
        rejected: Reasons of the lines that its load rejected, with their numbers.
    """

    day: Day | None
    loads: Sequence[LoadReport]
    refused: Sequence[LoadReport]
    rejected: Sequence[tuple[str, int]]


def read_status(
    engine: StorageEngine, database: str, dataset: str, snapshot_names: Sequence[str]
) -> Status:
    """Read what a database contains.

    Args:
        engine: The database, open.
        database: Its file, or the name of the lake.
        dataset: The view over the day tables.
        snapshot_names: Names of the assets that are snapshots.
    """
    days = _read_days(engine, dataset, engine.list_days(dataset))
    tables = [table for table in engine.list_tables() if table.type != "events"]
    loads = [count.last_load for count in engine.count_rows([table.name for table in tables])]
    loaded = {table.type for table in tables}
    return Status(
        database=database,
        days=days,
        missing=find_gaps([day.info.day for day in days]),
        snapshots=[
            Snapshot(table, "" if load is None else describe_filters(load.origin))
            for table, load in zip(tables, loads, strict=True)
        ],
        not_loaded=[name for name in snapshot_names if name not in loaded],
        lake=engine.read_lake_info(),
    )


def read_day(engine: StorageEngine, dataset: str, day: date) -> DayReport:
    """Read everything that is known about one day.

    Args:
        engine: The database, open.
        dataset: The view over the day tables.
        day: The day.
    """
    found = [info for info in engine.list_days(dataset) if info.day == day]
    return DayReport(
        day=next(iter(_read_days(engine, dataset, found)), None),
        loads=[load for load in engine.list_loads(dataset) if load.day == day],
        refused=[load for load in engine.list_loads(dataset, refused=True) if load.day == day],
        rejected=engine.count_rejected_lines(found[0].table_name) if found else [],
    )


def print_status(console: Console, status: Status) -> None:
    """Print the days, or the months of a long history, and the snapshots."""
    title = escape(f"events in {status.database}")
    if len(status.days) > _MAX_DAYS_LISTED:
        console.print(_month_table(status, title))
    else:
        console.print(_day_table(status, title))
    rows = sum(day.info.row_count for day in status.days)
    missing = sum(gap.days for gap in status.missing)
    console.print(
        f"{counted(len(status.days), 'day')}, {rows:,} rows, {missing} missing in between"
    )
    if len(status.days) > _MAX_DAYS_LISTED and status.missing:
        gaps = ", ".join(map(str, status.missing))
        console.print(f"[bold red]Missing:[/] {gaps}", soft_wrap=True)
    for day in status.days:
        for anomaly in day.anomalies:
            console.print(f"[bold red]{day.info.day}:[/] {escape(anomaly)}", soft_wrap=True)
    groups = group_by_origin([day.info for day in status.days])
    if len(groups) > 1:
        console.print("[bold red]Days were loaded with different settings:[/]")
    for origin, days in groups.items():
        console.print(escape(f"{format_days(days)}: {describe_origin(origin)}"), soft_wrap=True)
    for table in status.snapshots:
        filters = table.filters and f" ({table.filters})"
        fetched = f"fetched {table.info.fetched_at:%Y-%m-%d %H:%M:%S} UTC{filters}"
        text = f"{table.info.name}: {table.info.row_count:,} rows, {fetched}"
        console.print(escape(text), soft_wrap=True)
    for name in status.not_loaded:
        console.print(f"{name}: not loaded")
    if lake := status.lake:
        since = f" since {lake.oldest:%Y-%m-%d %H:%M:%S} UTC" if lake.oldest else ""
        console.print(
            f"lake: {counted(lake.snapshots, 'snapshot')}{since}, "
            f"{counted(lake.files, 'file')}, {lake.bytes:,} bytes",
            soft_wrap=True,
        )


def print_day(console: Console, day: date, report: DayReport) -> None:
    """Print everything that is known about one day."""
    if report.day is None:
        console.print(f"{day} is not loaded")
    else:
        info = report.day.info
        console.print(f"{day}: {info.row_count:,} rows in {info.table_name}")
        console.print(escape(describe_origin(info.origin)), soft_wrap=True)
        if compared := report.day.reconciliation:
            checked = f"{compared.checked_at:%Y-%m-%d %H:%M:%S} UTC"
            text = f"reconciled: {report.day.reconciled}: {_describe(compared)}, checked {checked}"
            console.print(escape(text), soft_wrap=True)
        else:
            console.print("reconciled: never compared with Mixpanel's counts")
        for anomaly in report.day.anomalies:
            console.print(f"[bold red]Problem:[/] {escape(anomaly)}", soft_wrap=True)
    table = Table("loaded (UTC)", "rows", "gained", "lost", "duplicates", "rejected", "outside")
    for column in table.columns[1:]:
        column.justify = "right"
    for load in report.loads:
        counts = (load.rows_stored, load.gained, load.lost)
        lines = (load.duplicates, load.rejected, load.outside_day)
        table.add_row(
            f"{load.finished_at:%Y-%m-%d %H:%M:%S}",
            *("" if count is None else f"{count:,}" for count in (*counts, *lines)),
        )
    if report.loads:
        console.print(table)
    for load in report.loads:
        at = f"{load.finished_at:%Y-%m-%d %H:%M:%S} UTC"
        if load.suppressed:
            suppressed = counted(load.suppressed, "line")
            console.print(f"suppressed at {at}, because their users were erased: {suppressed}")
        if load.erased:
            console.print(f"erased since the load at {at}: {counted(load.erased, 'line')}")
    for load in report.refused:
        text = f"refused at {load.finished_at:%Y-%m-%d %H:%M:%S} UTC: {load.refused}"
        console.print(escape(text), soft_wrap=True)
    for reason, rejected in report.rejected:
        console.print(f"rejected: {counted(rejected, 'line')}: {escape(reason)}", soft_wrap=True)


def _read_days(engine: StorageEngine, dataset: str, infos: Sequence[DayInfo]) -> list[Day]:
    counts = engine.count_rows([info.table_name for info in infos])
    stored = {load.day: load.finished_at for load in engine.list_loads(dataset)}
    refused = {
        load.day: load.refused
        for load in engine.list_loads(dataset, refused=True)
        if load.day in stored and load.finished_at > stored[load.day]
    }
    compared = {found.day: found for found in engine.list_reconciliations(dataset)}
    return [
        Day(
            info,
            count.problems,
            refused.get(info.day),
            reconciliation=compared.get(info.day),
            reconciled=_reconciled(compared.get(info.day), info, stored.get(info.day)),
        )
        for info, count in zip(infos, counts, strict=True)
    ]


def _reconciled(found: Reconciliation | None, info: DayInfo, loaded_at: datetime | None) -> str:
    if found is None:
        return ""
    is_current = (found.loaded_at, found.stored) == (loaded_at, info.row_count)
    return found.outcome if is_current else "outdated"


def _describe(found: Reconciliation) -> str:
    text = f"{found.stored:,} events are stored, Mixpanel counts {found.counted:,}"
    if found.event_name is not None:
        text += f" ({found.event_name} {found.difference:+,})"
    return text


def _day_table(status: Status, title: str) -> Table:
    table = Table("day", "rows", "fetched (UTC)", "reconciled", title=title)
    table.columns[1].justify = "right"
    gaps = {gap.last + ONE_DAY: gap for gap in status.missing}
    for day in status.days:
        if gap := gaps.get(day.info.day):
            missing = f"{counted(gap.days, 'day')} missing"
            table.add_row(f"[bold red]{gap}[/]", f"[bold red]{missing}[/]")
        fetched = f"{day.info.fetched_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(str(day.info.day), f"{day.info.row_count:,}", fetched, day.reconciled)
    return table


def _month_table(status: Status, title: str) -> Table:
    table = Table("month", "days", "rows", "missing", "problems", "reconciled", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    loaded = {day.info.day: day for day in status.days}
    all_days = days_between(min(loaded), max(loaded))
    for month, of_month in groupby(all_days, key=lambda day: f"{day:%Y-%m}"):
        days = list(of_month)
        found = [loaded[day] for day in days if day in loaded]
        counts = (
            len(found),
            sum(day.info.row_count for day in found),
            len(days) - len(found),
            sum(bool(day.anomalies) for day in found),
            sum(day.reconciled in _AGREES for day in found),
        )
        table.add_row(month, *(f"{count:,}" for count in counts))
    return table


def counted(number: int, noun: str) -> str:
    """Return a number with a noun: ``1 day``, ``2 days``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
