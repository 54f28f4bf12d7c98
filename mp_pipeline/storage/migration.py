"""Copying a DuckDB file into a lake: its days, snapshots, history and logs.

Each table is one transaction, in which its content is compared by a hash. A migration that was
stopped resumes when it is repeated: what the lake already has, from the same load, is not copied.
Typed tables and metrics are made of the days again, by the assets that make them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import duckdb

from mp_pipeline.storage import catalog, load_log, locks
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake_layout import LakeLayout
from mp_pipeline.storage.sources import check_source
from mp_pipeline.storage.statements import execute, repeated, transaction
from mp_pipeline.storage.tables import LAYOUTS, TableLayout, literal, quoted

_FILE = "migrated_file"
_LAYOUT = LakeLayout()

_OTHER_TABLES = (
    "_profile_versions",
    "_profile_snapshots",
    "_suppressed",
    "_erasures",
    "_reconciliations",
)
"""Internal tables that are copied whole, and that nothing but loads of a project can make again."""


@dataclass(frozen=True)
class MigratedTable:
    """A table or day that a migration has dealt with.

    Attributes:
        name: The table in the file, such as ``events_20240115``.
        day: The day, None for others.
        rows: Its rows in the lake.
        outcome: ``copied``; ``there`` if the lake had it from the same load; ``newer`` if the lake
            has a later load, which is kept.
    """

    name: str
    day: date | None
    rows: int
    outcome: Literal["copied", "there", "newer"]


def migrate(connection: duckdb.DuckDBPyConnection, file: Path) -> Iterator[MigratedTable]:
    """Copy a database file into a lake, one table after another.

    Args:
        connection: The lake.
        file: The file, whose internal tables are those of this version.

    Raises:
        StorageError: A copy differs from the original; it was rolled back.
        SourceMismatchError: The lake contains data of another source.
        duckdb.Error: The file cannot be opened.
    """
    execute(connection, f"ATTACH {literal(str(file))} AS {_FILE} (READ_ONLY)")
    try:
        for name, type_, dataset, day, owner in execute(
            connection,
            f"SELECT table_name, type, dataset, day, owner FROM {_in_file('_metadata')} "
            f"JOIN {_in_file('_tables')} USING (table_name) ORDER BY day, table_name",
        ):
            ownership = Ownership(dataset, day, owner)
            yield _migrate_table(connection, name, LAYOUTS[type_], ownership)
        for name in _OTHER_TABLES:
            yield _copy_internal(connection, name)
        yield _copy_internal(
            connection,
            "_load_log",
            "WHERE lower(table_name) NOT IN (SELECT lower(table_name) FROM _load_log)",
        )
    finally:
        execute(connection, f"DETACH {_FILE}")


def _migrate_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableLayout, ownership: Ownership
) -> MigratedTable:
    for (source,) in execute(
        connection,
        f"SELECT DISTINCT source FROM {_in_file('_load_log')} WHERE lower(table_name) = lower(?)",
        [name],
    ):
        check_source(connection, ownership.dataset, source)

    def copy() -> MigratedTable:
        with _LAYOUT.publishing(connection, name), transaction(connection):
            return _copy_table(connection, name, table, ownership)

    return repeated(connection, copy)


def _copy_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableLayout, ownership: Ownership
) -> MigratedTable:
    original = _in_file(quoted(name))
    found = load_log.latest_loads(connection, [name]).get(name.lower())
    ((loaded_at,),) = execute(
        connection,
        f"SELECT max(finished_at) FROM {_in_file('_load_log')} "
        "WHERE lower(table_name) = lower(?) AND refused IS NULL",
        [name],
    )
    if found is not None and _LAYOUT.existing(connection, [name]):
        rows = _LAYOUT.count_rows(connection, [name])[name.lower()]
        stored_at = found.finished_at.replace(tzinfo=None)
        if loaded_at is None or stored_at > loaded_at:
            return MigratedTable(name, ownership.day, rows, "newer")
        if stored_at == loaded_at and _is_equal(connection, name, original, table):
            return MigratedTable(name, ownership.day, rows, "there")
    catalog.forget_table(connection, name)
    execute(connection, "DELETE FROM _load_log WHERE lower(table_name) = lower(?)", [name])
    _LAYOUT.put(connection, original, table, name, ownership)
    for internal in ("_metadata", "_tables", "_rejected", "_load_log"):
        _copy_rows(connection, internal, f"WHERE lower(table_name) = lower({literal(name)})")
    if not _is_equal(connection, name, original, table):
        raise StorageError(f"the copy of {name} differs from the original; it was rolled back")
    ((rows,),) = execute(connection, f"SELECT count(*) FROM {original}")
    return MigratedTable(name, ownership.day, rows, "copied")


def _copy_internal(
    connection: duckdb.DuckDBPyConnection, name: str, where: str | None = None
) -> MigratedTable:
    """Copy rows of an internal table; without a condition all, unless the lake has rows in it."""

    def copy() -> MigratedTable:
        with locks.all_held(connection), transaction(connection):
            ((rows,),) = execute(connection, f"SELECT count(*) FROM {name}")
            if rows and where is None:
                return MigratedTable(name, None, rows, "there")
            _copy_rows(connection, name, where or "")
            ((rows,),) = execute(connection, f"SELECT count(*) FROM {name}")
            return MigratedTable(name, None, rows, "copied")

    return repeated(connection, copy)


def _copy_rows(connection: duckdb.DuckDBPyConnection, name: str, where: str) -> None:
    execute(connection, f"INSERT INTO {name} BY NAME FROM {_in_file(name)} {where}")


def _is_equal(
    connection: duckdb.DuckDBPyConnection, name: str, original: str, table: TableLayout
) -> bool:
    """Return whether a table or day of the lake has the rows of the original."""
    columns = ", ".join(
        f"{column.name}::VARCHAR" if column.type == "JSON" else column.name
        for column in table.columns
    )
    hashes = "SELECT count(*), sum(hash({columns})::HUGEINT) FROM {rows}"
    copied = hashes.format(columns=columns, rows=_LAYOUT.rows(connection, [name]))
    return execute(connection, copied) == execute(
        connection, hashes.format(columns=columns, rows=original)
    )


def _in_file(name: str) -> str:
    return f"{_FILE}.main.{name}"
