"""Copying a DuckDB file into a lake: its days, snapshots, history and logs.

Each table is one transaction, in which its content is compared by a hash. A migration that was
stopped resumes when it is repeated: what the lake already has, from the same load, is not copied.
Who was erased, in the file or in the lake, is left out. Typed tables and metrics are made of the
days again, by the assets that make them.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import duckdb

from mp_pipeline.storage import catalog, erasure, load_log, locks
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake_layout import LakeLayout
from mp_pipeline.storage.loading import MAX_REJECTED_LINE
from mp_pipeline.storage.schema import INTERNAL_TABLES, OWN_COMMENT
from mp_pipeline.storage.sources import check_source
from mp_pipeline.storage.statements import execute, repeated, transaction
from mp_pipeline.storage.suppression import (
    collect_suppressed,
    count_suppressed_ids,
    delete_suppressed_lines,
    delete_suppressed_rows,
)
from mp_pipeline.storage.tables import LAYOUTS, TableLayout, literal, quoted
from mp_pipeline.storage.typed.fast_events import fast_events
from mp_pipeline.storage.user_ids import ids_of_line, possible_ids_of_event

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
            has loads that the file does not have, which are kept; ``missing`` if the file has
            records of the table, but not the table; ``other`` if the engine did not create it, and
            does not copy it; ``erased``, with the rows of users who were erased in the file.
    """

    name: str
    day: date | None
    rows: int
    outcome: Literal["copied", "there", "newer", "missing", "other", "erased"]


def migrate(connection: duckdb.DuckDBPyConnection, file: Path) -> Iterator[MigratedTable]:
    """Copy a database file into a lake, one table after another.

    Args:
        connection: The lake.
        file: The file, whose internal tables are those of this version.

    Raises:
        StorageError: A copy differs from the original; it was rolled back.
        SourceMismatchError: The lake contains data of another source.
        TableExistsError: A name is taken in the lake.
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
        yield from _erase_suppressed(connection)
        yield _merge(connection, "_reconciliations", "dataset, day", newer="checked_at")
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
            catalog.require_own(
                connection, name if ownership.day is None else ownership.dataset, "BASE TABLE"
            )
            catalog.require_owner(connection, ownership.dataset, ownership.owner)
            return _copy_table(connection, name, table, ownership)

    return repeated(connection, copy)


def _copy_table(
    connection: duckdb.DuckDBPyConnection, name: str, table: TableLayout, ownership: Ownership
) -> MigratedTable:
    original = _in_file(quoted(name))
    found = load_log.latest_loads(connection, [name]).get(name.lower())
    ((started_at, finished_at, source),) = execute(
        connection,
        "SELECT arg_max(started_at, rowid), arg_max(finished_at, rowid), "
        "arg_max(source, rowid) "
        f"FROM {_in_file('_load_log')} WHERE lower(table_name) = lower(?) AND refused IS NULL",
        [name],
    )
    check_source(connection, ownership.dataset, source)
    of_table = f"WHERE lower(table_name) = lower({literal(name)})"
    rejected, erased_rows, erased_lines = _in_file("_rejected"), 0, 0
    if count_suppressed_ids(connection):
        execute(connection, f"CREATE OR REPLACE TEMP TABLE _original AS FROM {original}")
        execute(connection, f"CREATE OR REPLACE TEMP TABLE _lines AS FROM {rejected} {of_table}")
        original, rejected = "_original", "_lines"
        erased_rows = delete_suppressed_rows(connection, original, table)
        erased_lines = _delete_lines(connection, rejected)
    if found is not None and _LAYOUT.existing(connection, [name]):
        rows = _LAYOUT.count_rows(connection, [name])[name.lower()]
        stored_at = found.finished_at.replace(tzinfo=None)
        if finished_at is None or stored_at > finished_at:
            _merge_log(connection, name, None)
            return MigratedTable(name, ownership.day, rows, "newer")
        if stored_at == finished_at and _is_equal(connection, name, original, table):
            return MigratedTable(name, ownership.day, rows, "there")
    catalog.forget_table(connection, name)
    for internal in ("_metadata", "_tables"):
        _copy_rows(connection, _in_file(internal), internal, of_table)
    _merge_log(connection, name, started_at)
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


def _delete_lines(connection: duckdb.DuckDBPyConnection, rejected: str) -> int:
    """Delete the rejected lines of erased users; return their number."""
    deleted = delete_suppressed_lines(connection, rejected)
    if execute(connection, f"FROM _suppressed ANTI JOIN {_in_file('_suppressed')} USING (hash)"):
        # An erasure in the lake deletes lines that are stored without their end and name nobody.
        nameless = f"length(line) = {MAX_REJECTED_LINE} AND len({ids_of_line('line')}) = 0"
        deleted += execute(connection, f"DELETE FROM {rejected} WHERE {nameless}")[0][0]
    return deleted


def _erase_suppressed(connection: duckdb.DuckDBPyConnection) -> list[MigratedTable]:
    """Erase from the lake, also from what is made of its days, who was erased in the file."""
    ids = "SELECT distinct_id AS id FROM _profile_versions"
    for table in erasure.user_tables(connection):
        rows = _LAYOUT.rows(connection, [table.name])
        ids += f" UNION SELECT distinct_id FROM {rows}"
        if table.has_events:
            ids += f" UNION SELECT unnest({possible_ids_of_event()}) FROM {rows}"
    if not count_suppressed_ids(connection) or not collect_suppressed(connection, ids):
        return []
    found = [user_id for (user_id,) in execute(connection, "FROM _found")]
    erased = erasure.erase(connection, found, max_ids=sys.maxsize)
    return [MigratedTable(table.name, None, table.rows, "erased") for table in erased.tables]


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


def _merge(
    connection: duckdb.DuckDBPyConnection, name: str, key: str, *, newer: str | None = None
) -> MigratedTable:
    """Add the rows of an internal table whose key the lake does not have.

    Rows with a key of which the file has newer ones, by a column, are replaced.
    """
    added = f"{_in_file(name)} ANTI JOIN {name} USING ({key})"

    def merge() -> MigratedTable:
        with locks.all_held(connection), transaction(connection):
            if newer is not None:
                execute(
                    connection,
                    f"DELETE FROM {name} WHERE ({key}) IN (SELECT ({key}) FROM {name} "
                    f"JOIN {_in_file(name)} f USING ({key}) WHERE f.{newer} > {name}.{newer})",
                )
            ((rows,),) = execute(connection, f"SELECT count(*) FROM {added}")
            if rows:
                execute(connection, f"INSERT INTO {name} BY NAME FROM {added}")
            ((total,),) = execute(connection, f"SELECT count(*) FROM {name}")
            return MigratedTable(name, None, total, "copied" if rows else "there")

    return repeated(connection, merge)


def _copy_history(connection: duckdb.DuckDBPyConnection) -> list[MigratedTable]:
    """Copy the history of profiles, unless the lake has snapshots that the file does not have."""
    versions, snapshots = (_in_file(name) for name in _HISTORY)

    def copy() -> list[MigratedTable]:
        with locks.all_held(connection), transaction(connection):
            collect_suppressed(connection, f"SELECT distinct_id AS id FROM {versions}")
            kept = f"(FROM {versions} WHERE distinct_id NOT IN (SELECT id FROM _found))"
            outcome: Literal["copied", "there", "newer"] = "copied"
            if execute(
                connection,
                f"FROM _profile_snapshots ANTI JOIN {snapshots} "
                "USING (dataset, taken_at, loaded_at) LIMIT 1",
            ):
                outcome = "newer"
            elif _content(connection, _HISTORY[0]) == _content(connection, kept):
                outcome = "there"
            else:
                for name, rows in zip(_HISTORY, (kept, snapshots), strict=True):
                    execute(connection, f"DELETE FROM {name}")
                    _copy_rows(connection, rows, name, "")
            return [
                MigratedTable(name, None, _count(connection, name), outcome) for name in _HISTORY
            ]

    return repeated(connection, copy)


def _other_tables(connection: duckdb.DuckDBPyConnection) -> Iterator[MigratedTable]:
    """Return the tables and views of the user, which are not copied."""
    loaded = execute(connection, f"SELECT table_name, dataset FROM {_in_file('_tables')}")
    own = {name.lower() for row in loaded for name in row}
    own |= {*INTERNAL_TABLES, *(fast_events(dataset).lower() for _, dataset in loaded)}
    for schema, name in execute(
        connection,
        "SELECT schema_name, name FROM (SELECT database_name, schema_name, table_name AS name, "
        "comment FROM duckdb_tables() UNION ALL SELECT database_name, schema_name, view_name, "
        f"comment FROM duckdb_views() WHERE NOT internal) WHERE database_name = '{_FILE}' "
        "AND comment IS DISTINCT FROM ? AND (schema_name, name) NOT IN "
        f"(SELECT (schema_name, table_name) FROM {_in_file('_event_tables')}) ORDER BY ALL",
        [OWN_COMMENT],
    ):
        if schema != "main":
            yield MigratedTable(f"{schema}.{name}", None, 0, "other")
        elif name.lower() not in own:
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
