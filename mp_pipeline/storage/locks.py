"""Locks that all writers of a database share, so that they wait instead of conflicting.

One process writes a DuckDB file, so its threads alone take turns. Writers of a lake take an
advisory lock of PostgreSQL, which ends with its session, also if the process is killed. A catalog
in an SQLite file has a lock file beside it.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import filelock

from mp_pipeline.storage.errors import DatabaseLockedError
from mp_pipeline.storage.lake import CATALOG, POSTGRES, SQLITE, find_catalog
from mp_pipeline.storage.tables import literal

CHANGES = "changes"
"""Held by all changes. Those that only add a day to a lake share it."""

TYPING = "typing"
"""Held by changes to typed tables, before ``CHANGES``."""

METRICS = "metrics"
"""Held by changes to metrics, before ``CHANGES``."""

_TIMEOUT = 3600  # seconds; a change takes a few, but to merge the files of a lake may take long
_SESSION = f"""
    SET LOCAL lock_timeout = '{_TIMEOUT}s';
    -- PostgreSQL notices within a minute and a half that a machine was switched off,
    SET LOCAL tcp_keepalives_idle = 60;
    SET LOCAL tcp_keepalives_interval = 5;
    SET LOCAL tcp_keepalives_count = 6;
    -- and ends no lock that somebody needs, whatever its own settings are.
    SET LOCAL statement_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0;
    SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout';
"""

logger = logging.getLogger(__name__)

_thread_locks: dict[str, threading.RLock] = defaultdict(threading.RLock)
_LOCK_TIMEOUT_ERROR = "canceling statement due to lock timeout"


@contextmanager
def held(
    connection: duckdb.DuckDBPyConnection, name: str, *, shared: bool = False
) -> Iterator[None]:
    """Hold a lock of a database for a ``with`` block.

    Args:
        connection: The database.
        name: The lock.
        shared: Let others share it in a lake whose catalog is in PostgreSQL. Others are exclusive.

    Raises:
        DatabaseLockedError: Another process held it for too long.
    """
    catalog = find_catalog(connection) or ""
    if catalog.startswith(POSTGRES):
        with _advisory_lock(connection, name, shared):
            yield
        return
    with _thread_locks[name]:
        if catalog.startswith(SQLITE):
            with _lock_file(Path(catalog.removeprefix(SQLITE)), name):
                yield
        else:
            yield


@contextmanager
def all_held(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Hold all locks of a database for a ``with`` block: nobody else changes it."""
    with (
        held(connection, TYPING),
        held(connection, METRICS),
        held(connection, CHANGES),
    ):
        yield


@contextmanager
def deriving(connection: duckdb.DuckDBPyConnection, name: str) -> Iterator[None]:
    """Hold the locks to change ``TYPING`` or ``METRICS`` for a ``with`` block.

    Days are loaded meanwhile, but nothing is erased.
    """
    with held(connection, name), held(connection, CHANGES, shared=True):
        yield


@contextmanager
def _advisory_lock(
    connection: duckdb.DuckDBPyConnection, name: str, shared: bool
) -> Iterator[None]:
    kind, key = "_shared" if shared else "", literal(f"mp_pipeline {name}")
    lock = f"SELECT pg_{{}}advisory_xact_lock{kind}(hashtextextended({key}, 0))"
    with connection.cursor() as session:

        def query(sql: str) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = session.execute(
                f"FROM postgres_query('{CATALOG}', {literal(sql)})"
            ).fetchall()
            return rows

        session.execute("BEGIN")
        session.execute(f"CALL postgres_execute('{CATALOG}', {literal(_SESSION)})").fetchall()
        if query(lock.format("try_")) != [(True,)]:
            logger.info("waiting until another process has finished its change (lock %r)", name)
            try:
                query(lock.format(""))
            except duckdb.Error as error:
                if _LOCK_TIMEOUT_ERROR in str(error):
                    raise DatabaseLockedError(
                        f"another process held the lock {name!r} of the lake for {_TIMEOUT} s"
                    ) from error
                raise
        yield  # the transaction, and with it the lock, ends when the session is closed


@contextmanager
def _lock_file(catalog: Path, name: str) -> Iterator[None]:
    path = catalog.with_name(f"{catalog.name}.{name.replace(' ', '-')}.lock")
    try:
        with filelock.FileLock(path, timeout=_TIMEOUT):
            yield
    except filelock.Timeout as error:
        raise DatabaseLockedError(f"another process held {path} for {_TIMEOUT} s") from error
