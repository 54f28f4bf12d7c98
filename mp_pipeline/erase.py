"""The command ``mp-pipeline erase``: forget people."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from mp_pipeline.terminal import console, read_settings

if TYPE_CHECKING:
    from mp_pipeline.resources import MixpanelDuckDBResource
    from mp_pipeline.storage import Erasure


@click.command()
@click.option("--distinct-id", "given", multiple=True, help="A user; may be repeated.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with one distinct_id per line.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be erased, and change nothing.")
@click.option("--rewrite", is_flag=True, help="Then copy what is left into new files.")
@click.option(
    "--max-ids",
    type=int,
    show_default="as many as Mixpanel links to one user",
    help="IDs to erase at most, with those that the data links.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(
    given: tuple[str, ...],
    file: Path | None,
    dry_run: bool,
    rewrite: bool,
    max_ids: int | None,
    yes: bool,
) -> None:
    """Erase users from all tables, rejected lines and downloads, and keep them out of reloads.

    IDs that events link to the given ones are erased too. The database still contains the data in
    unused blocks until they are overwritten, a lake in earlier snapshots until they expire;
    --rewrite removes them. Backups, Dagster's event log (previews), exported files, and downloads
    on other machines are not changed.
    """
    settings = read_settings()
    ids = [*given, *(_read_ids(file) if file else [])]
    if not ids:
        raise click.UsageError("name users with --distinct-id or --file")
    from mp_pipeline import storage
    from mp_pipeline.resources import duckdb_resource
    from mp_pipeline.status import counted

    duckdb = duckdb_resource(settings)
    try:
        with duckdb.get_engine(read_only=True) as engine:
            plan = engine.plan_erasure(ids)
        _print_plan(plan)
        if dry_run:
            console.print("Nothing was erased: this is a dry run.")
            return
        if not yes and sys.stdin.isatty():
            click.confirm("Erase all of this? It cannot be undone", abort=True)
        deleted = duckdb.delete_all_downloads()
        with duckdb.get_engine() as engine:
            erased = engine.erase(ids, storage.DEFAULT_MAX_IDS if max_ids is None else max_ids)
        console.print(
            f"Erased {counted(erased.rows, 'row')} and "
            f"{counted(erased.rejected_lines, 'rejected line')} "
            f"of {counted(len(erased.ids), 'user ID')}."
        )
        if deleted:
            console.print(
                f"Deleted the downloads of {counted(deleted, 'run')} on this machine. A run that "
                "is downloading now fails: re-execute it.",
                soft_wrap=True,
            )
        if rewrite:
            _rewrite(duckdb)
            console.print(f"Rewrote {escape(str(settings.database))}.", soft_wrap=True)
    except (OSError, ValueError, storage.StorageError) as error:
        raise click.ClickException(str(error)) from error


def _rewrite(duckdb: "MixpanelDuckDBResource") -> None:
    """Remove deleted rows from the database file, or from all files and snapshots of a lake."""
    from mp_pipeline.storage import rewrite

    if duckdb.path is None:
        with duckdb.get_engine() as engine:
            engine.maintain(timedelta(0), rewrite=True)
        return
    with duckdb.get_connection() as connection:
        rewrite(connection, duckdb.path)


def _read_ids(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file} is not UTF-8 text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def _print_plan(plan: "Erasure") -> None:
    for user_id in plan.ids:
        link = f" (linked to {user_id.linked_to} by {user_id.by})" if user_id.linked_to else ""
        console.print(escape(f"{user_id.id}{link}"), soft_wrap=True)
    table = Table("table", "rows", "rejected lines")
    for column in table.columns[1:]:
        column.justify = "right"
    for found in plan.tables:
        table.add_row(escape(found.name), f"{found.rows:,}", f"{found.rejected_lines:,}")
    console.print(table if plan.tables else "No table contains them.")
    if plan.other_tables:
        console.print(
            f"Not changed, because mp_pipeline did not create them: {', '.join(plan.other_tables)}",
            markup=False,
            soft_wrap=True,
        )
