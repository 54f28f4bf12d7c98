"""The command line, ``mp-pipeline``: load days, check the setup, see what is loaded.

Exit codes: 0 for success, 1 for a failure, 2 for wrong usage.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from mp_pipeline.backup import backup
from mp_pipeline.dictionary import dictionary
from mp_pipeline.erase import erase
from mp_pipeline.explore.command import explore
from mp_pipeline.migrate import migrate
from mp_pipeline.sample.command import sample
from mp_pipeline.settings import CREDENTIALS, Settings
from mp_pipeline.terminal import console, read_settings

if TYPE_CHECKING:
    from mp_pipeline.backfill import Backfill
    from mp_pipeline.mixpanel import MixpanelClient
    from mp_pipeline.storage import Lake, LoadReport

_DEFAULT_DAYS = 7
_CHECK_LOCK_TIMEOUT = 5.0  # seconds
_IMPATIENT = {
    "max_attempts": 1,
    "read_timeout": 30.0,
    "max_retry_after_seconds": 0.0,
    "max_rate_limit_wait_seconds": 5.0,
}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mp-pipeline")
def main() -> None:
    """Load Mixpanel's events and user profiles into DuckDB with Dagster."""


main.add_command(sample)
main.add_command(erase)
main.add_command(backup)
main.add_command(dictionary)
main.add_command(explore)
main.add_command(migrate)


@main.command()
@click.option("--from", "first", type=click.DateTime(["%Y-%m-%d"]), help="The first day.")
@click.option(
    "--to", "last", type=click.DateTime(["%Y-%m-%d"]), help="The last day. [default: yesterday]"
)
@click.option("--profiles/--no-profiles", default=True, help="Load the user profiles too.")
@click.option(
    "--extra-assets/--no-extra-assets",
    default=True,
    help="Load what MIXPANEL_EXTRA_ASSETS names too.",
)
@click.option(
    "--allow-shrink",
    is_flag=True,
    help="Replace existing data even if most of its rows do not come again.",
)
def backfill(
    first: datetime | None,
    last: datetime | None,
    profiles: bool,
    extra_assets: bool,
    allow_shrink: bool,
) -> None:
    """Load days of events, by default the last 7 complete days, and the user profiles.

    All days are loaded in one Dagster run; another one types them and makes their metrics. Each
    snapshot (profiles, and what MIXPANEL_EXTRA_ASSETS names) is loaded in a run of its own. With
    DAGSTER_HOME set, the UI shows the runs. Days and snapshots that are loaded already are
    replaced. If one snapshot fails, the others are loaded all the same.
    """
    settings = read_settings()
    import dagster as dg

    from mp_pipeline.backfill import Backfill, snapshot_names

    snapshots = [
        name
        for name in snapshot_names(settings)
        if (profiles if name == "profiles" else extra_assets)
    ]
    days = _days(settings, first, last)
    stopped = False
    with _progress() as handler:
        try:
            runs = Backfill(settings, handler, allow_shrink=allow_shrink)
        except dg.DagsterInvariantViolationError as error:
            raise click.ClickException(str(error)) from error
        try:
            runs.load_events(str(days[0]), str(days[-1]))
            runs.make_derived()
            for name in snapshots:
                if not runs.access_denied:
                    runs.load_snapshot(name)
        except KeyboardInterrupt:
            stopped = True
    loads = _loads(runs)
    if loads:
        _print_loads(loads)
    console.print(f"\nDatabase: {escape(str(settings.database))}", soft_wrap=True)
    for warning in runs.warnings:
        console.print(f"[bold yellow]Warning:[/] {escape(warning)}", soft_wrap=True)
    for failure in runs.failures:
        console.print(f"[bold red]Failed:[/] {escape(failure)}", soft_wrap=True)
    if runs.failures or stopped:
        _print_how_to_resume(days, snapshots, runs.succeeded, loads, stopped)
        sys.exit(1)
    console.print("Next: run [bold]dagster dev[/] and open http://localhost:3000")
    if settings.is_sample:
        console.print(
            f"This is the sample project. To load your own, set {', '.join(CREDENTIALS)} "
            "(in the environment or in .env).",
            soft_wrap=True,
        )


@main.command()
def check() -> None:
    """Check the credentials, the region and the database.

    It also prints the rate limits, and whether the plan includes Mixpanel's own counts.
    """
    settings = read_settings()
    problems = [
        problem
        for problem in (_mixpanel_problem(settings), _database_problem(settings))
        if problem is not None
    ]
    for problem in problems:
        console.print(f"[bold red]Failed:[/] {escape(problem)}", soft_wrap=True)
    if problems:
        sys.exit(1)
    console.print("Everything works.")


@main.command()
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Everything about one day.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(day: datetime | None, as_json: bool) -> None:
    """Print the days that are loaded, the days missing in between, and the snapshots.

    A long history is printed by month.
    """
    settings = read_settings()
    from mp_pipeline.backfill import snapshot_names
    from mp_pipeline.resources import duckdb_resource
    from mp_pipeline.status import DayReport, Status, print_day, print_status, read_day, read_status
    from mp_pipeline.storage import StorageError

    found: Status | DayReport
    try:
        with duckdb_resource(settings).get_engine(read_only=True) as engine:
            if day is None:
                names = snapshot_names(settings)
                found = read_status(engine, engine.name, "events", names)
            else:
                found = read_day(engine, "events", day.date())
    except (FileNotFoundError, StorageError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(asdict(found), default=str, indent=2))
    elif isinstance(found, Status):
        print_status(console, found)
    elif day is not None:
        print_day(console, day.date(), found)


def _days(settings: Settings, first: datetime | None, last: datetime | None) -> list[date]:
    """Return the days that the options name, in ascending order.

    Raises:
        UsageError: They are reversed, not complete, or before the first partition.
    """
    from mp_pipeline.days import days_between
    from mp_pipeline.project import Project

    complete = Project(settings).partitions.get_partition_keys()
    if not complete:
        raise click.UsageError("no day is complete since MIXPANEL_START_DATE")
    if first is None:
        if last is not None:
            raise click.UsageError("--to needs --from")
        return [date.fromisoformat(key) for key in complete[-_DEFAULT_DAYS:]]
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


class _LineHandler(logging.Handler):
    """Shows log lines: beside a spinner on a terminal, otherwise one after another."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.INFO)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line; warnings stay on the screen.

        Dagster's own events are left out, and so are errors: what failed is printed at the end.
        """
        is_event = getattr(record, "dagster_event", None) is not None
        if is_event or record.levelno >= logging.ERROR:
            return
        meta = getattr(record, "dagster_meta", {})
        message = escape(meta.get("orig_message") or record.getMessage())
        if record.levelno >= logging.WARNING:
            console.print(message, style="yellow", soft_wrap=True)
        elif console.is_terminal:
            self._progress.update(self._progress.task_ids[0], description=message)
        else:
            console.print(message, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[logging.Handler]:
    """Show the progress of the ``with`` block, and yield the handler for its log lines."""
    columns = (
        SpinnerColumn(),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task("Loading", total=None)
        yield _LineHandler(progress)


def _loads(runs: "Backfill") -> "list[LoadReport]":
    from mp_pipeline.storage import StorageError

    try:
        return runs.loads()
    except StorageError as error:
        runs.failures.append(str(error))
        return []


def _print_loads(loads: "Sequence[LoadReport]") -> None:
    whole = ("loaded", "rows", "gained", "lost")
    suppressed = ["suppressed"] if any(load.suppressed for load in loads) else []
    table = Table(*whole, "duplicates", "rejected", "outside", *suppressed, "seconds")
    for column in table.columns:
        column.no_wrap = column.header in whole
        column.justify = "left" if column.header == "loaded" else "right"
    for load in loads:
        counts = (
            load.rows_stored,
            load.gained,
            load.lost,
            load.duplicates,
            load.rejected,
            load.outside_day,
            *([load.suppressed] if suppressed else []),
        )
        table.add_row(
            str(load.day or load.table_name),
            *("" if count is None else f"{count:,}" for count in counts),
            f"{load.seconds:.1f}",
        )
    console.print(table)


def _print_how_to_resume(
    days: Sequence[date],
    snapshots: Sequence[str],
    succeeded: set[str],
    loads: "Sequence[LoadReport]",
    stopped: bool,
) -> None:
    """Print the command that loads the days and snapshots that are missing."""
    loaded = {load.day for load in loads}
    missing = [day for day in days if day not in loaded] or days[-1:]
    options = f" --from {missing[0]} --to {missing[-1]}"
    left = [name for name in snapshots if name not in succeeded]
    if "profiles" not in left:
        options += " --no-profiles"
    if set(snapshots) - {"profiles"} and not set(left) - {"profiles"}:
        options += " --no-extra-assets"
    console.print(
        f"{'Stopped. ' if stopped else ''}"
        f"{'The days listed above are loaded. ' if loads else ''}"
        f"To resume: [bold]mp-pipeline backfill{options}[/]",
        soft_wrap=True,
    )


def _mixpanel_problem(settings: Settings) -> str | None:
    from mp_pipeline.mixpanel import MixpanelError, RateLimitStoreError
    from mp_pipeline.resources import MixpanelResource, mixpanel_resource

    resource: MixpanelResource = mixpanel_resource(settings).process_config_and_initialize()
    where = resource.export_url or f"region {resource.region}"
    name = "the sample project" if settings.is_sample else f"{resource.source} ({where})"
    console.print(f"Mixpanel: {escape(name)}", soft_wrap=True)
    try:
        with resource.get_client(**_IMPATIENT) as client:
            if limits := client.describe_rate_limits():
                console.print(f"Rate limits: {'; '.join(limits)}", soft_wrap=True)
                console.print(
                    f"Requests are counted in {_place_of_counts(settings)}", soft_wrap=True
                )
            client.check_access()
            _print_counts(client, settings)
    except (MixpanelError, RateLimitStoreError, ValueError) as error:
        return str(error)
    return None


def _place_of_counts(settings: Settings) -> str:
    from mp_pipeline.mixpanel import PostgresDatabase

    if (url := settings.mp_pipeline_rate_limits) is None:
        return str(settings.state_directory)
    return f"PostgreSQL at {PostgresDatabase(url.get_secret_value())}"


def _print_counts(client: "MixpanelClient", settings: Settings) -> None:
    """Print whether the plan includes counts.

    Raises:
        MixpanelError: They are requested, and Mixpanel refuses them for another reason than the
            plan.
    """
    from mp_pipeline.mixpanel import MixpanelError

    try:
        client.check_counts()
    except MixpanelError as error:
        found = "not available on this plan (status 402)"
        if error.status != 402:
            if settings.reconciles:
                raise
            found = f"not available: {error}"
    else:
        found = "available, a check compares them"
        if not settings.reconciles:
            found = "available; to compare them, set MIXPANEL_RECONCILE=true"
    console.print(f"Mixpanel's counts: {escape(found)}", soft_wrap=True)


def _lake_problem(lake: "Lake", settings: Settings) -> str | None:
    """Open the lake, which creates it, and write a data file."""
    from mp_pipeline.status import counted
    from mp_pipeline.storage import StorageEngine, StorageError

    try:
        with StorageEngine(lake, config=settings.database_options) as engine:
            tables = len(engine.list_tables())
            engine.try_writing()
    except StorageError as error:
        return str(error)
    console.print(f"Database: {escape(str(lake))} ({counted(tables, 'table')})", soft_wrap=True)
    console.print(f"Data files: {escape(lake.data_path)}", soft_wrap=True)
    return None


def _database_problem(settings: Settings) -> str | None:
    from mp_pipeline.status import counted
    from mp_pipeline.storage import Lake, StorageEngine, StorageError

    path = settings.database
    if isinstance(path, Lake):
        return _lake_problem(path, settings)
    if not path.exists():
        parent = next(parent for parent in path.parents if parent.exists())
        console.print(f"Database: {escape(str(path))} (created by the first load)", soft_wrap=True)
        if not parent.is_dir():
            return f"the database cannot be in {path.parent}: {parent} is not a directory"
        return None if os.access(parent, os.W_OK) else f"no permission to write to {parent}"
    try:
        with StorageEngine(path, read_only=True, lock_timeout=_CHECK_LOCK_TIMEOUT) as engine:
            tables = len(engine.list_tables())
    except (FileNotFoundError, StorageError) as error:
        return str(error)
    console.print(f"Database: {escape(str(path))} ({counted(tables, 'table')})", soft_wrap=True)
    return None if os.access(path, os.W_OK) else f"no permission to write to {path}"
