"""The storage engine: Mixpanel's events and profiles in one DuckDB file."""

import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb

from mp_pipeline.storage import catalog, parsing
from mp_pipeline.storage.catalog import run
from mp_pipeline.storage.connection import DAMAGE_ADVICE, connect, is_damage, start_session
from mp_pipeline.storage.errors import (
    QueryError,
    RejectedLinesError,
    StorageError,
    TableExistsError,
    TableNotFoundError,
)
from mp_pipeline.storage.loading import ProgressCallback, Staging, transaction
from mp_pipeline.storage.models import (
    ColumnInfo,
    DayInfo,
    DayWindow,
    LoadReport,
    RowCounts,
    TableInfo,
    TableMetadata,
    TableSchema,
    TableType,
)
from mp_pipeline.storage.tables import (
    EVENTS,
    LAYOUTS,
    PROFILES,
    TableLayout,
    check_table_name,
    day_table_name,
    quoted,
)

if TYPE_CHECKING:
    import pandas as pd

Records = Iterable[Mapping[str, Any]]
Files = Path | str | Iterable[Path | str]
TableData = Records | Files
"""What is loaded: records (dicts of the data model), or files of JSON Lines, plain or ``.gz``."""

DEFAULT_BATCH_SIZE = 50_000
"""Records a batch: about 35 MB of usual events."""

DEFAULT_MAX_REJECTED_FRACTION = 0.01
"""Share of the lines that may be rejected before a load is refused."""

DEFAULT_LOCK_TIMEOUT = 10.0
"""How long to wait for a database that another process holds, in seconds."""

_SHOWN_LINES = 3
_SHOWN_CHARACTERS = 100


class StorageEngine:
    """A DuckDB database with the tables of the data model.

    Use it as a context manager, or call ``close``. One process can have a database open for
    writing; several can have it open for reading while none writes.

    Args:
        path: the database file; it and its parent directories are made when missing.
        read_only: open for reading only; the file must exist.
        lock_timeout: how long to wait while another process holds the file, in seconds.
        config: DuckDB's configuration options, such as ``memory_limit``.

    Raises:
        FileNotFoundError: ``read_only``, and there is no such file.
        DatabaseLockedError: the file stayed in use; names the process that holds it.
        StorageError: the file is no DuckDB database, or cannot be opened.
    """

    def __init__(
        self,
        path: str | Path,
        read_only: bool = False,
        *,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._open(Path(path), read_only, lock_timeout, config)

    @classmethod
    def ephemeral(cls) -> Self:
        """Return an engine on a temporary file, which is gone at ``close`` or at exit."""
        directory = tempfile.TemporaryDirectory(prefix="mp_pipeline-", ignore_cleanup_errors=True)
        engine = cls.__new__(cls)
        engine._open(
            Path(directory.name) / "ephemeral.duckdb", read_only=False, directory=directory
        )
        return engine

    @classmethod
    def memory(cls) -> Self:
        """Return an engine on a database in memory; its ``path`` is None."""
        engine = cls.__new__(cls)
        engine._open(None, read_only=False)
        return engine

    @classmethod
    def open_existing(cls, path: str | Path, read_only: bool = True) -> Self:
        """Return an engine on a database that exists, for reading unless said otherwise.

        Raises:
            FileNotFoundError: there is no such file.
        """
        _require_file(Path(path))
        return cls(path, read_only=read_only)

    def _open(
        self,
        path: Path | None,
        read_only: bool,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        config: Mapping[str, Any] | None = None,
        directory: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        if path is not None and read_only:
            _require_file(path)
        self._path = path
        self._read_only = read_only
        self._connection = connect(
            path, read_only=read_only, lock_timeout=lock_timeout, config=config
        )
        # A session of its own, so that records may come out of the user's while they are loaded.
        self._own_session = self._connection.cursor()
        # Also runs when the engine is collected, and at exit.
        self._finalizer = weakref.finalize(
            self, _release, (self._own_session, self._connection), directory
        )
        start_session(self._own_session)
        if not read_only:
            try:
                # Memory that a load has freed goes back to the system before the key needs more:
                # a third off the peak (docs/performance.md).
                run(self._own_session, "SET GLOBAL allocator_background_threads = true")
                # Counted for the log, not drawn on the screen.
                run(self._own_session, "SET enable_progress_bar_print = false")
                run(self._own_session, "SET enable_progress_bar = true")
                catalog.prepare(self._own_session)
                parsing.create_macros(self._own_session)
            except BaseException:
                self.close()
                raise

    @property
    def path(self) -> Path | None:
        """The database file, None for a database in memory."""
        return self._path

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, for what this class does not offer.

        The class's own methods, ``execute…`` apart, use a session of their own: they see what is
        committed, and are not part of a transaction that is open here.

        Raises:
            StorageError: the engine is closed.
        """
        self._require_open()
        return self._connection

    def close(self) -> None:
        """Close the database, and delete it if it is ephemeral; safe to repeat."""
        self._finalizer()

    cleanup = close

    def __enter__(self) -> Self:
        """Return the engine."""
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the database."""
        self.close()

    def __repr__(self) -> str:
        """Show the file and how it is open."""
        state = "" if self._finalizer.alive else ", closed"
        mode = "read-only" if self._read_only else "read-write"
        return f"<{type(self).__name__} {self._path or 'memory'} {mode}{state}>"

    # Creating and replacing tables

    def create_events_table(
        self,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        progress_callback: ProgressCallback | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> int:
        """Create a table of events from records or from files of JSON Lines.

        Events that are the same by Mixpanel's rule (name, user, time and insert id are equal) are
        stored once, the one processed last; different events with one insert id get ids of their
        own. See ``mp_pipeline.storage.parsing`` for the lines that files may hold.

        Args:
            name: the new table's name: letters, digits and underscores.
            data: records with ``event_name``, ``event_time`` (a datetime, naive means UTC, or ISO
                8601 text), ``distinct_id``, ``insert_id`` and ``properties``; or files.
            metadata: what was fetched; ``type`` must be ``events``.
            progress_callback: called with the rows inserted so far after each batch or file.
            batch_size: records a batch.

        Returns:
            The rows stored.

        Raises:
            TableExistsError: there is a table or view of that name; it was not changed.
            ValueError: the name, the metadata or a record is not valid; names what, and for a
                record its position. Nothing is left behind.
            StorageError: a file is missing or damaged, or DuckDB failed. Nothing is left behind.
        """
        return self._create(EVENTS, name, data, metadata, progress_callback, batch_size)

    def create_profiles_table(
        self,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        progress_callback: ProgressCallback | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> int:
        """Create a table of profiles from records or from files of JSON Lines.

        A ``distinct_id`` that comes twice is stored once, as it was read last.

        Args:
            name: the new table's name: letters, digits and underscores.
            data: records with ``distinct_id``, ``properties`` and ``last_seen`` (a datetime,
                naive means UTC, ISO 8601 text, or None); or files.
            metadata: what was fetched; ``type`` must be ``profiles``.
            progress_callback: called with the rows inserted so far after each batch or file.
            batch_size: records a batch.

        Returns:
            The rows stored.

        Raises:
            TableExistsError: there is a table or view of that name; it was not changed.
            ValueError: the name, the metadata or a record is not valid; names what, and for a
                record its position. Nothing is left behind.
            StorageError: a file is missing or damaged, or DuckDB failed. Nothing is left behind.
        """
        return self._create(PROFILES, name, data, metadata, progress_callback, batch_size)

    def replace_events_days(
        self,
        dataset: str,
        windows: Sequence[DayWindow],
        data: TableData,
        metadata: TableMetadata,
        *,
        source: str | None = None,
        run_id: str | None = None,
        wall_clock_zone: str = "UTC",
        expected_lines: int | None = None,
        max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION,
        on_replaced: Callable[[LoadReport], None] | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> list[LoadReport]:
        """Replace whole days of a dataset: a table a day, and a view over all of them.

        The data is read once, also for several days. Each day is replaced in one transaction: its
        table (``events_20240115``), its row in ``_metadata``, the load log, the rejected lines,
        the view (``events``). Lines of files that cannot be stored are kept in ``_rejected`` with
        their reasons; an event of another day is counted, not stored.

        Args:
            dataset: name of the view; the day tables' names begin with it.
            windows: the days that the data covers, and when each begins and ends.
            data: as for ``create_events_table``.
            metadata: what was fetched; each day's own dates are set from its window.
            source: where the data came from, such as a project; kept in the load log.
            run_id: what the load log is to call this run.
            wall_clock_zone: time zone whose wall clock the export's ``time`` shows; ``UTC`` where
                it is true UTC. Records are always UTC.
            expected_lines: how many lines the data has, if that is known from elsewhere.
            max_rejected_fraction: share of the lines, from 0 to 1, that may be rejected; with more
                the load is refused.
            on_replaced: called with the report of each day when it is in its place.
            batch_size: records a batch.

        Returns:
            A report for each day, in order. Lines that belong to no day of the data (rejected, or
            outside) are counted in the first.

        Raises:
            ValueError: a name, the metadata or a record is not valid.
            TableExistsError: the name is taken by a table that is no day of the dataset.
            SourceMismatchError: the database holds data of another source.
            RejectedLinesError: too many of the lines could not be stored, or all; shows some.
            StorageError: a file is missing or damaged, does not have the expected lines, or
                DuckDB failed.
            In each case the days are as they were, or those already replaced are whole.
        """
        _checked_layout(dataset, metadata, EVENTS)
        if not windows:
            raise ValueError("no days to replace")
        twice = [day for day, n in Counter(window.day for window in windows).items() if n > 1]
        if twice:
            raise ValueError(f"{twice[0]} is asked for twice")
        days_there = {day.table_name.lower() for day in self.list_days(dataset)}
        self._require_own(dataset, "VIEW", made_here=bool(days_there))
        for window in windows:
            table = day_table_name(dataset, window.day)
            self._require_own(table, "BASE TABLE", made_here=table.lower() in days_there)
        catalog.check_source(self._session, dataset, source)

        def publish(staging: Staging, window: DayWindow) -> LoadReport:
            day = window.day.isoformat()
            report = staging.publish(
                day_table_name(dataset, window.day),
                replace(metadata, from_date=day, to_date=day),
                replace_table=True,
                dataset=dataset,
                day=window.day,
                source=source,
                run_id=run_id,
            )
            if on_replaced is not None:
                on_replaced(report)
            return report

        what = f"{dataset} of {_in_days(windows)}"
        with (
            _explained(f"loading {dataset}"),
            Staging(self._session, EVENTS, dataset) as staging,
        ):
            _insert(staging, data, batch_size, zone=wall_clock_zone)
            _require_lines(staging, what, expected_lines, max_rejected_fraction)
            staging.delete_outside(windows)
            if len(windows) == 1:
                return [publish(staging, windows[0])]
            staging.sort_by_time()
            reports: list[LoadReport] = []
            for window in windows:
                with Staging(self._session, EVENTS, dataset) as day:
                    if not reports:
                        day.take_leftovers(staging)
                    day.insert_window(staging, window)
                    reports.append(publish(day, window))
            return reports

    def replace_table(
        self,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        *,
        source: str | None = None,
        run_id: str | None = None,
        wall_clock_zone: str = "UTC",
        expected_lines: int | None = None,
        max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> LoadReport:
        """Replace a table that is not split by day with a new snapshot, in one transaction.

        Args:
            name: the table's name; the table is made when missing.
            data: as for ``create_events_table`` and ``create_profiles_table``.
            metadata: what was fetched; its ``type`` says which kind of table it is.
            source: where the data came from, such as a project; kept in the load log.
            run_id: what the load log is to call this run.
            wall_clock_zone: as for ``replace_events_days``.
            expected_lines: as for ``replace_events_days``.
            max_rejected_fraction: as for ``replace_events_days``.
            batch_size: records a batch.

        Returns:
            The report of the load.

        Raises:
            ValueError: the name, the metadata or a record is not valid.
            TableExistsError: the name is taken by a view, or by a table that is no table of ours.
            SourceMismatchError: the database holds data of another source.
            RejectedLinesError: too many of the lines could not be stored, or all; shows some.
            StorageError: a file is missing or damaged, does not have the expected lines, or
                DuckDB failed.
            In each case the table is as it was.
        """
        layout = _checked_layout(name, metadata)
        self._require_own(
            name,
            "BASE TABLE",
            made_here=any(
                table.name.lower() == name.lower() and table.type == layout.type
                for table in self.list_tables()
            ),
        )
        catalog.check_source(self._session, name, source)
        with _explained(f"loading {name}"), Staging(self._session, layout, name) as staging:
            _insert(staging, data, batch_size, zone=wall_clock_zone)
            _require_lines(staging, name, expected_lines, max_rejected_fraction)
            return staging.publish(
                name,
                metadata,
                replace_table=True,
                source=source,
                run_id=run_id,
            )

    def drop_table(self, name: str) -> None:
        """Drop a table, with what is kept of it in ``_metadata`` and ``_rejected``.

        A view over days that the table is part of is made anew without it.

        Raises:
            TableNotFoundError: there is no such table.
            ValueError: the name is that of a view over days.
        """
        if self._kind(name) == "VIEW":
            raise ValueError(f"{name} is a view over its day tables; drop these instead")
        with _explained(f"dropping {name}"), transaction(self._session):
            dataset = catalog.dataset_of_day_table(self._session, name)
            run(self._session, f"DROP TABLE {quoted(name)}")
            catalog.forget_table(self._session, name)
            if dataset is not None and catalog.find(self._session, dataset) == "VIEW":
                catalog.refresh_days_view(self._session, dataset)

    # Queries

    def execute(self, sql: str) -> duckdb.DuckDBPyRelation:
        """Run SQL and return its rows as a relation, which keeps them.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.
        """
        with self._query(sql) as connection:
            relation = connection.sql(sql)
            if relation is None:
                raise QueryError(sql, "there is no statement in the query")
            return relation.materialize()

    def execute_df(self, sql: str) -> "pd.DataFrame":
        """Run SQL and return its rows as a pandas DataFrame.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.
        """
        with self._query(sql) as connection:
            return self._executed(connection, sql).df()

    def execute_scalar(self, sql: str) -> Any:  # noqa: ANN401 - whatever the query selects
        """Run SQL and return the first column of its first row, None if there are no rows.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.
        """
        rows = self.execute_rows(sql)
        return rows[0][0] if rows else None

    def execute_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run SQL and return its rows as tuples.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.
        """
        with self._query(sql) as connection:
            return self._executed(connection, sql).fetchall()

    def read_tables(self, table_names: Sequence[str]) -> "pd.DataFrame":
        """Return the rows of tables with the same columns, one table after another.

        Raises:
            TableNotFoundError: one of them is not there.
        """
        for name in table_names:
            self._kind(name)
        return self.execute_df(
            " UNION ALL ".join(f"SELECT * FROM {quoted(name)}" for name in table_names)
        )

    def first_rows(
        self, table_name: str, rows: int, characters: int
    ) -> list[dict[str, str | None]]:
        """Return the first rows of a table as text, each value cut after so many characters.

        Raises:
            TableNotFoundError: there is no table or view of that name.
        """
        names = [column for _, column, *_ in self._table_info(table_name)]
        texts = ", ".join(f"left({quoted(name)}::VARCHAR, {int(characters)})" for name in names)
        found = self.execute_rows(f"SELECT {texts} FROM {quoted(table_name)} LIMIT {int(rows)}")
        return [dict(zip(names, row, strict=True)) for row in found]

    # Introspection

    def table_exists(self, name: str) -> bool:
        """Whether there is a table or view of that name; False for internal (``_``) names."""
        return not name.startswith("_") and catalog.find(self._session, name) is not None

    def list_tables(self) -> list[TableInfo]:
        """Return the tables that this engine made, by name."""
        return catalog.list_tables(self._session) if self._has_catalog() else []

    def list_days(self, dataset: str) -> list[DayInfo]:
        """Return the days of a dataset that are there, oldest first."""
        return catalog.list_days(self._session, dataset) if self._has_catalog() else []

    def list_loads(self, dataset: str, run_ids: Sequence[str] | None = None) -> list[LoadReport]:
        """Return the loads of a table, or of a dataset's days, as the load log has them.

        Args:
            dataset: the table, or the view over day tables.
            run_ids: only loads of these runs; None for all.

        Returns:
            A report for each load, oldest first, those of replaced and dropped tables included.
        """
        if not self._has_catalog():
            return []
        return catalog.list_loads(self._session, dataset, run_ids)

    def get_schema(self, table_name: str) -> TableSchema:
        """Return the columns of a table or view.

        Raises:
            TableNotFoundError: there is none of that name.
        """
        return TableSchema(
            table_name,
            [
                ColumnInfo(column, type_, nullable=not not_null)
                for _, column, type_, not_null, _, _ in self._table_info(table_name)
            ],
        )

    def get_primary_key(self, table_name: str) -> list[str]:
        """Return the names of the columns of a table's primary key, empty if it has none.

        Raises:
            TableNotFoundError: there is no table or view of that name.
        """
        return [column for _, column, *_, in_key in self._table_info(table_name) if in_key]

    def get_metadata(self, table_name: str) -> TableMetadata:
        """Return what was fetched into a table.

        Raises:
            TableNotFoundError: this engine made no table of that name.
        """
        metadata = catalog.read_metadata(self._session, table_name) if self._has_catalog() else None
        if metadata is None:
            raise self._not_found(table_name)
        return metadata

    def count_rows(self, table_names: Sequence[str]) -> list[RowCounts]:
        """Count tables, and set beside each what ``_metadata`` and the load log say of it.

        Raises:
            TableNotFoundError: there is no table of one of the names.
        """
        for name in table_names:
            self._kind(name)
        return catalog.count_rows(self._session, table_names)

    def schema_problems(self, table_name: str, table_type: TableType) -> list[str]:
        """Return what of a table is not as the data model has it, in words; empty if all is.

        Raises:
            TableNotFoundError: there is no table or view of that name.
        """
        layout = LAYOUTS[table_type]
        expected = {column.name: column for column in layout.columns}
        found = {column.name: column for column in self.get_schema(table_name).columns}
        problems = [f"no column {name}" for name in expected if name not in found]
        problems += [f"unexpected column {name}" for name in found if name not in expected]
        problems += [
            f"column {name} is {_in_words(found[name])}, not {_in_words(column)}"
            for name, column in expected.items()
            if name in found and found[name] != column
        ]
        key = self.get_primary_key(table_name)
        if key != [layout.primary_key]:
            problems.append(f"the primary key is {key or 'missing'}, not {layout.primary_key}")
        return problems

    # Inside

    @property
    def _session(self) -> duckdb.DuckDBPyConnection:
        """The connection that the engine itself uses."""
        self._require_open()
        return self._own_session

    def _require_open(self) -> None:
        if not self._finalizer.alive:
            raise StorageError(f"the storage engine of {self._path or 'memory'} is closed")

    def _create(
        self,
        layout: TableLayout,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        progress_callback: ProgressCallback | None,
        batch_size: int,
    ) -> int:
        _checked_layout(name, metadata, layout)
        if self.table_exists(name):
            raise TableExistsError(f"there is a table or view {name!r} already; drop it first")
        with _explained(f"loading {name}"), Staging(self._session, layout, name) as staging:
            _insert(staging, data, batch_size, strict=True, progress=progress_callback)
            report = staging.publish(name, metadata, replace_table=False)
        return report.rows_stored

    def _require_own(self, name: str, kind: str, *, made_here: bool) -> None:
        """Refuse to replace what this engine did not make."""
        found = catalog.find(self._session, name)
        if found is not None and not (found == kind and made_here):
            raise TableExistsError(
                f"there is a {found.lower()} {name!r} in the database that was not made by a "
                "load of this kind; rename or drop it"
            )

    @contextmanager
    def _query(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        if not isinstance(sql, str):
            raise TypeError(f"a query is a string, not a {type(sql).__name__}")
        try:
            yield self.connection
        except duckdb.Error as error:
            advice = f". {DAMAGE_ADVICE}" if self._path and is_damage(error, self._path) else ""
            raise QueryError(sql, f"{error}{advice}") from error

    @staticmethod
    def _executed(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyConnection:
        result: duckdb.DuckDBPyConnection | None = connection.execute(sql)
        if result is None:
            raise QueryError(sql, "there is no statement in the query")
        return result

    def _table_info(self, name: str) -> list[tuple[Any, ...]]:
        self._kind(name)
        return run(self._session, f"PRAGMA table_info({quoted(name)})")

    def _kind(self, name: str) -> str:
        found = None if name.startswith("_") else catalog.find(self._session, name)
        if found is None:
            raise self._not_found(name)
        return found

    def _not_found(self, name: str) -> TableNotFoundError:
        return TableNotFoundError(f"there is no table {name!r} in {self._path or 'memory'}")

    def _has_catalog(self) -> bool:
        """Whether the internal tables are there: not in a foreign file opened for reading."""
        return catalog.find(self._session, "_metadata") is not None


def _release(
    connections: Iterable[duckdb.DuckDBPyConnection],
    directory: tempfile.TemporaryDirectory[str] | None,
) -> None:
    for connection in connections:
        connection.close()
    if directory is not None:
        directory.cleanup()


def _in_words(column: ColumnInfo) -> str:
    return f"{column.type}{'' if column.nullable else ' NOT NULL'}"


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no database at {path}; load something first")


def _checked_layout(
    name: str, metadata: TableMetadata, expected: TableLayout | None = None
) -> TableLayout:
    """Return the layout of the table that the metadata is for, if name and metadata are valid."""
    check_table_name(name)
    if not isinstance(metadata, TableMetadata):
        raise ValueError(f"metadata is a {type(metadata).__name__}, not a TableMetadata")
    if not isinstance(metadata.fetched_at, datetime):
        raise ValueError(f"metadata.fetched_at is {metadata.fetched_at!r}, not a datetime")
    allowed = list(LAYOUTS) if expected is None else [expected.type]
    if metadata.type not in allowed:
        types = " or ".join(repr(type_) for type_ in allowed)
        raise ValueError(f"the metadata's type is {metadata.type!r}, not {types}")
    layout = LAYOUTS[metadata.type]
    dates = {
        field: catalog.parse_date(text, f"metadata.{field}")
        for field, text in (("from_date", metadata.from_date), ("to_date", metadata.to_date))
        if text is not None
    }
    if dates and layout.type == "profiles":
        raise ValueError("profiles have no from_date and to_date: they are the current state")
    if len(dates) == 2 and dates["from_date"] > dates["to_date"]:
        raise ValueError(
            f"metadata.from_date {metadata.from_date} is after to_date {metadata.to_date}"
        )
    return layout


def _insert(
    staging: Staging,
    data: TableData,
    batch_size: int,
    *,
    zone: str = "UTC",
    strict: bool = False,
    progress: ProgressCallback | None = None,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, not a positive number of records")
    files, records = _files_or_records(data)
    if records is None:
        staging.insert_files(files, zone=zone, strict=strict, progress=progress)
    else:
        staging.insert_records(records, batch_size=batch_size, progress=progress)


def _files_or_records(data: TableData) -> tuple[list[Path], Iterable[Any] | None]:
    """Return the files that the data names, or else its records."""
    if isinstance(data, str | Path):
        return [Path(data)], None
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise ValueError(
            f"data is a {type(data).__name__}, not an iterator of dicts or files of JSON Lines"
        )
    items = iter(data)
    head = list(islice(items, 1))
    if head and not isinstance(head[0], str | Path):
        return [], chain(head, items)
    files = []
    for position, item in enumerate(chain(head, items), start=1):
        if not isinstance(item, str | Path):
            raise ValueError(f"item {position} of data is a {type(item).__name__}, not a path")
        files.append(Path(item))
    return files, None


def _in_days(windows: Sequence[DayWindow]) -> str:
    first, last = min(window.day for window in windows), max(window.day for window in windows)
    return f"{first}" if first == last else f"{first} to {last}"


def _require_lines(
    staging: Staging, name: str, expected: int | None, max_rejected_fraction: float
) -> None:
    """Refuse a load whose lines are not those expected, or of which too many were rejected."""
    if expected is not None and staging.lines_read != expected:
        raise StorageError(
            f"{name}: {staging.lines_read} lines were read, but there are {expected}: the file "
            "changed since it was downloaded. What was there before is unchanged."
        )
    share = staging.rejected / max(staging.lines_read, 1)
    if not staging.rejected or (staging.inserted and share <= max_rejected_fraction):
        return
    if staging.inserted:
        problem = (
            f"{staging.rejected:,} of {staging.lines_read:,} lines ({share:.2%}) could not be "
            f"stored, more than the {max_rejected_fraction:.2%} allowed"
        )
        advice = " If they may be set aside, allow more: MP_PIPELINE_MAX_REJECTED_FRACTION."
    else:
        problem = f"none of {staging.rejected:,} lines could be stored"
        advice = ""
    shown = "; ".join(
        f"line {number}: {reason}: {line}"
        for number, reason, line in staging.first_rejected(_SHOWN_LINES, _SHOWN_CHARACTERS)
    )
    raise RejectedLinesError(
        f"{name}: {problem}; {shown}. What was there before is unchanged.{advice}"
    )


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(f"{action} failed, nothing was changed: {error}") from error
