"""Tables in a lake: one per dataset, partitioned by day, which many processes write at once.

A lake has no keys: rows are made unique before they are published, and a check verifies it.
"""

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

import duckdb

from mp_pipeline.storage import locks, scratch
from mp_pipeline.storage.catalog import (
    Ownership,
    find_comment,
    find_ownership,
    has_days,
    mark_as_own,
    read_columns,
)
from mp_pipeline.storage.errors import StorageError
from mp_pipeline.storage.lake import LAKE
from mp_pipeline.storage.layout import Columns, Layout
from mp_pipeline.storage.models import ColumnInfo
from mp_pipeline.storage.schema import (
    create_internal_tables,
    has_internal_tables,
    is_complete,
)
from mp_pipeline.storage.statements import database_name, execute, transaction
from mp_pipeline.storage.tables import EVENTS, TableLayout, literal, quoted

_DAY = ColumnInfo("day", "DATE", nullable=False)

logger = logging.getLogger(__name__)


class LakeLayout(Layout):
    """Replaces rows: the old ones stay readable in earlier snapshots until they expire."""

    dataset_kind = "BASE TABLE"

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Create the internal tables, and remove old temporary files of killed processes."""
        scratch.remove_leftovers(connection)
        if is_complete(connection):
            return
        try:
            with locks.held(connection, locks.CHANGES):
                if is_complete(connection):  # another process was faster
                    return
                is_earlier = has_internal_tables(connection)
                if not is_earlier:
                    _require_place(connection)
                execute(connection, f"CALL {LAKE}.set_option('parquet_compression', 'zstd')")
                with transaction(connection):
                    create_internal_tables(connection, _without_keys)
        except duckdb.Error as error:
            lake = database_name(connection)
            raise StorageError(f"cannot write the lake {lake}: {error}") from error
        if is_earlier:
            logger.warning(
                "%s was written by an earlier version of mp_pipeline: its internal tables were "
                "brought up to date. No data was changed",
                database_name(connection),
            )

    def create_staging(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str
    ) -> None:
        """Create a temporary table, on this machine alone, in which a load stages rows."""
        definition = table.definition(compressed=False)
        execute(connection, f"CREATE TEMP TABLE {quoted(name)} {definition}")

    def drop_staging(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Drop a staging table if it exists."""
        execute(connection, f"DROP TABLE IF EXISTS temp.{quoted(name)}")

    def add_key(self, connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str) -> None:
        """Do nothing: tables have no keys."""

    def existing(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> set[str]:
        """Return which of the tables, days or views exist."""
        return set(self.columns(connection, names))

    def intact_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> list[str]:
        """Return which of the tables or days exist and have all columns of events."""
        expected = {(column.name, column.type) for column in EVENTS.columns}
        found = self.columns(connection, names)
        return [
            name
            for name in names
            if expected <= {(each.name, each.type) for each in found.get(name.lower(), {}).values()}
        ]

    def columns(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, Columns]:
        """Return the columns of the tables, days or views that exist."""
        days = _find_days(connection, names)
        wanted = {name.lower() for name in names} | {dataset for dataset, _ in days.values()}
        tables = read_columns(connection, wanted)
        found = {}
        for name in {name.lower() for name in names}:
            if name in days and days[name][0] in tables:
                of_dataset = tables[days[name][0]]
                found[name] = {key: of_dataset[key] for key in of_dataset if key != _DAY.name}
            elif name in tables:
                found[name] = tables[name]
        return found

    def rows(self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> str:
        """Return the SQL for the rows of tables, days or views with the same columns."""
        days = _find_days(connection, names)
        selects = [f"SELECT * FROM {quoted(name)}" for name in names if name.lower() not in days]
        selects += [
            f"SELECT {', '.join(EVENTS.column_names)} FROM {quoted(dataset)} WHERE {condition}"
            for dataset, condition in _by_dataset(days).items()
        ]
        return f"({' UNION ALL '.join(selects)})"

    def count_rows(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, int]:
        """Return the number of rows of the tables or days that exist."""
        existing = self.existing(connection, names)
        days = _find_days(connection, sorted(existing))
        counts = {
            name: int(execute(connection, f"SELECT count(*) FROM {quoted(name)}")[0][0])
            for name in sorted(existing - days.keys())
        }
        for dataset, condition in _by_dataset(days).items():
            rows = dict(
                execute(
                    connection,
                    f"SELECT day, count(*) FROM {quoted(dataset)} WHERE {condition} GROUP BY day",
                )
            )
            counts |= {
                name: rows.get(day, 0) for name, (its, day) in days.items() if its == dataset
            }
        return counts

    def count_events(
        self, connection: duckdb.DuckDBPyConnection, names: Sequence[str]
    ) -> dict[str, dict[str, int]]:
        """Return the number of rows by event name, of the tables or days that are intact."""
        intact = [name.lower() for name in self.intact_events(connection, names)]
        counts: dict[str, dict[str, int]] = {name: {} for name in intact}
        days = _find_days(connection, intact)
        of_day = {(dataset, day): name for name, (dataset, day) in days.items()}
        for dataset, condition in _by_dataset(days).items():
            for day, event_name, events in execute(
                connection,
                f"SELECT day, event_name, count(*) FROM {quoted(dataset)} WHERE {condition} "
                "GROUP BY ALL",
            ):
                counts[of_day[dataset, day]][event_name] = events
        for name in counts.keys() - days.keys():
            counts[name] = dict(
                execute(
                    connection,
                    f"SELECT event_name, count(*) FROM {quoted(name)} GROUP BY event_name",
                )
            )
        return counts

    def key_problems(
        self, connection: duckdb.DuckDBPyConnection, table: TableLayout, names: Sequence[str]
    ) -> dict[str, str]:
        """Return which tables or days have rows with the same key."""
        columns = self.columns(connection, names)
        with_key = {name for name in columns if set(table.primary_key) <= columns[name].keys()}
        days = _find_days(connection, sorted(with_key))
        repeated = {
            name: _count_repeated(connection, quoted(name), table).get(None, 0)
            for name in with_key - days.keys()
        }
        for dataset, condition in _by_dataset(days).items():
            rows = f"{quoted(dataset)} WHERE {condition}"
            found = _count_repeated(connection, rows, table, "day")
            repeated |= {
                name: found.get(day, 0) for name, (its, day) in days.items() if its == dataset
            }
        return {
            name: f"{keys:,} values of {table.key} occur more than once; reload it"
            for name, keys in repeated.items()
            if keys
        }

    @contextmanager
    def publishing(
        self, connection: duckdb.DuckDBPyConnection, name: str, dataset: str
    ) -> Iterator[None]:
        """Hold the locks to replace a table, or a day of a dataset.

        A day is only added if the dataset does not have it yet, so others may do the same at once.
        But DuckLake does not notice if two processes add one and the same day: the name has a lock
        of its own.
        """
        with locks.held(connection, f"table {name.lower()}"):
            existing = self.existing(connection, [name, dataset])
            is_added = dataset.lower() in existing and name.lower() not in existing
            with locks.held(connection, locks.CHANGES, shared=is_added):
                yield

    def put(
        self,
        connection: duckdb.DuckDBPyConnection,
        staging: str,
        table: TableLayout,
        name: str,
        ownership: Ownership,
    ) -> None:
        """Replace the rows of a table or day by those of another table."""
        columns = ", ".join(table.column_names)
        if ownership.day is None:
            _create_or_empty(connection, table, name)
            execute(
                connection,
                f"INSERT INTO {quoted(name)} ({columns}) SELECT {columns} FROM {staging}",
            )
            return
        dataset, day = quoted(ownership.dataset), f"DATE '{ownership.day}'"
        if not self.existing(connection, [ownership.dataset]):
            _create_days(connection, table, ownership.dataset)
        execute(connection, f"DELETE FROM {dataset} WHERE day = {day}")
        execute(
            connection,
            f"INSERT INTO {dataset} ({columns}, day) SELECT {columns}, {day} FROM {staging}",
        )

    def remove(
        self, connection: duckdb.DuckDBPyConnection, name: str, ownership: Ownership | None
    ) -> None:
        """Drop a table, or delete the rows of a day, if it exists."""
        if ownership is None or ownership.day is None:
            execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
        elif self.existing(connection, [ownership.dataset]):
            execute(
                connection,
                f"DELETE FROM {quoted(ownership.dataset)} WHERE day = DATE '{ownership.day}'",
            )

    def delete_rows(self, connection: duckdb.DuckDBPyConnection, name: str, condition: str) -> None:
        """Delete the rows of a table or day that meet a condition."""
        ownership = find_ownership(connection, name)
        if ownership is not None and ownership.day is not None:
            name = ownership.dataset
            condition = f"day = DATE '{ownership.day}' AND ({condition})"
        execute(connection, f"DELETE FROM {quoted(name)} WHERE {condition}")

    def show_days(self, connection: duckdb.DuckDBPyConnection, dataset: str) -> None:
        """Drop the table of the dataset if there are no days: otherwise it has all of them."""
        if not has_days(connection, dataset) and find_comment(connection, dataset) is not None:
            execute(connection, f"DROP TABLE {quoted(dataset)}")

    def create_typed_table(
        self, connection: duckdb.DuckDBPyConnection, name: str, columns: str
    ) -> None:
        """Create a table of events by day."""
        execute(connection, f"CREATE TABLE {name} ({columns})")
        execute(connection, f"ALTER TABLE {name} SET PARTITIONED BY (day)")

    def change_type(
        self,
        connection: duckdb.DuckDBPyConnection,
        name: str,
        column: str,
        type_: str,
        value: str,
    ) -> None:
        """Change the type of a column: DuckLake widens numbers alone, so the table is copied."""
        schema, _, table = name.rpartition(".")
        copy = f"_changing_{uuid.uuid4().hex}"  # no event has a table of that name
        rows = f"SELECT * REPLACE (CAST({value} AS {type_}) AS {column}) FROM {name}"
        execute(connection, f"CREATE TABLE {schema}.{copy} AS {rows} LIMIT 0")
        execute(connection, f"ALTER TABLE {schema}.{copy} SET PARTITIONED BY (day)")
        execute(connection, f"INSERT INTO {schema}.{copy} {rows}")
        execute(connection, f"DROP TABLE {name}")
        execute(connection, f"ALTER TABLE {schema}.{copy} RENAME TO {table}")


def _require_place(connection: duckdb.DuckDBPyConnection) -> None:
    """Refuse to put a new lake where files are: maintenance removes those that it does not know."""
    if execute(connection, "SELECT count(*) FROM ducklake_table_info(?)", [LAKE]) != [(0,)]:
        return  # a lake of the user
    ((data_path,),) = execute(
        connection, f"SELECT value FROM {LAKE}.options() WHERE option_name = 'data_path'"
    )
    found = execute(connection, "SELECT file FROM glob(?) LIMIT 1", [f"{data_path}**/*.parquet"])
    if found:
        raise StorageError(
            f"the lake {database_name(connection)} is new, but {data_path} contains files, such as "
            f"{found[0][0]}: each lake needs a place of its own (MP_PIPELINE_DATA_PATH)"
        )


def _without_keys(columns: str) -> str:
    """Return columns as SQL without what a lake does not have."""
    return columns.replace(" PRIMARY KEY", " NOT NULL").replace(" USING COMPRESSION zstd", "")


def _find_days(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str]
) -> dict[str, tuple[str, date]]:
    """Return dataset and day of the names that are days."""
    try:
        rows = execute(
            connection,
            "SELECT lower(table_name), lower(dataset), day FROM _tables "
            "WHERE day IS NOT NULL AND lower(table_name) IN (SELECT unnest(?)) ORDER BY day",
            [[name.lower() for name in names]],
        )
    except duckdb.CatalogException:  # nothing was ever loaded
        return {}
    return {name: (dataset, day) for name, dataset, day in rows}


def _by_dataset(days: dict[str, tuple[str, date]]) -> dict[str, str]:
    """Return the SQL condition for the days of each dataset."""
    found: dict[str, list[str]] = {}
    for dataset, day in days.values():
        found.setdefault(dataset, []).append(f"DATE {literal(str(day))}")
    return {
        dataset: f"day = {each[0]}" if len(each) == 1 else f"day IN ({', '.join(each)})"
        for dataset, each in found.items()
    }


def _count_repeated(
    connection: duckdb.DuckDBPyConnection, rows: str, table: TableLayout, day: str = "NULL"
) -> dict[date | None, int]:
    """Return the number of keys that several rows have, by day."""
    return dict(
        execute(
            connection,
            f"SELECT day, count(*) FROM (SELECT {day} AS day, {table.key} FROM {rows} "
            "GROUP BY ALL HAVING count(*) > 1) GROUP BY day",
        )
    )


def _create_days(connection: duckdb.DuckDBPyConnection, table: TableLayout, dataset: str) -> None:
    execute(
        connection,
        f"CREATE TABLE {quoted(dataset)} {table.definition(_DAY, compressed=False)}",
    )
    execute(connection, f"ALTER TABLE {quoted(dataset)} SET PARTITIONED BY (day)")
    mark_as_own(connection, "TABLE", dataset)


def _create_or_empty(connection: duckdb.DuckDBPyConnection, table: TableLayout, name: str) -> None:
    """Create a table, or delete its rows; if its columns were changed, create it again."""
    comment = find_comment(connection, name)
    columns = read_columns(connection, [name]).get(name.lower(), {})
    if {each.name: each.type for each in columns.values()} == {
        column.name: column.type for column in table.columns
    }:
        execute(connection, f"DELETE FROM {quoted(name)}")
        return
    execute(connection, f"DROP TABLE IF EXISTS {quoted(name)}")
    execute(connection, f"CREATE TABLE {quoted(name)} {table.definition(compressed=False)}")
    mark_as_own(connection, "TABLE", name, comment)
