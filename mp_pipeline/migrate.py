"""The command ``mp-pipeline migrate``: from a DuckDB file to a lake."""

from collections import Counter
from pathlib import Path

import click
from pydantic import ValidationError
from rich.markup import escape

from mp_pipeline.settings import Settings
from mp_pipeline.terminal import console, read_settings


@click.command()
@click.option(
    "--to",
    "target",
    required=True,
    metavar="LAKE",
    help="The lake, such as 'ducklake:postgres:dbname=mixpanel host=db'.",
)
@click.option(
    "--data-path",
    help="Where its data files are; MP_PIPELINE_DATA_PATH if not given.",
)
def migrate(target: str, data_path: str | None) -> None:
    """Copy the database file into a lake: days, snapshots, history and logs.

    Each table is verified by a hash of its content. A migration that was stopped can be repeated:
    what is there is not copied again. The file is not changed, and runs must not write to it
    meanwhile. Afterwards, set MP_PIPELINE_DATABASE to the lake, and make typed tables and metrics
    again.
    """
    settings = read_settings()
    from mp_pipeline.status import counted
    from mp_pipeline.storage import StorageEngine, StorageError

    file = settings.database
    if not isinstance(file, Path):
        raise click.UsageError(f"MP_PIPELINE_DATABASE is {file}, not a file to copy from")
    changed = {"mp_pipeline_database": target}
    if data_path is not None:
        changed["mp_pipeline_data_path"] = data_path
    try:
        lake = Settings.model_validate(settings.model_dump() | changed).database
    except ValidationError as error:
        # Not the name itself: it may contain a password.
        problems = (
            ("the lake's name (--to) " if each["loc"] else "")
            + str(each["msg"]).removeprefix("Value error, ")
            for each in error.errors()
        )
        raise click.UsageError("; ".join(problems)) from None
    if isinstance(lake, Path):
        raise click.UsageError("--to must name a lake, such as ducklake:postgres:dbname=mixpanel")
    outcomes: Counter[str] = Counter()
    try:
        with StorageEngine(lake, config=settings.database_options) as engine:
            for table in engine.migrate_from(file):
                outcomes[table.outcome] += 1
                console.print(
                    f"{escape(table.name)}: {counted(table.rows, 'row')}, "
                    f"{_OUTCOMES[table.outcome]}",
                    soft_wrap=True,
                )
    except (FileNotFoundError, StorageError) as error:
        raise click.ClickException(f"{error}. Run the command again to resume") from error
    console.print(
        f"Copied {counted(outcomes['copied'], 'table')} to {escape(str(lake))}; "
        f"{outcomes['there']:,} were there, {outcomes['newer']:,} are newer there, "
        f"{outcomes['missing'] + outcomes['other']:,} were not copied.",
        soft_wrap=True,
    )


_OUTCOMES = {
    "copied": "copied and verified",
    "there": "already there",
    "newer": "kept: the lake has loads that the file does not have",
    "erased": "erased: of users who were erased in the file",
    "missing": "not copied: the file has no such table any more",
    "other": "not copied: mp_pipeline did not create it",
}
