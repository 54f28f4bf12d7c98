"""A client for Mixpanel's raw event export and its user profiles.

It writes what Mixpanel sends to files of JSON Lines, and vouches that they are whole. It needs
neither Dagster nor a database::

    from datetime import date
    from pathlib import Path

    from mp_pipeline.mixpanel import MixpanelClient

    with MixpanelClient("12345", "reader.mp-service-account", "the secret", region="eu") as client:
        client.check_access()
        day = client.export_events(date(2024, 1, 15), directory=Path("downloads"))
        profiles = client.export_profiles(directory=Path("downloads"))

    print(day.lines, "events in", day.paths[0])
    print(profiles.lines, "profiles in", profiles.paths[0])

All dates are days in the project's time zone, all sizes bytes, all times seconds.
"""

from typing import TYPE_CHECKING, Any

from mp_pipeline.mixpanel.downloads import EventsDownload, ProfilesDownload
from mp_pipeline.mixpanel.errors import (
    AuthenticationError,
    BadRequestError,
    DamagedDownloadError,
    DiskSpaceError,
    MixpanelError,
    PlanError,
    RateLimitError,
    ServerError,
    StateDirectoryError,
    TruncatedExportError,
)
from mp_pipeline.mixpanel.regions import Region

if TYPE_CHECKING:
    from mp_pipeline.mixpanel.client import MixpanelClient
    from mp_pipeline.mixpanel.rate_limits import RateLimits

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "DamagedDownloadError",
    "DiskSpaceError",
    "EventsDownload",
    "MixpanelClient",
    "MixpanelError",
    "PlanError",
    "ProfilesDownload",
    "RateLimitError",
    "RateLimits",
    "Region",
    "ServerError",
    "StateDirectoryError",
    "TruncatedExportError",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as modules have it
    """Import what sends requests when it is asked for: what only names a download needs none."""
    if name == "MixpanelClient":
        from mp_pipeline.mixpanel.client import MixpanelClient

        return MixpanelClient
    if name == "RateLimits":
        from mp_pipeline.mixpanel.rate_limits import RateLimits

        return RateLimits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
