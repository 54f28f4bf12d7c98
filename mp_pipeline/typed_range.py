"""Typing a range of days: one day after another, from day tables to typed tables."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from mp_pipeline.days import format_days
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import TableNotFoundError, TypedDayReport
from mp_pipeline.typed_metadata import dictionary_metadata, typed_metadata


@dataclass(frozen=True, kw_only=True)
class TypedRange:
    """Days to type: what the asset ``typed_events`` hands to the IO manager.

    Attributes:
        dataset: The view over the day tables.
        days: The days in ascending order.
    """

    dataset: str
    days: Sequence[date]


@dataclass(frozen=True)
class TypedDay:
    """A day that is typed.

    Attributes:
        report: What typing it did.
        metadata: What the UI shows of it.
    """

    report: TypedDayReport
    metadata: dict[str, Any]

    @property
    def day(self) -> date:
        """The day."""
        return self.report.day

    @property
    def summary(self) -> str:
        """The day as one line of text."""
        report = self.report
        return (
            f"{report.dataset} of {report.day}: {report.events:,} events in "
            f"{len(report.tables):,} tables, {len(report.new_columns):,} new columns, "
            f"{len(report.widened_columns):,} wider ones, in {report.seconds:.1f} s"
        )


def type_range(
    request: TypedRange, duckdb: MixpanelDuckDBResource
) -> Generator[TypedDay, None, None]:
    """Type days one after another. The database is open only while a day is typed.

    Args:
        request: The days.
        duckdb: The database.

    Yields:
        Each day when it is committed; the last one with the dictionary in its metadata.

    Raises:
        TableNotFoundError: Days are not loaded. All others are typed first.
        StorageError: A day could not be typed. Days yielded before are typed.
    """
    missing = []
    for day in request.days:
        with duckdb.get_engine() as engine:
            try:
                report = engine.type_events_day(request.dataset, day)
            except TableNotFoundError:
                missing.append(day)
                continue
            metadata = typed_metadata(engine, report)
            if day == request.days[-1]:
                metadata |= dictionary_metadata(engine, request.dataset, day)
        yield TypedDay(report, metadata)
    with duckdb.get_engine() as engine:
        engine.comment_typed_tables(request.dataset)
    if missing:
        raise TableNotFoundError(
            f"{format_days(missing)} of {request.dataset} cannot be typed, because they are not "
            f"loaded: materialize {request.dataset} for them first"
        )
