"""Maintaining a lake: expiring snapshots, merging small files, and removing what nobody needs."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb

from mp_pipeline.storage import locks
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake import LAKE, find_catalog
from mp_pipeline.storage.statements import database_name, execute, repeated, transaction
from mp_pipeline.storage.tables import literal

ORPHAN_AGE = timedelta(days=1)
"""A file that the catalog does not know is an orphan at this age: before, a load may publish it."""

READING_TIME = timedelta(days=1)
"""A file of an expired snapshot is kept so long: a query that began before may still read it."""


@dataclass(frozen=True)
class LakeInfo:
    """What a lake consists of.

    Attributes:
        snapshots: The snapshots, each of which can be read.
        oldest: When the oldest of them was made (UTC), None if there is none.
        files: The files of the current snapshot.
        bytes: Their size in bytes.
    """

    snapshots: int
    oldest: datetime | None
    files: int
    bytes: int


@dataclass(frozen=True)
class Maintenance:
    """What maintenance of a lake has done.

    Attributes:
        expired_snapshots: Snapshots that cannot be read any more.
        flushed_rows: Rows that were moved from the catalog to files.
        merged_files: Small files that were merged into larger ones.
        removed_files: Files that no snapshot needs.
        orphaned_files: Files that killed processes left behind.
        before: The lake before.
        after: The lake after.
    """

    expired_snapshots: int
    flushed_rows: int
    merged_files: int
    removed_files: int
    orphaned_files: int
    before: LakeInfo
    after: LakeInfo


def read_lake_info(connection: duckdb.DuckDBPyConnection) -> LakeInfo | None:
    """Return what a lake consists of, None for a DuckDB file."""
    if find_catalog(connection) is None:
        return None
    ((snapshots, oldest),) = execute(
        connection, "SELECT count(*), min(snapshot_time) FROM ducklake_snapshots(?)", [LAKE]
    )
    ((files, size),) = execute(
        connection,
        "SELECT coalesce(sum(file_count + delete_file_count), 0)::BIGINT, "
        "coalesce(sum(file_size_bytes + delete_file_size_bytes), 0)::BIGINT "
        "FROM ducklake_table_info(?)",
        [LAKE],
    )
    return LakeInfo(snapshots, oldest, files, size)


def maintain(
    connection: duckdb.DuckDBPyConnection, keep: timedelta, *, rewrite: bool = False
) -> Maintenance:
    """Expire old snapshots of a lake, merge its small files, and remove files nobody needs.

    Args:
        connection: The lake.
        keep: The age up to which snapshots stay readable.
        rewrite: Rewrite all files with deleted rows, too, so that these are in no file.

    Raises:
        StorageError: It is a DuckDB file.
    """
    before = read_lake_info(connection)
    if before is None:
        raise StorageError(f"{database_name(connection)} is not a lake: it has no snapshots")
    # Loads go on between the steps. A transaction that changes the rows of a merged file would
    # conflict.
    with locks.all_held(connection):
        flushed = _call(connection, "ducklake_flush_inlined_data")
    if rewrite:
        with locks.all_held(connection):
            _call(connection, "ducklake_rewrite_data_files", "delete_threshold => 0")
    with locks.all_held(connection):
        merged = _call(connection, "ducklake_merge_adjacent_files")
    # A transaction is compared with the snapshots since it began, so these must be there.
    with locks.all_held(connection):
        expired = _call(connection, "ducklake_expire_snapshots", _older_than(connection, keep))
    removed = _call(
        connection,
        "ducklake_cleanup_old_files",
        "cleanup_all => true" if rewrite else _older_than(connection, min(keep, READING_TIME)),
    )
    orphaned = _call(
        connection, "ducklake_delete_orphaned_files", _older_than(connection, ORPHAN_AGE)
    )
    after = read_lake_info(connection)
    return Maintenance(
        expired_snapshots=len(expired),
        flushed_rows=sum(rows for _, _, rows in flushed),
        merged_files=sum(processed for _, _, processed, _ in merged),
        removed_files=len(removed),
        orphaned_files=len(orphaned),
        before=before,
        after=after or before,
    )


class _UndoError(Exception):
    """Rolls a transaction back."""


def try_writing(connection: duckdb.DuckDBPyConnection) -> None:
    """Write a file of a lake, and remove it.

    Raises:
        duckdb.Error: That is not possible.
    """
    with suppress(_UndoError), transaction(connection):
        # So many rows that they are not kept in the catalog.
        execute(connection, "CREATE TABLE _try_writing AS FROM range(1000)")
        raise _UndoError


def _call(
    connection: duckdb.DuckDBPyConnection, function: str, *arguments: str
) -> list[tuple[int, ...]]:
    call = f"CALL {function}({', '.join([literal(LAKE), *arguments])})"
    return repeated(connection, lambda: execute(connection, call))


def _older_than(connection: duckdb.DuckDBPyConnection, age: timedelta) -> str:
    """Return the argument for what is older than an age.

    The clock of the machine that made the latest snapshot may be ahead of this one's.
    """
    ((now,),) = execute(
        connection, "SELECT greatest(now(), max(snapshot_time)) FROM ducklake_snapshots(?)", [LAKE]
    )
    return f"older_than => TIMESTAMPTZ '{(now - age).isoformat()}'"
