"""The client: downloads what a Mixpanel project contains to files."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from mp_pipeline.mixpanel.annotations import download_annotations
from mp_pipeline.mixpanel.cohorts import Cohort, download_cohorts, list_cohorts
from mp_pipeline.mixpanel.counts import EventCounts, count_events, list_event_names
from mp_pipeline.mixpanel.downloads import Download, EventsDownload, ProfilesDownload
from mp_pipeline.mixpanel.endpoint import Endpoint
from mp_pipeline.mixpanel.events import EventsQuery, check_export
from mp_pipeline.mixpanel.groups import GroupType, list_group_types
from mp_pipeline.mixpanel.page_reader import PageReader
from mp_pipeline.mixpanel.parts import download_events
from mp_pipeline.mixpanel.prefetch import prefetch_results
from mp_pipeline.mixpanel.profiles import ProfilesQuery, download_profiles
from mp_pipeline.mixpanel.rate_limits import RateLimits
from mp_pipeline.mixpanel.regions import EXPORT_URLS, QUERY_URLS, Region, app_url, base_url
from mp_pipeline.mixpanel.retry import RetryPolicy
from mp_pipeline.mixpanel.schemas import download_schemas
from mp_pipeline.mixpanel.scrub import Scrubber
from mp_pipeline.mixpanel.stop import Stop
from mp_pipeline.mixpanel.transport import Transport

_CONCURRENT_QUERIES = 5  # without a limit of its own


class MixpanelClient:
    """Downloads the events and profiles of one Mixpanel project. Threads may share a client.

    Mixpanel allows a project 60 exports per hour and 3 per second, and 60 requests for profiles per
    hour and 5 at once, or what it states when it refuses a request. With `rate_limits`, all clients
    that count in the same state directory or PostgreSQL database stay within these limits together:
    each attempt is counted, and waits until a request is allowed.

    Args:
        project_id: The project's id, from its settings in Mixpanel.
        username: The service account's username.
        secret: The service account's secret. It appears in no message, log record or repr.
        region: Where Mixpanel stores the project's data: "us", "eu" or "in".
        export_url: The base URL for events instead of the region's; `/export` is appended.
        query_url: The base URL for profiles, cohorts and counts instead of the region's; `/engage`,
            `/cohorts/list` and `/events` are appended. Annotations and group types come from `app`
            beside it.
        connect_timeout: Seconds until a connection must be open.
        read_timeout: Seconds that Mixpanel may stay silent, before and within an answer.
        max_attempts: The largest number of attempts per request. Dropped or incomplete answers,
            timeouts and the status codes 429 and 5xx are tried again.
        backoff_seconds: The wait after the first attempt. It doubles each time, with jitter, up to
            60 seconds. A longer Retry-After is obeyed.
        max_retry_after_seconds: The longest Retry-After to wait for.
        rate_limits: The requests that the project's plan allows; None for no limit.
        max_rate_limit_wait_seconds: The longest wait for the rate limits. If a longer one is
            required, the call fails at once with a RateLimitError that says how long it is. None
            for any wait.

    Raises:
        ValueError: An argument is invalid. The message names it.

    Example:
        >>> from datetime import date
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from mp_pipeline.mixpanel import MixpanelClient
        >>> from mp_pipeline.sample import SampleServer
        >>> with SampleServer() as server, TemporaryDirectory() as directory:
        ...     client = MixpanelClient(
        ...         server.project_id,
        ...         server.username,
        ...         server.secret,
        ...         export_url=server.export_url,
        ...         query_url=server.query_url,
        ...     )
        ...     with client:
        ...         download = client.export_events(date(2024, 1, 15), directory=Path(directory))
        ...         with_two_days = client.export_events(
        ...             date(2024, 1, 15), date(2024, 1, 16), directory=Path(directory)
        ...         )
        >>> download.paths[0].name, download.complete, download.attempts
        ('events_2024-01-15.jsonl.gz', True, 1)
        >>> with_two_days.paths[0].name
        'events_2024-01-15_2024-01-16.jsonl.gz'
    """

    def __init__(
        self,
        project_id: str,
        username: str,
        secret: str,
        *,
        region: Region = "us",
        export_url: str | None = None,
        query_url: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 300.0,
        max_attempts: int = 5,
        backoff_seconds: float = 1.0,
        max_retry_after_seconds: float = 3600.0,
        rate_limits: RateLimits | None = None,
        max_rate_limit_wait_seconds: float | None = None,
    ) -> None:
        for name, text in (("project_id", project_id), ("username", username), ("secret", secret)):
            if not text.strip():
                raise ValueError(f"{name} must not be empty")
        for name, number in (
            ("connect_timeout", connect_timeout),
            ("read_timeout", read_timeout),
            ("max_attempts", max_attempts),
        ):
            if number <= 0:
                raise ValueError(f"{name} must be greater than 0, not {number}")
        for name, seconds in (
            ("backoff_seconds", backoff_seconds),
            ("max_retry_after_seconds", max_retry_after_seconds),
            ("max_rate_limit_wait_seconds", max_rate_limit_wait_seconds or 0),
        ):
            if seconds < 0:
                raise ValueError(f"{name} must not be negative: {seconds}")
        export_url = base_url(region, EXPORT_URLS, export_url, "export_url") + "/export"
        query_url = base_url(region, QUERY_URLS, query_url, "query_url")
        engage_url = query_url + "/engage"
        self._project_id = project_id
        self._concurrent_queries = (
            rate_limits and rate_limits.concurrent_queries
        ) or _CONCURRENT_QUERIES
        self._transport = Transport(
            username, secret, connect_timeout=connect_timeout, read_timeout=read_timeout
        )
        retry = RetryPolicy(
            Scrubber(username, secret),
            max_attempts=max_attempts,
            backoff_seconds=backoff_seconds,
            max_retry_after_seconds=max_retry_after_seconds,
        )
        self._export = Endpoint(
            export_url,
            project_id,
            self._transport,
            retry,
            None if rate_limits is None else rate_limits.export_limiter(export_url, project_id),
            max_rate_limit_wait_seconds,
        )
        self._engage = Endpoint(
            engage_url,
            project_id,
            self._transport,
            retry,
            None if rate_limits is None else rate_limits.query_limiter(engage_url, project_id),
            max_rate_limit_wait_seconds,
        )
        self._cohorts = replace(self._engage, url=query_url + "/cohorts/list")
        self._counts = replace(self._engage, url=query_url + "/events")
        # Mixpanel does not count requests to it.
        self._app = replace(
            self._engage,
            url=f"{app_url(query_url)}/projects/{quote(project_id, safe='')}",
            rate_limiter=None,
        )

    def __repr__(self) -> str:
        return (
            f"MixpanelClient(project_id={self._project_id!r}, "
            f"export_url={self._export.url!r}, engage_url={self._engage.url!r})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections. The client stays usable."""
        self._transport.close()

    def export_events(
        self,
        from_date: date,
        to_date: date | None = None,
        *,
        directory: Path,
        events: Sequence[str] | None = None,
        where: str | None = None,
    ) -> EventsDownload:
        """Download the raw events of a day, or of several days in one request.

        The answer is written as it arrives, in bounded memory, to `events_2024-01-15.jsonl.gz` or,
        for several days, `events_2024-01-15_2024-01-17.jsonl.gz` (`.jsonl` if Mixpanel sends it
        uncompressed, as it does with small answers). The file appears under this name, and replaces
        an older one, only when it is known to be complete. A failure leaves nothing behind.

        If the answer stays incomplete, the days are requested one by one and, if that does not
        suffice, by time of day in up to 24 parts (`events_2024-01-15_part-01.jsonl.gz`). The
        download then has several files, which together contain each event once.

        Malformed lines are kept as they are. Mixpanel does not deduplicate exports.

        Args:
            from_date: The first day, in the project's time zone.
            to_date: The last day, inclusive; by default the first.
            directory: Where the file is created. Missing directories are created.
            events: Only events with these names; None for all.
            where: Only events that match this segmentation expression.

        Returns:
            The files, and what is known about them.

        Raises:
            ValueError: `to_date` is before `from_date`, or `events` is not a list of names.
            TypeError: A date has a time.
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.
            OSError: The file cannot be written.

        Source: https://docs.mixpanel.com/reference/raw-event-export
        """
        query = EventsQuery(from_date, to_date or from_date, events, where)
        return download_events(self._export, query, directory, Stop())

    def export_ranges(
        self,
        ranges: Iterable[tuple[date, date]],
        *,
        directory: Path,
        events: Sequence[str] | None = None,
        where: str | None = None,
        prefetch: int = 1,
    ) -> Generator[EventsDownload, None, None]:
        """Download several ranges of days in order, and prefetch the next ones.

        Closing the generator stops the running downloads. The files are the caller's to delete,
        including those of downloads that were prefetched and not yielded.

        Args:
            ranges: The first and the last day of each range, as `export_events` takes them.
            directory: As in `export_events`.
            events: As in `export_events`.
            where: As in `export_events`.
            prefetch: The number of downloads that may be running, or waiting on disk, while the
                caller uses one.

        Yields:
            The downloads.

        Raises:
            ValueError: `prefetch` is negative, or as in `export_events`.
            TypeError: As in `export_events`.
            Exception: As in `export_events`, when it is that download's turn.
        """
        if prefetch < 0:
            raise ValueError(f"prefetch must not be negative: {prefetch}")
        queries = [EventsQuery(first, last, events, where) for first, last in ranges]
        stop = Stop()
        downloads = (
            partial(download_events, self._export, query, directory, stop) for query in queries
        )
        return prefetch_results(downloads, prefetch, stop)

    def export_profiles(
        self,
        *,
        directory: Path,
        where: str | None = None,
        properties: Sequence[str] | None = None,
        data_group_id: str | None = None,
        cohort_id: int | None = None,
        name: str = "profiles",
        page_size: int = 1000,
        max_missing_fraction: float = 0.01,
    ) -> ProfilesDownload:
        """Download a snapshot of the profiles to `profiles.jsonl.gz`, one profile per line.

        Each profile is written as Mixpanel sent it, digit by digit. Profiles can change while the
        pages are read, so that one may be missing or occur twice. `complete` is False if the
        number of different profiles is not the `total` that Mixpanel announced; if many are
        missing, the download fails. The file appears as in `export_events`.

        Only the first page counts against the requests per hour. As many pages are requested at the
        same time as `rate_limits` allow (5 without), and a few of them are held in memory.

        Args:
            directory: Where the file is created. Missing directories are created.
            where: Only profiles that match this segmentation expression.
            properties: Only properties with these names; None for all.
            data_group_id: The group type whose profiles to download; None for user profiles.
            cohort_id: The cohort whose members to download; None for all profiles.
            name: The name of the file, without `.jsonl.gz`, and of the download in messages.
            page_size: The number of profiles per page to request. Mixpanel may send pages of
                another size.
            max_missing_fraction: The fraction of the announced profiles that may be missing, from 0
                to 1. Up to 3 profiles always may.

        Returns:
            The file, and what is known about it.

        Raises:
            ValueError: `page_size` is less than 1, or `properties` is not a list of names.
            IncompleteSnapshotError: More of the announced profiles are missing. An existing file
                is kept.
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.
            OSError: The file cannot be written.

        Source: https://docs.mixpanel.com/reference/engage-query
        """
        query = ProfilesQuery(where, properties, data_group_id, cohort_id, page_size)
        return download_profiles(
            self._engage,
            directory,
            query,
            name,
            concurrent=self._concurrent_queries,
            max_missing_fraction=max_missing_fraction,
        )

    def list_group_types(self) -> list[GroupType]:
        """Return the group types of the project; `export_profiles` downloads their profiles.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
        """
        return list_group_types(self._app)

    def list_cohorts(self) -> list[Cohort]:
        """Return the cohorts of the project; `export_profiles` downloads their members.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        return list_cohorts(self._cohorts)

    def export_cohorts(self, *, directory: Path) -> Download:
        """Download the cohorts of the project to `cohorts.jsonl.gz`, one cohort per line.

        Args:
            directory: Where the file is created. Missing directories are created.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.
            OSError: The file cannot be written.
        """
        return download_cohorts(self._cohorts, directory)

    def export_annotations(self, *, directory: Path) -> Download:
        """Download the annotations of the project to `annotations.jsonl.gz`, one per line.

        Args:
            directory: Where the file is created. Missing directories are created.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            OSError: The file cannot be written.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> from mp_pipeline.sample import SampleServer
            >>> with SampleServer() as server, TemporaryDirectory() as directory:
            ...     with MixpanelClient(
            ...         server.project_id, server.username, server.secret,
            ...         query_url=server.query_url,
            ...     ) as client:
            ...         download = client.export_annotations(directory=Path(directory))
            >>> download.paths[0].name, download.complete
            ('annotations.jsonl.gz', True)
        """
        return download_annotations(self._app, directory)

    def export_schemas(self, *, directory: Path) -> Download:
        """Download the schemas of the project's Lexicon to `lexicon.jsonl.gz`, one per line.

        Each describes an event or the user profiles, with the properties. Mixpanel has a schema
        only of what someone described, hid or tagged.

        Args:
            directory: Where the file is created. Missing directories are created.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            OSError: The file cannot be written.
        """
        return download_schemas(self._app, directory)

    def list_event_names(self) -> list[str]:
        """Return the names of the project's events of the last 31 days, at most 255.

        Raises:
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        return list_event_names(self._counts)

    def count_events(self, first: date, last: date, names: Sequence[str]) -> EventCounts:
        """Return how many events Mixpanel counts per name and day.

        Up to 50 names are requested at once, for all days; each such request is one of the
        project's 60 per hour. Mixpanel may answer from a cache that is up to days old.

        Args:
            first: The first day, in the project's time zone.
            last: The last day, inclusive.
            names: The names of the events.

        Returns:
            The numbers by name and day. A day that is missing has none.

        Raises:
            PlanError: The project's plan does not include counts (status 402), or the account's
                role does not.
            MixpanelError: Another of its subclasses, see `mp_pipeline.mixpanel.errors`.
            RateLimitStoreError: Requests cannot be counted; none was sent.

        Example:
            >>> from datetime import date
            >>> from mp_pipeline.sample import SampleServer
            >>> day = date(2024, 1, 15)
            >>> with SampleServer(events_per_day=100) as server:
            ...     with MixpanelClient(
            ...         server.project_id, server.username, server.secret,
            ...         query_url=server.query_url,
            ...     ) as client:
            ...         counts = client.count_events(day, day, ["Song Played"])
            >>> counts["Song Played"][day]
            79
        """
        return count_events(self._counts, first, last, names)

    def check_access(self) -> None:
        """Check that the credentials, the region and the plan work.

        Requests one event of yesterday (UTC) and one profile, two of the project's 60 requests per
        hour, and reads both answers.

        Raises:
            MixpanelError: One of its subclasses, after at most 2 attempts.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        check_export(self._export, yesterday, max_attempts=2)
        PageReader(self._engage, {"page_size": "1"}, "profiles").read(0, Stop(), max_attempts=2)

    def check_counts(self) -> None:
        """Check that the project's plan includes Mixpanel's counts; one request.

        Raises:
            PlanError: It does not.
            MixpanelError: Another of its subclasses, after at most 2 attempts.
            RateLimitStoreError: Requests cannot be counted; none was sent.
        """
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        count_events(self._counts, yesterday, yesterday, ["Sign Up"], max_attempts=2)

    def describe_rate_limits(self) -> list[str]:
        """Return the rate limits that apply to events and to profiles, and where they come from.

        Raises:
            RateLimitStoreError: What Mixpanel stated about them cannot be read.

        Example:
            >>> from pathlib import Path
            >>> from tempfile import TemporaryDirectory
            >>> from mp_pipeline.mixpanel import MixpanelClient, RateLimits
            >>> with TemporaryDirectory() as directory:
            ...     limits = RateLimits(Path(directory))
            ...     client = MixpanelClient("12345", "reader", "the secret", rate_limits=limits)
            ...     for line in client.describe_rate_limits():
            ...         print(line)
            60 exports per hour (the default), 3 exports per second (the default)
            60 queries per hour (the default), 5 queries at once
        """
        limiters = (self._export.rate_limiter, self._engage.rate_limiter)
        return [limiter.describe() for limiter in limiters if limiter is not None]
