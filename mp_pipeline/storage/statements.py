"""Executing SQL statements: rows, transactions, and errors that name a damaged database."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import tenacity

from mp_pipeline.storage.connection import DAMAGE_ADVICE, is_damage
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake import PREFIX, find_catalog
from mp_pipeline.storage.retries import is_like, retrying

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_INTERRUPTED = "Query interrupted"
_AWAY = (
    # PostgreSQL was restarted.
    "connection to server|server closed the connection|terminating connection|"
    "the database system is|"
    # DuckLake says this if the connection was lost while it read rows that are in the catalog.
    "Attempted to access index 0 within vector of size 0|"
    # The object storage was away.
    r"Could not establish connection|Could not connect|Connection refused|timed out|"
    r"HTTP (code )?5\d\d"
)
_TEMPORARY = (
    # Another writer was faster.
    "Transaction conflict|Exceeded the maximum retry count|database is locked|duplicate key|"
    "could not serialize|deadlock detected|"
    f"{_AWAY}"
)
_REPEAT_SECONDS = 300

_in_transaction: ContextVar[bool] = ContextVar("_in_transaction", default=False)


def execute(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
) -> list[tuple[Any, ...]]:
    """Execute one statement and return its rows.

    While a server of a lake is away, it is repeated, unless it belongs to a transaction: then
    ``repeated`` repeats all of that.

    Raises:
        StorageError: The database file is damaged.
        duckdb.Error: Any other error of DuckDB.
        KeyboardInterrupt: A signal handler interrupted the statement.
    """
    try:
        return _execute(connection, sql, parameters)
    except duckdb.Error as error:
        if not _in_transaction.get() and is_away(error) and find_catalog(connection) is not None:
            return while_away(lambda: _execute(connection, sql, parameters))
        name = database_name(connection)
        if is_damage(error, Path(name)):
            raise StorageError(
                f"the database {name} is damaged: {error}. {DAMAGE_ADVICE}"
            ) from error
        raise
    except RuntimeError as error:
        if str(error) == _INTERRUPTED:  # DuckDB hides the handler's own exception
            raise KeyboardInterrupt(_INTERRUPTED) from None
        raise


def _execute(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[Any] | Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    with readable_errors():
        return connection.execute(sql, parameters).fetchall()


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
    outer = _in_transaction.set(True)
    try:
        execute(connection, "BEGIN TRANSACTION")
        yield
        execute(connection, "COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # there is no transaction, or DuckDB has ended it
            execute(connection, "ROLLBACK")
        raise
    finally:
        _in_transaction.reset(outer)


def repeated(connection: duckdb.DuckDBPyConnection, change: Callable[[], Result]) -> Result:
    """Make a change, again if another writer of a lake was faster or a server was away.

    A lake says at the commit that two transactions conflict. Its catalog and its object storage may
    be unreachable for a while. The transaction is rolled back in each case.

    Args:
        connection: The database.
        change: Makes the change in a transaction. It may be called several times.

    Raises:
        duckdb.Error: The latest problem, after five minutes of problems.
    """
    if find_catalog(connection) is None:
        return change()
    return _repeat(change, _TEMPORARY, "a change of the lake was rolled back and is repeated")


def while_away(action: Callable[[], Result]) -> Result:
    """Do what is in no transaction, again while a server of the lake is away.

    Raises:
        duckdb.Error: The latest problem, after five minutes of problems.
    """
    return _repeat(action, _AWAY, "a server of the lake is away, the statement is repeated")


def is_away(error: BaseException) -> bool:
    """Return whether an error means that a server of the lake is away."""
    return is_like(error, _AWAY)


def _repeat(change: Callable[[], Result], problems: str, what: str) -> Result:
    def log(state: tenacity.RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        message = " ".join(str(error).split())
        logger.warning("%s (attempt %d): %s", what, state.attempt_number + 1, message)

    repeating = retrying(
        problems, _REPEAT_SECONDS, first_wait=0.1, longest_wait=5, before_sleep=log
    )
    return repeating(change)


def database_name(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the path of the database, or the name of the lake, for messages."""
    try:
        # In another session, because a failed transaction answers no more queries.
        with connection.cursor() as session:
            paths = dict(
                session.execute(
                    "SELECT type, path FROM duckdb_databases() WHERE path IS NOT NULL "
                    "AND (type = 'ducklake' OR database_name = current_database())"
                ).fetchall()
            )
    except duckdb.Error:
        return "file"
    if "ducklake" in paths:
        return f"{PREFIX}{paths['ducklake']}"
    return str(paths.get("duckdb", "in memory"))
