"""Copying a DuckDB file into a lake: its days, snapshots, history and logs.

Each table is one transaction, in which its content is compared by a hash. A migration that was
stopped resumes when it is repeated: what the lake already has, from the same load, is not copied.
Who was erased, in the file or in the lake, is left out. Typed tables and metrics are made of the
days again, by the assets that make them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import duckdb

from mp_pipeline.storage import catalog, load_log, locks
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake_layout import LakeLayout
from mp_pipeline.storage.schema import OWN_COMMENT
from mp_pipeline.storage.sources import check_source
from mp_pipeline.storage.statements import execute, repeated, transaction
from mp_pipeline.storage.suppression import (
    collect_suppressed,
    count_suppressed_ids,
    delete_suppressed_lines,
    delete_suppressed_rows,
)
from mp_pipeline.storage.tables import LAYOUTS, TableLayout, literal, quoted

_FILE = "migrated_file"
_LAYOUT = LakeLayout()
_HISTORY = ("_profile_versions", "_profile_snapshots")


@dataclass(frozen=True)
class MigratedTable:
    """A table or day that a migration has dealt with.

    Attributes:
        name: The table in the file, such as ``events_20240115``.
        day: The day, None for others.
        rows: Its rows in the lake.
        outcome: ``copied``; ``there`` if the lake had it from the same load; ``newer`` if the lake
            has later loads, which are kept; ``missing`` if the file has records of the table, but
            not the table; ``other`` if the engine did not create it, and does not copy it.
    """

    name: str
    day: date | None
    rows: int
    outcome: Literal["copied", "there", "newer", "missing", "other"]


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
        # First, so that nobody who was erased is copied.
        yield _merge(connection, "_suppressed", "hash")
        yield _merge(connection, "_erasures", "erased_at")
        for name, type_, dataset, day, owner in execute(
            connection,
            f"SELECT table_name, type, dataset, day, owner FROM {_in_file('_metadata')} "
            f"JOIN {_in_file('_tables')} USING (table_name) ORDER BY day, table_name",
        ):
            ownership = Ownership(dataset, day, owner)
            yield _migrate_table(connection, name, LAYOUTS[type_], ownership)
        yield from _copy_history(connection)
        yield _merge(connection, "_reconciliations", "dataset, day")
        _merge_other_logs(connection)
        yield from _other_tables(connection)
    finally:
        execute(connection, f"DETACH {_FILE}")


def _migrate_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableLayout, ownership: Ownership
) -> MigratedTable:
    if not execute(
        connection,
        f"FROM duckdb_tables() WHERE database_name = '{_FILE}' AND schema_name = 'main' "
        "AND lower(table_name) = lower(?)",
        [name],
    ):
        return MigratedTable(name, ownership.day, 0, "missing")

    def copy() -> MigratedTable:
        with (
            _LAYOUT.publishing(connection, name, ownership.dataset),
            transaction(connection),
        ):
            for (source,) in execute(
                connection,
                f"SELECT DISTINCT source FROM {_in_file('_load_log')} "
                "WHERE lower(table_name) = lower(?)",
                [name],
            ):
                check_source(connection, ownership.dataset, source)
            return _copy_table(connection, name, table, ownership)

    return repeated(connection, copy)


def _copy_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableLayout, ownership: Ownership
) -> MigratedTable:
    original = _in_file(quoted(name))
    found = load_log.latest_loads(connection, [name]).get(name.lower())
    ((started_at, finished_at),) = execute(
        connection,
        "SELECT arg_max(started_at, rowid), arg_max(finished_at, rowid) "
        f"FROM {_in_file('_load_log')} WHERE lower(table_name) = lower(?) AND refused IS NULL",
        [name],
    )
    if found is not None and _LAYOUT.existing(connection, [name]):
        rows = _LAYOUT.count_rows(connection, [name])[name.lower()]
        stored_at = found.finished_at.replace(tzinfo=None)
        if finished_at is None or stored_at > finished_at:
            _merge_log(connection, name, None)
            return MigratedTable(name, ownership.day, rows, "newer")
        if stored_at == finished_at and _is_equal(connection, name, original, table):
            return MigratedTable(name, ownership.day, rows, "there")
    catalog.forget_table(connection, name)
    of_table = f"WHERE lower(table_name) = lower({literal(name)})"
    for internal in ("_metadata", "_tables"):
        _copy_rows(connection, _in_file(internal), internal, of_table)
    _merge_log(connection, name, started_at)
    rejected, erased_rows, erased_lines = _in_file("_rejected"), 0, 0
    if count_suppressed_ids(connection):
        execute(connection, f"CREATE OR REPLACE TEMP TABLE _original AS FROM {original}")
        execute(connection, f"CREATE OR REPLACE TEMP TABLE _lines AS FROM {rejected} {of_table}")
        original, rejected = "_original", "_lines"
        erased_rows = delete_suppressed_rows(connection, original, table)
        erased_lines = delete_suppressed_lines(connection, rejected)
    _copy_rows(connection, rejected, "_rejected", of_table)
    if erased_rows or erased_lines:
        load_log.record_erased(connection, name, erased_rows, erased_lines)
        execute(
            connection,
            f"UPDATE _metadata SET row_count = row_count - ? {of_table}",
            [erased_rows],
        )
    _LAYOUT.put(connection, original, table, name, ownership)
    if not _is_equal(connection, name, original, table):
        raise StorageError(f"the copy of {name} differs from the original; it was rolled back")
    ((rows,),) = execute(connection, f"SELECT count(*) FROM {original}")
    return MigratedTable(name, ownership.day, rows, "copied")


def _merge_log(connection: duckdb.DuckDBPyConnection, name: str, copied: datetime | None) -> None:
    """Add the loads of a table that the lake does not have. The one that was copied is the last.

    Args:
        connection: The lake.
        name: The table.
        copied: When the load started that the rows are from, if they are copied. Then the lake has
            the loads as the file has them; otherwise those of the lake stay as they are.
    """
    of_table = f"lower(table_name) = lower({literal(name)})"
    kept, added = (f"(FROM {log} WHERE {of_table})" for log in ("_load_log", _in_file("_load_log")))
    if copied is not None:
        kept, added = added, kept
    execute(
        connection,
        f"CREATE OR REPLACE TEMP TABLE _merged AS FROM {kept} "
        f"UNION ALL BY NAME (FROM {added} ANTI JOIN {kept} USING (started_at))",
    )
    execute(connection, f"DELETE FROM _load_log WHERE {of_table}")
    execute(
        connection,
        "INSERT INTO _load_log BY NAME FROM _merged "
        "ORDER BY started_at IS NOT DISTINCT FROM ?, finished_at",
        [copied],
    )


def _merge_other_logs(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the loads of tables that are in neither database any more."""

    def merge() -> None:
        with locks.all_held(connection), transaction(connection):
            for (name,) in execute(
                connection,
                f"SELECT DISTINCT table_name FROM {_in_file('_load_log')} "
                "WHERE lower(table_name) NOT IN (SELECT lower(table_name) FROM _load_log)",
            ):
                _merge_log(connection, name, None)

    repeated(connection, merge)


def _merge(connection: duckdb.DuckDBPyConnection, name: str, key: str) -> MigratedTable:
    """Add the rows of an internal table whose key the lake does not have."""
    added = f"{_in_file(name)} ANTI JOIN {name} USING ({key})"

    def merge() -> MigratedTable:
        with locks.all_held(connection), transaction(connection):
            ((rows,),) = execute(connection, f"SELECT count(*) FROM {added}")
            if rows:
                execute(connection, f"INSERT INTO {name} BY NAME FROM {added}")
            ((total,),) = execute(connection, f"SELECT count(*) FROM {name}")
            return MigratedTable(name, None, total, "copied" if rows else "there")

    return repeated(connection, merge)


def _copy_history(connection: duckdb.DuckDBPyConnection) -> list[MigratedTable]:
    """Copy the history of profiles, unless the lake has one."""

    def copy() -> list[MigratedTable]:
        with locks.all_held(connection), transaction(connection):
            has_history = any(_count(connection, name) for name in _HISTORY)
            if not has_history:
                ids = f"SELECT DISTINCT distinct_id AS id FROM {_in_file('_profile_versions')}"
                collect_suppressed(connection, ids)
                for name, kept in zip(
                    _HISTORY, ("WHERE distinct_id NOT IN (SELECT id FROM _found)", ""), strict=True
                ):
                    _copy_rows(connection, _in_file(name), name, kept)
            return [
                MigratedTable(
                    name,
                    None,
                    _count(connection, name),
                    "copied"
                    if not has_history
                    else "there"
                    if _content(connection, name) == _content(connection, _in_file(name))
                    else "newer",
                )
                for name in _HISTORY
            ]

    return repeated(connection, copy)


def _other_tables(connection: duckdb.DuckDBPyConnection) -> Iterator[MigratedTable]:
    """Return the tables and views of the user, which are not copied."""
    for (name,) in execute(
        connection,
        "SELECT name FROM (SELECT database_name, schema_name, table_name AS name, comment "
        "FROM duckdb_tables() UNION ALL SELECT database_name, schema_name, view_name, comment "
        f"FROM duckdb_views() WHERE NOT internal) WHERE database_name = '{_FILE}' "
        "AND schema_name = 'main' AND comment IS DISTINCT FROM ? AND NOT starts_with(name, '_') "
        f"AND lower(name) NOT IN (SELECT lower(table_name) FROM {_in_file('_tables')} "
        f"UNION ALL SELECT lower(dataset) FROM {_in_file('_tables')}) ORDER BY name",
        [OWN_COMMENT],
    ):
        yield MigratedTable(name, None, 0, "other")


def _copy_rows(connection: duckdb.DuckDBPyConnection, original: str, name: str, where: str) -> None:
    execute(connection, f"INSERT INTO {name} BY NAME FROM {original} {where}")


def _is_equal(
    connection: duckdb.DuckDBPyConnection, name: str, original: str, table: TableLayout
) -> bool:
    """Return whether a table or day of the lake has the rows of the original."""
    columns = ", ".join(table.column_names)
    rows = _LAYOUT.rows(connection, [name])
    return _content(connection, f"(SELECT {columns} FROM {rows})") == _content(
        connection, f"(SELECT {columns} FROM {original})"
    )


def _content(connection: duckdb.DuckDBPyConnection, rows: str) -> list[tuple[object, ...]]:
    """Return the number of rows and a hash of all of them, in any order."""
    return execute(connection, f"SELECT count(*), sum(hash(r::VARCHAR)::HUGEINT) FROM {rows} r")


def _count(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    return int(execute(connection, f"SELECT count(*) FROM {name}")[0][0])


def _in_file(name: str) -> str:
    return f"{_FILE}.main.{name}"
