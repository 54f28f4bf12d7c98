"""Dagster resources: a Mixpanel project, and the DuckDB database."""

import logging
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource
from pydantic import Field

from mp_pipeline.mixpanel import EventsDownload, PostgresDatabase, ProfilesDownload
from mp_pipeline.settings import CREDENTIALS, Settings
from mp_pipeline.storage import (
    S3,
    SAMPLE_SOURCE,
    DatabaseLockedError,
    Lake,
    StorageEngine,
    connect,
    is_lake_name,
)

if TYPE_CHECKING:
    from mp_pipeline.mixpanel import MixpanelClient, RateLimits
    from mp_pipeline.sample import SampleServer

_log = logging.getLogger(__name__)

_STALE_SECONDS = 24 * 60 * 60.0
"""Age at which the downloads of another run are taken to be left over from a killed process."""


class MixpanelResource(dg.ConfigurableResource[Any]):
    """A Mixpanel project or, without credentials, the sample project on this machine."""

    project_id: str | None = Field(default=None, description="Project ID.")
    service_account_username: str | None = Field(
        default=None, repr=False, description="Username of the service account."
    )
    service_account_secret: str | None = Field(
        default=None, repr=False, description="Secret of the service account."
    )
    region: Literal["us", "eu", "in"] = Field(
        default="us", description="Region in which Mixpanel stores the data: us, eu or in."
    )
    export_url: str | None = Field(
        default=None, description="Base URL of the raw export API, overriding the region's."
    )
    query_url: str | None = Field(
        default=None, description="Base URL of the query API, overriding the region's."
    )
    events: list[str] | None = Field(
        default=None, description="Names of the events to export; empty for all."
    )
    where: str | None = Field(
        default=None, description="Segmentation expression that filters the export."
    )
    profiles_where: str | None = Field(
        default=None, description="Segmentation expression that filters the user profiles."
    )
    profiles_properties: list[str] | None = Field(
        default=None, description="Names of the profile properties to load; empty for all."
    )
    groups: dict[str, str] | None = Field(
        default=None,
        description="Group keys and data group ids; empty for those that Mixpanel lists.",
    )
    cohorts: list[str] | None = Field(
        default=None,
        description="Names or ids of the cohorts whose members to load; empty for all.",
    )
    timezone: str = Field(
        default="UTC",
        description="The project's time zone, which annotations and counts are dated in.",
    )
    prefetch: int = Field(
        default=1, ge=0, description="Downloads to prefetch while a day is loaded."
    )
    exports_per_hour: int | None = Field(
        default=None,
        ge=1,
        description="Export requests allowed per hour; empty for 60, or what Mixpanel states.",
    )
    exports_per_second: int | None = Field(
        default=None,
        ge=1,
        description="Export requests allowed per second; empty for 3, or what Mixpanel states.",
    )
    queries_per_hour: int | None = Field(
        default=None,
        ge=1,
        description="Profile snapshots allowed per hour; empty for 60, or what Mixpanel states.",
    )
    concurrent_queries: int = Field(
        default=5, ge=1, description="Concurrent profile requests allowed."
    )
    max_missing_fraction: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Fraction of the announced profiles that a snapshot may lack.",
    )
    state_directory: str | None = Field(
        default=None,
        description="Where the processes of this machine share their request counts; empty for no "
        "rate limits.",
    )
    rate_limits_database: str | None = Field(
        default=None,
        repr=False,
        description="URL of the PostgreSQL database in which the workers of several machines share "
        "their request counts; empty for the state directory.",
    )

    @property
    def source(self) -> str:
        """The name of this project in the load log and in the UI."""
        return SAMPLE_SOURCE if self.project_id is None else f"project {self.project_id}"

    def get_client(self, **options: Any) -> "MixpanelClient":  # noqa: ANN401 - as MixpanelClient has
        """Return a client for the project. The sample project is started if there is none.

        Args:
            options: Timeouts, retries and the longest wait for a rate limit, as ``MixpanelClient``
                takes them.

        Raises:
            ValueError: A field has an invalid value.
        """
        from mp_pipeline.mixpanel import MixpanelClient

        if self.project_id is None:
            sample = _sample_server(self.timezone)
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
        from mp_pipeline.mixpanel.rate_limits import RateLimits
        from mp_pipeline.mixpanel.windows import per_hour, per_second

        store: Path | PostgresDatabase
        if self.rate_limits_database:
            store = PostgresDatabase(self.rate_limits_database)
        elif self.state_directory:
            store = Path(self.state_directory)
        else:
            return None
        return RateLimits(
            store,
            exports=(per_hour(self.exports_per_hour), per_second(self.exports_per_second)),
            queries=(per_hour(self.queries_per_hour),),
            concurrent_queries=self.concurrent_queries,
        )

    def export_events(
        self, ranges: Sequence[tuple[date, date]], directory: Path
    ) -> Generator[EventsDownload, None, None]:
        """Download ranges of dates, one file each, in order; prefetches the next ones.

        Args:
            ranges: The first and last date of each, as the export understands them.
            directory: Where the files go.

        Yields:
            A download for each range, with this project as its source.

        Raises:
            MixpanelError: A range could not be downloaded completely.
            RateLimitStoreError: Requests cannot be counted.
        """
        with self.get_client() as client:
            for download in client.export_ranges(
                ranges,
                directory=directory,
                events=self.events or None,
                where=self.where,
                prefetch=self.prefetch,
            ):
                yield replace(download, source=self.source)

    def export_profiles(self, directory: Path) -> ProfilesDownload:
        """Download the user profiles as they are now.

        Args:
            directory: Where the file goes.

        Returns:
            The download, with this project as its source.

        Raises:
            MixpanelError: The profiles could not be downloaded completely.
            RateLimitStoreError: Requests cannot be counted.
        """
        with self.get_client() as client:
            download = client.export_profiles(
                directory=directory,
                where=self.profiles_where,
                properties=self.profiles_properties or None,
                max_missing_fraction=self.max_missing_fraction,
            )
        return replace(download, source=self.source)


class MixpanelDuckDBResource(DuckDBResource):
    """A DuckDB database that several runs share: a file, or a lake.

    It waits while another process holds the file and names that process if the wait is too long,
    closes connections after exceptions too, and opens the file read-only for reading. It takes the
    same fields as ``dagster_duckdb.DuckDBResource``.

    Example:
        >>> lake = MixpanelDuckDBResource(
        ...     database="ducklake:postgres:dbname=mixpanel host=db", data_path="s3://bucket/lake/"
        ... )
        >>> str(lake.location)
        'ducklake:postgres:dbname=mixpanel host=db'
    """

    data_path: str | None = Field(
        default=None,
        description="Where the data files of a lake are: a directory, or s3://bucket/prefix/.",
    )
    s3_endpoint: str | None = Field(
        default=None, description="URL of an S3 server other than Amazon's."
    )
    s3_region: str | None = Field(default=None, description="Region of the object storage.")
    s3_key_id: str | None = Field(default=None, repr=False, description="Access key ID.")
    s3_secret: str | None = Field(default=None, repr=False, description="Secret access key.")
    downloads: str | None = Field(
        default=None,
        description="The directory that runs download to; None for the one beside the database.",
    )

    lock_timeout: float = Field(
        default=300.0,
        ge=0,
        description="How long to wait while another process holds the file, in seconds.",
    )

    @property
    def location(self) -> Path | Lake | None:
        """The database file or the lake; None for an in-memory database."""
        if is_lake_name(self.database):
            scratch = self.connection_config.get("temp_directory", self._directory)
            s3 = S3(self.s3_endpoint, self.s3_region, self.s3_key_id, self.s3_secret)
            return Lake.parse(self.database, self.data_path, Path(scratch), s3)
        return self.path

    @property
    def path(self) -> Path | None:
        """The database file; None for a lake or an in-memory database."""
        is_file = self.database != ":memory:" and not is_lake_name(self.database)
        return Path(self.database) if is_file else None

    @property
    def _directory(self) -> Path:
        """The directory of downloads and, for a lake, of temporary files."""
        default = Path("data") if self.path is None else self.path.parent
        return default if self.downloads is None else Path(self.downloads)

    def download_directory(self, run_id: str) -> Path:
        """Return the directory that a run downloads to."""
        name = "lake" if self.path is None else self.path.stem
        return self._directory / f"{name}.downloads" / run_id

    def delete_downloads(self, run_id: str) -> None:
        """Delete what a run downloaded, and what killed runs left behind over a day ago.

        A file that cannot be deleted is logged and does not fail the run.
        """
        directory = self.download_directory(run_id)
        stale = time.time() - _STALE_SECONDS
        for other in directory.parent.glob("*/"):
            try:
                if other == directory or other.stat().st_mtime < stale:
                    shutil.rmtree(other)
            except FileNotFoundError:
                continue  # another run deletes it too
            except OSError as error:
                _log.warning("could not delete downloads: %s", error)

    def delete_all_downloads(self) -> int:
        """Delete what all runs downloaded, running ones too, and return the number of runs.

        Raises:
            OSError: A file cannot be deleted.
        """
        directories = list(self.download_directory("any").parent.glob("*/"))
        for directory in directories:
            with suppress(FileNotFoundError):  # its run deletes it too
                shutil.rmtree(directory)
        return len(directories)

    @contextmanager
    def get_connection(self, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the database for a ``with`` block.

        Args:
            read_only: Open for reading; other processes can read at the same time.

        Raises:
            DatabaseLockedError: The file stayed in use; names the process that holds it.
            StorageError: The file is not a DuckDB database, or cannot be opened.
        """
        with _explain_lock_timeout():
            connection = connect(
                self.location,
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
        """Open the database with the storage engine for a ``with`` block.

        Args:
            read_only: Open for reading; other processes can read at the same time.

        Raises:
            FileNotFoundError: ``read_only``, and the file does not exist.
            DatabaseLockedError: The file stayed in use; names the process that holds it.
            StorageError: The file is not a DuckDB database, or cannot be opened.
        """
        location = self.location
        if location is None:
            raise ValueError("the storage engine needs a database file, not ':memory:'")
        with _explain_lock_timeout():
            engine = StorageEngine(
                location,
                read_only,
                lock_timeout=self.lock_timeout,
                config=self.connection_config,
            )
        with engine:
            yield engine


def mixpanel_resource(settings: Settings) -> MixpanelResource:
    """Return the resource for the project in the settings.

    Credentials stay in the environment until a run needs them, so that the UI shows only the names
    of their variables.

    Raises:
        ValueError: The settings have credentials that do not come from the environment.
    """
    variables: dict[str, str] = {}
    if not settings.is_sample:
        names = ("project_id", "service_account_username", "service_account_secret")
        variables |= zip(names, CREDENTIALS, strict=True)
    if settings.mp_pipeline_rate_limits is not None:
        variables["rate_limits_database"] = "MP_PIPELINE_RATE_LIMITS"
    secrets = {name: _variable(settings, variable) for name, variable in variables.items()}
    export_url, query_url = settings.mixpanel_export_url, settings.mixpanel_query_url
    events, properties = settings.mixpanel_events, settings.mixpanel_profiles_properties
    cohorts = settings.mixpanel_cohorts
    return MixpanelResource(
        **secrets,
        region=settings.mixpanel_region,
        export_url=None if export_url is None else str(export_url),
        query_url=None if query_url is None else str(query_url),
        events=None if events is None else list(events),
        where=settings.mixpanel_where,
        profiles_where=settings.mixpanel_profiles_where,
        profiles_properties=None if properties is None else list(properties),
        groups=settings.mixpanel_groups,
        cohorts=None if cohorts is None else list(cohorts),
        timezone=settings.mixpanel_project_timezone,
        prefetch=settings.mixpanel_prefetch,
        exports_per_hour=settings.mixpanel_exports_per_hour,
        exports_per_second=settings.mixpanel_exports_per_second,
        queries_per_hour=settings.mixpanel_queries_per_hour,
        concurrent_queries=settings.mixpanel_concurrent_queries,
        max_missing_fraction=settings.mp_pipeline_max_missing_fraction,
        state_directory=str(settings.state_directory),
    )


def duckdb_resource(settings: Settings) -> MixpanelDuckDBResource:
    """Return the resource for the database in the settings.

    Keys of S3 stay in the environment, as credentials do.

    Raises:
        ValueError: The settings have keys that do not come from the environment.
    """
    keys: dict[str, Any] = {}
    if settings.mp_pipeline_s3_key_id is not None:
        names = {"s3_key_id": "MP_PIPELINE_S3_KEY_ID", "s3_secret": "MP_PIPELINE_S3_SECRET"}
        keys = {name: _variable(settings, variable) for name, variable in names.items()}
    lake = settings.database if settings.is_lake else None
    return MixpanelDuckDBResource(
        database=str(settings.database),
        data_path=lake.data_path if isinstance(lake, Lake) else None,
        s3_endpoint=settings.mp_pipeline_s3_endpoint,
        s3_region=settings.mp_pipeline_s3_region,
        **keys,
        downloads=str(settings.download_directory),
        connection_config=settings.database_options,
        lock_timeout=settings.mp_pipeline_lock_timeout,
    )


def _variable(settings: Settings, name: str) -> dg.EnvVar:
    """Return a variable whose value Dagster's UI does not show."""
    if settings.prefix is None:
        raise ValueError(
            "credentials in code would be visible in Dagster's UI: set them in environment "
            "variables and use load_settings(prefix=...)"
        )
    return dg.EnvVar(settings.variable(name))


@contextmanager
def _explain_lock_timeout() -> Iterator[None]:
    """Add the name of the setting to the error: the storage engine does not know it."""
    try:
        yield
    except DatabaseLockedError as error:
        raise DatabaseLockedError(
            f"{error} The setting is MP_PIPELINE_LOCK_TIMEOUT, in seconds."
        ) from error


@cache
def _sample_server(timezone: str) -> "SampleServer":
    """Start the sample project once in this process; it ends with the process."""
    from mp_pipeline.sample import SampleServer

    server = SampleServer(timezone=timezone)
    server.start()
    return server
