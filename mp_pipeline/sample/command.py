"""The command `mp-pipeline sample`, which serves the sample project until Ctrl-C."""

import signal
import threading
from collections.abc import Callable

import click

from mp_pipeline.sample.data import EVENTS_PER_DAY

_Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _number_option(
    name: str, default: int, description: str, *, minimum: int = 0, maximum: int | None = None
) -> _Decorator:
    return click.option(
        name,
        type=click.IntRange(minimum, maximum),
        default=default,
        metavar="N",
        help=description,
    )


# The default rate limits are Mixpanel's.
@click.command(context_settings={"show_default": True})
@_number_option("--port", 8765, "Port to listen on; 0 chooses a free one.", maximum=65535)
@_number_option("--events-per-day", EVENTS_PER_DAY, "Approximate number of events per day.")
@_number_option("--page-size", 1000, "Profiles per page.", minimum=1)
@_number_option("--exports-per-hour", 60, "Exports allowed per hour.")
@_number_option("--exports-per-second", 3, "Exports allowed per second.")
@_number_option("--concurrent-exports", 100, "Exports allowed at the same time.")
@_number_option("--engage-per-hour", 60, "Profile queries allowed per hour.")
@_number_option("--concurrent-engage", 5, "Profile queries allowed at the same time.")
@click.option("--no-limits", is_flag=True, help="Allow any number of requests.")
@click.option("--verbose", is_flag=True, help="Log requests to stderr.")
def sample(
    *,
    port: int,
    events_per_day: int,
    page_size: int,
    exports_per_hour: int,
    exports_per_second: int,
    concurrent_exports: int,
    engage_per_hour: int,
    concurrent_engage: int,
    no_limits: bool,
    verbose: bool,
) -> None:
    """Serve a sample Mixpanel project on 127.0.0.1 until Ctrl-C.

    Prints the environment variables that make the other commands use it. The export leaves out
    late-arriving events until the day on which they arrive, as Mixpanel does.
    """
    from mp_pipeline.sample.server import SampleServer

    server = SampleServer(
        port=port,
        events_per_day=events_per_day,
        page_size=page_size,
        exports_per_hour=None if no_limits else exports_per_hour,
        exports_per_second=None if no_limits else exports_per_second,
        concurrent_exports=None if no_limits else concurrent_exports,
        engage_per_hour=None if no_limits else engage_per_hour,
        concurrent_engage=None if no_limits else concurrent_engage,
        hold_back_late_events=True,
        verbose=verbose,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        server.start()
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on port {port}: {error.strerror}. Choose another one with --port."
        ) from error
    click.echo(
        f"Serving a sample Mixpanel project at {server.export_url}"
        f" {'without' if no_limits else 'with'} rate limits.\n"
        "To use it, set these variables in another terminal:\n\n"
        f"export MIXPANEL_PROJECT_ID={server.project_id}\n"
        f"export MIXPANEL_SERVICE_ACCOUNT_USERNAME={server.username}\n"
        f"export MIXPANEL_SERVICE_ACCOUNT_SECRET={server.secret}\n"
        f"export MIXPANEL_EXPORT_URL={server.export_url}\n"
        f"export MIXPANEL_QUERY_URL={server.query_url}\n\n"
        "Press Ctrl-C to stop."
    )
    try:
        while not stop.wait(1):  # on Windows, a wait without a timeout blocks Ctrl-C
            pass
    finally:
        server.stop()
