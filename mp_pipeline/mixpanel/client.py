"""The client of Mixpanel's APIs: events and profiles to files on disk."""

import gzip
import json
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from mp_pipeline.mixpanel.body import ExportBody
from mp_pipeline.mixpanel.downloads import EventsDownload, PartFile, ProfilesDownload
from mp_pipeline.mixpanel.errors import BadRequestError, MixpanelError
from mp_pipeline.mixpanel.pages import Page, parse_page
from mp_pipeline.mixpanel.prefetch import prefetched
from mp_pipeline.mixpanel.rate_limits import RateLimiter, RateLimits
from mp_pipeline.mixpanel.regions import EXPORT_URLS, QUERY_URLS, Region, base_url
from mp_pipeline.mixpanel.transport import Answer, Call, Failure, Stop, Transport

_log = logging.getLogger(__name__)
_PROGRESS_SECONDS = 10.0  # between two lines in the log


class MixpanelClient:
    """Reads one Mixpanel project. Threads may share it.

    Mixpanel allows a project 60 exports an hour and 3 a second; of the profiles, 60 requests an
    hour and 5 at once. With a rate limits, all clients on this machine that share its directory keep within
    that together: each attempt is counted, and waits until there is room.

    Args:
        project_id: The project's number, from its settings.
        username: The service account's user name.
        secret: The service account's secret. It appears in no message, log record or repr.
        region: Where the project's data is kept: "us", "eu" or "in".
        export_url: Instead of the region's base URL for events; `/export` is appended.
        query_url: Instead of the region's base URL for profiles; `/engage` is appended.
        connect_timeout: Seconds until a connection must stand.
        read_timeout: Seconds that Mixpanel may stay silent, before and within an answer.
        max_attempts: Attempts for each request. Dropped and truncated answers, silence and the
            status codes 429 and 5xx are tried again.
        backoff_seconds: The wait after the first attempt. It doubles each time, with jitter, up to
            60 seconds. A longer Retry-After of Mixpanel's is obeyed.
        max_retry_after_seconds: The longest Retry-After to wait for.
        rate_limits: The requests that the project's plan allows; None for no limit.
        max_rate_limit_wait_seconds: The longest wait for the rate limits. If it would be longer, a call
            fails at once with a RateLimitError that says how long. None for any.

    Raises:
        ValueError: An argument makes no sense; the message names it.
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
                raise ValueError(f"{name} must be more than 0, not {number}")
        for name, seconds in (
            ("backoff_seconds", backoff_seconds),
            ("max_retry_after_seconds", max_retry_after_seconds),
            ("max_rate_limit_wait_seconds", max_rate_limit_wait_seconds or 0),
        ):
            if seconds < 0:
                raise ValueError(f"{name} must not be negative: {seconds}")
        self._project_id = project_id
        self._export_url = base_url(region, EXPORT_URLS, export_url, "export_url") + "/export"
        self._engage_url = base_url(region, QUERY_URLS, query_url, "query_url") + "/engage"
        self._exports: RateLimiter | None = None
        self._queries: RateLimiter | None = None
        if rate_limits is not None:
            self._exports = rate_limits.of_exports(self._export_url, project_id)
            self._queries = rate_limits.of_queries(self._engage_url, project_id)
        self._transport = Transport(
            username,
            secret,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_attempts=max_attempts,
            backoff_seconds=backoff_seconds,
            max_retry_after_seconds=max_retry_after_seconds,
            max_rate_limit_wait_seconds=max_rate_limit_wait_seconds,
        )

    def __repr__(self) -> str:
        return (
            f"MixpanelClient(project_id={self._project_id!r}, "
            f"export_url={self._export_url!r}, engage_url={self._engage_url!r})"
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

        The body is written as it comes, in constant memory, to `events_2024-01-15.jsonl.gz` or, for
        several days, `events_2024-01-15_2024-01-17.jsonl.gz` (`.jsonl` when Mixpanel sends it
        uncompressed, as it does with small answers). The file appears under this name, replacing
        an older one, only when it is known to be whole; a failure leaves nothing behind.

        A malformed line is kept as it is. Mixpanel's export is never deduplicated.

        Args:
            from_date: The first day, in the project's time zone.
            to_date: The last day, inclusive; the first by default.
            directory: Where the file goes; made when it is missing.
            events: Only events of these names; None for all.
            where: Only events for which this segmentation expression holds.

        Raises:
            ValueError: `to_date` is before `from_date`, or `events` is no list of names.
            TypeError: A date has a time.
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            StateDirectoryError: The rate limits cannot be counted; nothing was sent.
            OSError: The file cannot be written.

        Source: https://docs.mixpanel.com/reference/raw-event-export
        """
        return self._export(from_date, to_date or from_date, directory, events, where, Stop())

    def export_ranges(
        self,
        ranges: Iterable[tuple[date, date]],
        *,
        directory: Path,
        events: Sequence[str] | None = None,
        where: str | None = None,
        prefetch: int = 1,
    ) -> Generator[EventsDownload, None, None]:
        """Download several ranges of days, in order, and go on downloading while one is used.

        Closing the iterator stops the downloads under way. A file is yours to delete; those of
        downloads that were not asked for remain in the directory.

        Args:
            ranges: The first and the last day of each, as `export_events` takes them.
            directory: As for `export_events`.
            events: As for `export_events`.
            where: As for `export_events`.
            prefetch: The downloads that may be under way, or wait on disk, while one is used.

        Raises:
            ValueError: `prefetch` is negative; or as `export_events`.
            Exception: As `export_events`, when it is that download's turn.
        """
        if prefetch < 0:
            raise ValueError(f"prefetch must not be negative: {prefetch}")
        stop = Stop()
        downloads = (
            partial(self._export, first, last, directory, events, where, stop)
            for first, last in ranges
        )
        yield from prefetched(downloads, prefetch, stop.set)

    def _export(
        self,
        from_date: date,
        to_date: date,
        directory: Path,
        events: Sequence[str] | None,
        where: str | None,
        stop: Stop,
    ) -> EventsDownload:
        for name, day in (("from_date", from_date), ("to_date", to_date)):
            if isinstance(day, datetime):
                raise TypeError(f"{name} must be a date without a time, not {day!r}")
        if to_date < from_date:
            raise ValueError(f"to_date {to_date} is before from_date {from_date}")
        if isinstance(events, str) or (events is not None and not events):
            raise ValueError("events must be a list of names, or None for all events")

        days = str(from_date) if from_date == to_date else f"{from_date}_{to_date}"
        filters = {}
        if events is not None:
            filters["event"] = json.dumps(list(events))
        if where:
            filters["where"] = where
        call = self._export_call(from_date, to_date, filters)
        progress = _Progress(call.what, self._exports)

        def read(answer: Answer) -> tuple[Path, ExportBody, int]:
            if answer.encoding not in ("", "gzip", "x-gzip"):
                raise Failure(MixpanelError, "another Content-Encoding than gzip", status=200)
            body = ExportBody(compressed=bool(answer.encoding), delimited=answer.delimited)
            with PartFile(directory, f"events_{days}", answer.expected_bytes) as part:
                for chunk in answer.chunks():
                    part.write(chunk)
                    body.feed(chunk)
                    progress.show(answer.received, body.lines)
                body.finish()
                suffix = ".jsonl.gz" if answer.encoding and answer.received else ".jsonl"
                return part.publish(f"events_{days}{suffix}"), body, part.checksum

        (path, body, checksum), attempts = self._transport.call(call, read, stop=stop)
        download = EventsDownload(
            paths=(path,),
            bytes=path.stat().st_size,
            lines=body.lines,
            complete=True,
            attempts=attempts,
            seconds=progress.seconds,
            checksums=(checksum,),
            from_date=from_date,
            to_date=to_date,
            events=None if events is None else tuple(events),
            where=where,
            uncompressed_bytes=body.uncompressed_bytes,
        )
        progress.finish(download.bytes, download.lines, attempts)
        return download

    def export_profiles(
        self, *, directory: Path, where: str | None = None, page_size: int = 1000
    ) -> ProfilesDownload:
        """Download a snapshot of the user profiles to `profiles.jsonl.gz`, a profile a line.

        Each profile stands there as Mixpanel sent it, digit by digit. Profiles can change while
        the pages are read, so one may be missing or be there twice; `complete` is False when the
        number of lines is not the `total` that Mixpanel announced. Files appear as in
        `export_events`. One page is held in memory at a time.

        Args:
            directory: Where the file goes; made when it is missing.
            where: Only profiles for which this segmentation expression holds.
            page_size: The profiles to ask for at once. Mixpanel may answer with another number.

        Raises:
            ValueError: `page_size` is less than 1.
            MixpanelError: One of its subclasses, see `mp_pipeline.mixpanel.errors`.
            StateDirectoryError: The rate limits cannot be counted; nothing was sent.
            OSError: The file cannot be written.

        Source: https://docs.mixpanel.com/reference/engage-query
        """
        if page_size < 1:
            raise ValueError(f"page_size must be at least 1, not {page_size}")
        form = {"page_size": str(page_size)}
        if where:
            form["where"] = where
        progress = _Progress("profiles", self._queries)
        pages = lines = attempts = 0
        total: int | None = None

        with PartFile(directory, "profiles") as part:
            with gzip.GzipFile("", "wb", compresslevel=1, fileobj=part, mtime=0) as lines_file:
                more = True
                while more:
                    page, tries = self._read_page(pages, form)
                    if pages == 0:
                        total = page.number("total")
                        if session_id := page.fields.get("session_id"):
                            form["session_id"] = str(session_id)
                    lines_file.write(b"".join(profile + b"\n" for profile in page.profiles))
                    pages += 1
                    attempts += tries
                    lines += len(page.profiles)
                    progress.show(part.size, lines)
                    full = len(page.profiles) >= (page.number("page_size") or page_size)
                    more = bool(page.profiles) and full and lines != total
            path = part.publish("profiles.jsonl.gz")

        download = ProfilesDownload(
            paths=(path,),
            bytes=path.stat().st_size,
            lines=lines,
            complete=total is None or total == lines,
            attempts=attempts,
            seconds=progress.seconds,
            checksums=(part.checksum,),
            total=total,
            pages=pages,
            where=where,
        )
        progress.finish(download.bytes, lines, attempts)
        if not download.complete:
            _log.warning("profiles: Mixpanel announced %s and sent %s", total, lines)
        return download

    def check_access(self) -> None:
        """Show that credentials, region and plan work: returns when they do.

        Costs two of the project's 60 queries an hour: one event of yesterday (UTC), one profile.

        Raises:
            MixpanelError: One of its subclasses, after 2 attempts at most.
            StateDirectoryError: The rate limits cannot be counted.
        """
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        call = self._export_call(yesterday, yesterday, {"limit": "1"})
        self._transport.call(call, lambda _: None, max_attempts=2)
        self._read_page(0, {"page_size": "1"}, max_attempts=2)

    def _export_call(self, from_date: date, to_date: date, more: dict[str, str]) -> Call:
        days = str(from_date) if from_date == to_date else f"{from_date} to {to_date}"
        params = {
            "project_id": self._project_id,
            "from_date": str(from_date),
            "to_date": str(to_date),
            **more,
        }
        return Call(f"export of {days}", "GET", self._export_url, params, rate_limits=self._exports)

    def _read_page(
        self, number: int, form: dict[str, str], *, max_attempts: int | None = None
    ) -> tuple[Page, int]:
        """Return a page of profiles, the first one being 0, and the attempts that it took."""

        def read(answer: Answer) -> Page:
            page = parse_page(b"".join(answer.chunks(decode=True)))
            if page.problem:
                words = self._transport.clean(page.problem)
                reason = f"Mixpanel says: {words}"
                raise Failure(BadRequestError, reason, status=200, words=words)
            return page

        call = Call(
            f"profiles, page {number}",
            "POST",
            self._engage_url,
            {"project_id": self._project_id},
            {**form, "page": str(number)},
            self._queries,
        )
        return self._transport.call(call, read, max_attempts=max_attempts)


class _Progress:
    """Lines in the log: now and then during a download, and one at its end."""

    def __init__(self, what: str, rate_limits: RateLimiter | None) -> None:
        self._what = what
        self._rate_limits = rate_limits
        self._start = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def show(self, size: int, lines: int) -> None:
        now = time.monotonic()
        if now - self._shown >= _PROGRESS_SECONDS:
            self._shown = now
            self._log(self._numbers(size, lines))

    def finish(self, size: int, lines: int, attempts: int) -> None:
        self._log(f"done, {self._numbers(size, lines)}, attempts: {attempts}")

    def _numbers(self, size: int, lines: int) -> str:
        rate = lines / max(self.seconds, 0.001)
        return f"{size:,} bytes, {lines:,} lines, {self.seconds:.1f} s, {rate:,.0f} lines/s"

    def _log(self, text: str) -> None:
        left = "" if self._rate_limits is None else f", {self._rate_limits.left}"
        _log.info("%s: %s%s", self._what, text, left)
