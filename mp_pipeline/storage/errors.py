"""What can go wrong in the storage engine."""


class StorageError(Exception):
    """Base of the storage engine's own errors."""


class TableExistsError(StorageError):
    """A table or view of that name exists; nothing was changed."""


class TableNotFoundError(StorageError):
    """No table or view of that name exists."""


class QueryError(StorageError):
    """DuckDB refused a query.

    Attributes:
        query: the SQL text as it was given.
        message: DuckDB's own words.
    """

    def __init__(self, query: str, message: str) -> None:
        super().__init__(f"{message}\n\nThe query was:\n{query}")
        self.query = query
        self.message = message

    def __reduce__(self) -> tuple[type["QueryError"], tuple[str, str]]:
        """Rebuild from both arguments: Dagster sends errors between processes."""
        return type(self), (self.query, self.message)


class DatabaseLockedError(StorageError):
    """Another process (or this one, with other settings) kept the database file open too long."""


class RejectedLinesError(StorageError):
    """Too many of the lines could not be stored; what was there before is still there."""


class SourceMismatchError(StorageError):
    """The database holds data of another source, and a load would have mixed the two."""
