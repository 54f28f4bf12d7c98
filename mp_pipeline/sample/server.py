"""The sample project as an HTTP server on loopback."""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import date
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, TypeAlias

from mp_pipeline.sample.data import EVENTS_PER_DAY
from mp_pipeline.sample.faults import Fault
from mp_pipeline.sample.handler import Handler, Request
from mp_pipeline.sample.limits import RateLimit
from mp_pipeline.sample.project import SampleProject, today_utc


class SampleServer:
    """A server that behaves like Mixpanel's, with a sample project of a small music product.

    Use it as a context manager, or `start()` and `stop()` it. It answers
    `GET /api/2.0/export`, `POST /api/query/engage` and `GET /api/query/events`.

    Args:
        host: The address to listen on.
        port: The port to listen on; 0 is a free one, which it keeps when started again.
        project_id: The one project it has.
        username: The service account's name.
        secret: The service account's secret.
        events_per_day: About how many events a day has (see `events_of_day`).
        today: The current day in UTC, or what gives it; default: the real one.
        exports_per_hour: Exports allowed in any 3,600 seconds; None is no limit.
        exports_per_second: Exports allowed in any second.
        concurrent_exports: Exports allowed at once.
        engage_per_hour: Queries (engage and events together) allowed in any 3,600 seconds.
        concurrent_engage: Queries (engage and events together) allowed at once.
        page_size: The largest number of profiles on a page; a client may ask for fewer.
        hold_back_late_events: Whether the export leaves out the events that arrive only after
            `today`, so that an export of the same day made later has more of them.
        verbose: Whether requests are logged to stderr.

    Attributes:
        requests: What was asked so far, oldest first; clear it at will.
        faults: The faults to come; the first that matches a request is used.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        project_id: str | int = "1234567",
        username: str = "sample.account",
        secret: str = "sample-secret",  # noqa: S107 - known to everyone, opens nothing
        events_per_day: int = EVENTS_PER_DAY,
        today: date | Callable[[], date] = today_utc,
        exports_per_hour: int | None = None,
        exports_per_second: int | None = None,
        concurrent_exports: int | None = None,
        engage_per_hour: int | None = None,
        concurrent_engage: int | None = None,
        page_size: int = 1000,
        hold_back_late_events: bool = False,
        verbose: bool = False,
    ) -> None:
        self.host = host
        self.port = port
        self.project_id = str(project_id)
        self.username = username
        self.secret = secret
        self.today = today
        self.verbose = verbose
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.project = SampleProject(
            today=self._today,
            events_per_day=events_per_day,
            page_size=page_size,
            hold_back_late_events=hold_back_late_events,
        )
        self.export_limit = RateLimit(
            self.project_id,
            per_hour=exports_per_hour,
            per_second=exports_per_second,
            concurrent=concurrent_exports,
            busy_message="too many export requests in progress for this project",
        )
        self.query_limit = RateLimit(
            self.project_id, per_hour=engage_per_hour, concurrent=concurrent_engage
        )
        self.stopping = threading.Event()
        self._faults_lock = threading.Lock()
        self._http: _HTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def export_url(self) -> str:
        """The base URL to which clients append `/export`.

        Raises:
            RuntimeError: The server was never started, so it has no port yet.
        """
        return f"{self._base_url()}/api/2.0"

    @property
    def query_url(self) -> str:
        """The base URL to which clients append `/engage` and `/events`.

        Raises:
            RuntimeError: The server was never started, so it has no port yet.
        """
        return f"{self._base_url()}/api/query"

    def start(self) -> Self:
        """Listen and answer in the background; return the server itself.

        Raises:
            RuntimeError: It is running already.
            OSError: The port is taken.
        """
        if self._http is not None:
            raise RuntimeError("the sample server is running already")
        self._http = _HTTPServer(self)
        self.port = self._http.server_address[1]
        self.stopping.clear()
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="sample-server",
            daemon=True,
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection, end every thread and free the port; safe to repeat."""
        if self._http is None or self._thread is None:
            return
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.close_connections()
        self._http = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def take_fault(self, path: str, query: Mapping[str, str]) -> Fault | None:
        """Take the first fault that matches a request, and count it down."""
        with self._faults_lock:
            for fault in self.faults:
                if not path.endswith(fault.path) or not _covers(query, fault.day):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                return fault
        return None

    def _today(self) -> date:
        return self.today if isinstance(self.today, date) else self.today()

    def _base_url(self) -> str:
        if self.port == 0:
            raise RuntimeError("the sample server has to be started before it has a URL")
        return f"http://{self.host}:{self.port}"


def _covers(query: Mapping[str, str], day: date | None) -> bool:
    if day is None:
        return True
    return query.get("from_date", "9999") <= day.isoformat() <= query.get("to_date", "")


# What socketserver calls a request; of a TCP server, it is always a socket.
_Connection: TypeAlias = Any


class _HTTPServer(ThreadingHTTPServer):
    """Knows its connections, so that stopping does not leave a thread or a socket behind."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, sample: SampleServer) -> None:
        self.sample = sample
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        super().__init__((sample.host, sample.port), Handler)

    def process_request(self, request: _Connection, client_address: object) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="sample-connection",
            daemon=True,
        )
        with self._lock:
            self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: _Connection) -> None:
        with self._lock:
            self._connections.pop(request, None)
            super().shutdown_request(request)

    def close_connections(self) -> None:
        """Hang up on every client and wait until the last thread has ended."""
        with self._lock:
            threads = list(self._connections.values())
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client may be gone
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def handle_error(self, request: _Connection, client_address: object) -> None:
        # A client that hangs up is its own affair; anything else is a bug, and has to be seen.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
