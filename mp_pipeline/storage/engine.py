"""The storage engine: Mixpanel's events and profiles in one DuckDB file."""

import tempfile
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import duckdb

from mp_pipeline.storage import (
    catalog,
    erasure,
    inspection,
    load_log,
    locks,
    parsing,
    reconciliations,
    replacing,
    schema,
)
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.connection import DAMAGE_ADVICE, connect, is_damage, start_session
from mp_pipeline.storage.erasure import DEFAULT_MAX_IDS, Erasure
from mp_pipeline.storage.errors import (
    QueryError,
    StorageError,
    TableExistsError,
    TableNotFoundError,
)
from mp_pipeline.storage.inputs import TableData, check_arguments
from mp_pipeline.storage.lake import Lake
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.loading import ProgressCallback, Staging
from mp_pipeline.storage.maintenance import (
    LakeInfo,
    Maintenance,
    maintain,
    read_lake_info,
    try_writing,
)
from mp_pipeline.storage.metrics import actives, identities, profile_history, sessions
from mp_pipeline.storage.metrics import days as metric_days
from mp_pipeline.storage.metrics.models import (
    DailyMetricsReport,
    IdentitiesReport,
    MetricDayInfo,
    ProfileHistoryReport,
    SessionsDayReport,
)
from mp_pipeline.storage.migration import MigratedTable, migrate
from mp_pipeline.storage.models import (
    DayInfo,
    DayWindow,
    LoadReport,
    Origin,
    Reconciliation,
    RowCounts,
    TableInfo,
    TableMetadata,
    TableSchema,
    TableType,
)
from mp_pipeline.storage.replacing import LoadOptions
from mp_pipeline.storage.statements import (
    execute,
    readable_errors,
    repeated,
    transaction,
    while_away,
)
from mp_pipeline.storage.tables import quoted
from mp_pipeline.storage.typed import comments, dictionary
from mp_pipeline.storage.typed import day as typed_day
from mp_pipeline.storage.typed.models import (
    Drift,
    EventDescription,
    PropertyDescription,
    TypedDayInfo,
    TypedDayReport,
)

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_BATCH_SIZE = 50_000
"""Records per batch: about 35 MB of typical events."""

DEFAULT_MAX_REJECTED_FRACTION = 0.01
"""Fraction of the lines that may be rejected before a load is refused."""

DEFAULT_MIN_KEPT_PROFILES = 0.5
"""Fraction of the current profiles that a snapshot must contain to become part of the history."""

DEFAULT_SESSION_TIMEOUT = timedelta(minutes=30)
"""How long a user may be inactive before a session ends."""

DEFAULT_LOCK_TIMEOUT = 10.0
"""How long to wait for a database that another process holds, in seconds."""


class StorageEngine:
    """A DuckDB database with the tables of the data model.

    Use it as a context manager, or call ``close``. One process at a time can have a database open
    for writing; several can have it open for reading while none writes. Threads may share an
    engine, and records may come from the engine that they are loaded into.

    Args:
        path: The database file. It and its parent directories are created if missing.
        read_only: Open for reading only; the file must exist.
        lock_timeout: How long to wait while another process holds the file, in seconds.
        config: DuckDB configuration options, such as ``memory_limit``.

    Raises:
        FileNotFoundError: ``read_only``, and the file does not exist.
        DatabaseLockedError: The file stayed in use; names the process that holds it.
        StorageError: The file is not a DuckDB database, or cannot be opened.

    Example:
        >>> from datetime import UTC, datetime
        >>> from mp_pipeline.storage import StorageEngine, TableMetadata
        >>> event = {
        ...     "event_name": "Sign Up",
        ...     "event_time": datetime(2024, 1, 15, 10, 30),
        ...     "distinct_id": "u1",
        ...     "insert_id": "5d958f87",
        ...     "properties": {"plan": "free"},
        ... }
        >>> with StorageEngine.memory() as storage:
        ...     metadata = TableMetadata("events", datetime.now(UTC))
        ...     rows = storage.create_events_table("events_january", [event], metadata)
        ...     plan = storage.execute_scalar("SELECT properties->>'$.plan' FROM events_january")
        >>> rows, plan
        (1, 'free')
    """

    def __init__(
        self,
        path: str | Path | Lake,
        read_only: bool = False,
        *,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        database = path if isinstance(path, Lake) else Path(path)
        self._open(database, read_only, lock_timeout, config)

    @classmethod
    def ephemeral(cls) -> Self:
        """Return an engine on a temporary file, which is deleted on ``close`` or at exit."""
        directory = tempfile.TemporaryDirectory(prefix="mp_pipeline-", ignore_cleanup_errors=True)
        engine = cls.__new__(cls)
        path = Path(directory.name) / "ephemeral.duckdb"
        engine._open(path, read_only=False, directory=directory)
        return engine

    @classmethod
    def memory(cls) -> Self:
        """Return an engine on an in-memory database; its ``path`` is None."""
        engine = cls.__new__(cls)
        engine._open(None, read_only=False)
        return engine

    @classmethod
    def open_existing(cls, path: str | Path, read_only: bool = True) -> Self:
        """Return an engine on an existing database, by default for reading.

        Raises:
            FileNotFoundError: The file does not exist.

        Example:
            >>> with StorageEngine.open_existing("data/sample.duckdb") as storage:
            ...     days = storage.list_days("events")
            Traceback (most recent call last):
            FileNotFoundError: no database at data/sample.duckdb; materialize an asset first
        """
        _require_file(Path(path))
        return cls(path, read_only=read_only)

    def _open(
        self,
        database: Path | Lake | None,
        read_only: bool,
        lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
        config: Mapping[str, Any] | None = None,
        directory: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        if isinstance(database, Path) and read_only:
            _require_file(database)
        self._database = database
        self._config = config
        self._read_only = read_only
        self._query_lock = threading.RLock()
        self._connection = connect(
            database, read_only=read_only, lock_timeout=lock_timeout, config=config
        )
        # Executes nothing: each operation gets a session of its own from it.
        self._sessions = self._connection.cursor()
        # Also runs when the engine is garbage-collected, and at exit.
        self._finalizer = weakref.finalize(
            self, _release, (self._sessions, self._connection), directory
        )
        self._needs_shadows = False
        try:
            with self._session() as session:
                if read_only:
                    self._needs_shadows = not schema.is_complete(session)
                else:
                    # DuckDB returns memory that a load has freed before the key needs more: a
                    # third off the peak (docs/performance.md).
                    execute(session, "SET GLOBAL allocator_background_threads = true")
                    layout_of(session).prepare(session)
        except BaseException:
            self.close()
            raise

    @property
    def path(self) -> Path | None:
        """The database file, None for a lake or an in-memory database."""
        return self._database if isinstance(self._database, Path) else None

    @property
    def name(self) -> str:
        """The path of the database file, or the name of the lake, for people to read."""
        return str(self._database or "memory")

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The DuckDB connection, for everything that this class does not offer.

        The ``execute`` methods use it. All other methods use sessions of their own: they see what
        is committed, and are not part of a transaction on this connection.

        Raises:
            StorageError: The engine is closed.
        """
        self._require_open()
        return self._connection

    def close(self) -> None:
        """Close the database, and delete it if it is ephemeral. Safe to call again."""
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
        return f"<{type(self).__name__} {self.name} {mode}{state}>"

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

        Events that are the same by Mixpanel's rule (equal name, user, time and insert ID) are
        stored once, as processed last. Different events with one insert ID are all stored, with
        unique IDs. See ``mp_pipeline.storage.parsing`` for the lines that files may contain.

        Args:
            name: The name of the new table: letters, digits and underscores.
            data: Records with ``event_name``, ``event_time`` (a datetime, naive means UTC, or ISO
                8601 text), ``distinct_id``, ``insert_id`` and ``properties``; or files.
            metadata: What was fetched; its ``type`` must be ``events``.
            progress_callback: Called with the rows inserted so far after each batch or file.
            batch_size: Records per batch.

        Returns:
            The number of rows stored.

        Raises:
            TableExistsError: A table or view of that name exists; it is unchanged.
            ValueError: The name, the metadata or a record is not valid; names what, and for a
                record its position. Nothing is left behind.
            StorageError: A file is missing or damaged, or DuckDB failed. Nothing is left behind.
        """
        return self._create("events", name, data, metadata, progress_callback, batch_size)

    def create_profiles_table(
        self,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        progress_callback: ProgressCallback | None = None,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> int:
        """Create a table of profiles from records or from files of JSON Lines.

        A ``distinct_id`` that occurs twice is stored once, as read last.

        Args:
            name: The name of the new table: letters, digits and underscores.
            data: Records with ``distinct_id``, ``properties`` and ``last_seen`` (a datetime,
                naive means UTC, ISO 8601 text, or None); or files.
            metadata: What was fetched; its ``type`` must be ``profiles``.
            progress_callback: Called with the rows inserted so far after each batch or file.
            batch_size: Records per batch.

        Returns:
            The number of rows stored.

        Raises:
            TableExistsError: A table or view of that name exists; it is unchanged.
            ValueError: The name, the metadata or a record is not valid; names what, and for a
                record its position. Nothing is left behind.
            StorageError: A file is missing or damaged, or DuckDB failed. Nothing is left behind.

        Example:
            >>> from datetime import UTC, datetime
            >>> profile = {
            ...     "distinct_id": "u1",
            ...     "properties": {"$email": "a@b.c"},
            ...     "last_seen": None,
            ... }
            >>> with StorageEngine.memory() as storage:
            ...     metadata = TableMetadata("profiles", datetime.now(UTC))
            ...     storage.create_profiles_table("people", [profile], metadata)
            ...     storage.execute_rows("SELECT distinct_id, properties FROM people")
            1
            [('u1', '{"$email":"a@b.c"}')]
        """
        return self._create("profiles", name, data, metadata, progress_callback, batch_size)

    def replace_events_days(
        self,
        dataset: str,
        windows: Sequence[DayWindow],
        data: TableData,
        metadata: TableMetadata,
        *,
        source: str | None = None,
        timezone: str = "UTC",
        wall_clock_zone: str = "UTC",
        owner: str | None = None,
        run_id: str | None = None,
        expected_lines: int | None = None,
        max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION,
        min_kept_fraction: float = 0.0,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> Generator[LoadReport, None, None]:
        """Replace days of a dataset: one table per day, and a view over all of them.

        The arguments are checked at the call. The days are replaced as the returned iterator is
        consumed: the data is read once, then each report stands for a day that was committed. Each
        day is one transaction: its table (``events_20240115``), its row in ``_metadata``, the load
        log, the rejected lines, the view (``events``). Lines of files that cannot be stored are
        kept in ``_rejected`` with their reasons. Events of other days are counted, not stored.

        Args:
            dataset: The name of the view; the names of the day tables start with it.
            windows: The days that the data covers, and when each begins and ends.
            data: As for ``create_events_table``.
            metadata: What was fetched; the dates of each day are set from its window.
            source: Where the data came from, such as a project; kept in the load log.
            timezone: Time zone that sets day boundaries; kept in the load log.
            wall_clock_zone: Time zone whose wall clock the export's ``time`` shows; ``UTC`` for
                true UTC. Records are always UTC.
            owner: What the dataset belongs to. A dataset of another owner is refused.
            run_id: The run, for the load log.
            expected_lines: The number of lines in the data, if known from elsewhere.
            max_rejected_fraction: Fraction of the lines, 0 to 1, that may be rejected; above this
                the load is refused.
            min_kept_fraction: Fraction of a day's stored rows, 0 to 1, that the data must contain
                too (by insert ID); below this the day keeps its existing data.
            batch_size: Records per batch.

        Returns:
            An iterator of one report per day, in the order of the windows. Lines that belong to no
            day (rejected or outside) are counted in the first.

        Raises:
            ValueError: A name, the metadata or a record is not valid.
            TableExistsError: A name is taken by something that is not a day of the dataset.
            SourceMismatchError: The database contains data of another source.
            RejectedLinesError: Too many lines were rejected, or all of them; shows some.
            ShrinkRefusedError: Days would have lost too many rows. It is raised at the end, when
                all others are replaced; the load log has the refused loads.
            StorageError: A file is missing or damaged or does not have the expected lines, or
                DuckDB failed. Days that were not reported keep their existing data.

        Example:
            >>> from datetime import UTC, date, datetime, timedelta
            >>> from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
            >>> start = datetime(2024, 1, 15, tzinfo=UTC)
            >>> day = DayWindow(date(2024, 1, 15), start, start + timedelta(days=1))
            >>> with StorageEngine.memory() as storage:
            ...     metadata = TableMetadata("events", datetime.now(UTC))
            ...     for report in storage.replace_events_days("events", [day], [], metadata):
            ...         print(report.table_name, report.rows_stored)
            events_20240115 0
        """
        check_arguments(dataset, metadata, ["events"])
        options = LoadOptions(
            origin=_origin(metadata, source, timezone, wall_clock_zone),
            owner=owner,
            run_id=run_id,
            expected_lines=expected_lines,
            max_rejected_fraction=max_rejected_fraction,
            min_kept_fraction=min_kept_fraction,
            batch_size=batch_size,
        )
        with self._session() as session:
            replacing.check_days(session, dataset, windows, options)
        return self._replace_days(dataset, windows, data, metadata, options)

    def replace_table(
        self,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        *,
        dataset: str | None = None,
        source: str | None = None,
        timezone: str = "UTC",
        wall_clock_zone: str = "UTC",
        owner: str | None = None,
        run_id: str | None = None,
        expected_lines: int | None = None,
        max_rejected_fraction: float = DEFAULT_MAX_REJECTED_FRACTION,
        min_kept_fraction: float = 0.0,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> LoadReport:
        """Replace a table that is not split by day with a new snapshot, in one transaction.

        Of lines with the same key, the one read last is stored. Events and profiles may also come
        as records; groups, cohorts, their members, annotations and the Lexicon come as files.

        Args:
            name: The name of the table; it is created if missing.
            data: As for ``create_events_table`` and ``create_profiles_table``. Files of groups and
                of cohort members are each a ``LabeledFile``.
            metadata: What was fetched; its ``type`` is the type of the table.
            dataset: What several tables belong to, such as one table per group type; None if the
                table stands alone.
            source: As for ``replace_events_days``.
            timezone: As for ``replace_events_days``.
            wall_clock_zone: As for ``replace_events_days``.
            owner: As for ``replace_events_days``.
            run_id: As for ``replace_events_days``.
            expected_lines: As for ``replace_events_days``.
            max_rejected_fraction: As for ``replace_events_days``.
            min_kept_fraction: As for ``replace_events_days``, by the key of the table.
            batch_size: Records per batch.

        Returns:
            The report of the load.

        Raises:
            ValueError: The name, the metadata or a record is not valid.
            TableExistsError: The name is taken by a view, or by a table of another kind or owner.
            SourceMismatchError: The database contains data of another source.
            RejectedLinesError: Too many lines were rejected, or all of them; shows some.
            ShrinkRefusedError: The table would have lost too many rows.
            StorageError: A file is missing or damaged or does not have the expected lines, or
                DuckDB failed. In each case the table is unchanged.

        Example:
            >>> from datetime import UTC, datetime
            >>> profile = {"distinct_id": "u1", "properties": {}, "last_seen": None}
            >>> with StorageEngine.memory() as storage:
            ...     metadata = TableMetadata("profiles", datetime.now(UTC))
            ...     report = storage.replace_table("profiles", [profile, profile], metadata)
            >>> report.rows_stored, report.duplicates
            (1, 1)
        """
        layout = check_arguments(name, metadata)
        options = LoadOptions(
            origin=_origin(metadata, source, timezone, wall_clock_zone),
            owner=owner,
            run_id=run_id,
            expected_lines=expected_lines,
            max_rejected_fraction=max_rejected_fraction,
            min_kept_fraction=min_kept_fraction,
            batch_size=batch_size,
        )
        with self._loading_session() as session:
            dataset = dataset or name
            replacing.check_table(session, name, dataset, layout, options)
            return replacing.replace_snapshot(
                session, name, dataset, layout, data, metadata, options
            )

    def drop_table(self, name: str) -> None:
        """Drop a table and its records in ``_metadata`` and ``_rejected``.

        The view over a dataset's days is refreshed. A table that was dropped by hand is forgotten.

        Raises:
            TableNotFoundError: There is no such table.
            ValueError: The name is that of a view over days.
        """
        with self._session() as session, replacing.explain_failure(f"dropping {name}"):
            ownership = catalog.find_ownership(session, name)
            layout = layout_of(session)
            if ownership is None and not self._exists(session, name):
                raise self._not_found(name)
            is_view = catalog.find_kind(session, name) == "VIEW"
            if is_view or (ownership is None and catalog.is_own(session, name)):
                raise ValueError(f"{name} is a view over its day tables; drop these instead")

            def drop() -> None:
                with locks.held(session, locks.CHANGES), transaction(session):
                    layout.remove(session, name, ownership)
                    catalog.forget_table(session, name)
                    if ownership is not None and ownership.day is not None:
                        layout.show_days(session, ownership.dataset)

            repeated(session, drop)

    # Typed tables

    def type_events_day(self, dataset: str, day: date) -> TypedDayReport:
        """Make the typed rows of a day from its day table, in one transaction.

        Each event has a table of its own (``event.song_played``) with ``day``, ``event_time``,
        ``distinct_id``, ``insert_id`` and a typed column for each property. A value that does not
        fit the type of its column makes it wider; null and missing values are NULL. Reloading the
        day does not change its typed rows: call this again. If the day was dropped, its typed rows
        are deleted. If anything fails, the existing rows are kept.

        Args:
            dataset: The name of the view over the day tables.
            day: The day.

        Raises:
            TableNotFoundError: The day is neither loaded nor typed.
            TableExistsError: The name of a view of the dictionary is taken.
            StorageError: DuckDB failed; nothing was changed.

        Example:
            >>> from datetime import UTC, date, datetime, timedelta
            >>> from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
            >>> start = datetime(2024, 1, 15, 10, tzinfo=UTC)
            >>> event = {
            ...     "event_name": "Song Played",
            ...     "event_time": start,
            ...     "distinct_id": "u1",
            ...     "insert_id": "5d958f87",
            ...     "properties": {"$city": "Berlin", "duration": 215},
            ... }
            >>> day = DayWindow(start.date(), start, start + timedelta(hours=1))
            >>> metadata = TableMetadata("events", start)
            >>> with StorageEngine.memory() as storage:
            ...     loads = list(storage.replace_events_days("events", [day], [event], metadata))
            ...     report = storage.type_events_day("events", day.day)
            ...     rows = storage.execute_rows("SELECT mp_city, duration FROM event.song_played")
            >>> report.new_events, rows
            (('Song Played',), [('Berlin', 215)])
        """
        with self._session() as session, _explain_typing(f"typing {dataset} of {day}"):
            return repeated(session, lambda: typed_day.type_day(session, dataset, day))

    def comment_typed_tables(self, dataset: str) -> int:
        """Describe typed tables and their columns in comments, which database tools show.

        They have the names of Mixpanel, the fraction of the events in which a property is filled,
        and the descriptions of the Lexicon if the table ``lexicon`` is loaded. With thousands of
        columns this takes seconds: once after several days is enough.

        Returns:
            The number of comments that changed.

        Raises:
            StorageError: DuckDB failed; comments may be missing.
        """
        with (
            self._session() as session,
            _explain_typing(f"commenting the typed tables of {dataset}"),
        ):
            return repeated(session, lambda: comments.comment_tables(session, dataset))

    def drop_typed_tables(self, dataset: str) -> None:
        """Drop the typed tables of a dataset: typing its days again starts from nothing.

        Names and types are then chosen again, and the dictionary has only the days typed since.

        Raises:
            StorageError: DuckDB failed; nothing was changed.
        """
        with (
            self._session() as session,
            _explain_typing(f"dropping the typed tables of {dataset}"),
        ):
            repeated(session, lambda: typed_day.drop_typed_tables(session, dataset))

    def list_typed_days(self, dataset: str) -> list[TypedDayInfo]:
        """Return the typed days of a dataset, and whether each is stale, oldest first."""
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return typed_day.list_typed_days(session, dataset)

    def describe_events(self, dataset: str) -> list[EventDescription]:
        """Return the events of a dataset's typed days, most frequent first.

        The view ``event_dictionary`` has the same rows.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return dictionary.describe_events(session, dataset)

    def describe_properties(
        self, dataset: str, event: str | None = None
    ) -> list[PropertyDescription]:
        """Return the properties of an event, or of all events, most often filled first.

        The view ``property_dictionary`` has the same rows.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return dictionary.describe_properties(session, dataset, event)

    def count_events_by_day(
        self, dataset: str, first: date, last: date
    ) -> dict[str, dict[date, int]]:
        """Return the number of each event on each typed day of a range, both ends inclusive."""
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return {}
            return dictionary.count_events_by_day(session, dataset, first, last)

    def property_drift(
        self,
        dataset: str,
        day: date,
        *,
        days: int = 28,
        min_events: int = 100,
        min_fraction: float = 0.05,
    ) -> list[Drift]:
        """Return how the events of a typed day differ from those of the typed days before.

        There is no drift if the day, or all of the days before it, are not typed.

        Args:
            dataset: The name of the view over the day tables.
            day: The day.
            days: The number of calendar days before it to compare with.
            min_events: Rarer events are ignored: a new event needs as many on the day, a vanished
                one per day before, and an event whose properties are compared both on the day and
                in all days before.
            min_fraction: A property vanishes only if it was filled in this fraction of the events,
                0 to 1.

        Returns:
            The changes: events first, then properties, by name.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return dictionary.find_drift(
                session,
                dataset,
                day,
                days=days,
                min_events=min_events,
                min_fraction=min_fraction,
            )

    # Metrics

    def update_profile_history(
        self,
        table_name: str,
        *,
        track_last_seen: bool = False,
        min_kept_fraction: float = DEFAULT_MIN_KEPT_PROFILES,
        max_rejected: int = 0,
    ) -> ProfileHistoryReport:
        """Add the snapshot that a table of profiles contains to its history, in one transaction.

        The view ``profile_history`` has one row per version of a profile: ``distinct_id``,
        ``properties``, ``last_seen``, ``valid_from`` and ``valid_to`` (when the snapshots that
        began and ended it were fetched; NULL while it is current). The macro
        ``profiles_at(moment)`` selects the versions of a point in time. Only profiles whose
        properties changed get a new version; a different order of JSON keys is no change. To add
        the same snapshot again changes nothing.

        Args:
            table_name: The table of profiles. If its name is not ``profiles``, its prefix is that
                of the view and the macro, too.
            track_last_seen: Whether a change of ``last_seen`` alone makes a new version. Otherwise
                ``last_seen`` is that of the beginning of the version.
            min_kept_fraction: Fraction of the current profiles, 0 to 1, that the snapshot must
                contain.
            max_rejected: Number of lines of the snapshot that may have been rejected.

        Raises:
            TableNotFoundError: There is no table of that name.
            ValueError: It is not a table of profiles.
            SnapshotRefusedError: The snapshot is older than the history, or incomplete. The
                history is unchanged.
            TableExistsError: The name of the view or the macro is taken.
            StorageError: DuckDB failed; nothing was changed.

        Example:
            >>> from datetime import UTC, datetime
            >>> from mp_pipeline.storage import StorageEngine, TableMetadata
            >>> def take(storage, day, plan):
            ...     profile = {"distinct_id": "u1", "properties": {"plan": plan}, "last_seen": None}
            ...     fetched = TableMetadata("profiles", datetime(2024, 1, day, tzinfo=UTC))
            ...     storage.replace_table("profiles", [profile], fetched)
            ...     return storage.update_profile_history("profiles").changed
            >>> with StorageEngine.memory() as storage:
            ...     take(storage, 1, "free"), take(storage, 2, "free"), take(storage, 3, "pro")
            ...     storage.execute_rows(
            ...         "SELECT properties FROM profiles_at(TIMESTAMP '2024-01-02 12:00:00')"
            ...     )
            (0, 0, 1)
            [('{"plan":"free"}',)]
        """
        with (
            self._session() as session,
            replacing.explain_failure(f"updating the history of {table_name}"),
        ):
            return repeated(
                session,
                lambda: profile_history.update_history(
                    session,
                    table_name,
                    track_last_seen=track_last_seen,
                    min_kept_fraction=min_kept_fraction,
                    max_rejected=max_rejected,
                ),
            )

    def update_identities(self, dataset: str) -> IdentitiesReport:
        """Find out which IDs are one user: connected components of the pairs that events hold.

        The view ``identities`` has each ``distinct_id`` with its ``user_id`` and ``ids``, the
        number of IDs of the user; ``user_events`` has the events with their ``user_id``, which is
        NULL if ``distinct_id`` stands for no user in particular. Only days that were loaded,
        reloaded or dropped since are read again. The result does not depend on the order of days.
        If all days were dropped, the views have no rows.

        Table macros answer questions about users in the database itself, for any client:

        - ``funnel(steps, from_day, to_day, within := INTERVAL 7 DAY)`` with the columns ``step``,
          ``event``, ``users``, ``from_start`` and ``from_previous`` (fractions), and
          ``median_seconds`` and ``p90_seconds`` since the step before. Steps at most two seconds
          apart may come in either order.
        - ``funnel_by(steps, from_day, to_day, property, within := …)``: the same for each ``value``
          of a property of the first step.
        - ``retention(birth_event, return_event, from_day, to_day, unit := 'day', mode := 'on or
          after', last_bucket := 14, first_time := false, calendar := false, week_start := 1)``
          with the columns ``cohort``, ``bucket``, ``users``, ``retained``, ``fraction`` and
          ``complete``. NULL is any event. Events after ``to_day`` do not count.
        - ``retention_average(…)`` of complete buckets: ``bucket``, ``cohorts`` and ``fraction``.

        Args:
            dataset: The name of the view over the day tables. If it is not ``events``, its prefix
                is that of the views and macros, too.

        Raises:
            TableNotFoundError: The dataset never had days.
            TableExistsError: The name of a view or a macro is taken.
            StorageError: DuckDB failed; users are as before.

        Example:
            >>> from datetime import UTC, date, datetime, timedelta
            >>> from mp_pipeline.storage import DayWindow, StorageEngine, TableMetadata
            >>> start = datetime(2024, 1, 15, 10, tzinfo=UTC)
            >>> event = {
            ...     "event_name": "Song Played",
            ...     "event_time": start,
            ...     "distinct_id": "$device:d1",
            ...     "insert_id": "5d958f87",
            ...     "properties": {"$device_id": "d1", "$user_id": "u1"},
            ... }
            >>> day = DayWindow(start.date(), start, start + timedelta(hours=1))
            >>> metadata = TableMetadata("events", start)
            >>> with StorageEngine.memory() as storage:
            ...     loads = list(storage.replace_events_days("events", [day], [event], metadata))
            ...     report = storage.update_identities("events")
            ...     rows = storage.execute_rows("SELECT distinct_id, user_id FROM user_events")
            ...     days = "DATE '2024-01-15', DATE '2024-01-15'"
            ...     funnel = storage.execute_rows(
            ...         f"SELECT users FROM funnel(['Song Played', 'Purchase'], {days})"
            ...     )
            >>> report.users, rows, funnel
            (1, [('$device:d1', 'u1')], [(1,), (0,)])
        """
        with (
            self._session() as session,
            replacing.explain_failure(f"updating the identities of {dataset}"),
        ):
            if not identities.is_known(session, dataset):
                self._require_table(session, dataset)
            return repeated(session, lambda: identities.update_identities(session, dataset))

    def update_sessions(
        self, dataset: str, day: date, *, timeout: timedelta = DEFAULT_SESSION_TIMEOUT
    ) -> SessionsDayReport:
        """Make the sessions of a day again, in one transaction.

        The view ``sessions`` has the columns ``session_id``, ``user_id``, ``day``, ``started_at``,
        ``ended_at``, ``seconds``, ``events``, ``first_event`` and ``last_event``. A session ends
        with the last event before a gap of at least the timeout, or before midnight in the
        project's time zone. Users are those of the latest ``update_identities``. IDs of sessions
        depend on the user and the start alone. If the day was dropped, its sessions are deleted.

        Args:
            dataset: The name of the view over the day tables.
            day: The day.
            timeout: How long a user may be inactive, 1 minute to 24 hours.

        Raises:
            ValueError: The timeout is out of range.
            TableNotFoundError: The day is not loaded and has no sessions.
            TableExistsError: The name of the view is taken.
            StorageError: DuckDB failed; nothing was changed.
        """
        with (
            self._session() as session,
            replacing.explain_failure(f"updating the sessions of {dataset} of {day}"),
        ):
            return repeated(
                session, lambda: sessions.update_sessions(session, dataset, day, timeout)
            )

    def update_daily_metrics(self, dataset: str, day: date) -> DailyMetricsReport:
        """Make the metrics of a day again, in one transaction.

        The view ``daily_metrics`` has the columns ``day``, ``events``, ``dau``, ``wau``, ``mau``,
        ``new_users``, ``returning_users``, ``sessions`` and ``median_session_seconds``;
        ``daily_events_by_name`` has ``day``, ``event_name``, ``events`` and ``users``. Update
        identities and the sessions of the day before: they are used as they are. If the day was
        dropped, its metrics are deleted.

        Args:
            dataset: The name of the view over the day tables.
            day: The day.

        Raises:
            TableNotFoundError: The day is not loaded and has no metrics.
            TableExistsError: The name of a view is taken.
            StorageError: DuckDB failed; the metrics are as before.
        """
        with (
            self._session() as session,
            replacing.explain_failure(f"updating the metrics of {dataset} of {day}"),
        ):
            return repeated(session, lambda: actives.update_daily_metrics(session, dataset, day))

    def read_active_users(
        self, dataset: str, first: date, last: date
    ) -> dict[str, dict[date, int]]:
        """Return ``dau``, ``wau`` and ``mau`` by day, for the days of a range that have metrics.

        Args:
            dataset: The name of the view over the day tables.
            first: The first day.
            last: The last day, inclusive.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return {"dau": {}, "wau": {}, "mau": {}}
            return actives.read_active_users(session, dataset, first, last)

    def list_metric_days(
        self, dataset: str, *, timeout: timedelta = DEFAULT_SESSION_TIMEOUT
    ) -> list[MetricDayInfo]:
        """Return the days that are loaded or have metrics, and whether these are stale.

        Call ``update_identities`` before, so that days are compared with the current users.

        Args:
            dataset: The name of the view over the day tables.
            timeout: The timeout of sessions; those that were made with another one are stale.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return metric_days.list_metric_days(session, dataset, timeout)

    # Erasing users

    def plan_erasure(self, distinct_ids: Sequence[str]) -> Erasure:
        """Return what ``erase`` would delete, and change nothing.

        Args:
            distinct_ids: The IDs of the users.

        Raises:
            ValueError: There are no IDs, or one of them stands for no user.
        """
        with self._session() as session:
            return erasure.plan_erasure(session, distinct_ids)

    def erase(self, distinct_ids: Sequence[str], max_ids: int = DEFAULT_MAX_IDS) -> Erasure:
        """Delete users from all tables of this engine, in one transaction.

        IDs that events link to the given ones are erased too. Later loads leave out all of them,
        and count what they left out as ``suppressed``. ``_metadata`` and the load log stay true.
        The file still contains the data in blocks that it will use again; ``rewrite`` removes them.

        Args:
            distinct_ids: The IDs of the users.
            max_ids: IDs that the erasure may cover, linked ones included.

        Returns:
            What was deleted.

        Raises:
            ValueError: There are no IDs, or one of them stands for no user.
            StorageError: The data links more IDs than ``max_ids``. Nothing was changed.

        Example:
            >>> from datetime import UTC, datetime
            >>> event = {
            ...     "event_name": "Sign Up",
            ...     "event_time": datetime(2024, 1, 15, 10, 30),
            ...     "distinct_id": "u1",
            ...     "insert_id": "5d958f87",
            ...     "properties": {"$distinct_id_before_identity": "visitor 7"},
            ... }
            >>> with StorageEngine.memory() as storage:
            ...     metadata = TableMetadata("events", datetime.now(UTC))
            ...     rows = storage.create_events_table("events_january", [event], metadata)
            ...     erased = storage.erase(["visitor 7"])
            >>> [user_id.id for user_id in erased.ids], erased.rows
            (['visitor 7', 'u1'], 1)
        """
        with self._session() as session, replacing.explain_failure("erasing users"):
            return erasure.erase(session, distinct_ids, max_ids)

    # Lakes

    def maintain(self, keep: timedelta, *, rewrite: bool = False) -> Maintenance:
        """Expire old snapshots of a lake, merge its small files, and remove files nobody needs.

        Loads wait during each of the first steps. Files that a killed process left behind are
        removed after a day.

        Args:
            keep: The age up to which snapshots stay readable.
            rewrite: Also rewrite all files with deleted rows, so that these are in no file. With
                ``keep`` 0, nothing that was erased is left.

        Raises:
            StorageError: The database is not a lake, or DuckDB failed.
        """
        kept = "the data is as before"
        with self._session() as session, replacing.explain_failure("maintaining the lake", kept):
            return maintain(session, keep, rewrite=rewrite)

    def migrate_from(self, file: str | Path) -> Generator[MigratedTable, None, None]:
        """Copy a database file into this lake: days, snapshots, the history and the logs.

        Users who were erased, in the file or in this lake, are left out.

        Each table is one transaction and is verified by a hash of its content. What the lake has
        already is not copied again, so a migration that was stopped can be repeated. Typed tables
        and metrics are not copied: make them again.

        Args:
            file: The database file. It must not be open for writing.

        Returns:
            An iterator of the tables, each when it is committed.

        Raises:
            FileNotFoundError: There is no such file.
            SourceMismatchError: The lake contains data of another source.
            TableExistsError: A name is taken by a table that no load created, or by data of another
                owner.
            StorageError: This is not a lake, a copy is not equal, or DuckDB failed. Tables that
                were returned before are copied.
        """
        _require_file(Path(file))
        if not isinstance(self._database, Lake):
            raise StorageError(f"{self.name} is not a lake: files can be copied as they are")
        # Brings the internal tables of an earlier version up to date.
        type(self)(file, config=self._config).close()
        kept = "what was copied before stays"
        with self._session() as session, replacing.explain_failure(f"migrating {file}", kept):
            yield from migrate(session, Path(file))

    def try_writing(self) -> None:
        """Write a data file to this lake, and remove it.

        Opening a lake does not show whether its data files can be written.

        Raises:
            StorageError: That is not possible.
        """
        with self._session() as session, replacing.explain_failure("writing a data file"):
            try_writing(session)

    def read_lake_info(self) -> LakeInfo | None:
        """Return how many snapshots and files a lake has, None for a DuckDB file."""
        with self._session() as session:
            return read_lake_info(session)

    # Queries

    def execute(self, sql: str) -> duckdb.DuckDBPyRelation:
        """Execute SQL and return its rows as a materialized relation.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.
        """
        with self._query(sql) as connection:
            relation = connection.sql(sql)
            if relation is None and not connection.extract_statements(sql):
                raise QueryError(sql, "the query contains no statement")
            if relation is None:  # DuckDB 1.x, for a statement without rows
                relation = connection.sql("SELECT NULL::BIGINT AS Count WHERE false")
            return _materialize(relation)

    def execute_df(self, sql: str) -> "pd.DataFrame":
        """Execute SQL and return its rows as a pandas DataFrame.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.

        Example:
            >>> with StorageEngine.memory() as storage:
            ...     storage.execute_df("SELECT 6 * 7 AS answer")
               answer
            0      42
        """
        with self._query(sql) as connection:
            return _result(connection, sql).df()

    def execute_scalar(self, sql: str) -> Any:  # noqa: ANN401 - whatever the query selects
        """Execute SQL and return the first column of its first row, None if there are no rows.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.

        Example:
            >>> with StorageEngine.memory() as storage:
            ...     storage.execute_scalar("SELECT 6 * 7")
            42
        """
        rows = self.execute_rows(sql)
        return rows[0][0] if rows else None

    def execute_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Execute SQL and return its rows as tuples.

        Raises:
            QueryError: DuckDB refused it; carries the query and DuckDB's message.
            TypeError: ``sql`` is not a string.

        Example:
            >>> with StorageEngine.memory() as storage:
            ...     storage.execute_rows("SELECT 'Sign Up', 3")
            [('Sign Up', 3)]
        """
        with self._query(sql) as connection:
            return _result(connection, sql).fetchall()

    def read_tables(self, table_names: Sequence[str]) -> "pd.DataFrame":
        """Return the rows of tables with the same columns, one table after another.

        Raises:
            TableNotFoundError: One of the tables does not exist.
        """
        with self._session() as session:
            layout = layout_of(session)
            existing = layout.existing(session, table_names)
            for name in table_names:
                if name.startswith("_") or name.lower() not in existing:
                    raise self._not_found(name)
            rows = layout.rows(session, table_names)
        return self.execute_df(f"FROM {rows}")

    def first_rows(
        self, table_name: str, rows: int, characters: int
    ) -> list[dict[str, str | None]]:
        """Return the first rows of a table as text, with long values truncated.

        Args:
            table_name: The table or view.
            rows: Maximum number of rows.
            characters: Maximum length of each value.

        Raises:
            TableNotFoundError: There is no table or view of that name.
        """
        names = [column.name for column in self.get_schema(table_name).columns]
        texts = ", ".join(f"left({quoted(name)}::VARCHAR, {int(characters)})" for name in names)
        with self._session() as session:
            table = layout_of(session).rows(session, [table_name])
        found = self.execute_rows(f"SELECT {texts} FROM {table} LIMIT {int(rows)}")
        return [dict(zip(names, row, strict=True)) for row in found]

    # Introspection

    def table_exists(self, name: str) -> bool:
        """Return whether a table or view exists; False for internal names (``_…``)."""
        with self._session() as session:
            return self._exists(session, name)

    def list_tables(self) -> list[TableInfo]:
        """Return the tables that this engine created, by name."""
        with self._session() as session:
            return catalog.list_tables(session) if schema.has_internal_tables(session) else []

    def list_days(self, dataset: str) -> list[DayInfo]:
        """Return the loaded days of a dataset, oldest first.

        A day whose table was dropped by hand is listed too; ``count_rows`` tells.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return catalog.list_days(session, dataset)

    def list_snapshots(self, dataset: str) -> list[str]:
        """Return the names of the tables of a dataset that is not split by day.

        A table that was dropped by hand is listed too; ``count_rows`` tells.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return catalog.list_snapshots(session, dataset)

    def list_loads(
        self, dataset: str, run_ids: Sequence[str] | None = None, *, refused: bool = False
    ) -> list[LoadReport]:
        """Return the loads of a table, or of a dataset's days, from the load log.

        Args:
            dataset: The table, or the view over day tables.
            run_ids: Only loads of these runs; None for all.
            refused: Return the loads that were refused instead of those that were not.

        Returns:
            One report per load, oldest first, including those of replaced and dropped tables.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return load_log.list_loads(session, dataset, run_ids, refused)

    def get_schema(self, table_name: str) -> TableSchema:
        """Return the columns of a table or view.

        Raises:
            TableNotFoundError: There is no table or view of that name.
        """
        with self._session() as session:
            self._require_table(session, table_name)
            columns = layout_of(session).columns(session, [table_name])
        return TableSchema(table_name, list(columns[table_name.lower()].values()))

    def get_primary_key(self, table_name: str) -> list[str]:
        """Return the columns of a table's primary key, empty if it has none.

        Raises:
            TableNotFoundError: There is no table or view of that name.
        """
        with self._session() as session:
            self._require_table(session, table_name)
            if catalog.find_kind(session, table_name) is None:  # a day of a lake
                return []
            columns = execute(session, f"PRAGMA table_info({quoted(table_name)})")
        return [column for _, column, *_, in_key in columns if in_key]

    def get_metadata(self, table_name: str) -> TableMetadata:
        """Return what was fetched into a table.

        Raises:
            TableNotFoundError: This engine created no table of that name.
        """
        metadata = None
        with self._session() as session:
            if schema.has_internal_tables(session):
                metadata = catalog.read_metadata(session, table_name)
        if metadata is None:
            raise self._not_found(table_name)
        return metadata

    def count_rows(self, table_names: Sequence[str]) -> list[RowCounts]:
        """Count the rows of tables, beside what ``_metadata`` and the load log say about them.

        It takes the same few statements for any number of tables. A table that does not exist has
        ``rows`` None.

        Example:
            >>> with StorageEngine.memory() as storage:
            ...     [counts] = storage.count_rows(["events_20240115"])
            ...     print(counts.rows)
            None
        """
        with self._session() as session:
            return inspection.count_rows(session, table_names)

    def count_events(self, table_names: Sequence[str]) -> dict[str, dict[str, int]]:
        """Count the rows of tables of events by event name.

        It takes the same few statements for any number of tables. A table that does not exist, or
        lacks a column of the data model, is left out.
        """
        with self._session() as session:
            return inspection.count_events(session, table_names)

    def record_reconciliations(self, dataset: str, results: Iterable[Reconciliation]) -> None:
        """Record how days compared with the source's own counts, in one transaction.

        A day keeps its latest result alone.
        """
        results = list(results)

        def record() -> None:
            with locks.held(session, locks.CHANGES, shared=True):
                reconciliations.record_reconciliations(session, dataset, results)

        with self._session() as session:
            repeated(session, record)

    def list_reconciliations(self, dataset: str) -> list[Reconciliation]:
        """Return the latest result of each day that was compared, oldest day first.

        A result is outdated if the day was loaded again since: then its ``loaded_at`` is not the
        ``finished_at`` of the day's latest load.
        """
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return reconciliations.list_reconciliations(session, dataset)

    def count_rejected_lines(self, table_name: str) -> list[tuple[str, int]]:
        """Return why lines of a table were rejected, and how many each time; most first."""
        with self._session() as session:
            if not schema.has_internal_tables(session):
                return []
            return inspection.count_rejected_lines(session, table_name)

    def schema_problems(
        self, table_names: Sequence[str], table_type: TableType
    ) -> dict[str, list[str]]:
        """Return how tables differ from the data model.

        It takes the same few statements for any number of tables.

        Args:
            table_names: The tables. One that does not exist has that problem.
            table_type: The type that they should have.

        Returns:
            The problems of each table, none if it is as it should be.
        """
        with self._session() as session:
            return inspection.schema_problems(session, table_names, table_type)

    # Internals

    @contextmanager
    def _session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a session for one operation, so that threads and iterators do not interfere."""
        self._require_open()
        with self._sessions.cursor() as session:
            while_away(lambda: start_session(session, is_lake=isinstance(self._database, Lake)))
            if self._needs_shadows:
                schema.shadow_internal_tables(session)
            yield session

    @contextmanager
    def _loading_session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a session for a load: progress is counted for the log, and macros exist."""
        with self._session() as session:
            execute(session, "SET enable_progress_bar_print = false")
            execute(session, "SET enable_progress_bar = true")
            parsing.create_macros(session)
            yield session

    def _replace_days(
        self,
        dataset: str,
        windows: Sequence[DayWindow],
        data: TableData,
        metadata: TableMetadata,
        options: LoadOptions,
    ) -> Generator[LoadReport, None, None]:
        with self._loading_session() as session:
            yield from replacing.replace_days(session, dataset, windows, data, metadata, options)

    def _create(
        self,
        table_type: TableType,
        name: str,
        data: TableData,
        metadata: TableMetadata,
        progress_callback: ProgressCallback | None,
        batch_size: int,
    ) -> int:
        layout = check_arguments(name, metadata, [table_type])
        if self.table_exists(name):
            raise TableExistsError(f"a table or view {name!r} already exists; drop it first")
        with (
            self._loading_session() as session,
            replacing.explain_failure(f"loading {name}"),
            Staging(session, layout, name) as staging,
        ):
            replacing.insert(staging, data, batch_size, strict=True, progress=progress_callback)
            report = staging.publish(
                name,
                metadata,
                ownership=Ownership(dataset=name, day=None, owner=None),
                origin=_origin(metadata),
                replace_table=False,
            )
        return report.rows_stored

    @contextmanager
    def _query(self, sql: str) -> Iterator[duckdb.DuckDBPyConnection]:
        if not isinstance(sql, str):
            raise TypeError(f"a query is a string, not a {type(sql).__name__}")
        try:
            with self._query_lock, readable_errors():
                yield self.connection
        except duckdb.Error as error:
            advice = f". {DAMAGE_ADVICE}" if self.path and is_damage(error, self.path) else ""
            raise QueryError(sql, f"{error}{advice}") from error

    def _require_table(self, session: duckdb.DuckDBPyConnection, name: str) -> None:
        if not self._exists(session, name):
            raise self._not_found(name)

    def _exists(self, session: duckdb.DuckDBPyConnection, name: str) -> bool:
        return not name.startswith("_") and bool(layout_of(session).existing(session, [name]))

    def _require_open(self) -> None:
        if not self._finalizer.alive:
            raise StorageError(f"the storage engine of {self.name} is closed")

    def _not_found(self, name: str) -> TableNotFoundError:
        return TableNotFoundError(f"there is no table {name!r} in {self.name}")


def _release(
    connections: Iterable[duckdb.DuckDBPyConnection],
    directory: tempfile.TemporaryDirectory[str] | None,
) -> None:
    for connection in connections:
        connection.close()
    if directory is not None:
        directory.cleanup()


@contextmanager
def _explain_typing(action: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise StorageError(
            f"{action} failed, no rows were changed: {error}. If typed tables were changed by "
            "hand, drop_typed_tables and typing all days again repairs them."
        ) from error


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no database at {path}; materialize an asset first")


def _origin(
    metadata: TableMetadata,
    source: str | None = None,
    timezone: str = "UTC",
    wall_clock_zone: str = "UTC",
) -> Origin:
    events, properties = metadata.filter_events, metadata.filter_properties
    return Origin(
        source=source,
        filter_events=None if events is None else tuple(events),
        filter_where=metadata.filter_where,
        timezone=timezone,
        wall_clock_zone=wall_clock_zone,
        filter_properties=None if properties is None else tuple(properties),
    )


def _materialize(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Run a relation's query now, so that later changes do not affect its rows.

    DuckDB 1.x keeps the rows until they are read once, DuckDB 2 as long as the relation exists.
    """
    method = "materialize" if hasattr(duckdb.DuckDBPyRelation, "materialize") else "execute"
    materialized: duckdb.DuckDBPyRelation = getattr(relation, method)()
    return materialized


def _result(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyConnection:
    result: duckdb.DuckDBPyConnection | None = connection.execute(sql)
    if result is None:
        raise QueryError(sql, "the query contains no statement")
    return result
