"""Errors of the storage engine. They can be pickled, so that processes can exchange them."""


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


class SourceMismatchError(StorageError):
    """The database contains data of another source, and the load would have mixed them."""
