"""Making the sessions and the metrics of a range of days."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import dagster as dg

from mp_pipeline.derived import DerivedDay, DerivedRange
from mp_pipeline.plot import lines_plot
from mp_pipeline.storage import StorageEngine

_PLOTTED_DAYS = 366


class _UsersRange(DerivedRange):
    """Days of which something is made for each user."""

    def prepare(self, engine: StorageEngine) -> None:
        """Find out which IDs are one user; this takes no time if no day was loaded since."""
        engine.update_identities(self.dataset)


@dataclass(frozen=True, kw_only=True)
class SessionsRange(_UsersRange):
    """Days whose sessions to make.

    Attributes:
        timeout: How long a user may be inactive before a session ends.
    """

    timeout: timedelta

    def make(self, engine: StorageEngine, day: date) -> DerivedDay:
        """Make the sessions of a day."""
        report = engine.update_sessions(self.dataset, day, timeout=self.timeout)
        return DerivedDay(
            day,
            f"{self.dataset} of {day}: {report.sessions:,} sessions of {report.users:,} users "
            f"in {report.seconds:.1f} s",
            {
                "dagster/partition_row_count": report.sessions,
                "users": report.users,
                "timeout_minutes": round(self.timeout.total_seconds() / 60, 2),
                "seconds": round(report.seconds, 2),
            },
        )


@dataclass(frozen=True, kw_only=True)
class DailyMetricsRange(_UsersRange):
    """Days whose metrics to make. The last one shows a plot of active users."""

    def make(self, engine: StorageEngine, day: date) -> DerivedDay:
        """Make the metrics of a day."""
        report = engine.update_daily_metrics(self.dataset, day)
        metadata: dict[str, Any] = {
            "events": report.events,
            "dau": report.dau,
            "wau": report.wau,
            "mau": report.mau,
            "new_users": report.new_users,
            "returning_users": report.returning_users,
            "sessions": report.sessions,
            "median_session_seconds": report.median_session_seconds,
            "seconds": round(report.seconds, 2),
        }
        if day == self.days[-1]:
            first = day - timedelta(days=_PLOTTED_DAYS - 1)
            users = engine.read_active_users(self.dataset, first, day)
            plot = lines_plot("Users active in 1, 7 and 30 days", users)
            metadata["plot"] = dg.MetadataValue.md(plot)
        return DerivedDay(
            day,
            f"{self.dataset} of {day}: {report.events:,} events, {report.dau:,} users "
            f"({report.new_users:,} new), {report.wau:,} in 7 and {report.mau:,} in 30 days, "
            f"in {report.seconds:.1f} s",
            {name: value for name, value in metadata.items() if value is not None},
        )
