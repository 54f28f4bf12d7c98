"""Loading: rows are staged in a table of their own, then published in one transaction.

A crash at any point leaves the old table or the new one, complete. A staging table that it leaves
behind is removed the next time the database is opened for writing.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from mp_pipeline.storage import catalog, parsing, scratch
from mp_pipeline.storage.catalog import Ownership
from mp_pipeline.storage.errors import StorageError, TableExistsError
from mp_pipeline.storage.inputs import LabeledFile
from mp_pipeline.storage.layouts import layout_of
from mp_pipeline.storage.lines import decompress, is_gzip, number_lines, starts_with_object
from mp_pipeline.storage.load_log import append_load, find_load, latest_loads
from mp_pipeline.storage.models import DayWindow, LoadReport, Origin, TableMetadata
from mp_pipeline.storage.progress import logged_progress
from mp_pipeline.storage.records import Batch, write_batches
from mp_pipeline.storage.sources import check_source
from mp_pipeline.storage.statements import execute, repeated, transaction
from mp_pipeline.storage.suppression import (
    count_suppressed_ids,
    delete_suppressed_lines,
    delete_suppressed_rows,
)
from mp_pipeline.storage.tables import TableLayout, quoted
from mp_pipeline.storage.times import to_utc

logger = logging.getLogger(__name__)

ProgressCallback = Callable[[int], None]
"""Called with the number of rows inserted so far."""

UNREADABLE = (duckdb.InvalidInputException, duckdb.ConstraintException)
"""What DuckDB raises when a line is not JSON, or lacks what a row needs."""

MAX_REJECTED_LINE = 10_000
"""Characters that are stored of a rejected line; a longer one is stored without its end."""

_PROCESSED_TEXT = "TRY_CAST(properties->>'$.mp_processing_time_ms' AS DOUBLE)"
_PROCESSED = f"CASE WHEN isfinite({_PROCESSED_TEXT}) THEN {_PROCESSED_TEXT} END"
"""When Mixpanel processed an event. The text NaN is greater than any number, so it is left out."""

_DERIVED_ID = "insert_id || '-' || content_id(event_name, event_time, distinct_id, '')"
"""The ID of an event that shares its ``$insert_id`` with another one."""


class Staging(AbstractContextManager["Staging"]):
    """A table without its key, which becomes the real one when it is published.

    Leaving the ``with`` block drops a table that was not published. Each instance needs a session
    (DuckDB cursor) of its own.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, layout: TableLayout, table_name: str
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._place = layout_of(connection)
        suffix = uuid.uuid4().hex
        self.name = f"_loading_{table_name}_{suffix}"
        self.rejected_name = f"_rejected_{suffix}"
        self.started_at = datetime.now(UTC)
        self.bytes_read = 0
        self.inserted = 0
        self.rejected = 0
        self.repaired = 0
        self.outside_day = 0
        self.duplicates = 0
        self.suppressed_rows = 0
        self.suppressed_lines = 0

    def __enter__(self) -> Self:
        """Create the table."""
        try:
            self._place.create_staging(self._connection, self._layout, self.name)
            self._execute(
                f"CREATE TEMP TABLE {self.rejected_name} "
                "(file VARCHAR, line_number BIGINT, reason VARCHAR, line VARCHAR)"
            )
        except BaseException:  # __exit__ is not called if __enter__ raises
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop the table unless it was published."""
        try:
            self._place.drop_staging(self._connection, self.name)
            self._execute(f"DROP TABLE IF EXISTS {self.rejected_name}")
        except (duckdb.Error, StorageError) as error:
            # Must not hide the exception that ended the block.
            logger.warning("%s will be removed by the next open: %s", self.name, error)

    @property
    def lines_read(self) -> int:
        """Lines or records read so far, not counting blank lines."""
        return self.inserted + self.rejected

    def insert_files(
        self,
        files: Sequence[LabeledFile],
        *,
        zone: str,
        strict: bool,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Insert files of JSON Lines.

        Args:
            files: Plain files, or gzip files whose names end in ``.gz``.
            zone: Time zone whose wall clock the source's times show; ``UTC`` for true UTC.
            strict: Raise an error for a line that cannot be stored, instead of rejecting it.
            progress: Called after each file.

        Raises:
            ValueError: A file does not have the labels of the table; or ``strict``, and a line
                cannot be stored; names file, line and reason.
            StorageError: A file is missing or damaged.
        """
        for labeled in files:
            file = labeled.path
            if set(labeled.labels) != set(self._layout.labels):
                raise ValueError(
                    f"{file} has the labels {sorted(labeled.labels)}; {self._layout.type} need "
                    f"{sorted(self._layout.labels)}"
                )
            if not file.is_file():
                raise StorageError(
                    f"{file} {'is not a file' if file.exists() else 'does not exist'}"
                )
            size = file.stat().st_size
            self.bytes_read += size
            if size:  # an empty gzip file is no gzip file
                where = f"{file.name}, line" if strict else None
                self._insert(file, zone=zone, labels=labeled.labels, where=where, lines_before=0)
            if progress is not None:
                progress(self.inserted)

    def insert_records(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        batch_size: int,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Insert records of the data model, in batches.

        Args:
            records: Dicts with all fields of the table.
            batch_size: Records per batch.
            progress: Called after each batch.

        Raises:
            ValueError: A record cannot be stored; names its position and the reason.
        """
        with (
            scratch.directory(self._connection) as directory,
            # Write the next batch while this one is inserted.
            ThreadPoolExecutor(1, "insert records") as worker,
        ):
            inserting: Future[None] | None = None
            try:
                for batch in write_batches(self._layout, records, batch_size, directory):
                    if inserting is not None:
                        inserting.result()
                        if progress is not None:
                            progress(self.inserted)
                    inserting = worker.submit(self._insert_batch, batch)
            finally:
                # If two batches fail, report the first one's error.
                if inserting is not None:
                    inserting.result()
            if inserting is not None and progress is not None:
                progress(self.inserted)

    def sort_by_time(self) -> None:
        """Sort the events by time, so that copying one day reads only that day."""
        self._move_to_a_copy("ORDER BY event_time, rowid")

    def insert_window(self, other: "Staging", window: DayWindow) -> None:
        """Insert the events of one day from a staging table with several days."""
        inserted = self._execute(
            f"INSERT INTO {quoted(self.name)} SELECT * FROM {quoted(other.name)} "
            "WHERE event_time >= ? AND event_time < ?",
            [to_utc(window.start), to_utc(window.end)],
        )
        self.inserted += inserted[0][0]

    def account_for_other_lines(self, other: "Staging") -> None:
        """Count here the lines of a staging table that belong to none of its days."""
        self._execute(f"INSERT INTO {self.rejected_name} FROM {other.rejected_name}")
        self.started_at = other.started_at
        self.inserted += other.outside_day
        self.outside_day = other.outside_day
        self.rejected = other.rejected
        self.repaired = other.repaired
        self.bytes_read = other.bytes_read

    def delete_outside(self, windows: Sequence[DayWindow]) -> None:
        """Delete the events that are in none of the days."""
        inside = " OR ".join(["(event_time >= ? AND event_time < ?)"] * len(windows))
        bounds = [to_utc(bound) for window in windows for bound in (window.start, window.end)]
        deleted = self._execute(f"DELETE FROM {quoted(self.name)} WHERE NOT ({inside})", bounds)
        self.outside_day = deleted[0][0]

    def delete_duplicates(self, stored: str | None) -> None:
        """Leave one row for each event or key, and make the keys unique.

        Mixpanel's rule: events with the same name, user, time and ``$insert_id`` are one event,
        and the one processed last wins. Events that share only the ``$insert_id`` are different:
        one keeps it as its ID, the others get IDs derived from their content and keep the original
        in their properties. Of the rows of a snapshot with the same key, the one read last wins.

        Args:
            stored: The table that this one replaces, None if there is none. Events keep the IDs
                that they have there.
        """
        # Again, because an ID derived from content can be the literal ID of another event.
        while self._find_repeated_keys():
            # One transaction: a checkpoint between the statements could renumber the rows.
            with transaction(self._connection):
                self._delete_repeated(stored)

    def _find_repeated_keys(self) -> bool:
        """Put the keys that several rows have into ``_repeated``; return whether there are any."""
        key = self._layout.key
        self._execute(
            f"CREATE OR REPLACE TEMP TABLE _repeated AS SELECT {key} FROM {quoted(self.name)} "
            f"GROUP BY {key} HAVING count(*) > 1"
        )
        return self._execute("SELECT count(*) FROM _repeated") != [(0,)]

    def _delete_repeated(self, stored: str | None) -> None:
        key = self._layout.key
        is_event = self._layout.type == "events"
        identity = "event_name, distinct_id, event_time, insert_id" if is_event else key
        latest_first = f"{_PROCESSED} DESC NULLS LAST, rowid DESC" if is_event else "rowid DESC"
        table = quoted(self.name)
        self._execute(
            f"""
            CREATE OR REPLACE TEMP TABLE _ranked AS
            SELECT rowid AS row_id, {"insert_id AS key, " if is_event else ""}{identity},
                row_number() OVER (PARTITION BY {identity} ORDER BY {latest_first}) AS recency,
                {f"min({_PROCESSED}) OVER (PARTITION BY {identity})" if is_event else "NULL"}
                    AS first_processed
            FROM {table} SEMI JOIN _repeated USING ({key})
            """
        )
        self.duplicates += self._execute(
            f"DELETE FROM {table} WHERE rowid IN (SELECT row_id FROM _ranked WHERE recency > 1)"
        )[0][0]
        if is_event:
            self._make_ids_unique(stored)

    def _make_ids_unique(self, stored: str | None) -> None:
        """Give all but one of the events that share an ID an ID derived from their content.

        The event that has the plain ID in the stored table keeps it, and one with a derived ID
        there keeps that. Otherwise the event that Mixpanel processed first gets the plain ID, so
        that later events do not change it.
        """
        stored_ids = "SELECT NULL::VARCHAR, NULL, NULL, NULL WHERE false"
        if stored is not None:
            stored_rows = self._place.rows(self._connection, [stored])
            stored_ids = (
                f"SELECT insert_id, event_name, distinct_id, event_time FROM {stored_rows} "
                "WHERE insert_id IN (SELECT key FROM _ranked) "
                f"OR insert_id IN (SELECT {_DERIVED_ID} FROM _ranked)"
            )
        self._execute(
            f"""
            CREATE OR REPLACE TEMP TABLE _derived AS
            WITH stored(insert_id, event_name, distinct_id, event_time) AS ({stored_ids}),
            shared AS (
                SELECT *, {_DERIVED_ID} AS derived_id FROM _ranked WHERE recency = 1
                QUALIFY count(*) OVER (PARTITION BY key) > 1
            ),
            known AS (
                SELECT shared.*,
                    bool_or(stored.insert_id = shared.key) IS TRUE AS has_plain_id,
                    bool_or(stored.insert_id = derived_id) IS TRUE AS has_derived_id
                FROM shared LEFT JOIN stored
                    ON stored.insert_id IN (shared.key, derived_id)
                    AND stored.event_name = shared.event_name
                    AND stored.distinct_id = shared.distinct_id
                    AND stored.event_time = shared.event_time
                GROUP BY ALL
            )
            SELECT row_id, derived_id FROM known
            QUALIFY has_derived_id OR row_number() OVER (
                PARTITION BY key ORDER BY has_plain_id DESC, has_derived_id,
                    first_processed NULLS LAST, derived_id) > 1
            """
        )
        table = quoted(self.name)
        self._execute(
            f"""
            UPDATE {table} SET
                insert_id = _derived.derived_id,
                properties = CASE WHEN json_exists(properties, '$."$insert_id"')
                    THEN properties ELSE json_merge_patch(
                        properties, json_object('$insert_id', insert_id)) END
            FROM _derived WHERE {table}.rowid = _derived.row_id
            """
        )

    def _delete_suppressed(self) -> None:
        """Delete the rows and rejected lines of users who were erased."""
        connection = self._connection
        self.suppressed_lines = delete_suppressed_lines(connection, self.rejected_name)
        self.suppressed_rows = delete_suppressed_rows(connection, self.name, self._layout)

    def _add_key(self) -> None:
        try:
            self._place.add_key(self._connection, self._layout, self.name)
        except (duckdb.ConstraintException, duckdb.TransactionException):
            # An older transaction of this process can still see rows that were deleted and IDs
            # that were changed, so they would be part of the key. A copy does not have them.
            self._move_to_a_copy()
            self._place.add_key(self._connection, self._layout, self.name)

    def _move_to_a_copy(self, order: str = "") -> None:
        original, copy = self.name, f"{self.name}_copy"
        self.name = copy  # the table that __exit__ drops
        try:
            self._place.create_staging(self._connection, self._layout, copy)
            self._execute(f"INSERT INTO {quoted(copy)} SELECT * FROM {quoted(original)} {order}")
        finally:
            self._place.drop_staging(self._connection, original)

    def publish(
        self,
        name: str,
        metadata: TableMetadata,
        *,
        ownership: Ownership,
        origin: Origin,
        run_id: str | None = None,
        replace_table: bool,
        min_kept_fraction: float = 0.0,
    ) -> LoadReport:
        """Finish the table and put it in place, in one short transaction.

        Args:
            name: The name of the table.
            metadata: What was fetched.
            ownership: What the table belongs to. The view of a dataset of days is refreshed.
            origin: Where the rows came from, for the load log.
            run_id: The run, for the load log.
            replace_table: Drop the table that has the name now.
            min_kept_fraction: Fraction of that table's rows, by key, that must be in this one.

        Returns:
            The report of the load. If it is refused, the load log alone was changed.

        Raises:
            StorageError: Users were erased meanwhile.
            TableExistsError: Another owner has loaded the dataset meanwhile.
            SourceMismatchError: Data of another source was loaded meanwhile.
        """
        suppressed_ids = count_suppressed_ids(self._connection)
        self._delete_suppressed()
        self.delete_duplicates(name if replace_table and self._is_stored(name) else None)
        self._add_key()

        def put_in_place() -> LoadReport:
            with (
                self._place.publishing(self._connection, name, ownership.dataset),
                transaction(self._connection),
            ):
                if done := find_load(self._connection, name, self.started_at):
                    return done  # the answer to an earlier commit was lost
                if count_suppressed_ids(self._connection) != suppressed_ids:
                    raise StorageError(
                        f"users were erased while {name} was loaded. The existing data is kept: "
                        "load it again"
                    )
                if replace_table:
                    return self._replace(
                        name, metadata, ownership, origin, run_id, min_kept_fraction
                    )
                return self._create(name, metadata, ownership, origin)

        # With the lock: a restart of PostgreSQL ends both the lock and the transaction.
        return repeated(self._connection, put_in_place)

    def _create(
        self, name: str, metadata: TableMetadata, ownership: Ownership, origin: Origin
    ) -> LoadReport:
        if self._place.existing(self._connection, [name]):
            raise TableExistsError(f"a table or view {name!r} already exists; drop it first")
        report = self._report(name, ownership, origin, None, None)
        self._put(name, metadata, ownership, report)
        return report

    def _replace(
        self,
        name: str,
        metadata: TableMetadata,
        ownership: Ownership,
        origin: Origin,
        run_id: str | None,
        min_kept_fraction: float,
    ) -> LoadReport:
        """Replace the stored table, unless too many of its rows are missing."""
        connection = self._connection
        kept = self._count_kept_rows(name) if self._is_stored(name) else None
        stored = latest_loads(connection, [name]).get(name.lower())
        # Another process may have been the first to load something.
        if kept is None or stored is None or stored.origin.source != origin.source:
            catalog.require_owner(connection, ownership.dataset, ownership.owner)
            check_source(connection, ownership.dataset, origin.source)
        report = self._report(name, ownership, origin, run_id, kept)
        if kept is not None and kept[1] < min_kept_fraction * kept[0]:
            refused = _explain_refusal(kept, min_kept_fraction)
            if stored is not None and stored.origin != origin:
                refused += " (they were loaded with other settings)"
            report = replace(report, refused=refused)
            append_load(connection, report, ownership.dataset)
            return report
        catalog.forget_table(connection, name)
        self._put(name, metadata, ownership, report)
        return report

    def _put(
        self, name: str, metadata: TableMetadata, ownership: Ownership, report: LoadReport
    ) -> None:
        connection = self._connection
        self._place.put(connection, quoted(self.name), self._layout, name, ownership)
        catalog.record_table(connection, name, metadata, report.rows_stored, ownership)
        catalog.record_rejected(connection, name, ownership.day, self.rejected_name)
        append_load(connection, report, ownership.dataset)
        if ownership.day is not None:
            self._place.show_days(connection, ownership.dataset)

    def first_rejected(self, lines: int, characters: int) -> list[tuple[str | None, int, str, str]]:
        """Return file, line number, reason and beginning of the first rejected lines."""
        return [
            (file, number, reason, line)
            for file, number, reason, line in self._execute(
                f"SELECT file, line_number, reason, left(line, {int(characters)}) "
                f"FROM {self.rejected_name} ORDER BY rowid LIMIT {int(lines)}"
            )
        ]

    def _is_stored(self, name: str) -> bool:
        """Return whether a table exists and has the columns that identify its rows."""
        columns = self._place.columns(self._connection, [name]).get(name.lower(), {})
        return set(self._layout.column_names) - {"properties"} <= columns.keys()

    def _count_kept_rows(self, name: str) -> tuple[int, int]:
        """Return the rows of the table to replace, and how many of their keys are still here."""
        key, stored = self._layout.key, self._place.rows(self._connection, [name])
        ((before,),) = self._execute(f"SELECT count(*) FROM {stored}")
        ((kept,),) = self._execute(
            f"SELECT count(*) FROM {quoted(self.name)} SEMI JOIN {stored} USING ({key})"
        )
        return before, kept

    def _report(
        self,
        table_name: str,
        ownership: Ownership,
        origin: Origin,
        run_id: str | None,
        kept: tuple[int, int] | None,
    ) -> LoadReport:
        """Return what was done so far; the rows are counted in the table itself."""
        ((rows,),) = self._execute(f"SELECT count(*) FROM {quoted(self.name)}")
        return LoadReport(
            table_name=table_name,
            type=self._layout.type,
            day=ownership.day,
            run_id=run_id,
            origin=origin,
            started_at=self.started_at,
            finished_at=datetime.now(UTC),
            bytes_read=self.bytes_read,
            lines_read=self.lines_read,
            rows_stored=rows,
            duplicates=self.duplicates,
            rejected=self.rejected - self.suppressed_lines,
            outside_day=self.outside_day,
            repaired=self.repaired,
            gained=None if kept is None else rows - kept[1],
            lost=None if kept is None else kept[0] - kept[1],
            suppressed=self.suppressed_rows + self.suppressed_lines,
        )

    def _insert_batch(self, batch: Batch) -> None:
        """Insert a batch of records and delete its file."""
        self.bytes_read += batch.path.stat().st_size
        self._insert(
            batch.path, zone="UTC", labels={}, where="record", lines_before=batch.records_before
        )
        batch.path.unlink()

    def _insert(
        self,
        file: Path,
        *,
        zone: str,
        labels: Mapping[str, str],
        where: str | None,
        lines_before: int,
        name: str | None = None,
    ) -> None:
        """Insert a file at DuckDB's full speed or, if DuckDB refuses a line, line by line.

        Args:
            file: A file of JSON Lines.
            zone: The time zone whose wall clock the source's times show.
            labels: The values of the table's labels.
            where: What an error message calls a line; None to reject lines that cannot be stored.
            lines_before: The number to add to line numbers in error messages.
            name: The name to record with rejected lines; None for the file's own.
        """
        options: dict[str, Any] = {
            "zone": zone,
            "labels": labels,
            "where": where,
            "lines_before": lines_before,
            "name": name or file.name,
        }
        if not starts_with_object(file):
            self._insert_line_by_line(file, **options)
            return
        insert = f"INSERT INTO {quoted(self.name)} "
        try:
            with logged_progress(self._connection, f"loading {file.name}"):
                rows = parsing.rows_query(self._layout, file, zone, labels)
                inserted = self._execute(insert + rows)
            self.inserted += inserted[0][0]
        except UNREADABLE as error:
            logger.info("reading %s line by line: %s", file.name, _first_line(error))
            self._insert_line_by_line(file, **options)
        except duckdb.IOException as error:
            # DuckDB does not know all of gzip (RFC 1952): comments, header checksums, padding.
            if not (is_gzip(file) and "GZIP" in str(error)):
                raise
            logger.info("decompressing %s first: %s", file.name, _first_line(error))
            with scratch.directory(self._connection) as directory:
                self._insert(decompress(file, directory), **options)

    def _insert_line_by_line(
        self,
        file: Path,
        *,
        zone: str,
        labels: Mapping[str, str],
        where: str | None,
        lines_before: int,
        name: str,
    ) -> None:
        """Insert the lines of a file that can be stored, and reject the others.

        The arguments are those of ``_insert``.
        """
        columns = ", ".join(self._layout.column_names)
        with scratch.directory(self._connection) as directory:
            for lines in number_lines(file, directory):
                rows = parsing.checked_rows_query(
                    self._layout, lines.path, lines.largest, zone, labels
                )
                self._execute(f"CREATE OR REPLACE TEMP TABLE _checked AS {rows}")
                rejected = self._execute(
                    f"INSERT INTO {self.rejected_name} SELECT ?, line_number, reason, "
                    f"left(line, {MAX_REJECTED_LINE}) FROM _checked WHERE reason IS NOT NULL",
                    [None if where == "record" else name],
                )[0][0]
                if rejected and where is not None:
                    ((_, number, reason, _),) = self.first_rejected(1, 0)
                    raise ValueError(f"{where} {lines_before + number}: {reason}")
                self.rejected += rejected
                self.inserted += self._execute(
                    f"INSERT INTO {quoted(self.name)} SELECT {columns} FROM _checked "
                    "WHERE reason IS NULL"
                )[0][0]
                self.repaired += self._execute(
                    "SELECT count(*) FROM _checked WHERE reason IS NULL AND repaired"
                )[0][0]
        self._execute("DROP TABLE IF EXISTS temp._checked")

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return execute(self._connection, sql, parameters)


def _explain_refusal(kept: tuple[int, int], required: float) -> str:
    before, still_there = kept
    return (
        f"the reload would keep {still_there:,} of {before:,} rows ({still_there / before:.1%}), "
        f"less than the {required:.0%} required"
    )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
