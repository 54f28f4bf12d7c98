"""Serve the sample project until Ctrl-C: `python -m mp_pipeline.sample`."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence

from mp_pipeline.sample.data import EVENTS_PER_DAY
from mp_pipeline.sample.server import SampleServer


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    options = _parser().parse_args(arguments)
    limits = {
        "exports_per_hour": options.exports_per_hour,
        "exports_per_second": options.exports_per_second,
        "concurrent_exports": options.concurrent_exports,
        "engage_per_hour": options.engage_per_hour,
        "concurrent_engage": options.concurrent_engage,
    }
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = SampleServer(
        port=options.port,
        events_per_day=options.events_per_day,
        page_size=options.page_size,
        hold_back_late_events=True,
        verbose=options.verbose,
        **(dict.fromkeys(limits) if options.no_limits else limits),
    )
    try:
        server.start()
    except OSError as error:
        sys.stderr.write(f"Cannot listen on port {options.port}: {error.strerror}\n")
        return 1
    with_limits = "without rate limits" if options.no_limits else "with rate limits"
    sys.stdout.write(
        f"A sample Mixpanel project is served at {server.export_url} {with_limits}.\n"
        "To talk to it, set these in another terminal:\n\n"
        f"export MIXPANEL_PROJECT_ID={server.project_id}\n"
        f"export MIXPANEL_SERVICE_ACCOUNT_USERNAME={server.username}\n"
        f"export MIXPANEL_SERVICE_ACCOUNT_SECRET={server.secret}\n"
        f"export MIXPANEL_EXPORT_URL={server.export_url}\n"
        f"export MIXPANEL_QUERY_URL={server.query_url}\n\n"
        "Ctrl-C stops it.\n"
    )
    sys.stdout.flush()
    try:
        while not stop.wait(1):  # with a timeout, so that Ctrl-C gets through on Windows, too
            pass
    finally:
        server.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mp_pipeline.sample",
        description="Serve a sample Mixpanel project on 127.0.0.1.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # The defaults of the limits are Mixpanel's own.
    for name, default, meaning in (
        ("--port", 8765, "port to listen on; 0 is a free one"),
        ("--events-per-day", EVENTS_PER_DAY, "about how many events a day has"),
        ("--page-size", 1000, "profiles on a page"),
        ("--exports-per-hour", 60, "exports allowed in an hour"),
        ("--exports-per-second", 3, "exports allowed in a second"),
        ("--concurrent-exports", 100, "exports allowed at once"),
        ("--engage-per-hour", 60, "profile queries allowed in an hour"),
        ("--concurrent-engage", 5, "profile queries allowed at once"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=meaning)
    parser.add_argument("--no-limits", action="store_true", help="allow any number of requests")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())
