"""What all commands of the command line share: the terminal, and the settings."""

import click
from rich.console import Console

from mp_pipeline.settings import Settings, SettingsError, load_settings

console = Console(highlight=False)


def read_settings() -> Settings:
    """Return the settings of the environment.

    Raises:
        ClickException: A variable has an invalid value.
    """
    try:
        return load_settings()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
