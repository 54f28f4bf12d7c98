"""The command ``mp-pipeline explore``: a page on this machine that shows the database."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from mp_pipeline.terminal import read_settings

_APP = Path(__file__).with_name("app.py")


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65_535), default=2718, show_default=True, help="The port."
)
@click.option("--no-browser", is_flag=True, help="Print the URL, and open no browser.")
def explore(port: int, no_browser: bool) -> None:
    """Show events, users, funnels and retention on a web page, until Ctrl-C.

    Only this machine can open the page, and only with the token in the URL. If the port is taken,
    the next free one is used. The database is open for reading while a query runs, and closed
    otherwise.
    """
    settings = read_settings()
    if any(find_spec(name) is None for name in ("altair", "marimo")):
        raise click.ClickException(
            "the page needs the extra 'explore'; install it: pip install -e '.[explore]'"
        )
    if not settings.database.exists():
        raise click.ClickException(
            f"no database at {settings.database}; load days first: mp-pipeline backfill"
        )
    command = [sys.executable, "-m", "marimo", "run", str(_APP), "--token"]
    options = ["--host", "127.0.0.1", "--port", str(port), *(["--headless"] if no_browser else [])]
    sys.exit(subprocess.run([*command, *options], check=False).returncode)  # noqa: S603
