"""Making something of loaded days, one day after another: typed tables, sessions, metrics."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from mp_pipeline.days import format_days
from mp_pipeline.resources import MixpanelDuckDBResource
from mp_pipeline.storage import StorageEngine, TableNotFoundError


@dataclass(frozen=True)
class DerivedDay:
    """A day that is made.

    Attributes:
        day: The day.
        summary: What was made, as one line of text.
        metadata: What the UI shows of it.
    """

    day: date
    summary: str
    metadata: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DerivedRange(ABC):
    """Days to make: what an asset that is made of loaded days hands to the IO manager.

    Attributes:
        dataset: The view over the day tables.
        days: The days in ascending order.
    """

    dataset: str
    days: Sequence[date]

    def run(self, duckdb: MixpanelDuckDBResource) -> Generator[DerivedDay, None, None]:
        """Make the days one after another. The database is open only while a day is made.

        ``prepare`` and ``finish`` are part of the first and the last day.

        Args:
            duckdb: The database.

        Yields:
            Each day when it is committed.

        Raises:
            TableNotFoundError: Days are not loaded. All others are made first.
            StorageError: A day could not be made. Days yielded before are made.
        """
        missing = []
        for day in self.days:
            made = None
            with duckdb.get_engine() as engine:
                if day == self.days[0]:
                    self.prepare(engine)
                try:
                    made = self.make(engine, day)
                except TableNotFoundError:
                    missing.append(day)
                if day == self.days[-1]:
                    self.finish(engine)
            if made is not None:
                yield made
        if missing:
            raise TableNotFoundError(
                f"{format_days(missing)} of {self.dataset} are not loaded: materialize "
                f"{self.dataset} for them first. All other days are complete"
            )

    @abstractmethod
    def make(self, engine: StorageEngine, day: date) -> DerivedDay:
        """Make a day in one transaction.

        Raises:
            TableNotFoundError: The day is not loaded.
            StorageError: DuckDB failed; the day is as before.
        """

    def prepare(self, engine: StorageEngine) -> None:  # noqa: B027 - not every range needs it
        """Do what is needed before the first day."""

    def finish(self, engine: StorageEngine) -> None:  # noqa: B027 - as above
        """Do what is needed after the last day."""
