"""Dagster resources: the Mixpanel project, and the DuckDB database."""

import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from mp_pipeline.mixpanel import EventsDownload, ProfilesDownload
from mp_pipeline.settings import CREDENTIALS, Settings
from mp_pipeline.storage import SAMPLE_SOURCE, StorageEngine, connect

if TYPE_CHECKING:
    from mp_pipeline.mixpanel import MixpanelClient, RateLimits
    from mp_pipeline.sample import SampleServer

_KEPT_SECONDS = 24 * 60 * 60.0
"""Age at which a download cannot belong to a run that is still going on."""


class MixpanelResource(dg.ConfigurableResource[Any]):
    """A Mixpanel project; without credentials, the sample project on this machine."""

    project_id: str | None = Field(default=None, description="The project's id.")
    service_account_username: str | None = Field(
        default=None, repr=False, description="The service account's user name."
    )
    service_account_secret: str | None = Field(
        default=None, repr=False, description="The service account's secret."
    )
    region: Literal["us", "eu", "in"] = Field(
        default="us", description="Where Mixpanel keeps the project's data: us, eu or in."
    )
    export_url: str | None = Field(
        default=None, description="Base URL of the raw export instead of the region's."
    )
    query_url: str | None = Field(
        default=None, description="Base URL of the query API instead of the region's."
    )
    events: list[str] | None = Field(
        default=None, description="Names of the events to export; all if empty."
    )
    where: str | None = Field(
        default=None, description="A segmentation expression that filters the export."
    )
    prefetch: int = Field(
        default=1,
        ge=0,
        description="Downloads under way, or waiting on disk, while a day is loaded.",
    )
    exports_per_hour: int = Field(
        default=60, ge=1, description="Exports that the project's plan allows in any hour."
    )
    exports_per_second: int = Field(
        default=3, ge=1, description="Exports that the project's plan allows in any second."
    )
    queries_per_hour: int = Field(
        default=60, ge=1, description="Requests of profiles that the plan allows in any hour."
    )
    concurrent_queries: int = Field(
        default=5, ge=1, description="Requests of profiles that the plan allows at once."
    )
    state_directory: str | None = Field(
        default=None,
        description="Where all processes of this machine count the requests; no limits if empty.",
    )

    @property
    def source(self) -> str:
        """What the load log and the UI call this project."""
        return SAMPLE_SOURCE if self.project_id is None else f"project {self.project_id}"

    def get_client(self, **options: Any) -> "MixpanelClient":  # noqa: ANN401 - as MixpanelClient has
        """Return a client of the project; the sample project is started if it is that.

        Args:
            options: timeouts, retries and the longest wait for the rate limits, as ``MixpanelClient``
                takes them.

        Raises:
            ValueError: a field has a value that cannot be used; names it.
        """
        from mp_pipeline.mixpanel import MixpanelClient

        if self.project_id is None:
            sample = _sample_server()
            return MixpanelClient(
                sample.project_id,
                sample.username,
                sample.secret,
                export_url=sample.export_url,
                query_url=sample.query_url,
                **options,
            )
        return MixpanelClient(
            self.project_id,
            self.service_account_username or "",
            self.service_account_secret or "",
            region=self.region,
            export_url=self.export_url,
            query_url=self.query_url,
            rate_limits=self._rate_limits(),
            **options,
        )

    def _rate_limits(self) -> "RateLimits | None":
        from mp_pipeline.mixpanel.rate_limits import RateLimits, per_hour, per_second

        if not self.state_directory:
            return None
        return RateLimits(
            Path(self.state_directory),
            exports=(per_hour(self.exports_per_hour), per_second(self.exports_per_second)),
            queries=(per_hour(self.queries_per_hour),),
            concurrent_queries=self.concurrent_queries,
        )

    def export_events(
        self, ranges: Sequence[tuple[date, date]], directory: Path
    ) -> Generator[EventsDownload, None, None]:
        """Download ranges of dates, a file each, in order; the next ones while one is used.

        Args:
            ranges: the first and last date of each, as the export understands them.
            directory: where the files go.

        Raises:
            MixpanelError: a range could not be downloaded whole.
            StateDirectoryError: requests cannot be counted in the state directory.
        """
        with self.get_client() as client:
            yield from client.export_ranges(
                ranges,
                directory=directory,
                events=self.events or None,
                where=self.where,
                prefetch=self.prefetch,
            )

    def export_profiles(self, directory: Path) -> ProfilesDownload:
        """Download all user profiles as they are now.

        Raises:
            MixpanelError: they could not be downloaded whole.
            StateDirectoryError: requests cannot be counted in the state directory.
        """
        with self.get_client() as client:
            return client.export_profiles(directory=directory)


class MixpanelDuckDBResource(DuckDBResource):
    """A DuckDB database that several runs share.

    Waits while another process holds the file, says which process that is if it takes too long,
    closes connections on exceptions too, and opens the file read-only for reading. Takes the same
    fields as ``dagster_duckdb.DuckDBResource``.
    """

    lock_timeout: float = Field(
        default=300.0,
        ge=0,
        description="How long to wait while another process holds the file, in seconds.",
    )

    @property
    def path(self) -> Path | None:
        """The database file, None for a database in memory."""
        return None if self.database == ":memory:" else Path(self.database)

    def download_directory(self, run_id: str) -> Path:
        """Return the directory beside the database that a run downloads into."""
        path = self.path or Path("memory")
        return path.parent / f"{path.stem}.downloads" / run_id

    def delete_downloads(self, run_id: str) -> None:
        """Delete what a run downloaded, and what killed runs left a day ago or earlier."""
        directory = self.download_directory(run_id)
        if not directory.parent.is_dir():
            return
        for other in directory.parent.iterdir():
            with suppress(FileNotFoundError):  # another run may be at it, too
                if other == directory or other.stat().st_mtime < time.time() - _KEPT_SECONDS:
                    shutil.rmtree(other)

    @contextmanager
    def get_connection(self, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the database for the ``with`` block.

        Args:
            read_only: open for reading; other processes can read at the same time.

        Raises:
            DatabaseLockedError: the file stayed in use; names the process that holds it.
            StorageError: the file is no DuckDB database, or cannot be opened.
        """
        connection = connect(
            self.path,
            read_only=read_only,
            lock_timeout=self.lock_timeout,
            config=self.connection_config,
        )
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def get_engine(self, read_only: bool = False) -> Iterator[StorageEngine]:
        """Open the database with the storage engine for the ``with`` block.

        Args:
            read_only: open for reading; other processes can read at the same time.

        Raises:
            FileNotFoundError: ``read_only``, and there is no such file.
            DatabaseLockedError: the file stayed in use; names the process that holds it.
            StorageError: the file is no DuckDB database, or cannot be opened.
        """
        if self.path is None:
            raise ValueError("the storage engine needs a database file, not ':memory:'")
        with StorageEngine(
            self.path,
            read_only,
            lock_timeout=self.lock_timeout,
            config=self.connection_config,
        ) as engine:
            yield engine


def mixpanel_resource(settings: Settings) -> MixpanelResource:
    """Return the resource that the settings name; secrets stay in the environment until a run."""
    credentials: dict[str, Any] = {}
    if not settings.is_sample:
        names = ("project_id", "service_account_username", "service_account_secret")
        credentials = {
            name: dg.EnvVar(variable) for name, variable in zip(names, CREDENTIALS, strict=True)
        }
    export_url, query_url = settings.mixpanel_export_url, settings.mixpanel_query_url
    events = settings.mixpanel_events
    return MixpanelResource(
        **credentials,
        region=settings.mixpanel_region,
        export_url=None if export_url is None else str(export_url),
        query_url=None if query_url is None else str(query_url),
        events=None if events is None else list(events),
        where=settings.mixpanel_where,
        prefetch=settings.mixpanel_prefetch,
        exports_per_hour=settings.mixpanel_exports_per_hour,
        exports_per_second=settings.mixpanel_exports_per_second,
        queries_per_hour=settings.mixpanel_queries_per_hour,
        concurrent_queries=settings.mixpanel_concurrent_queries,
        state_directory=str(settings.state_directory),
    )


def duckdb_resource(settings: Settings) -> MixpanelDuckDBResource:
    """Return the database that the settings name."""
    return MixpanelDuckDBResource(
        database=str(settings.database),
        connection_config=settings.database_options,
        lock_timeout=settings.mp_pipeline_lock_timeout,
    )


@cache
def _sample_server() -> "SampleServer":
    """Start the sample project in this process, once; it ends with the process."""
    from mp_pipeline.sample import SampleServer

    server = SampleServer()
    server.start()
    return server
