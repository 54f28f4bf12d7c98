"""The sample project as an HTTP server on loopback."""

import threading
from collections.abc import Callable
from datetime import date
from functools import partial
from types import TracebackType
from typing import Self

from mp_pipeline.sample.data import EVENTS_PER_DAY
from mp_pipeline.sample.handler import Handler, Request
from mp_pipeline.sample.http_server import HTTPServer
from mp_pipeline.sample.limits import RateLimit
from mp_pipeline.sample.project import SampleProject, today_utc


class SampleServer:
    """An HTTP server that behaves like Mixpanel's API and serves the sample project.

    Use it as a context manager, or call `start()` and `stop()`. It answers
    `GET /api/2.0/export`, `POST /api/query/engage`, `POST /api/query/cohorts/list`,
    `GET /api/query/events` and `…/names`, and `GET /api/app/projects/<id>/data-groups`,
    `…/annotations` and `…/schemas`.

    Args:
        host: The address to listen on.
        port: The port to listen on. 0 chooses a free port, which the server keeps when it is
            started again.
        project_id: The id of the project. The server has only this one.
        username: The service account's username.
        secret: The service account's secret.
        events_per_day: The approximate number of events per day (see `events_of_day`).
        today: The current day in UTC, or a function that returns it. Default: the real one.
        exports_per_hour: The exports allowed in any 3,600 seconds. None means no limit.
        exports_per_second: The exports allowed in any second. None means no limit.
        concurrent_exports: The exports allowed at the same time. None means no limit.
        engage_per_hour: The queries (engage, cohorts and events together) allowed in any 3,600
            seconds. None means no limit.
        concurrent_engage: The queries (engage, cohorts and events together) allowed at the same
            time. None means no limit.
        page_size: The largest number of profiles per page. A client may request fewer.
        hold_back_late_events: Whether to leave events that arrive after `today` out of an
            export. A later export of the same day then has more events.
        timezone: The project's time zone, which sets the days of the counts. The days of exports
            are UTC.
        compact_duplicates: Whether counts leave out duplicates, as they do once Mixpanel has
            compacted them.
        verbose: Whether to log requests to stderr.

    Attributes:
        requests: The requests answered so far, oldest first. You may clear the list.
        handler_class: The class that answers requests. A subclass of the server may set a
            subclass of `Handler`.

    Example:
        >>> import base64, json, urllib.request
        >>> with SampleServer(events_per_day=100) as server:
        ...     account = base64.b64encode(f"{server.username}:{server.secret}".encode())
        ...     request = urllib.request.Request(
        ...         f"{server.export_url}/export?project_id={server.project_id}"
        ...         "&from_date=2024-01-15&to_date=2024-01-15&limit=2",
        ...         headers={"Authorization": f"Basic {account.decode()}"},
        ...     )
        ...     with urllib.request.urlopen(request) as response:
        ...         events = [json.loads(line) for line in response]
        >>> [event["event"] for event in events]
        ['Page View', 'Song Played']
    """

    handler_class: type[Handler] = Handler

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        project_id: str | int = "1234567",
        username: str = "sample.account",
        secret: str = "sample-secret",  # noqa: S107 - public, and it protects nothing
        events_per_day: int = EVENTS_PER_DAY,
        today: date | Callable[[], date] = today_utc,
        exports_per_hour: int | None = None,
        exports_per_second: int | None = None,
        concurrent_exports: int | None = None,
        engage_per_hour: int | None = None,
        concurrent_engage: int | None = None,
        page_size: int = 1000,
        hold_back_late_events: bool = False,
        timezone: str = "UTC",
        compact_duplicates: bool = True,
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
        self.project = SampleProject(
            today=self._get_today,
            events_per_day=events_per_day,
            page_size=page_size,
            hold_back_late_events=hold_back_late_events,
            timezone=timezone,
            compact_duplicates=compact_duplicates,
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
        self.app_limit = RateLimit(self.project_id)
        self._http: HTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def export_url(self) -> str:
        """The base URL to which clients append `/export`.

        Raises:
            RuntimeError: The server was never started, so it has no port yet.
        """
        return f"{self._get_base_url()}/api/2.0"

    @property
    def query_url(self) -> str:
        """The base URL to which clients append `/engage`, `/cohorts/list` and `/events`.

        Raises:
            RuntimeError: The server was never started, so it has no port yet.
        """
        return f"{self._get_base_url()}/api/query"

    def start(self) -> Self:
        """Start to listen, answer requests in background threads, and return the server.

        Raises:
            RuntimeError: The server is already running.
            OSError: The port is in use.
        """
        if self._http is not None:
            raise RuntimeError("the sample server is already running")
        self._http = HTTPServer((self.host, self.port), partial(self.handler_class, self))
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="sample-server",
            daemon=True,
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection, end every thread and release the port.

        Does nothing if the server is not running.
        """
        if self._http is None or self._thread is None:
            return
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

    def _get_today(self) -> date:
        return self.today if isinstance(self.today, date) else self.today()

    def _get_base_url(self) -> str:
        if self.port == 0:
            raise RuntimeError("the sample server has no URL yet: start it first")
        return f"http://{self.host}:{self.port}"
