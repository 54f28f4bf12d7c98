"""A client for what a Mixpanel project contains: events, profiles, cohorts, annotations.

It downloads what Mixpanel sends to files of JSON Lines, and verifies that they are complete. It
needs neither Dagster nor a database. Dates are days in the project's time zone, sizes are in bytes,
and times are in seconds.

Example:
    >>> from datetime import date
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from mp_pipeline.mixpanel import MixpanelClient
    >>> from mp_pipeline.sample import SampleServer
    >>> ranges = [
    ...     (date(2024, 1, 15), date(2024, 1, 15)),
    ...     (date(2024, 1, 16), date(2024, 1, 18)),
    ... ]
    >>> with SampleServer() as server, TemporaryDirectory() as directory:
    ...     with MixpanelClient(  # for a real project: region instead of the two URLs
    ...         server.project_id,
    ...         server.username,
    ...         server.secret,
    ...         export_url=server.export_url,
    ...         query_url=server.query_url,
    ...     ) as client:
    ...         client.check_access()
    ...         for download in client.export_ranges(ranges, directory=Path(directory)):
    ...             print(download.paths[0].name, download.lines > 0)
    ...             download.delete()
    ...         profiles = client.export_profiles(directory=Path(directory))
    ...         print(profiles.paths[0].name, profiles.lines == profiles.total)
    events_2024-01-15.jsonl.gz True
    events_2024-01-16_2024-01-18.jsonl.gz True
    profiles.jsonl.gz True
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mp_pipeline.mixpanel.downloads import Download, EventsDownload, ProfilesDownload
from mp_pipeline.mixpanel.errors import (
    AuthenticationError,
    BadRequestError,
    DamagedDownloadError,
    DiskSpaceError,
    IncompleteSnapshotError,
    MixpanelError,
    PlanError,
    RateLimitError,
    RateLimitStoreError,
    ServerError,
    SharedRateLimitsError,
    StateDirectoryError,
    TruncatedExportError,
    UnexpectedAnswerError,
)
from mp_pipeline.mixpanel.postgres_database import PostgresDatabase
from mp_pipeline.mixpanel.regions import Region

if TYPE_CHECKING:
    from mp_pipeline.mixpanel.client import MixpanelClient
    from mp_pipeline.mixpanel.rate_limits import RateLimits

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "DamagedDownloadError",
    "DiskSpaceError",
    "Download",
    "EventsDownload",
    "IncompleteSnapshotError",
    "MixpanelClient",
    "MixpanelError",
    "PlanError",
    "PostgresDatabase",
    "ProfilesDownload",
    "RateLimitError",
    "RateLimitStoreError",
    "RateLimits",
    "Region",
    "ServerError",
    "SharedRateLimitsError",
    "StateDirectoryError",
    "TruncatedExportError",
    "UnexpectedAnswerError",
]

_MODULES = {"MixpanelClient": "client", "RateLimits": "rate_limits"}


def __getattr__(name: str) -> object:
    """Import the modules that need HTTP and locks when they are first used: they are slow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
