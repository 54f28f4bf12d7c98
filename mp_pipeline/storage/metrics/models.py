"""Data structures of metrics."""

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True)
class ProfileHistoryReport:
    """What a snapshot changed in the history of profiles."""

    table_name: str
    """The table of profiles."""

    taken_at: datetime
    """When the snapshot was fetched (UTC)."""

    profiles: int
    """Number of profiles in the snapshot."""

    appeared: int
    """Profiles that are new, or are back."""

    changed: int
    """Profiles whose properties differ from their latest version."""

    vanished: int
    """Profiles that are no longer there."""


@dataclass(frozen=True)
class IdentitiesReport:
    """Which IDs of a dataset are one user, and what changed."""

    dataset: str
    """The dataset."""

    days: tuple[date, ...]
    """The days that were read, because they were loaded, reloaded or dropped since."""

    ids: int
    """Number of IDs that are one of several of a user."""

    users: int
    """Number of users with several IDs."""

    changed: int
    """Number of IDs whose user is another one than before."""

    large_users: tuple[tuple[str, int], ...]
    """Users with more than 500 IDs, and how many they have, most first. Mixpanel stops there; maybe
    many people share an ID."""


@dataclass(frozen=True)
class SessionsDayReport:
    """The sessions of a day."""

    dataset: str
    """The dataset that the day belongs to."""

    day: date
    """The day."""

    sessions: int
    """Number of sessions."""

    users: int
    """Number of users with sessions."""

    seconds: float
    """Duration of the update in seconds."""


@dataclass(frozen=True)
class DailyMetricsReport:
    """The metrics of a day."""

    dataset: str
    """The dataset that the day belongs to."""

    day: date
    """The day."""

    events: int
    """Number of events."""

    dau: int
    """Users who were active on the day."""

    wau: int
    """Users who were active in the 7 days that end with the day."""

    mau: int
    """Users who were active in the 30 days that end with the day."""

    new_users: int
    """Users whose first event ever is of the day."""

    returning_users: int
    """Users who were active on the day, and before."""

    sessions: int | None
    """Number of sessions, None if they were not made."""

    median_session_seconds: float | None
    """Median length of a session in seconds; None if there is none."""

    seconds: float
    """Duration of the update in seconds."""


@dataclass(frozen=True)
class MetricDayInfo:
    """Whether the sessions and the metrics of a day are those of its current data."""

    day: date
    """The day."""

    sessions_are_stale: bool
    """Whether its sessions were not made, or would be others if they were made again."""

    metrics_are_stale: bool
    """Whether its metrics were not made, or may be others if they were made again."""
