"""Servers in subprocesses: the sample project, and one that only sends files.

``python -m mp_pipeline_tests.benchmarks.servers DIRECTORY SPEED`` sends
``DIRECTORY/2024-01-15.jsonl.gz`` as the export of that day, at SPEED bytes per second, and
``DIRECTORY/7.json.gz`` as page 7 of the profiles, after a usual time.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mp_pipeline.mixpanel import MixpanelClient, RateLimits

BYTES_PER_SECOND = 5_000_000
"""What one usual connection gets, compressed."""

SECONDS_PER_PAGE = 0.2
"""What the answer to a request for profiles takes."""

_PIECE_BYTES = 1 << 17


@dataclass(frozen=True)
class Account:
    """How to reach the served project: the variables that the server prints."""

    variables: dict[str, str]

    def client(self, rate_limits: RateLimits | None = None) -> MixpanelClient:
        """Return a client of the project."""
        return MixpanelClient(
            self.variables["MIXPANEL_PROJECT_ID"],
            self.variables["MIXPANEL_SERVICE_ACCOUNT_USERNAME"],
            self.variables["MIXPANEL_SERVICE_ACCOUNT_SECRET"],
            export_url=self.variables["MIXPANEL_EXPORT_URL"],
            query_url=self.variables["MIXPANEL_QUERY_URL"],
            rate_limits=rate_limits,
        )


@contextmanager
def sample_server(events_per_day: int) -> Iterator[Account]:
    """Serve the sample project, which makes the events as it sends them."""
    options = ("--no-limits", "--port=0", f"--events-per-day={events_per_day}")
    command = str(Path(sys.executable).parent / "mp-pipeline")
    with _served(command, "sample", *options) as account:
        yield account


@contextmanager
def file_server(directory: Path, bytes_per_second: float = BYTES_PER_SECOND) -> Iterator[Account]:
    """Serve the files of a directory, one per day or page: it costs the machine next to nothing."""
    with _served(sys.executable, "-m", __name__, str(directory), str(bytes_per_second)) as account:
        yield account


@contextmanager
def _served(*command: str) -> Iterator[Account]:
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    variables: dict[str, str] = {}
    try:
        while "MIXPANEL_QUERY_URL" not in variables:  # the last one that it prints
            line = server.stdout.readline()
            if not line:
                raise RuntimeError(f"{shlex.join(command)} has ended")
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                variables[name] = value.strip("'\"")
        yield Account(variables)
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


class _Files(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each small body takes 40 ms longer
    directory: Path
    bytes_per_second: float

    def do_GET(self) -> None:
        day = parse_qs(urlsplit(self.path).query)["from_date"][0]
        body = (self.directory / f"{day}.jsonl.gz").read_bytes()
        self._send_head(body)
        start = time.monotonic()
        for begin in range(0, len(body), _PIECE_BYTES):
            self.wfile.write(body[begin : begin + _PIECE_BYTES])
            time.sleep(max(0.0, start + begin / self.bytes_per_second - time.monotonic()))

    def do_POST(self) -> None:
        start = time.monotonic()
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = (self.directory / f"{parse_qs(form)['page'][0]}.json.gz").read_bytes()
        time.sleep(max(0.0, start + SECONDS_PER_PAGE - time.monotonic()))
        self._send_head(body)
        self.wfile.write(body)

    def _send_head(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


def main() -> None:
    """Serve the directory that the command line names, until the process is ended."""
    _Files.directory, _Files.bytes_per_second = Path(sys.argv[1]), float(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    url = f"http://127.0.0.1:{server.server_port}"
    sys.stdout.write(
        "export MIXPANEL_PROJECT_ID=1\n"
        "export MIXPANEL_SERVICE_ACCOUNT_USERNAME=benchmark\n"
        "export MIXPANEL_SERVICE_ACCOUNT_SECRET=benchmark\n"
        f"export MIXPANEL_EXPORT_URL={url}\n"
        f"export MIXPANEL_QUERY_URL={url}\n"
    )
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
