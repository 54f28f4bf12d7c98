"""The command line, ``mp-pipeline``: load days, check the set-up, see what is there.

Exit codes: 0 done, 1 something failed, 2 wrong usage.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from mp_pipeline.failures import failed_checks, unwrapped, words
from mp_pipeline.sample.command import sample
from mp_pipeline.settings import CREDENTIALS, Settings, SettingsError, load_settings

if TYPE_CHECKING:
    import dagster as dg

    from mp_pipeline.storage import LoadReport

_DEFAULT_DAYS = 7
_CHECK_LOCK_TIMEOUT = 5.0  # seconds
_IMPATIENT = {
    "max_attempts": 1,
    "read_timeout": 30.0,
    "max_retry_after_seconds": 0.0,
    "max_rate_limit_wait_seconds": 5.0,
}
_WAITING_LOGGER = "mp_pipeline.mixpanel.rate_limits"
_INTERRUPTED = ("DagsterExecutionInterruptedError", "KeyboardInterrupt")
_NO_ACCESS = "AuthenticationError"

console = Console(highlight=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mp-pipeline")
def main() -> None:
    """Mixpanel's events and user profiles in DuckDB, run by Dagster."""


main.add_command(sample)


@main.command()
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option(
    "--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day. [default: yesterday]"
)
@click.option("--profiles/--no-profiles", default=True, help="Load the user profiles too.")
def backfill(first: datetime | None, last: datetime | None, profiles: bool) -> None:
    """Load days of events, by default the last 7 complete ones, and the user profiles.

    The days run through Dagster in one run; with DAGSTER_HOME set, its UI shows them. A day that
    is there already is replaced.
    """
    settings = _settings()
    from mp_pipeline import assets, checks, definitions
    from mp_pipeline.partitions import range_tags

    days = _days(first, last)
    failures: list[str] = []
    stopped = False
    with _shown_progress(len(days) + profiles) as reports:
        runs = _Runs(definitions.defs, [assets.events, assets.profiles, *checks.blocking_checks])
        try:
            failures += runs.materialize(assets.events, range_tags(str(days[0]), str(days[-1])))
            if profiles and not runs.no_access:
                failures += runs.materialize(assets.profiles, {})
        except KeyboardInterrupt:
            stopped = True
    if reports:
        _print_loads(reports)
    console.print(f"\nDatabase: {escape(str(settings.database))}", soft_wrap=True)
    for failure in failures:
        console.print(f"[bold red]Failed:[/] {escape(failure)}", soft_wrap=True)
    if failures or stopped:
        loaded = {str(report.day or report.table_name) for report in reports}
        missing = [str(day) for day in days if str(day) not in loaded]
        rest = f" --from {missing[0]} --to {missing[-1]}" if missing else ""
        if not missing and profiles:
            rest = f" --from {days[-1]} --to {days[-1]}"
        without = "" if profiles and "profiles" not in loaded else " --no-profiles"
        whole = "What the table above names is loaded and whole. " if reports else ""
        console.print(
            f"{'Stopped. ' if stopped else ''}{whole}"
            f"To go on: [bold]mp-pipeline backfill{rest}{without}[/]",
            soft_wrap=True,
        )
        sys.exit(1)
    console.print("Next: [bold]dagster dev[/] opens the UI on http://localhost:3000")
    if settings.is_sample:
        console.print(
            "This is the sample project. For your own, set "
            f"{', '.join(CREDENTIALS)} (in the environment or in .env).",
            soft_wrap=True,
        )


@main.command()
def check() -> None:
    """Try the credentials, the region and the database, and say what is wrong."""
    settings = _settings()
    problems = [
        problem
        for problem in (_mixpanel_problem(settings), _database_problem(settings))
        if problem is not None
    ]
    for problem in problems:
        console.print(f"[bold red]Failed:[/] {escape(problem)}", soft_wrap=True)
    if problems:
        sys.exit(1)
    console.print("All is well.")


@main.command()
def status() -> None:
    """Print the days that are there, the days missing between them, and the profiles."""
    settings = _settings()
    from mp_pipeline.spans import gaps
    from mp_pipeline.storage import StorageEngine, StorageError

    try:
        with StorageEngine(
            settings.database, read_only=True, lock_timeout=settings.mp_pipeline_lock_timeout
        ) as engine:
            days = engine.list_days("events")
            others = [table for table in engine.list_tables() if table.type == "profiles"]
    except (FileNotFoundError, StorageError) as error:
        raise click.ClickException(str(error)) from error

    table = Table("day", "rows", "fetched (UTC)", title=escape(f"events in {settings.database}"))
    table.columns[1].justify = "right"
    missing = {gap.last + timedelta(days=1): gap for gap in gaps([day.day for day in days])}
    for day in days:
        if gap := missing.get(day.day):
            lacking = f"{_counted(gap.days, 'day')} missing"
            table.add_row(f"[bold red]{gap}[/]", f"[bold red]{lacking}[/]")
        table.add_row(str(day.day), f"{day.row_count:,}", f"{day.fetched_at:%Y-%m-%d %H:%M:%S}")
    console.print(table)
    rows = sum(day.row_count for day in days)
    lacking = f"{sum(gap.days for gap in missing.values())} missing between them"
    console.print(f"{_counted(len(days), 'day')}, {rows:,} rows, {lacking}")
    for info in others:
        fetched = f"{info.fetched_at:%Y-%m-%d %H:%M:%S}"
        console.print(f"{info.name}: {info.row_count:,} rows, fetched {fetched} UTC")


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error


def _days(first: datetime | None, last: datetime | None) -> list[date]:
    """Return the days that the options name.

    Raises:
        click.UsageError: they are reversed, not complete, or before the first partition.
    """
    from mp_pipeline.partitions import daily_partitions, days_between, last_complete_days

    complete = daily_partitions.get_partition_keys()
    if not complete:
        raise click.UsageError("there is no complete day since MIXPANEL_START_DATE")
    if first is None:
        if last is not None:
            raise click.UsageError("--to needs --from")
        return last_complete_days(_DEFAULT_DAYS)
    begin = first.date()
    end = date.fromisoformat(complete[-1]) if last is None else last.date()
    for option, day in (("--from", begin), ("--to", end)):
        if str(day) > complete[-1]:
            raise click.UsageError(
                f"{option} {day} is after the last complete day, {complete[-1]}: a day can be "
                "loaded once it is over in the project's time zone"
            )
    if begin > end:
        raise click.UsageError(f"--from {begin} is after --to {end}: swap them")
    if str(begin) < complete[0]:
        raise click.UsageError(
            f"--from {begin} is before the first partition, {complete[0]} (MIXPANEL_START_DATE)"
        )
    return days_between(begin, end)


class _Runs:
    """Runs assets in this process, in the instance of DAGSTER_HOME or in a temporary one.

    Attributes:
        no_access: whether Mixpanel has refused the credentials; it would refuse them again.
    """

    def __init__(
        self,
        defs: "dg.Definitions",
        assets: "Sequence[dg.AssetsDefinition | dg.AssetChecksDefinition]",
    ) -> None:
        import dagster as dg

        self.no_access = False
        self._assets = assets
        self._resources = dict(defs.resources or {})
        try:
            self._instance = (
                dg.DagsterInstance.get()
                if os.environ.get("DAGSTER_HOME")
                else dg.DagsterInstance.ephemeral()
            )
        except dg.DagsterInvariantViolationError as error:  # DAGSTER_HOME is no absolute directory
            raise click.ClickException(str(error)) from error

    def materialize(self, asset: "dg.AssetsDefinition", tags: dict[str, str]) -> list[str]:
        """Materialize an asset with its checks, and return what failed, in words.

        Raises:
            KeyboardInterrupt: the user stopped it; Dagster takes that for a failure.
        """
        import dagster as dg

        result = dg.materialize(
            self._assets,
            selection=dg.AssetSelection.assets(asset),
            resources=self._resources,
            instance=self._instance,
            tags=tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        errors = [event.step_failure_data.error for event in result.get_step_failure_events()]
        if not result.success and not errors:  # it ended before its first step
            errors = [
                event.job_failure_data.error for event in result.all_events if event.is_job_failure
            ]
        errors = [unwrapped(error) for error in errors]
        if any(error is not None and error.cls_name in _INTERRUPTED for error in errors):
            raise KeyboardInterrupt
        if any(error is not None and error.cls_name == _NO_ACCESS for error in errors):
            self.no_access = True
        failures = [words(error) for error in errors]
        return failures + failed_checks(result.get_asset_check_evaluations())


class _LoadHandler(logging.Handler):
    """Takes the project's log records: a step of progress, what is going on, or a line."""

    def __init__(self, progress: Progress, reports: "list[LoadReport]") -> None:
        super().__init__(logging.DEBUG)
        self._progress = progress
        self._reports = reports

    def emit(self, record: logging.LogRecord) -> None:
        """Count a load; show beside the bar what is going on; print warnings and waits."""
        task = self._progress.task_ids[0]
        report = getattr(record, "load_report", None)
        message = escape(record.getMessage())
        if report is not None:
            self._reports.append(report)
            self._progress.advance(task)
        if record.levelno >= logging.WARNING or record.name == _WAITING_LOGGER:
            self._progress.console.print(message, style="yellow", soft_wrap=True)
        elif console.is_terminal:
            self._progress.update(task, doing=message)
        elif report is not None or record.levelno >= logging.INFO:
            console.print(message, soft_wrap=True)


@contextmanager
def _shown_progress(loads: int) -> "Iterator[list[LoadReport]]":
    """Show a progress bar on a terminal, lines otherwise; give the loads as they are done."""
    logger = logging.getLogger("mp_pipeline")
    reports: list[LoadReport] = []
    with Progress(
        TextColumn("Loading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn("[dim]{task.fields[doing]}", table_column=Column(no_wrap=True)),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        progress.add_task("load", total=loads, doing="")
        handler = _LoadHandler(progress, reports)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        try:
            yield reports
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _print_loads(reports: "Sequence[LoadReport]") -> None:
    columns = ("loaded", "rows", "lines", "duplicates", "rejected", "outside", "seconds")
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for report in reports:
        counts = (
            report.rows_stored,
            report.lines_read,
            report.duplicates,
            report.rejected,
            report.outside_day,
        )
        table.add_row(
            str(report.day or report.table_name),
            *(f"{count:,}" for count in counts),
            f"{report.seconds:.1f}",
        )
    console.print(table)


def _mixpanel_problem(settings: Settings) -> str | None:
    from mp_pipeline.mixpanel import MixpanelError, StateDirectoryError
    from mp_pipeline.resources import MixpanelResource, mixpanel_resource

    resource: MixpanelResource = mixpanel_resource(settings).process_config_and_initialize()
    where = resource.export_url or f"region {resource.region}"
    name = "the sample project" if settings.is_sample else f"{resource.source} ({where})"
    console.print(f"Mixpanel: {escape(name)}", soft_wrap=True)
    try:
        with resource.get_client(**_IMPATIENT) as client:
            client.check_access()
    except (MixpanelError, StateDirectoryError, ValueError) as error:
        return str(error)
    return None


def _database_problem(settings: Settings) -> str | None:
    from mp_pipeline.storage import StorageEngine, StorageError

    path = settings.database
    if not path.exists():
        directory = next(parent for parent in path.parents if parent.exists())
        console.print(
            f"Database: {escape(str(path))} (will be made by the first load)", soft_wrap=True
        )
        if not directory.is_dir():
            return f"the database cannot be in {path.parent}: {directory} is not a directory"
        return None if os.access(directory, os.W_OK) else f"no permission to write in {directory}"
    try:
        with StorageEngine(path, read_only=True, lock_timeout=_CHECK_LOCK_TIMEOUT) as engine:
            tables = len(engine.list_tables())
    except (FileNotFoundError, StorageError) as error:
        return str(error)
    console.print(f"Database: {escape(str(path))} ({_counted(tables, 'table')})", soft_wrap=True)
    return None if os.access(path, os.W_OK) else f"no permission to write to {path}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
