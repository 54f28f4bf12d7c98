"""A Mixpanel project in a code location: its settings, and the names of everything it defines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property

import dagster as dg

from mp_pipeline.automation.deadline import Deadline
from mp_pipeline.settings import Settings

PROJECT_TAG = "mp_pipeline/project"
"""The tag of the assets and runs of a Mixpanel project."""


@dataclass(frozen=True)
class Project:
    """The settings of a Mixpanel project, and a prefix that keeps its names apart from others'.

    Attributes:
        settings: The project's settings.
        key_prefix: Prefix of the asset keys; empty for none.

    Example:
        >>> project = Project(Settings(), ("shop",))
        >>> project.asset_key("events")
        AssetKey(['shop', 'events'])
        >>> project.name("daily_events")
        'shop_daily_events'
    """

    settings: Settings
    key_prefix: Sequence[str] = ()

    def asset_key(self, name: str) -> dg.AssetKey:
        """Return the key of one of the project's assets."""
        return dg.AssetKey([*self.key_prefix, name])

    def name(self, name: str) -> str:
        """Return the name of a job, schedule, sensor, resource or op of the project."""
        return "_".join([*self.key_prefix, name])

    @property
    def group(self) -> str:
        """The group that the project's assets belong to in the UI."""
        return "_".join(self.key_prefix) or "mixpanel"

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the project's assets and jobs: the ID of the Mixpanel project, or ``sample``.

        Example:
            >>> Project(Settings()).tags
            {'mp_pipeline/project': 'sample'}
        """
        project = self.settings.mixpanel_project_id or "sample"
        return {PROJECT_TAG: re.sub(r"[^\w.-]", "_", project, flags=re.ASCII)[:63]}

    @cached_property
    def partitions(self) -> dg.DailyPartitionsDefinition:
        """One partition for each complete day of the project since its start date."""
        return dg.DailyPartitionsDefinition(
            start_date=self.settings.mixpanel_start_date.isoformat(),
            timezone=self.settings.mixpanel_project_timezone,
        )

    def oldest_day(self, now: datetime) -> date | None:
        """Return the first day whose events Mixpanel still has; None if it keeps them forever.

        Args:
            now: The current time (timezone-aware).
        """
        days = self.settings.mixpanel_retention_days
        if days is None:
            return None
        return now.astimezone(self.settings.zone).date() - timedelta(days=days)

    @property
    def deadline(self) -> Deadline:
        """The time by which yesterday must be loaded."""
        return Deadline(self.settings.zone, self.settings.mp_pipeline_deadline_hours)
