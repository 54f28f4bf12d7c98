"""Running a range of days: resume, download, load, report. One loop, one day after another."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date

from mp_pipeline.days import export_dates, format_days, split_into_requests
from mp_pipeline.load_metadata import load_metadata
from mp_pipeline.loads import Load, Target, load_downloads
from mp_pipeline.mixpanel import AuthenticationError
from mp_pipeline.resources import MixpanelDuckDBResource, MixpanelResource
from mp_pipeline.storage import Origin, StorageEngine, StorageError


@dataclass(frozen=True, kw_only=True)
class EventsRange:
    """Days of events to download and load: what the asset ``events`` hands to the IO manager.

    Attributes:
        days: The days in ascending order.
        mixpanel: The Mixpanel project.
        days_per_request: Days per export request.
        failed_attempts: The run ids of failed attempts of this run, whose days are kept.
        oldest_day: The first day that Mixpanel still has; loaded days before it are kept. None if
            it has all.
        allow_shrink: Whether days may lose any number of their rows.
    """

    days: Sequence[date]
    mixpanel: MixpanelResource
    days_per_request: int = 1
    failed_attempts: Sequence[str] = ()
    oldest_day: date | None = None
    allow_shrink: bool = False

    def is_too_old(self, day: date) -> bool:
        """Return whether Mixpanel has deleted the events of a day, so that it must be kept."""
        return not self.allow_shrink and self.oldest_day is not None and day < self.oldest_day

    def origin(self, target: Target) -> Origin:
        """Return the origin that the load log records for these days."""
        return Origin(
            source=self.mixpanel.source,
            filter_events=tuple(self.mixpanel.events) if self.mixpanel.events else None,
            filter_where=self.mixpanel.where,
            timezone=target.timezone,
            wall_clock_zone=target.wall_clock_zone,
        )


def load_range(
    request: EventsRange, target: Target, duckdb: MixpanelDuckDBResource, log: logging.Logger
) -> Generator[Load, None, None]:
    """Load a range of days; the next request downloads while the last one is loaded.

    Args:
        request: The days.
        target: Where they are stored.
        duckdb: The database.
        log: The run's log.

    Yields:
        A load for each day, kept days first. Each is committed when it is yielded.

    Raises:
        MixpanelError: A request failed. Days yielded before are loaded.
        ShrinkRefusedError: Days would have lost too many rows. All others are loaded.
        StorageError: A day could not be loaded. Days yielded before are loaded.
    """
    if request.allow_shrink:
        target = replace(target, min_kept_fraction=0)
    kept = _days_to_keep(request, target, duckdb)
    if too_old := [day for day in kept if request.is_too_old(day)]:
        log.info(
            f"{len(too_old)} of {len(request.days)} days are older than MIXPANEL_RETENTION_DAYS "
            f"and are kept: {format_days(too_old)}"
        )
    if resumed := [day for day in kept if not request.is_too_old(day)]:
        log.info(
            f"{len(resumed)} of {len(request.days)} days were loaded by an earlier attempt with "
            f"the same settings and are kept: {format_days(resumed)}"
        )
    yield from kept.values()

    remaining = [day for day in request.days if day not in kept]
    ranges = []
    for span in split_into_requests(remaining, request.days_per_request):
        first = export_dates(target.window(span.first), target.wall_clock_zone).first
        last = export_dates(target.window(span.last), target.wall_clock_zone).last
        ranges.append((first, last))
    directory = duckdb.download_directory(target.run_id)
    try:
        with closing(request.mixpanel.export_events(ranges, directory)) as downloads:
            yield from load_downloads(downloads, target, duckdb)
    except AuthenticationError as error:
        raise _with_last_load(error, request.mixpanel.source, target, duckdb) from None


def _days_to_keep(
    request: EventsRange, target: Target, duckdb: MixpanelDuckDBResource
) -> dict[date, Load]:
    """Return the days that need not, or must not, be loaded again.

    A day that a failed attempt loaded is kept if its table is intact and its latest load, by
    whichever run, has the origin that this run would record. A loaded day that Mixpanel does not
    have any more is kept, too.
    """
    if not request.failed_attempts and not any(map(request.is_too_old, request.days)):
        return {}
    try:
        with duckdb.get_engine(read_only=True) as engine:
            return _loads_to_keep(engine, request, target)
    except FileNotFoundError:  # nothing was ever loaded
        return {}


def _loads_to_keep(engine: StorageEngine, request: EventsRange, target: Target) -> dict[date, Load]:
    attempts = engine.list_loads(target.name, request.failed_attempts)
    loaded_by_attempts = {report.day for report in attempts}
    latest = {report.day: report for report in engine.list_loads(target.name)}
    origin = request.origin(target)
    candidates = {
        day: latest[day]
        for day in request.days
        if day in latest
        and (
            request.is_too_old(day) or (day in loaded_by_attempts and latest[day].origin == origin)
        )
    }
    counts = engine.count_rows([report.table_name for report in candidates.values()])
    intact = {count.table_name for count in counts if not count.problems}
    return {
        day: Load(report, load_metadata(engine, report))
        for day, report in candidates.items()
        if report.table_name in intact
    }


def _with_last_load(
    error: AuthenticationError, source: str, target: Target, duckdb: MixpanelDuckDBResource
) -> AuthenticationError:
    """Return the error with the likely cause if the same project was loaded before."""
    try:
        with duckdb.get_engine(read_only=True) as engine:
            loads = engine.list_loads(target.name)
    except (FileNotFoundError, StorageError):  # what Mixpanel said matters more
        return error
    times = [load.finished_at for load in loads if load.origin.source == source]
    if not times:
        return error
    return AuthenticationError(
        f"{error} {source} was last loaded at {max(times):%Y-%m-%d %H:%M} UTC, so the service "
        "account has probably expired or was deleted since.",
        status=error.status,
        mixpanel_message=error.mixpanel_message,
    )
