"""Data structures of metrics."""

from dataclasses import dataclass
from datetime import datetime


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
