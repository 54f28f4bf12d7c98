"""The deadline: when a day that is over must be there, on the clock of the project's time zone."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

from mp_pipeline.settings import load_settings

_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Deadline:
    """A time of the day after a day, at which that day must be there.

    Attributes:
        zone: the zone in which days begin.
        hours: hours after midnight as the zone's clock shows them, at most 24; a part of a minute
            counts as a whole one.
    """

    zone: ZoneInfo
    hours: float

    @property
    def _minutes(self) -> int:
        return math.ceil(self.hours * 60)

    @property
    def cron(self) -> str:
        """The deadline of every day as a cron expression of the zone."""
        hour, minute = divmod(self._minutes % _DAY_MINUTES, 60)
        return f"{minute} {hour} * * *"

    @property
    def freshness_policy(self) -> dg.FreshnessPolicy:
        """What Dagster's UI calls fresh: materialized between midnight and the last deadline."""
        return dg.FreshnessPolicy.cron(
            deadline_cron=self.cron,
            lower_bound_delta=timedelta(minutes=self._minutes),
            timezone=self.zone.key,
        )

    def of(self, day: date) -> datetime:
        """Return the moment at which a day must be there (UTC)."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self.zone) + timedelta(days=1)
        shown = midnight + timedelta(minutes=self._minutes)
        # A time that the clock shows twice or never: the earlier reading, so no schedule is early.
        return min(shown.replace(fold=fold).astimezone(UTC) for fold in (0, 1))

    def last_day_due(self, now: datetime) -> date:
        """Return the last day that must be there at a moment (aware)."""
        yesterday = now.astimezone(self.zone).date() - timedelta(days=1)
        return yesterday if self.of(yesterday) <= now else yesterday - timedelta(days=1)


project_deadline = Deadline(load_settings().zone, load_settings().mp_pipeline_deadline_hours)
"""The deadline that the settings name."""
