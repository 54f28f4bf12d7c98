"""Executing SQL statements: rows, transactions, and errors that name a damaged database."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from mp_pipeline.storage.connection import DAMAGE_ADVICE, is_damage
from mp_pipeline.storage.errors import StorageError

_INTERRUPTED = "Query interrupted"


def execute(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
) -> list[tuple[Any, ...]]:
    """Execute one statement and return its rows.

    Raises:
        StorageError: The database file is damaged.
        duckdb.Error: Any other error of DuckDB.
        KeyboardInterrupt: A signal handler interrupted the statement.
    """
    try:
        with readable_errors():
            return connection.execute(sql, parameters).fetchall()
    except duckdb.Error as error:
        path = database_path(connection)
        if is_damage(error, path):
            raise StorageError(
                f"the database {path} is damaged: {error}. {DAMAGE_ADVICE}"
            ) from error
        raise
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:  # DuckDB hides the handler's own exception
            raise KeyboardInterrupt(_INTERRUPTED) from None
        raise


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise DuckDB's error even if its message is not valid UTF-8.

    DuckDB truncates the data that it quotes, maybe in the middle of a character. Its Python package
    then raises a UnicodeDecodeError instead.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise duckdb.InvalidInputException(error.object.decode("utf-8", "replace")) from None


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Commit what the ``with`` block does. Roll it back on any exception, also of the commit."""
    try:
        execute(connection, "BEGIN TRANSACTION")
        yield
        execute(connection, "COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # there is no transaction, or DuckDB has ended it
            execute(connection, "ROLLBACK")
        raise


def database_path(connection: duckdb.DuckDBPyConnection) -> Path:
    """Return the path of the database, for messages."""
    try:
        # In another session, because a failed transaction answers no more queries.
        with connection.cursor() as session:
            ((path,),) = session.execute(
                "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
            ).fetchall()
    except duckdb.Error:
        return Path("file")
    return Path(path or "in memory")
