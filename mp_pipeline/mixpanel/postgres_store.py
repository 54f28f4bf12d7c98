"""A rate limiter's records in a PostgreSQL database, shared by the workers of several machines.

Locks are advisory locks of a connection: PostgreSQL releases them when a worker is killed. The time
is that of the server, so that the machines' clocks may differ. This module needs the package
psycopg, which is part of an extra.
"""

import hashlib
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, LiteralString, cast

import psycopg
import tenacity
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pyrate_limiter import AbstractBucket, PostgresBucket, Rate

from mp_pipeline.mixpanel.errors import SharedRateLimitsError
from mp_pipeline.mixpanel.postgres_database import PostgresDatabase
from mp_pipeline.mixpanel.scrub import Scrubber
from mp_pipeline.mixpanel.stores import (
    LOCK_SECONDS,
    Clock,
    Learned,
    Pause,
    Records,
    T,
)

_log = logging.getLogger(__name__)
_Connection = psycopg.Connection[tuple[Any, ...]]

_SCHEMA = "mp_pipeline_rate_limits"
_TABLES: LiteralString = """ -- times in milliseconds since 1970
    CREATE TABLE IF NOT EXISTS pauses
        (limiter text, asked bigint, until bigint, is_requested boolean);
    CREATE TABLE IF NOT EXISTS quotas
        (limiter text, seconds bigint, requests bigint, learned bigint);
"""
_SESSION: LiteralString = f"""
    SET search_path = {_SCHEMA};
    SET timezone = 'UTC'; -- the bucket stores timestamps without a time zone
    SET client_min_messages = warning; -- the bucket creates its table each time
    SET lock_timeout = '{LOCK_SECONDS:.0f}s';
    SET idle_in_transaction_session_timeout = '20s'; -- a suspended process hinders nobody for long
    SET tcp_keepalives_idle = 10; -- nor does a machine that has crashed
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
"""
_CONNECTION: dict[str, Any] = {
    "application_name": "mp-pipeline",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
_RESTART_SECONDS = 60.0
"""How long to wait for a server that was there before."""
_FIRST_SECONDS = 10.0
"""How long to wait for a server that this process has not seen yet."""
_REFUSALS = ("authentication failed", "no password supplied", "does not exist", "pg_hba.conf")
"""Texts of errors that trying again does not help. Their codes do not reach the client."""


class PostgresStore:
    """A `Store` in a PostgreSQL database.

    Its tables are created in a schema of their own if they are missing. Connections are kept for
    the next use and closed with the store.

    Args:
        database: The database.
        name: The name of the rate limiter.
        clock: Tells the time, or which clock counts.
    """

    def __init__(self, database: PostgresDatabase, name: str, clock: Clock) -> None:
        self._database = database
        self._name = name
        self._clock = clock
        self._idle: deque[_Connection] = deque()
        self._was_connected = False
        self._scrubber = Scrubber(database.user, database.password or database.url)
        weakref.finalize(self, _close_all, self._idle)

    def transact(self, work: Callable[[Records], T], stopped: threading.Event) -> T:
        """Call a function in a transaction, while nobody else can use this rate limiter's records.

        If the connection is lost, it is opened again for up to a minute, so that a restart of the
        server goes unnoticed.

        Raises:
            SharedRateLimitsError: The database cannot be used.
        """
        patience = _RESTART_SECONDS if self._was_connected else _FIRST_SECONDS
        result: T
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential(multiplier=0.1, max=2) + tenacity.wait_random(0, 0.1),
            stop=tenacity.stop_after_delay(patience) | tenacity.stop_when_event_set(stopped),
            sleep=tenacity.sleep_using_event(stopped),
            before_sleep=self._warn,
            reraise=True,
        )
        try:
            result = retrying(self._transact, work)
        except psycopg.Error as error:
            problem = self._describe(error)
        else:
            return result
        # Raised here so that no error is chained that may quote the URL.
        raise SharedRateLimitsError(
            f"cannot count requests to Mixpanel in PostgreSQL at {self._database}: {problem}. "
            f"{SharedRateLimitsError.advice}"
        )

    def take_slot(self, slots: int) -> ExitStack | None:
        """Take the advisory lock of one of the slots; return None if all are taken."""
        connection = self._connect()
        try:
            for number in range(1, slots + 1):
                key = _lock_key(f"{self._name} slot {number}")
                if _fetch(connection, "SELECT pg_try_advisory_lock(%s)", key):
                    held = ExitStack()
                    held.callback(self._release, connection, key)
                    return held
        except BaseException:
            connection.close()
            raise
        self._put_back(connection)
        return None

    def _release(self, connection: _Connection, key: int) -> None:
        try:
            connection.execute("SELECT pg_advisory_unlock(%s)", (key,))
        except psycopg.Error:  # the lock has gone with the connection
            connection.close()
        self._put_back(connection)

    def _transact(self, work: Callable[[Records], T]) -> T:
        connection = self._connect()
        try:
            with connection.transaction():
                key = _lock_key(self._name)
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
                return work(_PostgresRecords(connection, self._name, self._clock))
        finally:
            self._put_back(connection)

    def _connect(self) -> _Connection:
        """Return a connection that nobody uses, which is opened if there is none."""
        while self._idle:
            try:
                return self._idle.pop()
            except IndexError:  # another thread was faster
                break
        parameters = make_conninfo("", **(_CONNECTION | conninfo_to_dict(self._database.url)))
        connection = psycopg.connect(parameters, autocommit=True, prepare_threshold=None)
        try:
            connection.execute(_SESSION)
            _create_tables(connection)
        except BaseException:
            connection.close()
            raise
        self._was_connected = True
        return connection

    def _put_back(self, connection: _Connection) -> None:
        if connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            connection.close()
            _close_all(self._idle)  # a restart has ended them too

    def _warn(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            _log.warning(
                "cannot count requests to Mixpanel in PostgreSQL at %s: %s; trying again",
                self._database,
                self._describe(state.outcome.exception()),
            )

    def _describe(self, error: BaseException | None) -> str:
        if isinstance(error, psycopg.errors.LockNotAvailable):
            return "another process holds the lock of the count and is not releasing it"
        reason = next(iter(str(error).splitlines()), "")  # hints follow
        return self._scrubber.clean(reason) or type(error).__name__


class _PostgresRecords:
    """The `Records` in a database, within a transaction."""

    closed = True
    """For the bucket, which must not close this."""

    def __init__(self, connection: _Connection, name: str, clock: Clock) -> None:
        self._connection = connection
        self._name = name
        self._clock = clock
        self._bucket_name = f"{name.partition('-')[0]}_{_digest(name).hex()[:16]}"

    @contextmanager
    def connection(self) -> Iterator[_Connection]:
        """Give the bucket, which expects a pool, the connection of this transaction."""
        yield self._connection

    def time(self) -> float:
        return self._clock.shared_time(self._server_time)

    def _server_time(self) -> float:
        return float(_fetch(self._connection, "SELECT extract(epoch FROM clock_timestamp())"))

    def bucket(self, rates: list[Rate]) -> AbstractBucket:
        return PostgresBucket(cast("Any", self), self._bucket_name, rates)

    def end_future(self, now: int) -> None:
        self._execute_on_requests(
            "UPDATE {table} SET item_timestamp = to_timestamp(%(at)s)"
            " WHERE item_timestamp > to_timestamp(%(at)s)",
            now,
        )

    def remove_request(self, counted_at: int) -> None:
        self._execute_on_requests(
            "DELETE FROM {table} WHERE ctid ="
            " (SELECT ctid FROM {table} WHERE item_timestamp = to_timestamp(%(at)s) LIMIT 1)",
            counted_at,
        )

    def _execute_on_requests(self, statement: LiteralString, at: int) -> None:
        table = sql.Identifier(f"ratelimit___{self._bucket_name}")  # the name is the bucket's
        self._connection.execute(sql.SQL(statement).format(table=table), {"at": at / 1000})

    def read_pauses(self) -> list[Pause]:
        found = self._connection.execute(
            "SELECT asked, until, is_requested FROM pauses WHERE limiter = %s", (self._name,)
        )
        return [Pause(*row) for row in found]

    def write_pauses(self, pauses: Sequence[Pause]) -> None:
        self._connection.execute("DELETE FROM pauses WHERE limiter = %s", (self._name,))
        self._connection.cursor().executemany(
            "INSERT INTO pauses VALUES (%s, %s, %s, %s)", [(self._name, *each) for each in pauses]
        )

    def read_learned(self) -> list[Learned]:
        found = self._connection.execute(
            "SELECT seconds, requests, learned FROM quotas WHERE limiter = %s", (self._name,)
        )
        return [Learned(*row) for row in found]

    def write_learned(self, limits: Sequence[Learned]) -> None:
        self._connection.execute("DELETE FROM quotas WHERE limiter = %s", (self._name,))
        self._connection.cursor().executemany(
            "INSERT INTO quotas VALUES (%s, %s, %s, %s)", [(self._name, *each) for each in limits]
        )


def _create_tables(connection: _Connection) -> None:
    """Create the tables that are missing."""
    if _fetch(connection, "SELECT to_regclass('quotas')") is not None:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_lock_key(_SCHEMA),))
        # Also if it exists, creating a schema takes the right to create others.
        if _fetch(connection, "SELECT to_regnamespace(%s)", _SCHEMA) is None:
            connection.execute(f"CREATE SCHEMA {_SCHEMA}")
        connection.execute(_TABLES)


def _may_pass(error: BaseException) -> bool:
    """Return whether the connection was lost or refused for a reason that may pass."""
    lost = (
        psycopg.OperationalError,
        psycopg.InterfaceError,
        psycopg.errors.IdleInTransactionSessionTimeout,
    )
    return (
        isinstance(error, lost)
        and not isinstance(error, psycopg.errors.LockNotAvailable)
        and not any(text in str(error) for text in _REFUSALS)
    )


def _fetch(connection: _Connection, query: LiteralString, *values: object) -> Any:  # noqa: ANN401 - of any type
    """Return the value that a query returns."""
    row = connection.execute(query, values).fetchone()
    return row and row[0]


def _lock_key(name: str) -> int:
    """Return the number of an advisory lock: the same in every process."""
    return int.from_bytes(_digest(name)[:8], signed=True)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _close_all(connections: deque[_Connection]) -> None:
    while connections:
        connections.pop().close()
