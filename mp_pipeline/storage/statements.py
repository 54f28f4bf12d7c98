"""Executing SQL statements: rows, transactions, and errors that name a damaged database."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import tenacity

from mp_pipeline.storage.connection import DAMAGE_ADVICE, is_damage
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake import PREFIX, find_catalog

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_INTERRUPTED = "Query interrupted"
_TEMPORARY = re.compile(
    # Another writer was faster.
    "Transaction conflict|Exceeded the maximum retry count|database is locked|"
    # PostgreSQL was restarted.
    "Failed to commit|connection to server|server closed the connection|terminating connection|"
    "the database system is|"
    # The object storage was away.
    r"Could not establish connection|Could not connect|Connection refused|timed out|HTTP 5\d\d",
)
_REPEAT_SECONDS = 300


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
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_temporary),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        stop=tenacity.stop_after_delay(_REPEAT_SECONDS),
        before_sleep=_log_repetition,
        reraise=True,
    )
    return retrying(change)


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, duckdb.Error) and _TEMPORARY.search(str(error)) is not None


def _log_repetition(state: tenacity.RetryCallState) -> None:
    error = None if state.outcome is None else state.outcome.exception()
    logger.warning(
        "the transaction was rolled back and is repeated (attempt %d): %s",
        state.attempt_number + 1,
        " ".join(str(error).split()),
    )


def database_name(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the path of the database, or the name of the lake, for messages."""
    try:
        # In another session, because a failed transaction answers no more queries.
        with connection.cursor() as session:
            paths = dict(
                session.execute(
                    "SELECT type, path FROM duckdb_databases() "
                    "WHERE NOT internal AND (type = 'ducklake' OR path IS NOT NULL)"
                ).fetchall()
            )
    except duckdb.Error:
        return "file"
    if "ducklake" in paths:
        return f"{PREFIX}{paths['ducklake']}"
    return str(paths.get("duckdb", "in memory"))
