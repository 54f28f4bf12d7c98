"""The deadline: the time by which yesterday must be loaded, in the project's time zone."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.days import ONE_DAY

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Deadline:
    """The time of day by which the previous day must be loaded.

    Attributes:
        zone: The time zone that sets day boundaries.
        hours: Hours after midnight on the zone's clock, at most 24; rounded up to a minute.

    Example:
        >>> Deadline(ZoneInfo("Europe/Berlin"), hours=6.5).cron
        '30 6 * * *'
    """

    zone: ZoneInfo
    hours: float

    @property
    def _minutes(self) -> int:
        return math.ceil(self.hours * 60)

    @property
    def cron(self) -> str:
        """The deadline of every day as a cron expression in the zone."""
        hour, minute = divmod(self._minutes % _DAY_MINUTES, 60)
        return f"{minute} {hour} * * *"

    @property
    def freshness_policy(self) -> dg.FreshnessPolicy:
        """Dagster's freshness policy: materialized between midnight and the latest deadline."""
        return dg.FreshnessPolicy.cron(
            deadline_cron=self.cron,
            lower_bound_delta=timedelta(minutes=self._minutes),
            timezone=self.zone.key,
        )

    def of(self, day: date) -> datetime:
        """Return the time by which a day must be loaded (UTC)."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self.zone) + ONE_DAY
        deadline = midnight + timedelta(minutes=self._minutes)
        # A local time that occurs twice, or never, is read as the earlier of the two moments, so
        # that no schedule at the deadline is early.
        return min(deadline.replace(fold=fold).astimezone(UTC) for fold in (0, 1))

    def last_day_due(self, now: datetime) -> date:
        """Return the last day that must be loaded at a given time.

        Args:
            now: The time (timezone-aware).
        """
        yesterday = now.astimezone(self.zone).date() - ONE_DAY
        return yesterday if self.of(yesterday) <= now else yesterday - ONE_DAY
