"""Typing a range of days."""

from dataclasses import dataclass
from datetime import date

from mp_pipeline.derived import DerivedDay, DerivedRange
from mp_pipeline.storage import StorageEngine
from mp_pipeline.typed_metadata import dictionary_metadata, typed_metadata


@dataclass(frozen=True, kw_only=True)
class TypedRange(DerivedRange):
    """Days to type. The last one shows the dictionary."""

    def make(self, engine: StorageEngine, day: date) -> DerivedDay:
        """Type a day."""
        report = engine.type_events_day(self.dataset, day)
        metadata = typed_metadata(engine, report)
        if day == self.days[-1]:
            metadata |= dictionary_metadata(engine, self.dataset, day)
        return DerivedDay(
            day,
            f"{self.dataset} of {day}: {report.events:,} events in {len(report.tables):,} tables, "
            f"{len(report.new_columns):,} new columns, {len(report.widened_columns):,} wider ones, "
            f"in {report.seconds:.1f} s",
            metadata,
        )

    def finish(self, engine: StorageEngine) -> None:
        """Describe the tables in comments, which takes too long for each day."""
        engine.comment_typed_tables(self.dataset)
