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
