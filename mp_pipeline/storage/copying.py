"""Copying a database file: into a backup, and into a new file without deleted data.

Both copy the database of an open connection. It is open for writing, so no other process can change
the file meanwhile.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from mp_pipeline.storage.connection import connect
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.headers import open_descriptor
from mp_pipeline.storage.scratch import making_prefix
from mp_pipeline.storage.statements import execute
from mp_pipeline.storage.tables import literal, quoted

_BLOCK_BYTES = 1 << 22
_NEW = "_rewritten"


@dataclass(frozen=True)
class Backup:
    """A backup that was made.

    Attributes:
        path: The file.
        bytes: Its size in bytes.
        sha256: Its SHA-256 checksum in hexadecimal. ``checksum_path`` contains it, too, as
            ``sha256sum --check`` reads it.
    """

    path: Path
    bytes: int
    sha256: str

    @property
    def checksum_path(self) -> Path:
        """The file with the checksum."""
        return self.path.with_name(f"{self.path.name}.sha256")


def back_up(connection: duckdb.DuckDBPyConnection, database: Path, target: Path) -> Backup:
    """Copy a database to a new file, byte by byte, and read the copy to verify it.

    The target is written under another name, which ends in ``.part``, and appears under its own
    when it is complete. Only its owner can read it.

    Args:
        connection: The database, open for writing, without a transaction.
        database: Its file.
        target: The file to create.

    Raises:
        FileExistsError: The target, or the file with its checksum, exists.
        StorageError: The target cannot be written, or is not what was read.
    """
    backup = Backup(target, 0, "")
    for path in (target, backup.checksum_path):
        if path.exists():
            raise FileExistsError(f"{path} exists: choose another name, or delete it")
    part = target.with_name(f"{target.name}.part")
    execute(connection, "CHECKPOINT")  # so that no write-ahead log belongs to the file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256 = hashlib.sha256()
        with part.open("wb") as file:
            part.chmod(0o600)
            for block in _blocks(database):
                file.write(block)
                sha256.update(block)
            file.flush()
            os.fsync(file.fileno())
        _verify(connection, part, sha256.hexdigest())
        backup = Backup(target, part.stat().st_size, sha256.hexdigest())
        part.rename(target)
        backup.checksum_path.write_text(f"{backup.sha256}  {target.name}\n")
    except OSError as error:
        raise StorageError(f"cannot write the backup {target}: {error}") from error
    return backup


def rewrite(connection: duckdb.DuckDBPyConnection, database: Path) -> None:
    """Replace a database file by a copy of its contents: no block of it holds deleted data.

    Tables, views, comments, macros and all else in the database are copied. A crash leaves the old
    file or the new one, complete. Close the connection afterwards: it is of the old file.

    Args:
        connection: The database, open for writing, without a transaction.
        database: Its file.

    Raises:
        StorageError: The copy cannot be written, or is not complete. The old file is kept.
    """
    target = database.resolve()
    prefix = making_prefix(target)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as directory:
            new = Path(directory) / target.name
            old_name = _database_name(connection)
            execute(connection, f"ATTACH {literal(str(new))} AS {_NEW}")
            try:
                execute(connection, f"COPY FROM DATABASE {quoted(old_name)} TO {_NEW}")
                if _row_counts(connection, old_name) != _row_counts(connection, _NEW):
                    raise StorageError(f"the copy of {database} is not complete; it was deleted")
            finally:
                execute(connection, f"DETACH {_NEW}")
            execute(connection, "CHECKPOINT")  # so that no write-ahead log of the old file is left
            new.chmod(target.stat().st_mode & 0o777)
            with new.open("rb") as file:
                os.fsync(file.fileno())
            new.replace(target)
        with suppress(OSError):  # not every system can flush a directory
            _flush_directory(target.parent)
    except (OSError, duckdb.Error) as error:
        raise StorageError(f"cannot rewrite {database}: {error}. The file is unchanged") from error


def _blocks(database: Path) -> Iterator[bytes]:
    """Yield the content of the file through DuckDB's own descriptor (see ``headers``)."""
    descriptor = open_descriptor(database)
    if descriptor is None:
        raise StorageError(f"cannot read {database} while it is open on this system")
    offset = 0
    while block := os.pread(descriptor, _BLOCK_BYTES, offset):
        offset += len(block)
        yield block


def _verify(connection: duckdb.DuckDBPyConnection, copy: Path, sha256: str) -> None:
    with copy.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise StorageError(f"{copy} is not what was written; is the disk damaged?")
    with connect(copy, read_only=True, lock_timeout=0) as copied:
        expected = _row_counts(connection, _database_name(connection))
        if _row_counts(copied, _database_name(copied)) != expected:
            raise StorageError(f"{copy} does not have the rows of the database")


def _row_counts(connection: duckdb.DuckDBPyConnection, database: str) -> dict[str, int]:
    """Return the rows of all tables of an attached database, by schema and name."""
    tables = execute(
        connection,
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ? "
        "AND NOT temporary",
        [database],
    )
    return {
        f"{quoted(schema)}.{quoted(table)}": execute(
            connection,
            f"SELECT count(*) FROM {quoted(database)}.{quoted(schema)}.{quoted(table)}",
        )[0][0]
        for schema, table in tables
    }


def _database_name(connection: duckdb.DuckDBPyConnection) -> str:
    return str(execute(connection, "SELECT current_database()")[0][0])


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
