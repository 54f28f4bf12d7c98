"""The command ``mp-pipeline backup``: a consistent copy of the database."""

from pathlib import Path

import click
from rich.markup import escape

from mp_pipeline.terminal import console, read_settings


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> None:
    """Copy the database to FILE while runs go on, and its SHA-256 to FILE.sha256.

    It waits for the run that holds the database, and the next run waits for it.
    """
    settings = read_settings()
    from mp_pipeline.resources import duckdb_resource
    from mp_pipeline.storage import StorageError, back_up

    database = settings.database
    if not isinstance(database, Path):
        raise click.ClickException(
            f"{database} is not a file. Back up its catalog with the tools of that database, such "
            "as pg_dump, and its data files with those of the object storage"
        )
    if not database.exists():
        raise click.ClickException(f"no database at {database}; materialize an asset first")
    try:
        with duckdb_resource(settings).get_connection() as connection:
            made = back_up(connection, database, file.absolute())
    except (FileExistsError, StorageError) as error:
        raise click.ClickException(str(error)) from error
    console.print(
        f"{escape(str(made.path))}: {made.bytes:,} bytes, verified. Its checksum is in "
        f"{escape(made.checksum_path.name)}",
        soft_wrap=True,
    )
