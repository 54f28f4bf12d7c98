"""The command ``mp-pipeline explore``: a page on this machine that shows the database."""

import secrets
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from importlib.util import find_spec
from pathlib import Path

import click

from mp_pipeline.terminal import console, read_settings

_APP = Path(__file__).with_name("app.py")
_HOST = "127.0.0.1"  # other machines cannot connect


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=2718,
    show_default=True,
    help="The port; 0 for any that is free.",
)
@click.option("--no-browser", is_flag=True, help="Print the URL, and open no browser.")
def explore(port: int, no_browser: bool) -> None:
    """Show events, users, funnels and retention on a web page, until Ctrl-C.

    Only this machine can open the page, and only with the token in the URL, which is a new one each
    time. The database is open for reading while a query runs, and closed otherwise.
    """
    settings = read_settings()
    if any(find_spec(name) is None for name in ("altair", "marimo")):
        raise click.ClickException(
            "the page needs the extra 'explore'; install it: pip install -e '.[explore]'"
        )
    database = settings.database
    if isinstance(database, Path) and not database.exists():
        raise click.ClickException(
            f"no database at {database}; load days first: mp-pipeline backfill"
        )
    port = _free_port(port)
    token = secrets.token_urlsafe()
    command = [sys.executable, "-m", "marimo", "--quiet", "run", str(_APP), "--headless"]
    # The token passes through a pipe, because other users of the machine can see arguments.
    options = ["--host", _HOST, "--port", str(port), "--token", "--token-password-file", "-"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(  # noqa: S603 - this Python, and options of our own
        [*command, *options],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the server
    )
    try:
        if server.stdin is not None:
            server.stdin.write(token)
            server.stdin.close()
        while server.poll() is None and not _is_listening(port):
            time.sleep(0.05)
        if server.poll() is None:
            url = f"http://{_HOST}:{port}?access_token={token}"
            console.print(f"{url}\nCtrl-C ends it.", markup=False, soft_wrap=True)
            if not no_browser:
                webbrowser.open(url)
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        server.terminate()
        server.wait()
    if code:
        raise click.ClickException(f"the page's server ended with exit code {code}")


def _free_port(port: int) -> int:
    """Return a port that is free: the given one, or any for 0.

    Raises:
        ClickException: It is not free.
    """
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((_HOST, port))
        except OSError as error:
            raise click.ClickException(
                f"cannot listen on port {port}: {error.strerror}; choose another with --port"
            ) from error
        return int(taken.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((_HOST, port)) == 0
