"""Errors of the storage engine. They can be pickled, so that processes can exchange them."""

from collections.abc import Sequence

from mp_pipeline.storage.models import LoadReport

_SHOWN_REFUSALS = 5


class StorageError(Exception):
    """Base class of the storage engine's errors."""


class TableExistsError(StorageError):
    """A table or view of that name exists; nothing was changed."""


class TableNotFoundError(StorageError):
    """There is no table or view of that name."""


class QueryError(StorageError):
    """DuckDB refused a query.

    Attributes:
        query: The SQL text.
        message: DuckDB's message.
    """

    def __init__(self, query: str, message: str) -> None:
        super().__init__(f"{message}\n\nThe query was:\n{query}")
        self.query = query
        self.message = message

    def __reduce__(self) -> tuple[type["QueryError"], tuple[str, str]]:
        """Rebuild the error from both arguments."""
        return type(self), (self.query, self.message)


class DatabaseLockedError(StorageError):
    """Another process, or this one with other settings, held the database file for too long."""


class RejectedLinesError(StorageError):
    """Too many lines were rejected; the existing data is kept."""


class ShrinkRefusedError(StorageError):
    """A reload would have lost too many of the stored rows; the existing data is kept.

    Args:
        refusals: What each refused load would have done.
        advice: How to replace the data anyway.
    """

    def __init__(
        self,
        refusals: Sequence[LoadReport],
        advice: str = "To replace it anyway, lower min_kept_fraction.",
    ) -> None:
        self.refusals = tuple(refusals)
        self.advice = advice
        shown = [f"{each.table_name}: {each.refused}" for each in self.refusals[:_SHOWN_REFUSALS]]
        if more := len(self.refusals) - len(shown):
            shown.append(f"and {more} more")
        super().__init__(
            f"{'; '.join(shown)}. The existing data is kept. Mixpanel may have deleted the rest "
            "(retention, a deletion request), or the filters leave out more than before. "
            f"{advice}"
        )

    def __reduce__(
        self,
    ) -> tuple[type["ShrinkRefusedError"], tuple[tuple[LoadReport, ...], str]]:
        """Rebuild the error from both arguments."""
        return type(self), (self.refusals, self.advice)


class SnapshotRefusedError(StorageError):
    """A snapshot of profiles is older than their history, or incomplete; nothing was changed."""


class SourceMismatchError(StorageError):
    """The database contains data of another source, and the load would have mixed them."""
